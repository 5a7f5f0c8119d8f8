from collections import Counter

import cv2
import numpy as np
import pytest

import camhelpers as ch
from camhelpers import cli
from camhelpers.datasets import hard, scenes
from camhelpers.datasets.hard import KINDS, draw

FIRST = scenes.SPLITS["calibration"]
SEEDS = {kind: [seed for seed in range(FIRST, FIRST + 50) if hard.kind(seed) == kind] for kind in KINDS}


@pytest.fixture(scope="module")
def fifty():
    return {kind: [(draw(seed), scenes.draw(seed)) for seed in seeds] for kind, seeds in SEEDS.items()}


def detail(scene):
    """How much neighbouring pixels of the object differ."""
    inside = cv2.erode(scene.mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return np.abs(np.diff(scene.picture, axis=1, append=0)[inside]).mean()


def test_kinds_take_turns_and_every_class_meets_every_kind(fifty):
    pairs = Counter((scene.kind, scene.name) for drawn in fifty.values() for scene, _ in drawn)
    assert len(pairs) == 50 and set(pairs.values()) == {1}


@pytest.mark.parametrize("kind", KINDS)
def test_a_hard_scene_is_a_scene(fifty, kind):
    for scene, clean in fifty[kind]:
        again = draw(scene.seed)
        assert (again.picture == scene.picture).all() and (again.mask == scene.mask).all()
        assert (scene.kind, scene.name, scene.label) == (kind, clean.name, clean.label)
        assert scene.picture.shape == (224, 224, 3) and scene.picture.dtype == np.float32
        assert (scene.picture == np.rint(scene.picture * 255) / np.float32(255)).all()
        assert scene.mask.sum() > 1000 and (scene.picture != clean.picture)[scene.mask].any()
        assert (np.any(list(scene.parts.values()), axis=0) == scene.mask).all()
        assert kind in ("hidden", "second") or (scene.mask == clean.mask).all()


def test_noise_adds_detail_and_blur_and_haze_take_it(fifty):
    assert all(detail(scene) > 1.2 * detail(clean) for scene, clean in fifty["noise"])
    for kind in ("blur", "contrast"):
        assert all(detail(scene) < 0.6 * detail(clean) for scene, clean in fifty[kind])


def test_what_is_in_front_hides_a_part_and_leaves_the_rest_as_it_was(fifty):
    shares = []
    for scene, clean in fifty["hidden"]:
        assert not (scene.mask & ~clean.mask).any()
        shares.append(1 - scene.mask.sum() / clean.mask.sum())
        hidden = cv2.dilate((clean.mask & ~scene.mask).astype(np.uint8), np.ones((29, 29), np.uint8)) > 0
        changed = np.abs(scene.picture - clean.picture).mean(2)
        assert changed[clean.mask & ~scene.mask].mean() > 0.05 and not changed[scene.mask & ~hidden].any()
    assert min(shares) > 0.25 and max(shares) < 0.75


def test_a_second_subject_is_another_one_beside_the_first(fifty):
    for scene, _ in fifty["second"]:
        there = scenes.draw(scene.seed, second=scenes.CLASSES[scene.second_label])
        assert scene.second_label != scene.label and (scene.picture == there.picture).all()
        assert (scene.second_mask == there.second_mask).all() and not (scene.mask & scene.second_mask).any()


def test_the_shipped_model_errs_on_some_and_is_right_on_most(fifty):
    both = [pair for drawn in fifty.values() for pair in drawn]
    said = ch.predict(ch.load_model("scenes"), [scene.picture for pair in both for scene in pair]).argmax(1)
    hard_right, clean_right = (said.reshape(-1, 2) == [[scene.label] for scene, _ in both]).mean(0)
    assert 0.3 < hard_right < 0.9 < clean_right


def test_the_command_line_measures_on_them(tmp_path):
    options = ["--methods", "gradcam", "--metrics", "relevance_mass", "--out", str(tmp_path)]
    assert cli.main(["evaluate", "--images", "hard:calibration:5", *options]) == 0
    assert f"hard {FIRST + 1} blur" in (tmp_path / "evaluation_results.csv").read_text()
