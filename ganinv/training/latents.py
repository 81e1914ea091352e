"""The latents of a prior in training: where an encoder puts photos, and samples that go there too."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn


class Moments(nn.Module):
    """Running second moments [D,D] of the codes that an encoder gives, which are far from those of a standard normal.

    The prior is to be sampled from a standard normal; so the square root of the moments becomes part of the mapping. It
    takes samples to where the codes are (Ghosh et al. 2020 fit a density after training for the same end).
    """

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("second", torch.eye(size))

    @torch.no_grad()
    def update(self, mean: torch.Tensor, log_variance: torch.Tensor, decay: float) -> None:
        """Moves the moments towards those of a batch of codes: mean and log variance [N,D]."""
        batch = mean.T @ mean / len(mean) + torch.diag(log_variance.exp().mean(0))
        self.second.lerp_(batch.to(self.second), 1 - decay)

    def root(self) -> torch.Tensor:
        """Returns A [D,D]: A z has these moments, up to a factor, and the length of z on average."""
        return torch.linalg.cholesky(self.second) * (len(self.second) / self.second.trace()) ** 0.5

    def map(self, mapping: nn.Module, z: torch.Tensor) -> torch.Tensor:
        """Returns w [N,w_dim] of standard normal z [N,D], as the mapping gives it after fold."""
        return mapping.net(F.normalize(z, dim=1) @ self.root().T)

    @torch.no_grad()
    def fold(self, mapping: nn.Module) -> None:
        """Makes the root a part of the mapping's first layer, in place."""
        mapping.net[0].weight.copy_(mapping.net[0].weight @ self.root())


def draw_latents(
    map_z: Callable[[torch.Tensor], torch.Tensor], z_dim: int, count: int, layers: int, mixing: float,
    generator: torch.Generator, device: torch.device,
) -> torch.Tensor:  # fmt: skip
    """Returns w [N,layers,w_dim]; with probability `mixing` a sample takes its later layers from a second latent."""
    z = torch.randn(2 * count, z_dim, generator=generator).to(device)
    first, second = map_z(z).chunk(2)
    cut = torch.randint(1, layers + 1, (count,), generator=generator)
    cut = torch.where(torch.rand(count, generator=generator) < mixing, cut, layers).to(device)
    takes_first = torch.arange(layers, device=device)[None, :] < cut[:, None]
    return torch.where(takes_first[:, :, None], first[:, None], second[:, None])
