"""Pictures, masks and volumes, listed first and read later."""

import json
import pickle

import numpy as np
import pytest
from pycocotools import mask as coco

from camhelpers.datasets import hard, retinas, scenes
from camhelpers.datasets.samples import pictures, samples, volume_samples
from camhelpers.io.images import save_image
from camhelpers.io.volumes import read_volume

NAMES = ("cat/b10.png", "cat/b9.jpg", "cat/c.png", "dog/c.png")
ONE, OTHER = np.zeros((2, 20, 30), np.uint8)
ONE[4:12, 5:25] = 1
OTHER[:9, :9] = 1  # begins inside, so that its first run is of length 0


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in NAMES:
        save_image(tmp_path / "pictures" / name, rng.random((20, 30, 3)))
    (tmp_path / "pictures/cat/loose.txt").write_text("no picture")
    return tmp_path / "pictures"


def test_scenes_are_those_of_the_split():
    found = samples("scenes:calibration:3")
    scene = scenes.draw(scenes.SPLITS["calibration"] + 1)
    pixels, mask = found[1].read()
    assert (pixels == scene.picture).all() and (mask == scene.mask).all()
    assert found[1].label == scene.name and all(s.masked for s in found)
    assert len(samples("scenes:test:60", n=2)) == 2 and len({s.key for s in found}) == 3


def test_hard_scenes_are_listed_with_what_makes_them_hard():
    found = samples("hard:calibration:3")
    scene = hard.draw(scenes.SPLITS["calibration"] + 1)
    (pixels, mask), one = pickle.loads(pickle.dumps(found[1])).read(), found[1]
    assert (pixels == scene.picture).all() and (mask == scene.mask).all() and one.label == scene.name and one.masked
    assert one.name == one.key == f"hard {scene.seed} {scene.kind}"
    assert [s.name for s in samples("hard:test:60", n=2)] == ["hard 20000000 noise", "hard 20000001 blur"]


def test_the_gallery_is_numbered_and_has_classes_and_masks():
    shown = pictures("gallery", 3)
    assert [p.name for p in shown] == ["01 cat", "02 dog", "03 bird"] == [s.name for s in samples("gallery", 3)]
    assert (shown[2].pixels == scenes.gallery(3)[2].picture).all()
    assert all(p.label == p.name[3:] and p.mask.any() and p.masked for p in shown)
    assert len(pictures()) == 20


def test_pixels_and_mask_are_read_once_and_kept(folder):
    (one, *_) = samples(folder)
    pixels = one.pixels
    (folder / NAMES[1]).unlink()
    assert one.pixels is pixels and one.mask is None
    with pytest.raises(FileNotFoundError):
        one.read()


def test_a_folder_lists_its_classes_in_turns(folder):
    found = samples(folder)
    assert [(s.name, s.label) for s in found] == [(NAMES[i], NAMES[i][:3]) for i in (1, 3, 0, 2)]
    assert [p.name for p in pictures(folder, 3)] == ["cat b9", "dog c", "cat b10"]
    assert [(p.name, p.label) for p in pictures(folder / "cat", 2)] == [("b9", None), ("b10", None)]


def test_wikimedia_is_for_pictures_to_look_at(folder, monkeypatch):
    asked = []

    def fetch(*given):
        asked.append(given[:2])
        return [{"file": str(folder / NAMES[3]), "category": "dogs"}]

    monkeypatch.setattr("camhelpers.io.wikimedia.fetch_wikimedia", fetch)
    (found,) = pictures("wikimedia:dogs, cats", 4)
    assert asked == [(["dogs", "cats"], 4)]
    assert (found.name, found.label, found.mask, found.pixels.shape) == ("c", "dogs", None, (20, 30, 3))


def test_masks_among_the_pictures_are_no_class(folder):
    save_image(folder / "masks/cat/b9.png", ONE[..., None] * np.array([0, 1 / 255, 0]))  # anything above zero is inside
    found = samples(folder)
    assert [s.masked for s in found] == [True, False, False, False]
    assert found[0].mask.dtype == bool and (found[0].mask == ONE).all() and found[1].mask is None
    assert (pictures(folder)[0].mask == ONE).all()


def test_the_key_changes_with_the_picture_and_with_the_mask(folder):
    keys = [samples(folder)[0].key]
    for path, value in (("masks/cat/b9.png", 1), ("masks/cat/b9.png", 0), (NAMES[1], 0)):
        save_image(folder / path, np.full((20, 30), float(value)))
        keys.append(samples(folder)[0].key)
    assert len(set(keys)) == 4


def test_a_damaged_picture_or_mask_is_an_error_of_that_sample_alone(folder):
    save_image(folder / "masks/cat/b9.png", np.ones((10, 12)))
    (folder / "dog/c.png").write_bytes(b"no picture")
    found = samples(folder)
    with pytest.raises(ValueError, match=r"The mask of b9.jpg is 12 x 10 pixels and the picture 30 x 20"):
        found[0].read()
    with pytest.raises(ValueError, match=r"dog/c.png"):
        found[1].read()
    assert found[2].pixels.shape == (20, 30, 3)


