import json

import numpy as np
import pytest

from camhelpers.datasets import scenes
from camhelpers.datasets.samples import Picture, sample, samples
from camhelpers.io.images import save_image


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat/a.png", "cat/b.jpg", "cat/c.png", "dog/a.png"):
        save_image(tmp_path / "pictures" / name, rng.random((20, 30, 3)))
    return tmp_path / "pictures"


def square(top, left, bottom, right):
    mask = np.zeros((20, 30), bool)
    mask[top:bottom, left:right] = True
    return mask


def test_scenes_are_those_of_the_split():
    found = samples("scenes:calibration:3")
    assert len(found) == 3 and all(s.masked for s in found)
    picture, scene = found[1].load(), scenes.draw(scenes.SPLITS["calibration"] + 1)
    assert (picture.pixels == scene.picture).all() and (picture.mask == scene.mask).all()
    assert picture.label == scene.name
    assert len(samples("scenes:test:60", n=2)) == 2


def test_a_folder_lists_its_classes_in_turns_with_the_masks_among_the_pictures(folder):
    save_image(folder / "masks/cat/b.png", square(2, 3, 10, 20).astype(float))
    found = samples(folder)
    assert [s.name for s in found] == ["cat/a.png", "dog/a.png", "cat/b.jpg", "cat/c.png"]
    assert [s.masked for s in found] == [False, False, True, False]
    read = found[2].load()
    assert read.label == "cat" and (read.mask == square(2, 3, 10, 20)).all()
    assert found[0].load().mask is None
    assert len(samples(folder, n=2)) == 2


def test_the_key_changes_with_the_picture_and_with_the_mask(folder):
    mask = folder / "masks/cat/a.png"
    keys = [samples(folder)[0].key]
    save_image(mask, np.ones((20, 30)))
    keys.append(samples(folder)[0].key)
    save_image(mask, np.zeros((20, 30)))
    keys.append(samples(folder)[0].key)
    save_image(folder / "cat/a.png", np.zeros((20, 30, 3)))
    keys.append(samples(folder)[0].key)
    assert len(set(keys)) == 4
    pixels, mask = np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), bool)
    memory = [sample(Picture("a", pixels)), sample(Picture("a", pixels, None, mask)), sample(Picture("a", pixels + 1))]
    assert len({s.key for s in memory}) == 3


def test_a_mask_of_another_size_is_an_error_of_that_picture_alone(folder):
    save_image(folder / "masks/cat/a.png", np.ones((10, 12)))
    found = samples(folder)
    with pytest.raises(ValueError, match=r"The mask of cat/a.png is 12 x 10 pixels and the picture 30 x 20"):
        found[0].load()
    found[1].load()


def compressed(runs):
    """COCO's encoder, after its C source."""
    text = ""
    for i, value in enumerate(runs):
        x, more = value - (runs[i - 2] if i > 2 else 0), True
        while more:
            c = x & 0x1F
            x >>= 5
            more = x != -1 if c & 0x10 else x != 0
            text += chr((c | 0x20 if more else c) + 48)
    return text


def runs_of(mask):
    flat = mask.T.ravel()  # by columns, beginning with what is outside
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    return [0, *runs] if flat[0] else runs


def coco(path, **segmentations):
    """A COCO file with one object for each picture, given as NAME__SUFFIX."""
    names = [name.replace("__", ".") for name in segmentations]
    path.write_text(
        json.dumps(
            {
                "images": [{"id": i, "file_name": name, "height": 20, "width": 30} for i, name in enumerate(names)],
                "annotations": [
                    {"image_id": i, "category_id": 1, "segmentation": s} for i, s in enumerate(segmentations.values())
                ],
                "categories": [{"id": 1, "name": "thing"}],
            }
        )
    )
    return path


