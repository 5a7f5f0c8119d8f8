"""The adversarial pair: what its shapes are, and that its one logit can be explained both ways."""

import numpy as np
import pytest
import torch

from camhelpers.cam.cards import Card
from camhelpers.cam.explain import explain, predict
from camhelpers.cam.gan import VideoDiscriminator, VideoGenerator, from_logits, to_logits
from camhelpers.cam.models import load_model, save_model

SIZE = (8, 32, 32)


@pytest.fixture(scope="module")
def judge():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = VideoDiscriminator(SIZE, (4, 6, 8, 8)).eval()
    arguments = {"size": list(SIZE), "widths": [4, 6, 8, 8]}
    net.card = Card("judge", ("synthetic", "real"), "VideoDiscriminator", arguments, SIZE)
    return net


def test_the_two_classes_are_one_logit_and_its_negative(judge, cube):
    clips = [cube(seed, SIZE) for seed in range(3)]
    x = torch.from_numpy(np.stack(clips))[:, None]
    with torch.no_grad():
        logits, maps = judge(x), judge.layer4(judge.layer3(judge.layer2(judge.layer1(x))))
    assert logits.shape == (3, 2) and torch.equal(logits[:, 0], -logits[:, 1]) and maps.shape == (3, 8, 4, 4, 4)
    assert np.allclose(predict(judge, clips)[:, 1], (2 * logits[:, 1]).sigmoid(), atol=1e-6)
    seen = explain(judge, clips[0], layers="layer4").capture
    synthetic, true = (seen.gradients(kind)["layer4"] for kind in (0, 1))
    assert torch.allclose(synthetic, -true) and true.abs().max() > 0


def test_clips_come_from_the_seed_alone_and_leave_the_random_state():
    maker, state = VideoGenerator(SIZE, latent=5, width=6).eval(), torch.get_rng_state()
    first, again, other = maker.sample(23, seed=1), maker.sample(23, seed=1), maker.sample(23, seed=2)
    assert first.shape == (23, 1, *SIZE) and first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, again) and not torch.equal(first, other) and torch.equal(torch.get_rng_state(), state)
    assert (first[0] != first[22]).any() and (first[0, 0, 0] != first[0, 0, 1]).any()


def test_black_and_white_can_be_said_exactly_enough():
    values = torch.linspace(0, 1, 11)
    assert torch.allclose(from_logits(to_logits(values)), values, atol=0.01)
    assert from_logits(torch.tensor([-9.0, 9.0])).tolist() == [0, 1]


def test_half_precision_loads_as_the_same_network(judge, tmp_path, cube):
    clip = cube(1, SIZE)
    with torch.random.fork_rng(devices=[]):
        copy = VideoDiscriminator(SIZE, (4, 6, 8, 8))
    copy.load_state_dict(judge.state_dict())
    save_model(copy.half(), judge.card, tmp_path / "judge")
    loaded = load_model(tmp_path / "judge.safetensors")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32} and loaded.card.classes == judge.card.classes
    assert np.allclose(predict(loaded, [clip]), predict(judge, [clip]), atol=1e-3)
