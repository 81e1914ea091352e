"""What an attack gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ganinv.attack.config import AttackConfig


@dataclass(frozen=True)
class Cost:
    """What an attack took. seconds: wall clock; counts are of single images through the target, in the search as many as
    gradients were taken. search_seconds: from the first user's search to the end of the last one's, without the start of
    workers; of a resumed attack, in its last process; None where nobody searched."""

    seconds: float
    images_evaluated: int
    gradient_queries: int
    score_queries: int
    search_seconds: float | None = None


@dataclass(frozen=True)
class AttackResult:
    """identities [T]; images [T,K,3,R,R] in [-1,1], as 8-bit files hold them; scores [T,K], the target's mean score in
    the final choice; latents, each [T*K,...]; cost; first [T,3,R,R]: the pictures that the best start of each identity
    gives, before any search; stuck: identities whose pictures the search never moved, but for traces (invert.TRACE);
    queries: see Queries.describe; config and seed: of the attack."""

    identities: tuple[int, ...]
    images: torch.Tensor
    scores: torch.Tensor
    latents: dict[str, torch.Tensor]
    cost: Cost
    first: torch.Tensor
    stuck: tuple[int, ...] = ()
    queries: Mapping | None = None
    config: AttackConfig | None = None
    seed: int = 0
