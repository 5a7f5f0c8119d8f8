import subprocess
import sys

import cv2
import numpy as np
import pytest

from camhelpers.datasets import scenes
from camhelpers.datasets.scenes import CLASSES, MARGIN, PARTS, draw

SEEDS = range(20_000_000, 20_000_020)  # the gallery: two of each class


def grown(mask, pixels=MARGIN):
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * pixels + 1,) * 2, np.uint8)) > 0


def changed(a, b):
    return (a.picture != b.picture).any(2)


def test_a_scene_is_a_picture_with_its_truth():
    for seed in SEEDS:
        scene = draw(seed)
        assert scene.picture.shape == (224, 224, 3) and scene.picture.dtype == np.float32
        assert 0 <= scene.picture.min() < 0.4 < scene.picture.max() <= 1
        assert scene.name == CLASSES[scene.label] and scene.mask.dtype == bool
        assert 0.04 < scene.mask.mean() < 0.7
        assert not (scene.mask[0].any() or scene.mask[-1].any() or scene.mask[:, 0].any() or scene.mask[:, -1].any())


def test_the_same_seed_gives_the_same_scene_in_another_process():
    code = "from camhelpers.datasets.scenes import draw; import hashlib; s = draw(7, second='dog', tag=True); "
    code += "print(hashlib.sha256(s.picture.tobytes() + s.mask.tobytes()).hexdigest())"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout
    assert changed(draw(7), draw(17)).mean() > 0.9


def test_drawing_leaves_the_global_random_state_alone():
    np.random.seed(1)
    before = np.random.get_state()[1].copy()
    draw(3)
    assert (np.random.get_state()[1] == before).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_parts_are_disjoint_and_make_up_the_mask(seed):
    scene = draw(seed)
    stack = np.stack(list(scene.parts.values()))
    assert tuple(scene.parts) == PARTS[scene.name]
    assert stack.sum(0).max() == 1
    assert (stack.any(0) == scene.mask).all()


@pytest.mark.parametrize("name", CLASSES)
def test_every_part_is_seen(name):
    drawn = [draw(seed, name) for seed in range(4)]
    shown = {part: max(scene.parts[part].sum() for scene in drawn) for part in PARTS[name]}
    assert min(shown.values()) >= 12, shown


@pytest.mark.parametrize("seed", SEEDS)
def test_without_its_object_a_scene_differs_at_the_object_alone(seed):
    scene, bare = draw(seed), draw(seed, without="object")
    where = changed(scene, bare)
    assert not (where & ~grown(scene.mask)).any()
    assert where[scene.mask].mean() > 0.97  # a pixel may by chance have the colour of what lies behind it
    assert not bare.mask.any() and not any(part.any() for part in bare.parts.values())


@pytest.mark.parametrize(("name", "part"), [(name, part) for name in CLASSES for part in PARTS[name]])
def test_without_a_part_only_that_part_changes(name, part):
    scene, bare = draw(30, name), draw(30, name, without=part)
    assert not (changed(scene, bare) & ~grown(scene.parts[part])).any()
    assert not bare.parts[part].any()
    for other in set(PARTS[name]) - {part}:  # what lay behind shows; nothing is lost but where parts share a pixel
        assert not (scene.parts[other] & ~bare.parts[other] & ~grown(scene.parts[part], 2)).any()


