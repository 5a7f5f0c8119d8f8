import sys

import cv2
import numpy as np
import pytest

import camhelpers as ch
from camhelpers.datasets import photographs
from camhelpers.datasets.photographs import CLASSES, CUTOUTS, PHOTOGRAPHS, draw
from camhelpers.datasets.samples import pictures, samples
from camhelpers.datasets.sets import stream


@pytest.fixture(scope="module")
def placed():
    """Scenes, and what lies behind each of their cut-outs."""
    first = photographs.SPLITS["calibration"]
    drawn = [draw(seed) for seed in range(first, first + 24)]
    return [(s, photographs._background(stream(s.seed, 0), CUTOUTS[s.name]["photograph"])) for s in drawn]


def test_photographs_come_with_their_credits_and_without_a_download():
    found, names = pictures("photographs"), ch.load_model("efficientnet_lite0").card.classes
    assert [p.name.partition(" (")[0] for p in found] == list(PHOTOGRAPHS) and len(pictures("photographs", 3)) == 3
    for picture, known in zip(found, PHOTOGRAPHS.values(), strict=True):
        assert known.title and known.author in picture.name and known.licence in picture.name
        assert min(picture.pixels.shape[:2]) >= 300 and picture.label == known.label and known.label in (None, *names)


def test_a_photograph_that_is_not_there_says_how_to_get_it(monkeypatch):
    lacking = PHOTOGRAPHS["cat"]._replace(file="x")
    for table, name, lost in ((PHOTOGRAPHS, "cat", lacking), (sys.modules, "skimage", None)):
        monkeypatch.setitem(table, name, lost)
        with pytest.raises(FileNotFoundError, match=r"holds x is installed: pip install scikit-image==0.26.0\.$"):
            samples("photographs")


def test_placed_cut_outs_are_listed_like_any_drawn_set():
    found, scene = samples("placed:test:60", n=5), draw(photographs.SPLITS["test"] + 2)
    assert [s.label for s in found] == [*CLASSES, CLASSES[0]] and all(s.masked for s in found)
    assert (found[2].pixels == scene.picture).all() and (found[2].mask == scene.mask).all()
    assert found[2].name == found[2].key == f"placed {scene.seed}"


def test_the_mask_is_where_the_picture_was_changed_and_places_and_sizes_vary(placed):
    for scene, behind in placed:
        changed, mask = np.abs(scene.picture - behind).max(2) > 0.01, scene.mask.astype(np.uint8)
        assert not changed[cv2.dilate(mask, np.ones((61, 61))) == 0].any()  # a soft shadow lies around it
        assert changed[cv2.erode(mask, np.ones((3, 3))) > 0].mean() > 0.9
        assert mask[16:-16, 16:-16].sum() == mask.sum() > 1500  # inside of what a centre crop leaves
    cats = [np.argwhere(scene.mask) for scene, _ in placed if scene.name == "Egyptian cat"]
    assert np.std([points.mean(0) for points in cats], 0).min() > 5
    assert max(map(len, cats)) > 1.4 * min(map(len, cats))


def test_the_network_sees_the_cut_out_and_nothing_of_it_without(placed):
    net = ch.load_model("efficientnet_lite0")
    own = [net.card.classes.index(scene.name) for scene, _ in placed]
    assert (ch.predict(net, [scene.picture for scene, _ in placed]).argmax(1) == own).mean() >= 0.9
    assert ch.predict(net, [behind for _, behind in placed])[range(24), own].max() < 0.1
