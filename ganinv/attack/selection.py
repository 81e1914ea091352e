"""Scores of images by the target alone, and the best k per identity: for the start and for the final choice."""

from __future__ import annotations

import torch

from ganinv.attack.transforms import Transform
from ganinv.engine.randomness import Draws
from ganinv.interfaces import Access, Goal


def best_per_identity(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Returns the indices [T,count] of the highest scores [T,M] per identity, best first; ties go to the lower index.

    Raises: ValueError when there are fewer than `count` to choose from.
    """
    if not 1 <= count <= scores.shape[1]:
        raise ValueError(f"expected to keep 1 to {scores.shape[1]} per identity, got {count}; score more candidates")
    return scores.argsort(dim=1, descending=True, stable=True)[:, :count]


@torch.no_grad()
def score_flipped(access: Access, goal: Goal, images: torch.Tensor, identities: torch.Tensor) -> torch.Tensor:
    """Returns the goal's rank [T,N] of images [N,3,H,W] for every identity [T], mean over the image and its mirror.

    Where a query claims one user, every picture is shown once for each of them.
    """

    def rank(shown: torch.Tensor) -> torch.Tensor:
        if not getattr(access, "claims", False):
            return goal.rank(access(shown), identities)
        claims = [(one, access(shown, one.expand(len(shown)))) for one in identities]
        return torch.cat([goal.rank(seen, one[None]) for one, seen in claims], 1)

    return torch.stack([rank(x) for x in (images, images.flip(3))]).mean(0).T


@torch.no_grad()
def score_transformed(
    access: Access, goal: Goal, images: torch.Tensor, identities: torch.Tensor, transform: Transform, draws: Draws,
    count: int, *, batch: int = 0,
) -> torch.Tensor:  # fmt: skip
    """Returns the goal's mean score [N] in [0,1] of each image for its identity [N] over `count` random transforms.

    batch: as many images may share one call of the target, of several transforms where there is room.
    """
    total, together = torch.zeros(len(images), device=images.device), max(1, batch // len(images))
    for first in range(0, count, together):
        views = [transform(images, draws) for _ in range(min(together, count - first))]
        asked = identities.repeat(len(views))
        own = goal.score(access(torch.cat(views), asked), asked)
        total += own.view(len(views), -1).sum(0)
    return total / count
