"""Where a latent search starts: of one seeded pool of the prior, the candidates that the target scores best."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch

from ganinv import images as image_convention
from ganinv.attack.config import AttackConfig
from ganinv.attack.selection import best_per_identity, score_flipped
from ganinv.engine import cache
from ganinv.engine.batches import Batch
from ganinv.engine.precision import PROBED
from ganinv.engine.randomness import seeded
from ganinv.interfaces import Access, Generator, Goal

MOST_KEPT = 2**28  # bytes of candidates' pictures that are worth a place on the disk: 2 000 of 64 px take 25 MB


@torch.no_grad()
def choose_start(
    generator: Generator,
    access: Access,
    goal: Goal,
    identities: torch.Tensor,
    config: AttackConfig,
    seed: int,
    batch: Batch,
    prior: str = "",
    on_scored: Callable[[int, int], None] = lambda *_: None,
) -> torch.Tensor:
    """Returns z [T,restarts,z_dim]: of one seeded pool, the candidates that the goal ranks best per identity.

    Without candidates, every identity and restart has a random z of its own. The candidates' pictures are scored as 8-bit
    files hold them, and with the prior's hash kept for the next run of any target.
    """
    if config.candidates == 0:
        keys = [(seed, "random", identity, r) for identity in identities.tolist() for r in range(config.restarts)]
        z = torch.stack([torch.randn(generator.z_dim, generator=seeded(*key)) for key in keys])
        return z.view(len(identities), config.restarts, -1).to(identities.device)
    pool = draw_pool(generator, config, seed).to(identities.device)
    shape = (len(pool), 3, generator.resolution, generator.resolution)
    file = None
    if prior and math.prod(shape) <= MOST_KEPT:
        file = cache.find_place(f"candidates-{prior[:16]}-{config.psi}-{seed}-{len(pool)}")
    kept = cache.recall(file, "pictures", shape, torch.uint8) if file else None
    wanted = file is not None and kept is None

    def score(rows: slice) -> tuple[torch.Tensor | None, torch.Tensor]:
        pictures = draw_candidates(generator, pool[rows], config) if kept is None else kept[rows].to(identities.device)
        scores = score_candidates(access, goal, pictures, identities)
        on_scored(rows.stop, len(pool))
        return pictures.cpu() if wanted else None, scores  # a copy waits for the device

    pictures, scores = zip(*batch.over(len(pool), score), strict=True)
    if wanted:
        cache.keep(file, "pictures", torch.cat(pictures))
    return pool[best_per_identity(torch.cat(scores, 1), config.restarts)]


def draw_candidates(generator: Generator, z: torch.Tensor, config: AttackConfig) -> torch.Tensor:
    """Returns the pictures [N,3,R,R] of latents z, as 8-bit files hold them."""
    return image_convention.to_uint8(generator.synthesize(generator.map(z, config.psi)))


def score_candidates(access: Access, goal: Goal, pictures: torch.Tensor, identities: torch.Tensor) -> torch.Tensor:
    """Returns how the goal ranks 8-bit pictures for every identity [N,T]; where memory runs out, none is counted."""
    with access.queries.attempt():
        return score_flipped(access, goal, image_convention.from_uint8(pictures), identities)


def draw_pool(generator: Generator, config: AttackConfig, seed: int) -> torch.Tensor:
    """Returns the seeded latents z [candidates,z_dim] among which the start is chosen."""
    return torch.randn(config.candidates, generator.z_dim, generator=seeded(seed, "candidates"))


@torch.no_grad()
def draw_probes(
    generator: Generator | None, start: torch.Tensor | None, config: AttackConfig, seed: int, device: torch.device | str
) -> torch.Tensor | None:
    """Returns on what precision.choose_precision tries the forms: w of the first candidates, without a generator the start
    pictures [T,3,R,R]; None where no other form than float32 is asked for."""
    if config.precision == "float32":
        return None
    if generator is None:
        return start.expand(-1, 3, -1, -1).to(device)
    z = draw_pool(generator, dataclasses.replace(config, candidates=PROBED), seed)
    return generator.map(z.to(device), config.psi)
