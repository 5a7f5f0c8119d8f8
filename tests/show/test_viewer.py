"""The slice viewer: every control redraws, the caption tells the truth, heat is computed once."""

import io
import time

import ipywidgets
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import find_objects, label

from camhelpers import render
from camhelpers.show import planes as projections
from camhelpers.show.viewer import GAP, LIMIT, VolumeViewer

RNG = np.random.default_rng(0)
VOLUME = RNG.random((12, 16, 20), dtype=np.float32)
HEATS = {"gradcam": RNG.random(VOLUME.shape, dtype=np.float32), "<hot>": RNG.random(VOLUME.shape, dtype=np.float32)}
MASK = np.zeros(VOLUME.shape, bool)
MASK[4:9, 5:12, 6:15] = True
OCT = (6 / 12, 2 / 16, 6 / 20)


@pytest.fixture
def viewer():
    return VolumeViewer(VOLUME, HEATS, OCT, mask=MASK, point=(6, 8, 10))


def pixels(viewer):
    return np.asarray(Image.open(io.BytesIO(viewer.image.value)).convert("RGB"), dtype=float)


def crop(viewer, axis):
    """One plane of what is shown; the words above take the rows that the colour bar leaves free."""
    left, top, wide, tall = viewer._boxes[axis]
    top += pixels(viewer).shape[0] - max(b[1] + b[3] for b in viewer._boxes)
    return pixels(viewer)[top : top + tall, left : left + wide]


@pytest.mark.parametrize(
    ("control", "value"),
    [("method", "<hot>"), ("opacity", 0.9), ("cmap", "viridis"), ("lesion", False)],
)
def test_every_control_changes_the_picture(viewer, control, value):
    before = viewer.image.value
    getattr(viewer, control).value = value
    assert viewer.image.value != before


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_each_slider_moves_its_plane_and_the_cross_hairs_in_the_others(viewer, axis):
    before = [crop(viewer, i) for i in range(3)]
    viewer.sliders[axis].value += 1
    changed = [(np.abs(crop(viewer, i) - before[i]).max(-1) > 60).mean() for i in range(3)]
    assert changed[axis] > 0.1, "another plane"
    assert all(0 < share < 0.1 for i, share in enumerate(changed) if i != axis), "only its lines moved"


def test_the_first_state_is_drawn_at_the_hottest_voxel_and_the_button_returns_there(viewer):
    assert viewer.image.value[:3] == b"\xff\xd8\xff" and viewer.point == (6, 8, 10)
    viewer.method.value = "<hot>"
    viewer.hottest.click()
    there = projections.hottest(HEATS["<hot>"])
    assert viewer.point == there
    assert VolumeViewer(VOLUME, HEATS, OCT, method="<hot>").point == there
    assert "heat <b>1.00</b>" in viewer.caption.value


def test_the_caption_gives_voxel_millimetres_values_and_escapes_names(viewer):
    heat, tissue = HEATS["gradcam"][6, 8, 10], VOLUME[6, 8, 10]
    assert viewer.caption.value.startswith("Voxel (z 6, y 8, x 10) at (3.25, 1.06, 3.15) mm: Grad-CAM heat <b>")
    assert float(viewer.caption.value.split("<b>")[1].split("</b>")[0]) == pytest.approx(heat, abs=0.008)
    assert f"volume {tissue:.2f}, inside the lesion." in viewer.caption.value
    viewer.sliders[0].value, viewer.method.value = 0, "<hot>"
    assert "outside the lesion" in viewer.caption.value
    assert "&lt;hot&gt;" in viewer.caption.value and "<hot>" not in viewer.caption.value
    unknown = VolumeViewer(VOLUME, HEATS)
    assert "mm" not in unknown.caption.value and "lesion" not in unknown.caption.value and unknown.lesion.disabled


def test_the_heat_shown_is_the_heat_given(viewer):
    viewer.opacity.value, viewer.lesion.value, viewer.cmap.value = 1.0, False, "hot"
    for axis, plane in enumerate(projections.planes(HEATS["gradcam"], viewer.point)):
        shown = crop(viewer, axis)
        expected = Image.fromarray(render.colour(plane, "hot")).resize(shown.shape[1::-1], Image.Resampling.BICUBIC)
        assert np.median(np.abs(shown - np.asarray(expected, dtype=float))) < 12  # JPEG; lines and words lie over it


