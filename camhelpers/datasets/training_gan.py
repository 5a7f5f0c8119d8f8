"""An adversarial training on echocardiograms, `python -m camhelpers train hearts`, and what it is judged by."""

import copy
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ..cam.cards import Card
from ..cam.gan import VideoDiscriminator, VideoGenerator, to_logits
from ..cam.models import MODELS, load_model, save_model
from ..files import ROOT, versions
from ..progress import Progress
from . import hearts

CLIPS, EPOCHS, BATCH = 480, 12, 8  # after more epochs the discriminator wins, and synthetic clips flicker more and more
SNAPSHOTS = (1, 2, 4, 6, 10)  # the epochs whose discriminators are kept, beside the last
CARD = Card("hearts", ("synthetic", "real"), "VideoDiscriminator", {"size": list(hearts.SMALL)}, hearts.SMALL,
            mean=(0.3,), std=(0.5,), orientation="stored")  # fmt: skip
_GENERATOR = Card("generator", (), "VideoGenerator", {"size": list(hearts.SMALL)}, hearts.SMALL, orientation="stored")


class Duel:
    """A generator and a discriminator that learn from each other; `average` is the generator that is kept.

    The loss is the logistic one of Goodfellow et al. (2014), without saturation; the discriminator's weights are held
    by spectral normalisation (Miyato et al., 2018), and the generator's are averaged over time (Yazici et al., 2019).
    """

    def __init__(self, real: Tensor, rate: float = 1e-3):
        self.real, size = real, tuple(real.shape[1:])
        self.generator, self.discriminator = VideoGenerator(size), VideoDiscriminator(size)
        self._begin_with_shapes()
        for part in _weighted(self.discriminator):
            spectral_norm(part)
        self.average = copy.deepcopy(self.generator).eval()
        pair = (self.discriminator, self.generator)
        self.optimizers = [torch.optim.Adam(net.parameters(), rate, betas=(0.0, 0.9)) for net in pair]

    @torch.no_grad()
    def _begin_with_shapes(self) -> None:
        """The coarse shapes begin as the principal components of the real clips; speckle and sharpness are learnt."""
        net, coarse = self.generator, [F.avg_pool3d(_floats(part), (1, 2, 2)) for part in self.real.split(50)]
        wanted = to_logits(torch.cat(coarse)).flatten(1)
        middle = wanted.mean(0)
        _, strength, shapes = torch.pca_lowrank(wanted, min(net.latent, len(wanted)), niter=4)
        net.shapes.weight.zero_()[:, : len(strength)] = shapes * strength / len(wanted) ** 0.5
        net.shapes.bias.copy_(middle)
        net.refine[-2].weight.mul_(0.1)

    def step(self) -> tuple[float, float]:
        """One step of each, against the same synthetic clips; returns their losses."""
        real = CARD.normalise(_floats(self.real[torch.randint(len(self.real), (BATCH,))]))
        made = CARD.normalise(self.generator(torch.randn(BATCH, self.generator.latent)))
        of_discriminator = F.softplus(-_logit(self.discriminator(real))).mean()
        of_discriminator = of_discriminator + F.softplus(_logit(self.discriminator(made.detach()))).mean()
        self._descend(0, of_discriminator)
        self.discriminator.requires_grad_(False)
        of_generator = F.softplus(-_logit(self.discriminator(made))).mean()
        self._descend(1, of_generator)
        self.discriminator.requires_grad_(True)
        with torch.no_grad():
            for old, new in zip(self.average.parameters(), self.generator.parameters(), strict=True):
                old.lerp_(new, 0.02)
            for old, new in zip(self.average.buffers(), self.generator.buffers(), strict=True):
                old.copy_(new)
        return of_discriminator.item(), of_generator.item()

    def _descend(self, which: int, loss: Tensor) -> None:
        self.optimizers[which].zero_grad(set_to_none=True)
        loss.backward()
        self.optimizers[which].step()

    def snapshot(self) -> VideoDiscriminator:
        """The discriminator as it is now, as a plain network."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]):  # a new network's first weights are random numbers
            net = VideoDiscriminator(tuple(self.real.shape[1:]))
            for trained, plain in zip(_weighted(self.discriminator), _weighted(net), strict=True):
                plain.weight.copy_(trained.weight)
                plain.bias.copy_(trained.bias)
        return net.eval()


def _weighted(net: nn.Module) -> list[nn.Module]:
    return [part for part in net.modules() if isinstance(part, (nn.Conv3d, nn.Linear))]


def _floats(clips: Tensor) -> Tensor:
    return clips[:, None].float() / 255


def _logit(output: Tensor) -> Tensor:
    return output[:, 1] - output[:, 0]


@torch.inference_mode()
def called_real(discriminator: nn.Module, clips: Tensor) -> float:
    """The fraction of clips `(N, 1, T, H, W)` in 0..1 that a discriminator takes for real."""
    logits = torch.cat([_logit(discriminator(CARD.normalise(part))) for part in clips.split(20)])
    return round(float((logits > 0).float().mean()), 4)


def compare(real: Tensor, made: Tensor, seen: Tensor) -> dict[str, float]:
    """How synthetic clips differ from real ones, in ratios that are 1 for clips as good as unseen real ones.

    Sharpness and motion are mean differences between neighbours in space and time; variety is the median distance to
    the closest other clip (0 where all modes have collapsed), copying that to the closest clip trained on (0 where they
    are copied), both of coarse clips, whose speckle is averaged away.
    """
    real, made, seen = (clips.float() for clips in (real, made, seen))
    fine = [float(c.diff(dim=3).abs().mean() + c.diff(dim=4).abs().mean()) for c in (made, real)]
    moves = [float(c.diff(dim=2).abs().mean()) for c in (made, real)]
    coarse = [F.avg_pool3d(c, (2, 4, 4)).flatten(1) for c in (made, real, seen)]
    inside = [torch.cdist(c, c).fill_diagonal_(torch.inf).amin(1).median() for c in coarse[:2]]
    beyond = [torch.cdist(c, coarse[2]).amin(1).median() for c in coarse[:2]]
    pairs = {"sharpness": fine, "motion": moves, "variety": inside, "distance_to_training": beyond}
    brightness = float(made.mean() / real.mean())
    return {name: round(float(a / b), 4) for name, (a, b) in pairs.items()} | {"brightness": round(brightness, 4)}


def snapshots(name: str = "hearts") -> dict[int, nn.Module]:
    """The shipped discriminators by epoch, the last of which is `load_model(name)`."""
    paths = sorted((MODELS / name).glob("epoch_*.safetensors"))
    found = [load_model(path) for path in paths] + [load_model(name)]
    return {net.card.training["epoch"]: net for net in found}


def train(out: Path | None = None, *, pictures: int | None = None, epochs: int | None = None, seed: int = 0) -> Card:
    """Draw real clips, let generator and discriminator play, and write the last discriminator with its card.

    Beside it, in a folder of its name, are the generator and the earlier discriminators, all in half precision.
    """
    pictures, epochs = (own if given is None else given for given, own in ((pictures, CLIPS), (epochs, EPOCHS)))
    if epochs < 1:
        raise ValueError(f"Training takes one epoch or more, not {epochs}.")
    out, tested = ROOT / (out or MODELS / "hearts.safetensors"), min(max(pictures // 4, 10), 100)
    began, steps, history = time.perf_counter(), max(pictures // BATCH, 1), []
    sets = [hearts.dataset(*part, kind="clean", progress=True) for part in (("train", pictures), ("val", tested))]
    seen, unseen = (torch.from_numpy(found.frames[..., 0]) for found in sets)
    said = {
        "command": f"python -m camhelpers train hearts --pictures {pictures} --epochs {epochs} --seed {seed}",
        "data": "synthetic (procedural echocardiograms), against a generator's", "pictures": pictures,
        "epochs": epochs, "seed": seed, "test_clips_of_each_kind": tested, "versions": versions(),
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]), Progress(epochs * steps, "training hearts") as counter:
        torch.manual_seed(seed)
        duel = Duel(seen)
        for epoch in range(1, epochs + 1):
            losses = []
            for _ in range(steps):
                losses.append(duel.step())
                counter.step(note="losses {:.2f} and {:.2f}".format(*losses[-1]))
            net, made = duel.snapshot(), duel.average.sample(tested, 1000 + epoch)
            mean, real = np.mean(losses, 0).round(4).tolist(), _floats(unseen)
            found = {"real_called_real": called_real(net, real), "synthetic_called_real": called_real(net, made)}
            history.append({"epoch": epoch, "losses": mean, **found, **compare(real, made, _floats(seen))})
            if epoch in SNAPSHOTS and epoch < epochs:
                card = replace(CARD, name=f"hearts, epoch {epoch}", training={**said, **history[-1]})
                save_model(net.half(), card, out.with_suffix("") / f"epoch_{epoch:02d}")
    said |= {**history[-1], "history": history, "seconds": round(time.perf_counter() - began),
             "date": date.today().isoformat()}  # fmt: skip
    save_model(duel.average.half(), replace(_GENERATOR, training=said), out.with_suffix("") / "generator")
    return save_model(net.half(), replace(CARD, training=said), out)
