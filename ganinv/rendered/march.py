"""The search along rays for the surface that they meet, and for how deep they go: steps as long as the distance allows.

Rays that can change nothing any more are left behind, and so are those of pixels that show nothing but background; what
is left is packed, so that every step works on full rows. Source: Hart 1996, Sphere tracing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ganinv.rendered.bodies import Scene, measure
from ganinv.rendered.geometry import Rays

REPACK = 0.85  # of the rays of a row: with fewer still under way, the others are left behind


@dataclass
class Search:
    """What is known along each ray [N,M]: the place t and its distance, where it met the surface and whether it did, and
    where it was deepest in (or nearest to) it."""

    t: torch.Tensor
    value: torch.Tensor
    near: torch.Tensor
    hit: torch.Tensor
    best: torch.Tensor
    deepest: torch.Tensor

    def take(self, index: torch.Tensor) -> Search:
        """Returns the search along some rays, index [N,K]."""
        return Search(**{name: value.gather(1, index) for name, value in vars(self).items()})

    def put(self, index: torch.Tensor, part: Search) -> None:
        """Takes back what is known along some rays, in place."""
        for name, value in vars(self).items():
            value.scatter_(1, index, vars(part)[name])

    def advance(self, rays: Rays, scene: Scene, least: float) -> None:
        """Goes one step on along every ray, in place, at least so far."""
        ahead = (0.8 * self.value).clamp_min(least)
        following = self.t + ahead
        now = measure(rays.at(following), scene)["any"]
        crossing = (now < 0) & (self.value >= 0) & ~self.hit
        self.near = torch.where(crossing, self.t + ahead * (self.value / (self.value - now).clamp_min(1e-6)), self.near)
        self.hit = self.hit | crossing
        deeper = now < self.best
        self.best, self.deepest = torch.where(deeper, now, self.best), torch.where(deeper, following, self.deepest)
        self.t, self.value = following, now


def pack(wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the places [N,K] that are wanted [N,M] in every row, K of the fullest row; and which of them are, [N,K].

    Rows with fewer are filled up with their first place, which is then there more than once.
    """
    count = wanted.sum(1, keepdim=True)
    most = max(1, int(count.max()))
    place = torch.where(wanted, wanted.cumsum(1) - 1, most)
    index = torch.zeros(len(wanted), most + 1, dtype=torch.long, device=wanted.device)
    index.scatter_(1, place, torch.arange(wanted.shape[1], device=wanted.device).expand_as(wanted))
    return index[:, :most], torch.arange(most, device=wanted.device) < count


@torch.no_grad()
def search(
    rays: Rays,
    scene: Scene,
    start: torch.Tensor,
    steps: Sequence[float],
    done: Callable[[Search], torch.Tensor],
    wanted: torch.Tensor | None = None,
) -> Search:
    """Returns what is found along rays [N,M] from start [N,M] on, in steps of at least these lengths.

    Steps go on into the body for a while: the depth of a grazing ray says how much of the pixel is covered. done: which
    rays are left behind, since no further step along them changes the picture; wanted: along which it is looked at all.
    """
    far = torch.full_like(start, torch.inf)
    no = torch.zeros_like(start, dtype=torch.bool)
    whole = Search(t=start.clone(), value=far.clone(), near=start.clone(), hit=no, best=far, deepest=start.clone())
    index, _ = pack(torch.ones_like(no) if wanted is None else wanted)
    part, own = whole.take(index), rays.take(index)
    part.value = part.best = measure(own.at(part.t), scene)["any"]
    for number, least in enumerate(steps):
        part.advance(own, scene, least)
        left = ~done(part)
        if number + 1 < len(steps) and int(left.sum(1).max()) < REPACK * index.shape[1]:
            whole.put(index, part)
            if not left.any():
                return whole
            chosen, _ = pack(left)
            index = index.gather(1, chosen)
            part, own = part.take(chosen), own.take(chosen)
    whole.put(index, part)
    return whole
