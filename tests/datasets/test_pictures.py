import numpy as np
import pytest

from camhelpers.datasets.samples import pictures
from camhelpers.io.images import save_image


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate(("cats/b10.png", "cats/b9.png", "dogs/a.png", "loose.txt")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if path.suffix == ".png":
            save_image(path, np.full((6, 8, 3), i / 10))
        else:
            path.write_text("not a picture")
    return tmp_path


def test_the_gallery_has_classes_and_masks():
    shown = pictures("gallery", 4)
    assert len(shown) == 4 and len({p.name for p in shown}) == 4
    assert all(p.label and p.mask.any() and p.mask.shape == p.pixels.shape[:2] for p in shown)


def test_sub_folders_are_classes_that_take_turns(folder):
    shown = pictures(str(folder), 3)
    assert [p.name for p in shown] == ["cats b9", "dogs a", "cats b10"]
    assert [p.label for p in shown] == ["cats", "dogs", "cats"]
    assert shown[0].mask is None and shown[0].pixels[0, 0, 0] == pytest.approx(0.1, abs=0.005)


def test_masks_among_the_pictures_are_no_class(folder):
    save_image(folder / "cats/masks/b9.png", np.ones((6, 8)))
    assert [(p.name, p.label) for p in pictures(str(folder / "cats"), 5)] == [("b9", None), ("b10", None)]


def test_a_flat_folder_has_no_classes(folder):
    assert [(p.name, p.label) for p in pictures(str(folder / "cats"), 5)] == [("b9", None), ("b10", None)]


def test_bad_sources_are_one_sentence(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder 'nowhere'; give 'gallery'"):
        pictures("nowhere")
    with pytest.raises(ValueError, match="at least one picture"):
        pictures("gallery", 0)
    with pytest.raises(FileNotFoundError, match="holds no picture"):
        pictures(str(tmp_path))
