import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import binary_dilation

from camhelpers.cam.explain import explain, predict
from camhelpers.cam.models import load_model
from camhelpers.datasets import retinas
from camhelpers.datasets.retinas import CLASSES, FIELD, SMALL, draw

MIDDLE = (96, 128, 128)
LAYERS = [4.23, 4.84, 18.2, 94.41, 115.89, 85.89, 59.12, 41.84]  # the mean grey at every eighth voxel of depth


def averaged(array, shape):
    return F.adaptive_avg_pool3d(torch.from_numpy(array.astype(np.float32))[None], shape)[0].numpy()


@pytest.mark.parametrize("kind", CLASSES)
def test_the_same_seed_gives_the_same_eye(kind):
    first, again, other = draw(11, kind), draw(11, kind), draw(12, kind)
    assert first.volume.tobytes() == again.volume.tobytes() and (first.mask == again.mask).all()
    assert (first.volume != other.volume).mean() > 0.9
    assert first.volume.shape == first.mask.shape == SMALL and first.volume.dtype == np.float32
    assert 0 <= first.volume.min() < 0.05 and 0.8 < first.volume.max() <= 1
    assert (np.rint(first.volume * 255) / np.float32(255) == first.volume).all()  # what eight bits hold


def test_cubes_and_masks_are_those_that_the_model_was_trained_on():
    assert np.allclose(draw(11, "normal").volume.mean((0, 2))[::8] * 255, LAYERS, atol=0.1)
    for kind, size, centre in (("drusen", 405, (16.5, 35.9, 37.9)), ("fluid", 1823, (26.5, 31.9, 28.6))):
        mask = draw(11, kind).mask
        assert abs(mask.sum() - size) <= 4 and np.allclose(np.argwhere(mask).mean(0), centre, atol=0.2)


def test_a_recipe_draws_the_eye_again_and_voxels_divide_the_field():
    eye = draw(31, "fluid", (20, 32, 40), looks=5)
    again = draw(**json.loads(json.dumps(eye.recipe)))
    assert (again.volume == eye.volume).all() and (again.mask == eye.mask).all() and again.recipe == eye.recipe
    assert eye.name == "fluid_000031" and eye.label == 2 and draw(31).label == 1
    assert np.allclose(np.multiply(eye.spacing, (20, 32, 40)), FIELD)
    assert draw(1).spacing == (0.125, 0.03125, 0.09375)


@pytest.mark.parametrize("seed", [4, 5])
def test_one_seed_is_the_same_eye_at_every_shape(seed):
    small, large, other = draw(seed, looks=60), draw(seed, shape=MIDDLE, looks=60), draw(seed + 3, looks=60)
    mask = averaged(large.mask, SMALL) > 0.5
    assert 2 * (mask & small.mask).sum() / (mask.sum() + small.mask.sum()) > 0.9
    values = [averaged(eye.volume, (24, 32, 32)).ravel() for eye in (small, large, other)]
    same, different = np.corrcoef(values)[0, 1:]
    assert same > 0.98 > different + 0.01


@pytest.mark.parametrize("seed", range(1, 22, 3))
def test_drusen_are_on_the_pigment_epithelium_and_leave_nothing_else_changed(seed):
    eye, healed = draw(seed), draw(seed, lesions=False)
    assert eye.label == healed.label == 1 and not healed.mask.any()
    columns, changed = eye.mask.any(1), (eye.volume != healed.volume).any(1)
    around = binary_dilation(columns, np.ones((5, 11)))
    assert changed[columns].all() and changed.mean() < 0.4
    assert (changed & ~around).sum() <= 0.002 * changed.size  # a thin hem, whose deposit fills no voxel's centre
    deepest = eye.mask.shape[1] - 1 - eye.mask[:, ::-1].argmax(1)[columns]
    assert deepest.min() > 20 and eye.mask.sum(1).max() >= 3  # high enough to be seen


@pytest.mark.parametrize("seed", [2, 5, 8])
def test_fluid_is_nearly_black_and_swells_only_its_neighbourhood(seed):
    eye, healed = draw(seed, shape=MIDDLE), draw(seed, shape=MIDDLE, lesions=False)
    assert eye.label == 2 and eye.mask.any() and not healed.mask.any()
    assert np.median(eye.volume[eye.mask]) < 0.5 * np.median(healed.volume[eye.mask])
    changed = (eye.volume != healed.volume).any(1)
    assert 0.02 < changed.mean() < 0.75 and changed[eye.mask.any(1)].all()


def test_more_looks_are_less_speckle():
    rough, fine = draw(3, looks=1).volume, draw(3, looks=30).volume
    assert np.diff(fine, axis=2).std() < 0.5 * np.diff(rough, axis=2).std()


def test_a_set_is_balanced_small_and_can_be_drawn_again():
    found = retinas.dataset("val", 6, start=3, looks=7)
    assert found.recipes[0]["seed"] == retinas.SPLITS["val"] + 3
    assert len(found) == 6 and found.labels.tolist() == [0, 1, 2] * 2
    assert found.volumes.shape == (6, *SMALL, 1) and found.volumes.dtype == np.uint8
    eye = found[4]
    assert eye.label == 1 and eye.recipe["looks"] == 7 and eye.mask.any() and (eye.mask == found.masks[4]).all()
    assert (np.rint(eye.volume * 255) == found.volumes[4, ..., 0]).all()
    assert not found.redraw(4, lesions=False).mask.any()


def test_the_shipped_model_knows_unseen_eyes_and_its_heat_gathers_in_their_lesions():
    model, test, lifts = load_model("retina"), retinas.dataset("test", 45, start=6000), []
    assert (predict(model, test.volumes[..., 0]).argmax(1) == test.labels).mean() >= 0.95
    for i in np.flatnonzero(test.labels)[:8]:
        heat = explain(model, test.volumes[i, ..., 0], layers="layer4", target=int(test.labels[i])).heatmap("gradcam")
        lifts.append(heat[test.masks[i]].mean() / heat.mean())
    assert np.median(lifts) > 3