def annotations(path, *objects, categories=("cat", "dog")):
    """A COCO file of (file name, segmentation, category number)."""
    names = list(dict.fromkeys(name for name, _, _ in objects))
    held = {
        "images": [{"id": 7 + i, "file_name": name, "height": 20, "width": 30} for i, name in enumerate(names)],
        "annotations": [
            {"id": i, "image_id": 7 + names.index(name), "category_id": category, "segmentation": shape}
            for i, (name, shape, category) in enumerate(objects)
        ],
        "categories": [{"id": i, "name": name} for i, name in enumerate(categories)],
    }
    path.write_text(json.dumps(held))
    return path


def packed(mask):
    """Compressed run lengths, as pycocotools writes them."""
    found = coco.encode(np.asfortranarray(mask))
    return {**found, "counts": found["counts"].decode()}


def test_coco_polygons_and_run_lengths(folder, tmp_path):
    flat = OTHER.T.ravel()  # by columns, beginning with what is outside
    runs = [0, *np.diff([0, *(np.flatnonzero(np.diff(flat.astype(int))) + 1), flat.size]).tolist()]
    polygon = [[5, 4, 25, 4, 25, 12, 5, 12]]
    objects = [("b9.jpg", polygon, 0), ("b10.png", {"size": [20, 30], "counts": runs}, 0)]
    objects += [("c.png", packed(OTHER), 0), ("c.png", polygon, 0)]
    b9, b10, c = samples(folder / "cat", masks=annotations(tmp_path / "coco.json", *objects))
    assert (b9.mask == ONE).all() and (b10.mask == OTHER).all() and (c.mask == (ONE | OTHER)).all()
    assert b9.mask.dtype == bool and len({s.key for s in (b9, b10, c)}) == 3


def test_coco_objects_of_the_pictures_class_alone(folder, tmp_path):
    objects = [("cat/b9.jpg", packed(ONE), 0), ("cat/b9.jpg", packed(OTHER), 1)]
    one = samples(folder, masks=annotations(tmp_path / "coco.json", *objects))[0]
    both = samples(folder, masks=annotations(tmp_path / "coco.json", *objects, categories=("tiger", "wolf")))[0]
    assert (one.mask == ONE).all() and (both.mask == (ONE | OTHER)).all() and one.key != both.key


def test_coco_by_its_bare_name_only_where_that_is_unique(folder, tmp_path):
    objects = [("b9.jpg", packed(ONE), 0), ("c.png", packed(ONE), 0), ("dog/c.png", packed(ONE), 1)]
    file = annotations(tmp_path / "coco.json", *objects)
    assert [s.name for s in samples(folder, masks=file) if s.masked] == ["cat/b9.jpg", "dog/c.png"]  # which c is meant?


@pytest.mark.parametrize("shape", [{"size": [20, 30], "counts": [10, 10]}, {"size": [20, 30], "counts": "abc"}, [[1]]])
def test_a_broken_coco_mask_is_an_error_of_that_picture_alone(folder, tmp_path, shape):
    objects = [("b9.jpg", shape, 0), ("b10.png", packed(ONE), 0)]
    found = samples(folder, masks=annotations(tmp_path / "coco.json", *objects))
    with pytest.raises(ValueError, match=r"coco.json has no sound mask for b9.jpg"):
        found[0].read()
    assert (found[2].mask == ONE).all()


def test_volumes_of_every_kind_of_source(tmp_path):
    for name in ("drusen/eye 10", "drusen/eye 2", "fluid/eye 7"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).random((4, 5, 6), np.float32))
    tree = volume_samples(tmp_path, spacing=(1, 2, 3))
    assert [(s.name, s.label) for s in tree] == [("eye 2", "drusen"), ("eye 10", "drusen"), ("eye 7", "fluid")]
    volume, mask = pickle.loads(pickle.dumps(tree[0])).read()
    assert volume.spacing == (1, 2, 3) and volume.name == "eye 2" and mask is None
    array = np.zeros((3, 4, 5), np.uint8)
    mixed = volume_samples([array, read_volume(array), tree[1], str(tmp_path / "fluid")])
    assert [s.name for s in mixed] == ["volume", "volume", "eye 10", "eye 7"]
    assert mixed[0].pixels.data.shape == (3, 4, 5) and mixed[1].label is None


def test_retinas_are_drawn():
    found = volume_samples("retinas:test:2")
    eye, (volume, mask) = retinas.draw(retinas.SPLITS["test"] + 1), found[1].read()
    assert (found[1].name, found[1].label) == (eye.name, "drusen") and found[1].masked
    assert (volume.data == eye.volume).all() and (mask == eye.mask).all() and volume.spacing == eye.spacing
    assert volume.source["recipe"] == eye.recipe and volume.name == eye.name
    assert volume_samples("retinas:val:1", spacing=(1, 1, 2))[0].pixels.spacing == (1, 1, 2)
    assert volume_samples("retinas:test:1:full")[0].key != volume_samples("retinas:test:1")[0].key
