"""An adversarial pair for clips: a generator that turns noise into clips, and the discriminator that judges them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MARGIN = 0.03  # how far the generator's sigmoid reaches beyond black and white, so that black can be exact


def to_logits(clips: Tensor) -> Tensor:
    """What a generator has to say for these values in 0..1."""
    return torch.logit(((clips + _MARGIN) / (1 + 2 * _MARGIN)).clamp(0.02, 0.98))


def from_logits(logits: Tensor) -> Tensor:
    """Values in 0..1 from what a generator says."""
    return ((1 + 2 * _MARGIN) * logits.sigmoid() - _MARGIN).clamp(0, 1)


class VideoDiscriminator(nn.Module):
    """Is a grey clip `(N, 1, T, H, W)` real? Four convolutions, then one weight for each place of the last map.

    The one logit `s` leaves as `(-s/2, s/2)`, so that its softmax is the sigmoid of `s`, and class 0 (synthetic) can be
    explained like class 1 (real). The last maps have half as many frames as the clip, and an eighth of its height.
    """

    def __init__(self, size: tuple[int, int, int] = (16, 64, 64), widths: tuple[int, ...] = (16, 32, 48, 64)):
        super().__init__()
        (frames, height, width), (a, b, c, d) = size, widths
        self.layer1 = nn.Sequential(nn.Conv3d(1, a, 4, 2, 1), nn.LeakyReLU(0.2))
        self.layer2 = nn.Sequential(nn.Conv3d(a, b, (3, 4, 4), (1, 2, 2), 1), nn.LeakyReLU(0.2))
        self.layer3 = nn.Sequential(nn.Conv3d(b, c, (3, 4, 4), (1, 2, 2), 1), nn.LeakyReLU(0.2))
        self.layer4 = nn.Sequential(nn.Conv3d(c, d, 3, 1, 1), nn.LeakyReLU(0.2))
        self.fc = nn.Linear(d * (frames // 2) * (height // 8) * (width // 8), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits `(N, 2)` of synthetic and real."""
        s = self.fc(self.layer4(self.layer3(self.layer2(self.layer1(x)))).flatten(1))
        return torch.cat([-s, s], 1) / 2


class VideoGenerator(nn.Module):
    """Clips `(N, 1, T, H, W)` in 0..1 from noise `(N, latent)`: a sum of coarse moving shapes, refined frame by frame.

    Speckle is fresh noise at full resolution, half of it the same in every frame, which the convolutions shape.
    """

    def __init__(self, size: tuple[int, int, int] = (16, 64, 64), latent: int = 32, width: int = 24):
        super().__init__()
        self.size, self.latent = tuple(size), latent
        self.coarse = (size[0], size[1] // 2, size[2] // 2)
        self.shapes = nn.Linear(latent, self.coarse[0] * self.coarse[1] * self.coarse[2])
        self.refine = nn.Sequential(
            nn.Conv2d(3 + 8, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 4, 3, 1, 1), nn.PixelShuffle(2),
        )  # fmt: skip

    def forward(self, z: Tensor) -> Tensor:
        """Return clips; their speckle comes from PyTorch's random state."""
        n, (frames, height, width) = len(z), self.size
        base = self.shapes(z).view(n, *self.coarse)
        around = F.pad(base[:, None], (0, 0, 0, 0, 1, 1), mode="replicate")[:, 0].unfold(1, 3, 1)  # (N, T, h, w, 3)
        still = torch.randn(n, 1, height, width).expand(-1, frames, -1, -1)
        noise = torch.stack([still, torch.randn(n, frames, height, width)], 2).flatten(0, 1)
        x = torch.cat([around.flatten(0, 1).permute(0, 3, 1, 2), F.pixel_unshuffle(noise, 2)], 1)
        x = self.refine(x.contiguous(memory_format=torch.channels_last)).view(n, 1, *self.size)
        return from_logits(x + F.interpolate(base[:, None], self.size, mode="trilinear"))

    @torch.inference_mode()
    def sample(self, n: int, seed: int = 0) -> Tensor:
        """Draw `n` clips of a seed; the same seed gives the same clips."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return torch.cat([self(torch.randn(min(20, n - i), self.latent)) for i in range(0, n, 20)])
