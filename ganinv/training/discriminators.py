"""What tells generated pictures from photos: a network of its own, or small ones on features of a frozen network.

Both look at pictures, then lose by what they saw, so that the generator's loss need not look again.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from ganinv.attack.transforms import Chain, Cutout, RandomAffine, RandomLight
from ganinv.training.frozen_features import Projector
from ganinv.training.gan_networks import ImageNetwork, minibatch_deviation, start_loud

# whole pixels only: a resampling would blur what the discriminator sees, and artefacts could hide behind it
AUGMENT = Chain(
    (
        RandomAffine(flip=0.0, degrees=0.0, scale=(1.0, 1.0), shift=0.125, whole_pixels=True),
        RandomLight(contrast=0.1, brightness=0.1, clamp=False),
        Cutout(share=0.4),
    )
)


class PictureDiscriminator(ImageNetwork):
    """A network that sees augmented pictures; the loss is the logistic one, with R1 every r1_every steps.

    Sources: Mescheder et al. 2018 (R1); Karras et al. 2020 (R1 every few steps); Zhao et al. 2020 (augmentation).
    """

    def __init__(self, resolution: int, width: int, *, r1_gamma: float, r1_every: int, dtype: torch.dtype):
        super().__init__(resolution, width)
        self.r1_gamma, self.r1_every, self.dtype = r1_gamma, r1_every, dtype
        start_loud(self.to(memory_format=torch.channels_last))

    def look(self, images: torch.Tensor) -> torch.Tensor:
        """Returns images as they are: they are augmented anew whenever they are discriminated."""
        return images

    def discriminate(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Returns the logits [N,1] of augmented images."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            return self(AUGMENT(images, generator))

    def lose(
        self, real: torch.Tensor, fake: torch.Tensor, generator: torch.Generator, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns softplus(fake) + softplus(-real) with its penalty, and without."""
        logits = self.discriminate(torch.cat([real, fake.detach()]), generator)
        real_logits, fake_logits = logits.split([len(real), len(fake)])
        loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
        plain = loss.detach()
        if step % self.r1_every == 0:
            photo = real.clone().requires_grad_()
            slope = torch.autograd.grad(self(AUGMENT(photo, generator)).sum(), photo, create_graph=True)[0]
            loss = loss + 0.5 * self.r1_gamma * self.r1_every * slope.square().sum((1, 2, 3)).mean()
        return loss, plain

    def lose_generator(self, fake: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Returns softplus(-fake), which falls as generated pictures pass for photos."""
        return F.softplus(-self.discriminate(fake, generator)).mean()


class FeatureDiscriminator(nn.Module):
    """One small network per map of a projector, which never sees a picture; the loss is the hinge loss, summed.

    What a frozen network's features are cannot be learnt by heart, and they are there from the first step on. Sources:
    Sauer et al. 2021, section 3; Miyato et al. 2018 (spectral normalisation, hinge loss).
    """

    def __init__(self, projector: Projector, maps: Sequence[torch.Tensor]):
        """maps: what the projector makes of any pictures, whose sizes are taken."""
        super().__init__()
        self.projector = projector
        self.heads = nn.ModuleList(build_head(one.shape[1], one.shape[2]) for one in maps)

    def look(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Returns the maps of images."""
        return self.projector(images)

    def forward(self, maps: list[torch.Tensor]) -> list[torch.Tensor]:
        """Returns logits [N,1,h,w], one per map, high for photos."""
        return [head(one) for head, one in zip(self.heads, maps, strict=True)]

    def lose(
        self, real: torch.Tensor, fake: list[torch.Tensor], generator: torch.Generator, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the hinge loss of photos and of the maps of generated pictures, twice."""
        with torch.no_grad():
            maps = self.look(real)
        pairs = zip(self(maps), self([one.detach() for one in fake]), strict=True)
        loss = sum(F.relu(1 - photo).mean() + F.relu(1 + made).mean() for photo, made in pairs)
        return loss, loss.detach()

    def lose_generator(self, fake: list[torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        """Returns minus the logits of generated pictures' maps."""
        return -sum(logits.mean() for logits in self(fake))


def build_head(channels: int, side: int) -> nn.Sequential:
    """Returns the network of one map [N,C,h,w]: it halves the map down to 4 px or less, and gives logits [N,1,h',w']."""
    layers: list[nn.Module] = []
    while side > 4 or not layers:
        halves = side > 4
        filters = min(128, max(32, channels * 2)) if halves else 128
        conv = (
            nn.Conv2d(channels, filters, 4, 2, 1, bias=False) if halves else nn.Conv2d(channels, filters, 3, 1, 1, bias=False)
        )
        # photos and generated pictures are normalised apart, each by their own batch
        layers += [spectral_norm(conv), nn.BatchNorm2d(filters, track_running_stats=False), nn.LeakyReLU(0.2)]
        channels, side = filters, side // 2 if halves else side
    return nn.Sequential(*layers, Deviation(), spectral_norm(nn.Conv2d(channels + 1, 1, side, bias=False)))


class Deviation(nn.Module):
    """Adds the map of minibatch_deviation to x [N,C,H,W], so that pictures that are all alike are told by that."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, minibatch_deviation(x)], 1)
