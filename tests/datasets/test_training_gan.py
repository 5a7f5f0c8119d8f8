"""The adversarial training: what a step changes, what is written, and what the shipped pair is."""

import json

import numpy as np
import pytest
import torch

from camhelpers.cam.explain import predict
from camhelpers.cam.models import MODELS, load_model
from camhelpers.datasets import hearts, training, training_gan
from camhelpers.datasets.training_gan import CARD, Duel, called_real, compare, snapshots


@pytest.fixture(scope="module")
def real():
    return torch.from_numpy(hearts.dataset("val", 12, kind="clean").frames[..., 0])


def test_a_step_moves_both_and_a_snapshot_judges_like_the_discriminator(real):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        duel = Duel(real)
        before = [p.clone() for p in duel.generator.parameters()]
        losses = [duel.step() for _ in range(3)]
        duel.discriminator.eval()
        x = CARD.normalise(real[:2, None].float() / 255)
        net, state = duel.snapshot(), torch.get_rng_state()
        with torch.no_grad():
            assert torch.allclose(net(x), duel.discriminator(x), atol=1e-4)
        duel.snapshot()
        assert torch.equal(torch.get_rng_state(), state)
    after = duel.generator.parameters()
    assert np.isfinite(losses).all() and any((a != b).any() for a, b in zip(before, after, strict=True))
    kinds = {type(part).__name__ for part in net.modules()}
    assert kinds == {
        "VideoDiscriminator",
        "Sequential",
        "Conv3d",
        "LeakyReLU",
        "Linear",
    }  # plain, without spectral norm


def test_a_generator_begins_with_the_shapes_of_real_clips(real):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        made = Duel(real).average.sample(12, seed=3)[:, 0].mean(0)
    same = np.corrcoef(made.ravel(), real.float().mean(0).ravel())[0, 1]
    assert same > 0.9


def test_clips_as_good_as_real_ones_score_one_and_collapsed_blurred_or_copied_ones_do_not(real):
    clips = real[:, None].float() / 255
    unseen, made, seen = clips[:4], clips[4:8], clips[8:]
    fair = compare(unseen, made, seen)
    assert all(0.6 < value < 1.6 for value in fair.values())
    assert compare(unseen, made[:1].expand(4, -1, -1, -1, -1), seen)["variety"] == pytest.approx(0, abs=0.01)
    assert compare(unseen, seen, seen)["distance_to_training"] == pytest.approx(0, abs=0.01)
    blurred = torch.nn.functional.avg_pool3d(made, (1, 3, 3), 1, (0, 1, 1))
    still = made[:, :, :1].expand_as(made)
    assert compare(unseen, blurred, seen)["sharpness"] < 0.7 and compare(unseen, still, seen)["motion"] == 0


def test_a_short_training_writes_a_pair_that_loads(tmp_path, capsys):
    card = training.train("hearts", tmp_path / "tiny.safetensors", pictures=8, epochs=2, seed=3)
    said = card.training
    assert said["command"] == "python -m camhelpers train hearts --pictures 8 --epochs 2 --seed 3"
    assert [row["epoch"] for row in said["history"]] == [1, 2] and said["epoch"] == 2
    early, last = load_model(tmp_path / "tiny" / "epoch_01.safetensors"), load_model(tmp_path / "tiny.safetensors")
    maker = load_model(tmp_path / "tiny" / "generator.safetensors")
    made = maker.sample(10, seed=1002)
    assert early.card.training["epoch"] == 1 and made.shape == (10, 1, *hearts.SMALL)
    assert called_real(last, made) == pytest.approx(said["synthetic_called_real"], abs=0.11)  # in half precision
    assert "losses" in capsys.readouterr().err
    with pytest.raises(ValueError, match="one epoch or more, not 0"):
        training.train("hearts", epochs=0)


def test_the_shipped_pair_is_what_its_card_says():
    nets, maker = snapshots(), load_model(MODELS / "hearts" / "generator.safetensors")
    said, epochs = load_model("hearts").card.training, list(nets)
    assert epochs[0] == 1 and epochs[-1] == said["epochs"] == len(said["history"]) and len(epochs) >= 5
    for epoch, net in nets.items():
        assert {**net.card.training, **said["history"][epoch - 1]} == net.card.training
    weights = [*MODELS.glob("hearts*/*.safetensors"), *MODELS.glob("[ah]*ts.safetensors")]
    assert len(weights) >= len(epochs) + 1  # with the generator, and with the classifier of artefacts
    assert sum(path.stat().st_size for path in weights) < 10_000_000
    assert said["pictures"] == training_gan.CLIPS and said["epochs"] == training_gan.EPOCHS
    real = hearts.dataset("val", 20, kind="clean").frames[..., 0]
    made = maker.sample(20, seed=1)
    answers = [predict(nets[epochs[-1]], list(clips))[:, 1] for clips in (real / np.float32(255), made[:, 0].numpy())]
    assert np.mean(answers[0][:, None] > answers[1]) > 0.7  # a real clip is more often the more real one
    known = json.loads((MODELS / "hearts" / "generator.json").read_text())["training"]["history"]
    assert known == said["history"]
    fair = compare(torch.from_numpy(real / 255)[:, None], made, torch.from_numpy(real / 255)[:, None])
    assert 0.5 < fair["sharpness"] < 1.5 and fair["variety"] > 0.4