@pytest.mark.parametrize("spacing", [OCT, (1, 1, 1), (3, 1, 1)])
def test_planes_have_their_physical_aspect(spacing):
    extent = np.array(spacing) * VOLUME.shape
    viewer = VolumeViewer(np.zeros_like(VOLUME), HEATS, spacing, opacity=0.0, point=(6, 8, 10))
    dark = pixels(viewer)[:, : -64 - GAP].mean(-1) < 128  # black planes, held together where the cross-hairs are open
    pieces, _ = label(dark)
    largest = np.argsort(np.bincount(pieces.ravel())[1:])[-3:]
    found = sorted((columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
                   for rows, columns in (find_objects(pieces)[i] for i in largest))  # fmt: skip
    order = sorted(range(3), key=lambda axis: viewer._boxes[axis][:2])
    for axis, (_, _, wide, tall) in zip(order, found, strict=True):
        down, across = projections.SEEN[axis]
        assert tall == pytest.approx(wide * extent[down] / extent[across], abs=2)
    assert 700 < pixels(viewer).shape[1] < 1100


def test_a_function_is_asked_once_for_each_method_and_alpha():
    asked = []

    def heat(method, alpha):
        asked.append((method, round(alpha, 2)))
        return HEATS["gradcam"] * alpha if method == "hybrid" else HEATS["<hot>"]

    viewer = VolumeViewer(VOLUME, heat, OCT, methods=("gradcam", "hybrid", "smoothgrad"))
    assert viewer.alpha.disabled and asked == [("gradcam", 0.7)]
    viewer.method.value = "hybrid"
    assert not viewer.alpha.disabled
    before = viewer.image.value
    viewer.alpha.value = 0.2
    assert viewer.image.value != before
    viewer.alpha.value = 0.7
    viewer.sliders[0].value, viewer.opacity.value = 3, 0.6
    for method in ("smoothgrad", "gradcam", "hybrid"):
        viewer.method.value = method
    assert asked == [("gradcam", 0.7), ("hybrid", 0.7), ("hybrid", 0.2), ("smoothgrad", 0.7)]


def test_alpha_is_offered_only_where_heat_is_computed(viewer):
    def rows(widget):
        return [child for box in widget.children if isinstance(box, ipywidgets.HBox) for child in box.children]

    assert viewer.alpha not in rows(viewer)
    computed = VolumeViewer(VOLUME, lambda method, alpha: HEATS["gradcam"])
    assert computed.alpha in rows(computed) and not computed.alpha.continuous_update, "each value costs a whole volume"


def test_a_blank_map_is_called_blank():
    viewer = VolumeViewer(VOLUME, {"layercam": np.zeros_like(VOLUME)}, OCT)
    assert "LayerCAM heat none: <b>the map is blank</b>" in viewer.caption.value


def test_only_traits_that_nbval_can_compare(viewer):
    stack, kinds = [viewer], set()
    while stack:
        widget = stack.pop()
        kinds.add(type(widget))
        stack.extend(getattr(widget, "children", ()))
    assert ipywidgets.Output not in kinds and ipywidgets.Image in kinds


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"volume": VOLUME[0]}, r"The volume has the shape \(16, 20\); give \(Z, Y, X\)"),
        ({"volume": VOLUME * 300}, "The volume reaches from .*; bring it to 0..1"),
        ({"heats": {}}, "no heat to show"),
        ({"heats": {**HEATS, "b": HEATS["gradcam"][1:]}}, r"The heat is \(11, 16, 20\) and the volume \(12, 16, 20\)"),
        ({"heats": lambda method, alpha: HEATS["gradcam"][1:]}, r"The heat is \(11, 16, 20\)"),
        ({"heats": {"a": HEATS["gradcam"] * np.nan}}, "The heat reaches from nan"),
        ({"mask": MASK[1:]}, r"The mask is \(11, 16, 20\)"),
        ({"spacing": (1, 1)}, "give three lengths above 0 in mm"),
        ({"method": "layercam"}, "no heat of 'layercam'; choose one of gradcam, <hot>"),
        ({"methods": ["gradcam", "vargrad"]}, "no heat of 'vargrad'; choose one of gradcam, <hot>"),
        ({"methods": ["gradcam"], "method": "<hot>"}, "no heat of '<hot>'; choose one of gradcam"),
        ({"point": (12, 0, 0)}, r"The point \(12, 0, 0\) lies outside the volume of 12 x 16 x 20 voxels"),
        ({"cmap": "rainbow"}, "no colour map 'rainbow'"),
    ],
)
def test_bad_input_is_one_sentence(changed, sentence):
    options = {"volume": VOLUME, "heats": HEATS, "spacing": OCT, **changed}
    with pytest.raises(ValueError, match=sentence):
        VolumeViewer(options.pop("volume"), options.pop("heats"), **options)


@pytest.mark.slow
def test_a_full_cube_is_redrawn_at_once_and_small():
    shape = (192, 256, 256)
    cube = np.random.default_rng(1).random(shape, dtype=np.float32)  # noise: no picture grows larger
    viewer = VolumeViewer(cube, {"gradcam": cube, "layercam": cube[::-1]}, (6 / 192, 2 / 256, 6 / 256))
    took, sizes = [], []
    for step in range(12):
        start = time.process_time()
        viewer.sliders[step % 3].value = 20 + 10 * step
        took.append(time.process_time() - start)
        sizes.append(len(viewer.image.value))
    assert max(sizes) <= LIMIT
    assert min(took) < 0.06
    assert viewer._kept["gradcam", None][0].nbytes == cube.size, "a byte a voxel"