def test_coco_polygons_and_run_lengths(folder, tmp_path):
    wanted = square(4, 5, 12, 25)
    blob = np.hypot(*np.mgrid[-10:10, -15:15]) < 8
    corner = np.hypot(*np.mgrid[:20, :30]) < 9  # begins inside, so that its first run is of length 0
    file = coco(
        tmp_path / "coco.json",
        a__png=[[5, 4, 25, 4, 25, 12, 5, 12]],
        b__jpg={"size": [20, 30], "counts": runs_of(blob)},
        c__png={"size": [20, 30], "counts": compressed(runs_of(corner))},
    )
    single = folder / "cat"
    a, b, c = (s.load().mask for s in samples(single, masks=file))
    assert (b == blob).all() and (c == corner).all()
    assert (a == wanted).all()


def test_coco_objects_of_the_pictures_class_alone(folder, tmp_path):
    thing = {"size": [20, 30]}
    held = {
        "images": [{"id": 7, "file_name": "cat/a.png", "height": 20, "width": 30}],
        "annotations": [
            {"image_id": 7, "category_id": 1, "segmentation": thing | {"counts": runs_of(square(0, 0, 5, 5))}},
            {"image_id": 7, "category_id": 2, "segmentation": thing | {"counts": runs_of(square(9, 9, 15, 15))}},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    file = tmp_path / "coco.json"
    file.write_text(json.dumps(held))
    assert (samples(folder, masks=file)[0].load().mask == square(0, 0, 5, 5)).all()
    held["categories"][0]["name"] = "tiger"
    held["categories"][1]["name"] = "wolf"
    file.write_text(json.dumps(held))
    assert (samples(folder, masks=file)[0].load().mask == square(0, 0, 5, 5) | square(9, 9, 15, 15)).all()


def test_coco_by_its_bare_name_only_where_that_is_unique(folder, tmp_path):
    whole = {"size": [20, 30], "counts": [0, 600]}
    file = coco(tmp_path / "coco.json", a__png=whole, b__jpg=whole)
    assert [s.name for s in samples(folder, masks=file) if s.masked] == ["cat/b.jpg"]  # which a.png is meant?
    held = json.loads(file.read_text())
    held["images"][0]["file_name"] = "cat/a.png"
    file.write_text(json.dumps(held))
    assert [s.name for s in samples(folder, masks=file) if s.masked] == ["cat/a.png", "cat/b.jpg"]


def test_coco_without_outlines_is_an_error_of_that_picture_alone(folder, tmp_path):
    file = coco(tmp_path / "coco.json", a__png=[[5, 4, 25, 4, 25, 12, 5, 12]])
    held = json.loads(file.read_text())
    del held["annotations"][0]["segmentation"]
    file.write_text(json.dumps(held))
    with pytest.raises(ValueError, match=r"coco.json has no 'segmentation' for a.png, so it has no mask"):
        samples(folder / "cat", masks=file)[0].load()


def test_coco_run_lengths_that_do_not_cover_the_picture(folder, tmp_path):
    file = coco(tmp_path / "coco.json", a__png={"size": [20, 30], "counts": [10, 10]})
    found = samples(folder / "cat", masks=file)
    with pytest.raises(ValueError, match=r"The run lengths of a.png cover 20 pixels, not 600"):
        found[0].load()


def test_bad_input_is_one_sentence(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("{}")
    for call, says in [
        (lambda: samples("scenes:test"), "There are no scenes 'scenes:test'; write scenes:SPLIT:COUNT"),
        (lambda: samples("scenes:all:3"), "There are no scenes 'scenes:all:3'"),
        (lambda: samples("scenes:test:0"), "There are no scenes 'scenes:test:0'"),
        (lambda: samples("scenes:test:2", masks=tmp_path), "The scenes have masks of their own"),
        (lambda: samples(tmp_path / "nowhere"), "There is no folder"),
        (lambda: samples(tmp_path / "empty"), "holds no picture"),
        (lambda: samples(folder, n=0), "n is 0; ask for at least one picture."),
        (lambda: samples(folder, masks=tmp_path / "nowhere"), "There is nothing at"),
        (lambda: samples(folder, masks=tmp_path / "empty"), "holds no mask for any picture"),
        (lambda: samples(folder, masks=tmp_path / "broken.json"), "broken.json is no COCO file"),
    ]:
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            call()
        assert says in str(caught.value) and "\n" not in str(caught.value)
