"""Pictures, masks and volumes, listed first and read later."""

import pickle

import numpy as np
import pytest

from camhelpers.datasets import hard, retinas, scenes
from camhelpers.datasets.samples import pictures, samples, volume_samples
from camhelpers.io.images import save_image
from camhelpers.io.volumes import read_volume

NAMES = ("cat/b10.png", "cat/b9.jpg", "cat/c.png", "dog/c.png")
ONE = np.zeros((20, 30), np.uint8)
ONE[4:12, 5:25] = 1


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


def test_pictures_beside_sub_folders_and_those_that_share_a_stem_are_told_apart(folder):
    for name in ("loose.png", "cat/b9.png", "notes/read.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes((folder / NAMES[0]).read_bytes())
    assert [(s.name, s.label) for s in samples(folder, 2)] == [("loose.png", None), ("cat/b9.jpg", "cat")]
    names = [p.name for p in pictures(folder)]
    assert names == ["loose", "cat b9.jpg", "dog c", "cat b9.png", "cat b10", "cat c"]


def test_pictures_that_cannot_be_read_are_left_out_and_named(folder):
    (folder / "dog/c.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match=r"^1 of 4 pictures left out: dog/c.png \(.* not a picture") as told:
        assert [p.name for p in pictures(folder)] == ["cat b9", "cat b10", "cat c"]
    assert told[0].filename == __file__
    with pytest.raises(ValueError, match=r"None of the 1 pictures could be read: c.png \("):
        pictures(folder / "dog")


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
