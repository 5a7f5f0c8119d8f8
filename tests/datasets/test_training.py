import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from camhelpers.cam.explain import predict
from camhelpers.cam.models import MODELS, Card, load_model
from camhelpers.cam.nets import SmallResNet
from camhelpers.datasets import retinas, scenes, training
from camhelpers.files import sha256

SMALL = Card("small", scenes.CLASSES, mean=(0.5,) * 3, std=(0.25,) * 3, size=(64, 64))


def small_net(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return SmallResNet(10, widths=(8, 16, 24, 32), strides=(2, 1, 2, 2, 2))


@pytest.fixture(scope="module")
def few():
    return scenes.dataset("train", 200, size=64)


def test_a_short_training_learns(few):
    net = small_net()
    losses = training.fit(net, few.pictures, few.labels, SMALL, epochs=8, batch=20, augment=None, progress=False)
    assert losses[-1] < 0.7 * losses[0]
    net.card = SMALL
    right = predict(net, few.pictures).argmax(1) == few.labels
    assert right.mean() > 0.6 and not net.training


def test_training_is_a_function_of_the_seed_and_disturbs_nothing(few):
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    nets = []
    for seed in (0, 0, 1):
        nets.append(small_net())
        training.fit(nets[-1], few.pictures[:60], few.labels[:60], SMALL, epochs=1, seed=seed, progress=False)
    first, second, third = (torch.cat([p.flatten() for p in net.state_dict().values()]) for net in nets)
    assert torch.equal(first, second) and not torch.equal(first, third)
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads


def test_augmentation_keeps_pictures_pictures(few):
    x = torch.from_numpy(few.pictures[:40]).movedim(-1, 1).float() / 255
    before = x.clone()
    y = training.augment_pictures(x, torch.Generator().manual_seed(0))
    assert y.shape == x.shape and y.min() >= 0 and y.max() <= 1
    assert torch.equal(x, before) and not torch.equal(x, y)


def test_removing_pixels_touches_the_stated_share(few):
    x = torch.from_numpy(few.pictures).movedim(-1, 1).float() / 255
    touched = (training.remove_pixels(x, torch.Generator().manual_seed(0), share=0.4) != x).flatten(1).any(1)
    assert 0.25 < touched.float().mean() < 0.5
    assert training.remove_pixels(x, torch.Generator(), share=0.0) is x


def test_cubes_are_moved_and_turned_but_stay_upright():
    ramp = torch.linspace(0.2, 0.8, 24).view(1, 1, 1, 24, 1).expand(12, 1, 12, 24, 16)
    before = ramp.clone()
    y = training.augment_volumes(ramp, torch.Generator().manual_seed(0))
    assert y.shape == ramp.shape and y.min() >= 0 and y.max() <= 1 and torch.equal(ramp, before)
    assert (y.diff(dim=3) >= 0).all() and len({round(v, 4) for v in y[:, 0, 0, 12, 0].tolist()}) == 12
    again = training.augment_volumes(ramp, torch.Generator().manual_seed(0))
    assert torch.equal(y, again)
    marked = torch.full((40, 1, 12, 24, 16), 0.3)
    marked[:, :, :3, :, :4] = 0.9
    corners = training.augment_volumes(marked, torch.Generator().manual_seed(1))[:, 0, [0, -1], 12][:, :, [0, -1]]
    assert corners.flatten(1).argmax(1).unique().numel() == 4  # turned along and across the B-scans


def test_volumes_and_clips_train_too():
    rng = np.random.default_rng(0)
    labels = np.arange(12) % 2
    volumes = (rng.integers(0, 60, (12, 8, 16, 16, 1)) + 180 * labels[:, None, None, None, None]).astype(np.uint8)
    net = SmallResNet(2, channels=1, widths=(4, 4, 8, 8), dims=3, strides=(1, 1, 2, 1, 1))
    card = Card("volumes", ("dark", "bright"), mean=(0.5,), std=(0.25,), size=(8, 16, 16))
    losses = training.fit(net, volumes, labels, card, epochs=6, batch=4, augment=None, progress=False)
    assert losses[-1] < losses[0]


def test_bad_input_gets_one_clear_sentence(few):
    with pytest.raises(ValueError, match="200 inputs, 3 labels"):
        training.fit(small_net(), few.pictures, few.labels[:3], SMALL, epochs=1)
    with pytest.raises(ValueError, match="0 epochs"):
        training.fit(small_net(), few.pictures, few.labels, SMALL, epochs=0)
    with pytest.raises(ValueError, match="not 1 and 1"):
        training.train_retina(pictures=1, epochs=1)


@pytest.mark.slow
def test_the_command_trains_and_writes_a_model_that_loads(tmp_path):
    out = tmp_path / "tiny.safetensors"
    command = [sys.executable, "-m", "camhelpers", "train", "scenes", "--pictures", "40", "--epochs", "1"]
    ran = subprocess.run([*command, "--seed", "3", "--out", out], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "epoch 1/1: loss" in ran.stdout
    card = json.loads(out.with_suffix(".json").read_text())
    assert card["training"]["pictures"] == 40 and card["training"]["seed"] == 3
    assert card["sha256"] == sha256(out) and card["classes"] == list(scenes.CLASSES)
    assert load_model(out)(torch.zeros(1, 3, 224, 224)).shape == (1, 10)


@pytest.mark.slow
def test_the_command_trains_the_model_of_the_retinas(tmp_path):
    out = tmp_path / "cubes.safetensors"
    command = [sys.executable, "-m", "camhelpers", "train", "retina", "--pictures", "16", "--epochs", "1"]
    ran = subprocess.run([*command, "--out", out], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    card = json.loads(out.with_suffix(".json").read_text())
    assert card["training"]["test_pictures"] == 10 and card["training"]["full_size_cubes"] == 1
    assert card["size"] == list(retinas.SMALL) and card["classes"] == list(retinas.CLASSES)
    assert load_model(out)(torch.zeros(1, 1, *retinas.SMALL)).shape == (1, 3)


def test_the_shipped_model_is_what_its_card_says():
    card = json.loads((MODELS / "scenes.json").read_text())
    weights = MODELS / "scenes.safetensors"
    assert sha256(weights) == card["sha256"] and weights.stat().st_size <= 3_000_000
    assert card["training"]["test_pictures"] == 1000 and card["training"]["test_accuracy"] >= 0.98
    assert f"--seed {card['training']['seed']}" in card["training"]["command"]


@pytest.mark.slow
def test_the_shipped_model_knows_unseen_scenes():
    model = load_model("scenes")
    test = scenes.dataset("test", 200, start=5000)
    right = predict(model, test.pictures).argmax(1) == test.labels
    assert right.mean() >= 0.97
