"""The renderer of people as a prior: it holds every person and photo of the synthetic world, which no trained one does.

An attack that searches it is bounded by the target and the search alone.
"""

from __future__ import annotations

import torch
from torch import nn

from ganinv.rendered.factors import FACTORS, PHOTO, spread
from ganinv.rendered.photos import check_resolution, render


class RenderedPeople(nn.Module):
    """Faces of people who do not exist. z and w: standard-normal coordinates of FACTORS and PHOTO, in that order.

    w [N,1,w_dim] has no layers of its own: a person and a photo are one vector.
    """

    z_dim = w_dim = len(FACTORS) + len(PHOTO)
    num_ws = 1

    def __init__(self, resolution: int = 64):
        super().__init__()
        check_resolution(resolution)
        self.resolution = resolution

    def map(self, z: torch.Tensor, psi: float = 1.0) -> torch.Tensor:
        """Returns w [N,1,w_dim], z drawn towards the mean person and photo."""
        return (psi * z)[:, None]

    def synthesize(self, w: torch.Tensor) -> torch.Tensor:
        """Returns images [N,3,R,R] in [-1,1]; clamped to the factors' ranges. Raises: ValueError for other shapes."""
        if w.ndim != 3 or w.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"expected w of shape [N,{self.num_ws},{self.w_dim}], got {list(w.shape)}")
        factors, photo = w[:, 0].split((len(FACTORS), len(PHOTO)), 1)
        return render(spread(factors, FACTORS), spread(photo, PHOTO), self.resolution)

    def factors(self, w: torch.Tensor) -> torch.Tensor:
        """Returns the identity factors [N,F], in natural units, of w [N,1,w_dim]."""
        return spread(w[:, 0, : len(FACTORS)], FACTORS)
