"""One random stream per sample, so that no sample's path depends on its batch neighbours or on the batch size."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch


def seeded(*key: object) -> torch.Generator:
    """Returns a CPU generator that depends on the key alone, such as (seed, "restart", identity, index)."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class Streams:
    """A bundle of generators, one per sample: draws are arranged sample by sample."""

    def __init__(self, keys: Iterable[tuple]):
        self.generators = [seeded(*key) for key in keys]
        self.device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self.generators)

    def uniform(self, count: int, low: float, high: float) -> torch.Tensor:
        """Returns [count] draws from [low,high); count is a multiple of the number of samples, sample after sample."""
        each, rest = divmod(count, len(self.generators))
        assert rest == 0, "a transform draws the same number for every sample"
        draws = torch.stack([torch.rand(each, generator=generator) for generator in self.generators])
        return low + (high - low) * draws.flatten()

    def get_state(self) -> list[torch.Tensor]:
        """Returns where each stream is."""
        return [generator.get_state() for generator in self.generators]

    def set_state(self, states: list[torch.Tensor]) -> None:
        """Puts each stream where get_state found it."""
        for generator, state in zip(self.generators, states, strict=True):
            generator.set_state(state)
