import random

import numpy as np
import pytest
import torch
from torch import nn

import camhelpers as ch
from camhelpers.datasets import training
from camhelpers.io.images import read_image


@pytest.fixture(scope="module")
def few():
    return ch.scenes.dataset("train", 20, size=64)


def state(net):
    """Everything that a training carries from one step to the next."""
    grads = [p.grad if p.grad is None else p.grad.clone() for p in net.parameters()]
    flags = [(m.training, len(m._forward_hooks)) for m in net.modules()]
    rng = torch.get_rng_state(), random.getstate(), np.random.get_state()[1]
    return [*net.state_dict().values(), *grads], flags, rng


def same(one, other):
    pairs = zip(one[0], other[0], strict=True)
    assert all(a is b is None or torch.equal(a, b) for a, b in pairs)
    assert one[1] == other[1]
    assert torch.equal(one[2][0], other[2][0]) and one[2][1] == other[2][1] and np.array_equal(one[2][2], other[2][2])


def test_a_training_with_snapshots_is_the_same_to_the_bit(few, tiny_net, tmp_path):
    """A plain loop with dropout, a frozen norm, gradients that pile up over two steps, and momentum."""

    def train(after=lambda net: None):
        random.seed(3), np.random.seed(3), torch.manual_seed(3)
        net = tiny_net(classes=ch.scenes.CLASSES)
        net.fc = nn.Sequential(nn.Dropout(0.5), net.fc)
        optimizer, seen = torch.optim.Adam(net.train().parameters(), 1e-3), []
        net.layer1.bn1.eval()
        x = net.card.normalise(torch.from_numpy(few.pictures).movedim(-1, 1).float() / 255)
        for step in range(4):
            nn.functional.cross_entropy(net(x), torch.from_numpy(few.labels)).backward()
            if step % 2:
                optimizer.step(), optimizer.zero_grad()
            after(net)
            seen.append(state(net))
        return seen

    snapshots = ch.CamSnapshots(few.pictures[:2], tmp_path, layer="layer3")
    for one, other in zip(train(), train(snapshots), strict=True):
        same(one, other)
    assert len(snapshots.heats) == 4 and not np.array_equal(snapshots.heats[0], snapshots.heats[-1])


def test_a_model_that_draws_numbers_in_evaluation_leaves_the_callers_numbers_alone(tiny_net, tmp_path):
    net = tiny_net()
    net.layer1.register_forward_hook(lambda module, args, out: out + 0.1 * torch.randn_like(out))
    before = torch.get_rng_state()
    ch.CamSnapshots(torch.rand(1, 3, 64, 64, generator=torch.Generator()), tmp_path)(net)
    assert torch.equal(torch.get_rng_state(), before)


def test_it_writes_every_epoch_and_a_strip_that_grows_and_keeps_the_heat(few, tiny_net, tmp_path):
    net, sizes = tiny_net(classes=ch.scenes.CLASSES), []
    options = {"masks": few.masks[:2], "target": few.labels[:2].tolist(), "method": "layercam", "layer": "layer2"}
    snapshots = ch.CamSnapshots(few.pictures[:2], tmp_path, **options, columns=3, alpha=0.5)

    def after(model):
        assert model.training
        heat = snapshots(model)
        ex = ch.explain(model, few.pictures[:2], layers="layer2", target=few.labels[:2].tolist())
        assert np.array_equal(heat, ex.heatmap("layercam"))
        sizes.append(read_image(tmp_path / "strip.png").shape[1])

    training.fit(net, few.pictures, few.labels, epochs=4, batch=10, augment=None, after=after, show=False)
    written = {f"epoch_{n}_{i}.png" for n in (1, 2, 3, 4) for i in (0, 1)} | {"strip.png"}
    assert {path.name for path in tmp_path.iterdir()} == written
    assert sizes[0] < sizes[1] < sizes[2] and abs(sizes[3] - sizes[2]) < 40  # no more than three columns
    assert read_image(tmp_path / "epoch_4_1.png").shape == (64, 64, 3)
    table = snapshots.scores(ch.localisation.relevance_mass)
    assert table.shape == (2, 4) and list(table.columns) == [1, 2, 3, 4]
    assert table.loc[1, 4] == ch.localisation.relevance_mass(snapshots.heats[3][1], few.masks[1])
    with pytest.raises(ValueError, match="There are 1 masks for 2 pictures"):
        ch.CamSnapshots(few.pictures[:2], tmp_path, masks=few.masks[:1])
