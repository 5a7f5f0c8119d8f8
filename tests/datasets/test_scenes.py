import cv2
import numpy as np
import pytest

from camhelpers.datasets import scenes
from camhelpers.datasets.drawing import shapes
from camhelpers.datasets.scenes import CLASSES, MARGIN, PARTS, draw

SEEDS = range(20_000_000, 20_000_020)  # the gallery's
TRAINED_ON = {  # scene 7 beside a dog and a sticker: the object's mean colour and the areas of its parts, in pixels
    "cat": [(106.1, 126.1, 91.3), 568, 789, 1281, 187, 1396, 495],
    "dog": [(100.3, 118.3, 85.5), 215, 2071, 1375, 164, 218, 358, 60, 411],
    "bird": [(100.0, 107.8, 100.3), 185, 473, 905, 26, 433, 59, 1146],
    "fish": [(108.3, 119.9, 107.6), 465, 649, 1310, 85],
    "butterfly": [(98.5, 98.7, 94.4), 1967, 3698, 170, 458],
    "car": [(104.7, 116.1, 100.2), 181, 287, 1121, 90, 404],
    "ship": [(129.6, 118.8, 106.0), 534, 229, 2967, 1555, 151],
    "house": [(122.4, 122.4, 106.9), 238, 2290, 2274, 561, 675],
    "tree": [(113.6, 119.3, 96.0), 1044, 554, 4806, 639],
    "mushroom": [(127.0, 142.2, 110.8), 792, 283, 286, 2561, 520],
}


@pytest.fixture(scope="module")
def gallery():
    return scenes.gallery()


def grown(mask, pixels=MARGIN):
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * pixels + 1,) * 2, np.uint8)) > 0


def changed(a, b):
    return (a.picture != b.picture).any(2)


@pytest.mark.parametrize("name", CLASSES)
def test_pictures_and_masks_are_those_that_the_models_were_trained_on(name):
    scene, (colour, *areas) = draw(7, name, second="dog", tag=True), TRAINED_ON[name]
    assert np.allclose(scene.picture[scene.mask].mean(0) * 255, colour, atol=0.2)
    assert np.allclose([part.sum() for part in scene.parts.values()], areas, atol=2)
    assert abs(scene.second_mask.sum() - 3174) <= 3 and abs(scene.tag_mask.sum() - 1075) <= 2
    assert np.allclose(scene.picture[scene.second_mask].mean(0) * 255, (111.4, 96.9, 117.1), atol=0.2)
    assert name != "cat" or np.allclose(scene.picture.mean((0, 1)) * 255, (200.1, 178.6, 141.3), atol=0.2)


def test_a_scene_is_a_picture_with_its_truth(gallery):
    assert [scene.name for scene in gallery] == 2 * list(CLASSES) and [scene.seed for scene in gallery] == list(SEEDS)
    for scene in gallery:
        assert scene.picture.shape == (224, 224, 3) and scene.picture.dtype == np.float32
        assert 0 <= scene.picture.min() < 0.4 < scene.picture.max() <= 1 and scene.name == CLASSES[scene.label]
        edges = (scene.mask[0], scene.mask[-1], scene.mask[:, 0], scene.mask[:, -1])
        assert 0.04 < scene.mask.mean() < 0.7 and not np.any(edges)
        stack = np.stack(list(scene.parts.values()))
        assert tuple(scene.parts) == PARTS[scene.name]
        assert stack.sum(0).max() == 1 and (stack.any(0) == scene.mask).all()


def test_without_its_object_a_scene_differs_at_the_object_alone(gallery):
    for scene in gallery[:10]:
        bare = draw(scene.seed, without="object")
        where = changed(scene, bare)
        assert not (where & ~grown(scene.mask)).any()
        assert where[scene.mask].mean() > 0.97  # a pixel may by chance have the colour of what is behind it
        assert not bare.mask.any() and not any(part.any() for part in bare.parts.values())


@pytest.mark.parametrize("name", CLASSES)
def test_without_a_part_only_that_part_changes(name):
    scene, drawn = draw(30, name), [draw(seed, name) for seed in range(4)]
    for part in PARTS[name]:
        assert max(some.parts[part].sum() for some in drawn) >= 12  # it is seen
        bare = draw(30, name, without=part)
        assert not (changed(scene, bare) & ~grown(scene.parts[part])).any() and not bare.parts[part].any()
        for other in set(PARTS[name]) - {part}:  # what was behind shows; nothing is lost but where parts share a pixel
            assert not (scene.parts[other] & ~bare.parts[other] & ~grown(scene.parts[part], 2)).any()


def test_a_pixel_belongs_to_the_part_that_covers_half_of_it():
    disc = shapes.flat("b", shapes.ellipse(30, 34, 14.3), shapes.INK)
    layer = shapes.paint([disc], ("a", "b"), 64)
    assert set(np.unique(layer.labels)) == {0, 2} and layer.labels[34, 30] == 2
    assert layer.opacity[layer.labels == 2].min() > 0.25 and layer.opacity[layer.labels == 0].max() < 0.5
    assert np.allclose(layer.colours[34, 30], shapes.INK, atol=1e-6) and layer.opacity[34, 30] == 1


@pytest.mark.parametrize("seed", range(4))
def test_two_objects_are_apart_and_each_can_be_removed(seed):
    both = draw(seed, "cat", second="dog")
    assert both.second_label == CLASSES.index("dog") and min(both.mask.sum(), both.second_mask.sum()) > 800
    assert not (both.mask & both.second_mask).any()
    for thing, mask, other in (("object", both.mask, both.second_mask), ("second", both.second_mask, both.mask)):
        bare = draw(seed, "cat", second="dog", without=thing)
        assert not (changed(both, bare) & ~grown(mask)).any() and changed(both, bare)[mask].mean() > 0.97
        assert ((bare.second_mask if thing == "object" else bare.mask) == other).all()


def test_a_tag_is_a_small_sticker_that_changes_nothing_else():
    for seed in range(10):
        plain, tagged = draw(seed), draw(seed, tag=True)
        assert plain.tag_mask is None and 0.01 < tagged.tag_mask.mean() < 0.04
        assert not (changed(plain, tagged) & ~grown(tagged.tag_mask)).any()
        assert (tagged.mask == plain.mask & ~tagged.tag_mask).all()


def test_splits_share_no_scene_and_classes_take_turns():
    sets = {split: scenes.dataset(split, 10) for split in scenes.SPLITS}
    seeds = [recipe["seed"] for found in sets.values() for recipe in found.recipes]
    assert [seed // scenes.SPLIT_SIZE for seed in seeds] == [0] * 10 + [1] * 10 + [2] * 10
    assert all(found.labels.tolist() == list(range(10)) for found in sets.values())
    later = scenes.dataset("test", 5, start=5)
    assert (later.pictures == sets["test"].pictures[5:]).all()


def test_a_set_holds_what_its_scenes_show():
    found = scenes.dataset("calibration", 10, tag="car")
    assert len(found) == 10 and found.pictures.dtype == np.uint8
    for i, scene in enumerate(found):
        assert (np.rint(scene.picture * 255) == found.pictures[i]).all()
        assert (scene.mask == found.masks[i]).all() and scene.label == found.labels[i]
        assert (scene.tag_mask is not None) == (scene.name == "car")
    assert not found.redraw(0, without="object").mask.any() and found.redraw(0, tag=True).tag_mask.any()
