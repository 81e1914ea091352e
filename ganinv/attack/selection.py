"""Scores of images by the target alone, and the best k per identity: for the start and for the final choice."""

from __future__ import annotations

import torch

from ganinv.attack.transforms import Transform
from ganinv.engine.randomness import Draws
from ganinv.interfaces import Recognizer


def best_per_identity(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Returns the indices [T,count] of the highest scores [T,M] per identity, best first; ties go to the lower index.

    Raises: ValueError when there are fewer than `count` to choose from.
    """
    if not 1 <= count <= scores.shape[1]:
        raise ValueError(f"expected to keep 1 to {scores.shape[1]} per identity, got {count}; score more candidates")
    return scores.argsort(dim=1, descending=True, stable=True)[:, :count]


@torch.no_grad()
def score_flipped(recognizer: Recognizer, images: torch.Tensor, identities: torch.Tensor) -> torch.Tensor:
    """Returns log p(identity) [T,N] of images [N,3,R,R] for every identity [T], mean over the image and its mirror."""
    logits = torch.stack([recognizer(x).logits for x in (images, images.flip(3))])
    return logits.log_softmax(2).mean(0)[:, identities].T


@torch.no_grad()
def score_transformed(
    recognizer: Recognizer, images: torch.Tensor, identities: torch.Tensor, transform: Transform, draws: Draws, count: int,
    *, batch: int = 0,
) -> torch.Tensor:  # fmt: skip
    """Returns the mean softmax score [N] in [0,1] of each image for its identity [N] over `count` random transforms.

    batch: as many images may share one call of the recognizer, of several transforms where there is room.
    """
    total, together = torch.zeros(len(images), device=images.device), max(1, batch // len(images))
    for first in range(0, count, together):
        views = [transform(images, draws) for _ in range(min(together, count - first))]
        probabilities = recognizer(torch.cat(views)).logits.softmax(1)
        own = probabilities.gather(1, identities.repeat(len(views))[:, None])
        total += own.view(len(views), -1).sum(0)
    return total / count
