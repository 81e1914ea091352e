"""Where the attack searches: z, w, w_plus, pixels. A space's own parameters are searched; its call gives images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ganinv.attack.config import AttackConfig
from ganinv.attack.registry import Registry
from ganinv.engine.randomness import seeded
from ganinv.images import blur
from ganinv.interfaces import Generator, Rows, SearchSpace


@dataclass(frozen=True)
class Whitening:
    """The prior's w distribution made round: w = bend(mean + (v * scale) @ axes.T), v about standard normal.

    mean [w_dim], axes [w_dim,w_dim] (columns), scale [w_dim]. bend is the last activation of the mapping network, a
    leaky ReLU of the given slope (1: none), which is undone before the covariance is taken.
    Source: Zhu et al. 2020, Improved StyleGAN Embedding, section 3 (the space P_N).
    """

    mean: torch.Tensor
    axes: torch.Tensor
    scale: torch.Tensor
    slope: float

    def to_w(self, v: torch.Tensor) -> torch.Tensor:
        """Returns w [...,w_dim] of v [...,w_dim]."""
        return F.leaky_relu(self.mean + (v * self.scale) @ self.axes.T, self.slope)

    def to_v(self, w: torch.Tensor) -> torch.Tensor:
        """Returns v [...,w_dim] of w [...,w_dim]."""
        straight = torch.where(w < 0, w / self.slope, w)
        return (straight - self.mean) @ self.axes / self.scale


@torch.no_grad()
def fit_whitening(generator: Generator, *, device: torch.device, count: int = 10_000, seed: int = 0) -> Whitening:
    """Returns the whitening of `count` seeded latents of a prior (its first w of each)."""
    slope = getattr(generator, "w_slope", 1.0)
    z = torch.randn(count, generator.z_dim, generator=seeded(seed, "whitening")).to(device)
    w = generator.map(z)[:, 0].double()
    straight = torch.where(w < 0, w / slope, w)
    mean = straight.mean(0)
    values, axes = torch.linalg.eigh((straight - mean).T @ (straight - mean) / (count - 1))
    # directions in which the prior hardly varies stay as narrow as they are, but are not divided by zero
    scale = values.clamp_min(values.max() * 1e-6).sqrt()
    return Whitening(mean.float(), axes.float(), scale.float(), slope)


@dataclass(frozen=True)
class Origin:
    """Where a space begins. first: z [N,z_dim] of the prior, or pictures [N,C,R,R]; whiten: gives the prior's whitening."""

    config: AttackConfig
    generator: Generator | None
    first: torch.Tensor
    whiten: Callable[[], Whitening]


SPACES: Registry[type[SearchSpace]] = Registry("a space")  # classes with needs_prior and begin(origin)


@SPACES.register("z")
class ZSpace(nn.Module):
    """z on the sphere of radius sqrt(z_dim), where a standard normal of many dimensions lives."""

    needs_prior = True

    @classmethod
    def begin(cls, origin: Origin) -> ZSpace:
        """Returns the space at its start."""
        return cls(origin.generator, origin.first, psi=origin.config.psi)

    def __init__(self, generator: Generator, z: torch.Tensor, *, psi: float):
        super().__init__()
        self.generator, self.psi = generator, psi
        self.z = nn.Parameter(z.clone())
        self.project_()

    def forward(self, rows: Rows = slice(None)) -> torch.Tensor:
        """Returns images [N,3,R,R]."""
        return self.generator.synthesize(self.generator.map(self.z[rows], self.psi))

    @torch.no_grad()
    def project_(self) -> None:
        """Puts every z back on the sphere."""
        self.z.mul_(self.z.shape[1] ** 0.5 / self.z.norm(dim=1, keepdim=True))

    def latents(self) -> dict[str, torch.Tensor]:
        """Returns {"z": [N,z_dim]}."""
        return {"z": self.z.detach()}


@SPACES.register("w")
class WSpace(nn.Module):
    """w in whitened coordinates v, clipped to [-bound,bound]: one for all layers."""

    needs_prior, per_layer = True, False

    @classmethod
    def begin(cls, origin: Origin) -> WSpace:
        """Returns the space at its start."""
        config = origin.config
        return cls(origin.generator, origin.first, psi=config.psi, bound=config.bound, whitening=origin.whiten())

    def __init__(self, generator: Generator, z: torch.Tensor, *, psi: float, bound: float, whitening: Whitening):
        super().__init__()
        self.generator, self.bound, self.whitening = generator, bound, whitening
        with torch.no_grad():
            v = whitening.to_v(generator.map(z, psi)[:, :1])
        self.v = nn.Parameter(v.repeat(1, generator.num_ws, 1) if self.per_layer else v)
        self.project_()

    def w(self, rows: Rows = slice(None)) -> torch.Tensor:
        """Returns w [N,num_ws,w_dim]."""
        return self.whitening.to_w(self.v[rows]).expand(-1, self.generator.num_ws, -1)

    def forward(self, rows: Rows = slice(None)) -> torch.Tensor:
        """Returns images [N,3,R,R]."""
        return self.generator.synthesize(self.w(rows))

    @torch.no_grad()
    def project_(self) -> None:
        """Clips every coordinate to `bound` standard deviations of the prior."""
        self.v.clamp_(-self.bound, self.bound)

    def latents(self) -> dict[str, torch.Tensor]:
        """Returns {"w": [N,num_ws,w_dim]}."""
        return {"w": self.w().detach().contiguous()}


@SPACES.register("w_plus")
class WPlusSpace(WSpace):
    """The same, with a w for each layer."""

    per_layer = True


@SPACES.register("pixels")
class PixelSpace(nn.Module):
    """Pixels in [-1,1], no prior: start [N,C,R,R], C=1 for a world of greyscale photos (three equal channels), else 3."""

    needs_prior = False

    @classmethod
    def begin(cls, origin: Origin) -> PixelSpace:
        """Returns the space at its start."""
        return cls(origin.first, blur_sigma=origin.config.blur_sigma)

    def __init__(self, start: torch.Tensor, *, blur_sigma: float = 0.0):
        super().__init__()
        self.pixels = nn.Parameter(start.clone())
        self.blur_sigma = blur_sigma

    def forward(self, rows: Rows = slice(None)) -> torch.Tensor:
        """Returns images [N,3,R,R]."""
        return self.pixels[rows].expand(-1, 3, -1, -1)

    @torch.no_grad()
    def project_(self) -> None:
        """Smooths by a Gaussian of blur_sigma pixels (0: not at all), then clamps to [-1,1]."""
        if self.blur_sigma > 0:
            self.pixels.copy_(blur(self.pixels, self.blur_sigma))
        self.pixels.clamp_(-1, 1)

    def latents(self) -> dict[str, torch.Tensor]:
        """Returns {"pixels": [N,3,R,R]}."""
        return {"pixels": self().detach().contiguous()}
