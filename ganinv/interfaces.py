"""The map of the package: what a prior, a recognizer and a search space are, and the conventions they share.

Conventions, stated here once:
  images      float32 [N,3,H,W], RGB, in [-1,1], any H and W; greyscale is three equal channels
  latents     z [N,z_dim]; w [N,num_ws,w_dim]
  identity    int64 index of a registered user, a class of the target
  losses      one number per sample [N], lower is better, never a mean: a sample never depends on its batch neighbours
  letters     N samples, T identities, K kept per identity, R resolution, D embedding size, L latents per image

One straight line: prior -> candidates -> search space -> images -> transforms -> recognizer -> objective -> optimiser
-> selection -> judges -> report. A new paper is a new search space, objective or selection score for the same loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from ganinv.errors import AbsentError as AbsentError
from ganinv.errors import FaultError as FaultError


@dataclass(frozen=True)
class Recognition:
    """What a recognizer says of images: embeddings [N,D] of unit norm; logits [N,C], None for an open-set one."""

    embeddings: torch.Tensor
    logits: torch.Tensor | None


class Generator(Protocol):
    """A frozen prior in eval mode. synthesize is deterministic: noise inputs are fixed."""

    z_dim: int
    num_ws: int
    w_dim: int
    resolution: int

    def map(self, z: torch.Tensor, psi: float = 1.0) -> torch.Tensor:
        """Returns w [N,num_ws,w_dim] of z [N,z_dim], pulled towards the mean w by psi (1 leaves it, 0 is the mean)."""
        ...

    def synthesize(self, w: torch.Tensor) -> torch.Tensor:
        """Returns images [N,3,R,R], about [-1,1], of w [N,num_ws,w_dim]."""
        ...


class Recognizer(Protocol):
    """A frozen recognizer in eval mode; owns its crop, resize and normalisation."""

    num_identities: int | None
    embedding_dim: int

    def __call__(self, images: torch.Tensor) -> Recognition:
        """Returns the recognition of images [N,3,H,W] in [-1,1]; differentiable."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """What an objective sees: images [N,3,R,R] and logits [N,C] of identities [N]."""

    images: torch.Tensor
    logits: torch.Tensor
    identities: torch.Tensor


Term = Callable[[Evaluation], torch.Tensor]  # -> [N], lower is better
