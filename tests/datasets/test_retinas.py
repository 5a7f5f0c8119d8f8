import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import binary_dilation

from camhelpers.cam.explain import explain
from camhelpers.cam.models import MODELS, load_model
from camhelpers.datasets import retinas
from camhelpers.datasets.retinas import CLASSES, FIELD, FULL, SMALL, draw
from camhelpers.files import sha256

MIDDLE = (96, 128, 128)


@pytest.fixture(scope="module")
def model():
    return load_model("retina")


def answers(model, cubes):
    """What the model says of cubes (Z, Y, X) in 0..1."""
    said = []
    with torch.inference_mode():
        for cube in cubes:
            x = torch.from_numpy(np.ascontiguousarray(cube))[None, None]
            said.append(int(model(model.card.normalise(x)).argmax()))
    return np.array(said)


def averaged(array, shape):
    return F.adaptive_avg_pool3d(torch.from_numpy(array.astype(np.float32))[None], shape)[0].numpy()


# One eye --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CLASSES)
def test_the_same_seed_gives_the_same_bytes(kind):
    first, second, other = draw(11, kind), draw(11, kind), draw(12, kind)
    assert first.volume.tobytes() == second.volume.tobytes() and (first.mask == second.mask).all()
    assert (first.volume != other.volume).mean() > 0.9
    assert first.volume.shape == first.mask.shape == SMALL
    assert first.volume.dtype == np.float32 and first.mask.dtype == bool
    assert 0 <= first.volume.min() < 0.05 and 0.8 < first.volume.max() <= 1
    assert (np.rint(first.volume * 255) / np.float32(255) == first.volume).all()  # what eight bits hold


def test_a_recipe_draws_the_eye_again():
    eye = draw(31, "fluid", (20, 32, 40), looks=5)
    again = draw(**json.loads(json.dumps(eye.recipe)))
    assert (again.volume == eye.volume).all() and (again.mask == eye.mask).all() and again.recipe == eye.recipe
    assert eye.name == "fluid_000031" and eye.label == 2


def test_the_field_stays_the_same_and_the_voxels_divide_it():
    for shape in (SMALL, (16, 40, 24)):
        assert np.allclose(np.multiply(draw(1, shape=shape).spacing, shape), FIELD)
    assert draw(1).spacing == (0.125, 0.03125, 0.09375)


@pytest.mark.parametrize("seed", [4, 5, 7, 8])
def test_one_seed_is_the_same_eye_at_every_shape(seed):
    small, large, other = draw(seed, looks=60), draw(seed, shape=MIDDLE, looks=60), draw(seed + 3, looks=60)
    mask = averaged(large.mask, SMALL) > 0.5
    assert 2 * (mask & small.mask).sum() / (mask.sum() + small.mask.sum()) > 0.9
    values = [averaged(eye.volume, (24, 32, 32)).ravel() for eye in (small, large, other)]
    same, different = np.corrcoef(values)[0, 1:]
    assert same > 0.98 > different + 0.01


@pytest.mark.parametrize("seed", range(1, 22, 3))
def test_drusen_lie_on_the_pigment_epithelium_and_leave_nothing_else_changed(seed):
    eye, healed = draw(seed), draw(seed, lesions=False)
    assert eye.label == healed.label == 1 and not healed.mask.any()
    changed = (eye.volume != healed.volume).any(1)
    around = binary_dilation(eye.mask.any(1), np.ones((5, 11)))
    assert changed[eye.mask.any(1)].all()
    assert (changed & ~around).sum() <= 0.002 * changed.size  # a thin hem, whose deposit fills no voxel's centre
    assert changed.mean() < 0.4
    columns = eye.mask.any(1)
    deepest = eye.mask.shape[1] - 1 - eye.mask[:, ::-1].argmax(1)[columns]
    assert deepest.min() > 20 and eye.mask.sum(1).max() >= 3  # high enough to be seen


@pytest.mark.parametrize("seed", [2, 5, 8])
def test_fluid_is_nearly_black_and_swells_only_its_neighbourhood(seed):
    eye, healed = draw(seed, shape=MIDDLE), draw(seed, shape=MIDDLE, lesions=False)
    assert eye.label == 2 and eye.mask.any() and not healed.mask.any()
    assert np.median(eye.volume[eye.mask]) < 0.5 * np.median(healed.volume[eye.mask])
    changed = (eye.volume != healed.volume).any(1)
    assert 0.02 < changed.mean() < 0.75 and changed[eye.mask.any(1)].all()


def test_a_normal_eye_has_no_lesion_to_leave_out():
    eye = draw(3)
    assert not eye.mask.any() and (draw(3, lesions=False).volume == eye.volume).all()


def test_light_fades_on_its_way_down_and_vessels_throw_shadows():
    eye = draw(0, looks=200)
    deep = eye.volume[:, 52:].mean(1)
    shadow, light = np.percentile(deep, [1, 60])
    assert shadow < 0.75 * light
    rows = eye.volume.mean((0, 2))
    assert rows[:8].mean() < 0.5 * rows[-8:].mean() < 0.75 * rows.max()