def test_masks_follow_the_edge_of_the_object():
    # On the rim about half of a pixel is the object; three pixels further out nothing of it is left but shadow.
    scene, bare = draw(23), draw(23, without="object")
    difference = np.abs(scene.picture - bare.picture).max(2)
    rim = scene.mask & ~(cv2.erode(scene.mask.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0)
    outside = grown(scene.mask, 3) & ~grown(scene.mask, 2)
    assert difference[rim].mean() > 2 * difference[outside].mean()


@pytest.mark.parametrize("seed", range(6))
def test_two_objects_stand_apart_and_each_can_be_removed(seed):
    both = draw(seed, "cat", second="dog")
    assert both.second_label == CLASSES.index("dog")
    assert both.mask.sum() > 800 and both.second_mask.sum() > 800
    assert not (both.mask & both.second_mask).any()
    for thing, mask, other in (("object", both.mask, both.second_mask), ("second", both.second_mask, both.mask)):
        bare = draw(seed, "cat", second="dog", without=thing)
        assert not (changed(both, bare) & ~grown(mask)).any()
        assert changed(both, bare)[mask].mean() > 0.97
        assert ((bare.second_mask if thing == "object" else bare.mask) == other).all()


def test_a_tag_is_a_small_sticker_that_changes_nothing_else():
    for seed in range(10):
        plain, tagged = draw(seed), draw(seed, tag=True)
        assert plain.tag_mask is None and 0.01 < tagged.tag_mask.mean() < 0.04
        assert not (changed(plain, tagged) & ~grown(tagged.tag_mask)).any()
        assert not (tagged.mask & tagged.tag_mask).any()
        assert (tagged.mask == plain.mask & ~tagged.tag_mask).all()


def test_colour_does_not_give_the_class_away():
    colours = {name: [] for name in ("cat", "car", "tree")}
    for name, found in colours.items():
        for seed in range(60):
            scene = draw(seed, name, size=64)
            found.append(scene.picture[scene.mask].mean(0))
    means = np.array([np.mean(v, 0) for v in colours.values()])
    spread = np.mean([np.std(v, 0) for v in colours.values()])
    assert np.ptp(means, axis=0).max() < 1.5 * spread


def test_splits_are_disjoint_and_balanced():
    sets = {split: scenes.dataset(split, 20, size=32) for split in scenes.SPLITS}
    seeds = [recipe["seed"] for s in sets.values() for recipe in s.recipes]
    assert len(set(seeds)) == 60
    for found in sets.values():
        assert np.bincount(found.labels).tolist() == [2] * 10
    later = scenes.dataset("test", 10, start=10, size=32)
    assert (later.pictures == sets["test"].pictures[10:]).all()


def test_a_set_holds_what_its_scenes_show():
    found = scenes.dataset("calibration", 10, pairs=True, tag={"car": 1.0}, size=64)
    assert len(found) == 10 and found.pictures.dtype == np.uint8
    for i, scene in enumerate(found):
        assert (np.rint(scene.picture * 255) == found.pictures[i]).all()
        assert (scene.mask == found.masks[i]).all() and scene.label == found.labels[i]
        assert scene.second_label not in (None, scene.label)
        assert (scene.tag_mask is not None) == (scene.name == "car")
    assert not found.redraw(0, without="object").mask.any()


def test_a_share_of_tags():
    tags = [recipe["tag"] for recipe in scenes.dataset("train", 200, tag=0.3, size=32).recipes]
    assert 0.2 < np.mean(tags) < 0.4


def test_the_gallery_shows_two_of_each_class():
    shown = scenes.gallery()
    assert [scene.name for scene in shown] == 2 * list(CLASSES)
    assert [scene.seed for scene in shown] == list(SEEDS)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: draw(0, "unicorn"), "choose from cat, dog"),
        (lambda: draw(0, "cat", second="unicorn"), "'unicorn'; choose from cat, dog"),
        (lambda: draw(0, "cat", without="wheels"), "choose from object, tail, body"),
        (lambda: draw(0, "cat", without="second"), "no 'second'"),
        (lambda: draw(-1), "not -1"),
        (lambda: draw(0, size=8), "at least 32"),
        (lambda: scenes.dataset("holdout", 3), "choose from train, calibration, test"),
        (lambda: scenes.dataset("test", 0), "0 scenes"),
        (lambda: scenes.dataset("test", 3, tag={"unicorn": 1.0}), "not 'unicorn'"),
        (lambda: scenes.dataset("test", 3, tag=1.5), "from 0 to 1"),
        (lambda: scenes.gallery(0), "0"),
    ],
)
def test_bad_input_gets_one_clear_sentence(call, says):
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)
