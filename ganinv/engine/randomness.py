"""One random stream per sample, so that no sample's path depends on its batch neighbours or on the batch size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch

AHEAD = 256  # numbers drawn at a time for every sample: one call for many steps, and one copy to the device


def seeded(*key: object) -> torch.Generator:
    """Returns a CPU generator that depends on the key alone, such as (seed, "restart", identity, index)."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class Streams:
    """A bundle of generators, one per sample, whose numbers are drawn ahead and stay until advance passes them."""

    def __init__(self, keys: Iterable[tuple], device: torch.device | str = "cpu"):
        self.generators = [seeded(*key) for key in keys]
        self.device = torch.device(device)
        self.ahead = torch.empty(len(self.generators), 0, device=self.device)

    def __len__(self) -> int:
        return len(self.generators)

    def take(self, rows: torch.Tensor | slice = slice(None)) -> Draws:
        """Returns the numbers of some samples, from where advance left all; taken again they are the same."""
        return Draws(self, rows)

    def reach(self, count: int) -> torch.Tensor:
        """Returns the numbers [N,at least count] from where advance left all."""
        missing = count - self.ahead.shape[1]
        if missing > 0:
            missing = max(missing, AHEAD)
            fresh = torch.stack([torch.rand(missing, generator=generator) for generator in self.generators])
            fresh = fresh.pin_memory() if self.device.type == "cuda" else fresh  # what is pinned is copied while work goes on
            self.ahead = torch.cat([self.ahead, fresh.to(self.device, non_blocking=True)], 1)
        return self.ahead

    def advance(self, draws: Draws) -> None:
        """Passes what one of take's has used, which every sample uses as many of."""
        self.ahead = self.ahead[:, draws.used :]

    def get_state(self) -> dict:
        """Returns where the streams are."""
        return {"generators": [generator.get_state() for generator in self.generators], "ahead": self.ahead}

    def set_state(self, state: dict) -> None:
        """Puts the streams where get_state found them."""
        for generator, place in zip(self.generators, state["generators"], strict=True):
            generator.set_state(place)
        self.ahead = state["ahead"].to(self.device)


class Draws:
    """The numbers of some samples of a bundle, read from the front."""

    def __init__(self, streams: Streams, rows: torch.Tensor | slice):
        self.streams, self.rows, self.used = streams, rows, 0

    @property
    def device(self) -> torch.device:
        """Where the numbers are."""
        return self.streams.device

    def uniform(self, count: int, low: float, high: float) -> torch.Tensor:
        """Returns [count] draws from [low,high); count is a multiple of the number of samples, sample after sample."""
        samples = len(self.streams) if isinstance(self.rows, slice) else len(self.rows)
        each, rest = divmod(count, samples)
        assert rest == 0, "a transform draws the same number for every sample"
        numbers = self.streams.reach(self.used + each)[self.rows, self.used : self.used + each]
        self.used += each
        return low + (high - low) * numbers.flatten()