def test_more_looks_are_less_speckle():
    rough, fine = draw(3, looks=1).volume, draw(3, looks=30).volume
    assert np.diff(fine, axis=2).std() < 0.5 * np.diff(rough, axis=2).std()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: draw(0, "cataract"), "'cataract'; choose from normal, drusen, fluid"),
        (lambda: draw(-1), "not -1"),
        (lambda: draw(1.5), "not 1.5"),
        (lambda: draw(0, shape=(64, 64)), r"not \(64, 64\)"),
        (lambda: draw(0, shape=(48, 64, 8)), "at least 16"),
        (lambda: draw(0, looks=0), "looks is 0"),
        (lambda: retinas.dataset("holdout", 3), "choose from train, val, test"),
        (lambda: retinas.dataset("test", 0), "0 eyes"),
        (lambda: retinas.dataset("test", 3, start=-1), "from -1"),
        (lambda: retinas.dataset("test", 3, start=retinas.SPLIT_SIZE), "not among them"),
    ],
)
def test_bad_input_gets_one_clear_sentence(call, says):
    with pytest.raises(ValueError, match=says) as error:
        call()
    assert "\n" not in str(error.value)


# Sets -----------------------------------------------------------------------------------------------------------------


def test_a_set_is_balanced_small_and_can_be_drawn_again():
    found = retinas.dataset("val", 6, (16, 32, 32), start=3)
    assert len(found) == 6 and found.labels.tolist() == [0, 1, 2] * 2
    assert found.volumes.shape == (6, 16, 32, 32, 1) and found.volumes.dtype == np.uint8
    assert found.masks.shape == (6, 16, 32, 32) and found.masks.dtype == bool
    eye = found[4]
    assert eye.label == 1 and (np.rint(eye.volume * 255) == found.volumes[4, ..., 0]).all()
    assert (eye.mask == found.masks[4]).all() and eye.mask.any()
    assert not found.redraw(4, lesions=False).mask.any()
    assert retinas.dataset("val", 1, (16, 32, 32), looks=7)[0].recipe["looks"] == 7


def test_the_splits_share_no_eye():
    seeds = [
        recipe["seed"] // retinas.SPLIT_SIZE
        for split in retinas.SPLITS
        for start in (0, retinas.SPLIT_SIZE - 1)
        for recipe in retinas.dataset(split, 1, (16, 16, 16), start=start).recipes
    ]
    assert seeds == [0, 0, 1, 1, 2, 2]


# The shipped model ----------------------------------------------------------------------------------------------------


def test_the_shipped_model_is_what_its_card_says(model):
    weights, card = MODELS / "retina.safetensors", json.loads((MODELS / "retina.json").read_text())
    assert sha256(weights) == card["sha256"] and weights.stat().st_size <= 3_000_000
    assert model.card.classes == CLASSES and model.card.size == SMALL and len(model.card.mean) == 1
    training = card["training"]
    assert training["test_accuracy"] >= 0.95 and training["averaged_full_size_accuracy"] >= 0.95
    assert 0 <= training["native_full_size_accuracy"] <= 1 and training["full_size_cubes"] >= 20
    assert "train retina" in training["command"]


def test_the_shipped_model_knows_unseen_eyes(model):
    test = retinas.dataset("test", 60, start=6000)
    assert (answers(model, test.volumes[..., 0] / np.float32(255)) == test.labels).mean() >= 0.95


@pytest.mark.slow
def test_the_shipped_model_knows_two_hundred_unseen_eyes(model):
    test = retinas.dataset("test", 200, start=12_000)
    assert (answers(model, test.volumes[..., 0] / np.float32(255)) == test.labels).mean() >= 0.95


@pytest.mark.slow
def test_full_cubes_made_small_by_averaging_are_known_too(model):
    eyes = [draw(retinas.SPLITS["test"] + 21_000 + i, shape=FULL) for i in range(21)]
    said = answers(model, [averaged(eye.volume, SMALL) for eye in eyes])
    assert (said == [eye.label for eye in eyes]).mean() >= 0.95


@pytest.mark.slow
def test_the_shipped_model_runs_at_full_size(model):
    x = model.card.normalise(torch.from_numpy(draw(2, shape=FULL).volume)[None, None])
    with torch.inference_mode():
        assert model(x).shape == (1, 3) and torch.isfinite(model(x)).all()


def test_heat_gathers_in_the_lesions(model):
    test = retinas.dataset("test", 12, start=6000)
    lifts = []
    for volume, mask, label in zip(test.volumes, test.masks, test.labels, strict=True):
        if label:
            x = model.card.normalise(torch.from_numpy(volume[..., 0]).float()[None, None] / 255)
            heat = explain(model, x, layers="layer4", target=int(label)).heatmap("gradcam")[0]
            lifts.append(heat[mask].mean() / heat.mean())
    assert np.median(lifts) > 3
