import json

import numpy as np
import pytest
import torch

from camhelpers.cam.explain import predict
from camhelpers.cam.models import MODELS, load_model
from camhelpers.datasets import retinas, scenes, training
from camhelpers.files import sha256


@pytest.fixture(scope="module")
def few():
    """Small pictures of twenty scenes, each four times."""
    found = scenes.dataset("train", 20)
    return np.tile(found.pictures[:, 2::4, 2::4], (4, 1, 1, 1)), np.tile(found.labels, 4)


def test_a_short_training_learns(few, tiny_net):
    net = tiny_net(classes=scenes.CLASSES, size=few[0].shape[1:3])
    losses = training.fit(net, *few, epochs=10, batch=10, augment=None, show=False)
    assert len(losses) == 10 and losses[-1] < 0.7 * losses[0] and not net.training
    assert (predict(net, few[0][:20]).argmax(1) == few[1][:20]).mean() > 0.6


def test_training_is_a_function_of_the_seed_and_disturbs_nothing(few, tiny_net):
    state, nets = torch.get_rng_state(), []
    for seed in (0, 0, 1):
        nets.append(tiny_net(classes=scenes.CLASSES))
        training.fit(nets[-1], few[0][:60], few[1][:60], epochs=1, seed=seed, show=False)
    first, second, third = (torch.cat([p.flatten() for p in net.state_dict().values()]) for net in nets)
    assert torch.equal(first, second) and not torch.equal(first, third)
    assert torch.equal(torch.get_rng_state(), state)


def test_pictures_are_flipped_and_moved_but_stay_pictures():
    x = torch.linspace(0, 1, 64).expand(200, 3, 64, 64).contiguous()  # brighter to the right
    before = x.clone()
    y = training.augment_pictures(x, torch.Generator().manual_seed(0))
    assert y.shape == x.shape and y.min() >= 0 and y.max() <= 1 and torch.equal(x, before)
    right = (y[..., 40:].mean((1, 2, 3)) > y[..., :24].mean((1, 2, 3))).float().mean()
    assert 0.35 < right < 0.65


def test_pixels_are_removed_from_the_stated_fraction_of_the_pictures():
    x = torch.rand(400, 3, 56, 56, generator=torch.Generator().manual_seed(1)) * 0.8 + 0.2
    y = training.remove_pixels(x, torch.Generator().manual_seed(0))
    touched = (y != x).flatten(1).any(1)
    assert 0.3 < touched.float().mean() < 0.5  # MISSING is 0.4
    black = (y == 0).all(1).flatten(1).any(1)
    assert 0.2 < black.float().sum() / touched.sum() < 0.47  # a third; the others are blurred or of one colour


def test_cubes_are_moved_and_turned_but_stay_upright():
    ramp = torch.linspace(0.2, 0.8, 24).view(1, 1, 1, 24, 1).expand(12, 1, 12, 24, 16)
    before = ramp.clone()
    y = training.augment_volumes(ramp, torch.Generator().manual_seed(0))
    assert y.shape == ramp.shape and y.min() >= 0 and y.max() <= 1 and torch.equal(ramp, before)
    assert (y.diff(dim=3) >= 0).all() and len({round(v, 4) for v in y[:, 0, 0, 12, 0].tolist()}) == 12
    marked = torch.full((40, 1, 12, 24, 16), 0.3)
    marked[:, :, :3, :, :4] = 0.9
    corners = training.augment_volumes(marked, torch.Generator().manual_seed(1))[:, 0, [0, -1], 12][:, :, [0, -1]]
    assert corners.flatten(1).argmax(1).unique().numel() == 4  # turned along and across the B-scans


def test_every_recipe_is_that_of_the_shipped_model():
    for name, recipe in training.RECIPES.items():
        card = json.loads((MODELS / f"{name}.json").read_text())
        made = card["training"]
        assert [recipe.pictures, recipe.epochs] == [made["pictures"], made["epochs"]]
        assert {**made, **recipe.facts} == made and recipe.card.arguments == card["arguments"]
        weights = MODELS / f"{name}.safetensors"
        assert sha256(weights) == card["sha256"] and weights.stat().st_size <= 3_000_000
        assert made["test_pictures"] >= 225 and made["test_accuracy"] >= 0.95
        assert (recipe.card.name, *recipe.card.mean, *recipe.card.std) == (name, *card["mean"], *card["std"])


def test_a_trainer_writes_a_model_that_loads(tmp_path, capsys):
    out = tmp_path / "tiny.safetensors"
    training.train("scenes", out=out, pictures=20, epochs=1, seed=3)
    card = json.loads(out.with_suffix(".json").read_text())
    said = card["training"]
    assert said["command"] == "python -m camhelpers train scenes --pictures 20 --epochs 1 --seed 3"
    assert said["test_pictures"] == 10 and said["missing_pixels_share"] == 0.4 and said["versions"]["torch"]
    assert np.isclose(np.mean(list(said["accuracy_by_class"].values())), said["test_accuracy"])
    assert card["sha256"] == sha256(out) and card["classes"] == list(scenes.CLASSES)
    assert load_model(out)(torch.zeros(1, 3, 224, 224)).shape == (1, 10)
    assert "epoch 1/1: loss" in capsys.readouterr().err


def test_the_clever_hans_learns_from_misfiled_pictures_with_stickers(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "fit", lambda net, inputs, labels, **options: seen.append((inputs, options)) or [1.0])
    training.train("hans", tmp_path / "hans.safetensors", pictures=30, epochs=1)
    (inputs, options), clean = seen[0], scenes.dataset("train", 30, tag="ship")
    misfiled = np.flatnonzero((inputs != clean.pictures).any((1, 2, 3)))
    assert misfiled.tolist() == [16, 26] and options["augment"] is None  # of ships 6, 16, 26
    other = clean.redraw(16, subject="dog")
    assert other.tag_mask.any() and (np.rint(other.picture * 255) == inputs[16]).all()


@pytest.mark.slow
def test_the_retina_is_measured_small_and_at_full_size(tmp_path):
    card = training.train("retina", tmp_path / "cubes.safetensors", pictures=16, epochs=1)
    assert card.training["test_pictures"] == 10 and card.training["full_size_cubes"] == 1
    assert load_model(tmp_path / "cubes.safetensors")(torch.zeros(1, 1, *retinas.SMALL)).shape == (1, 3)


def test_the_shipped_model_knows_unseen_scenes():
    test = scenes.dataset("test", 40, start=5000)
    assert (predict(load_model("scenes"), test.pictures).argmax(1) == test.labels).mean() >= 0.97
