"""What a measure is given, and the row that it gives."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ganinv.attack.config import Augment
from ganinv.studies.benchmark import networks
from ganinv.studies.benchmark.networks import Pair
from ganinv.studies.benchmark.timing import interleave, ratio, summarise

SMALL, DEEP, WIDE = "mobilenet_v3_small", "resnet18", "inception_resnet_v1"
PAIRS = ((16, SMALL), (16, WIDE), (8, SMALL), (8, DEEP))
STOCK, PUBLISHED_SIDE, PUBLISHED_BATCH = "stock", 224, 25  # side and batch of Plug & Play's selections
STILL = Augment(flip=0.0, degrees=0.0, scale=(1.0, 1.0), shift=0.0)


cached_pair = functools.cache(
    lambda capacity, target, folder, device, side: networks.build_pair(capacity, target, folder, device, side=side)
)


@dataclass(frozen=True)
class Bench:
    """Where and how long is measured. quick: the smallest sizes and one round, which say nothing of speed."""

    device: torch.device
    folder: Path  # for weights and logs
    seconds: float = 60.0  # of this measure
    quick: bool = False

    @property
    def batch(self) -> int:
        return 2 if self.quick else 16

    @property
    def side(self) -> int:
        return 32 if self.quick else 64

    @property
    def pairs(self) -> Sequence[tuple[int, str]]:
        return ((2, SMALL),) if self.quick else PAIRS

    def pair(self, capacity: int, target: str) -> Pair:
        """Returns a prior and a target on both sides; built once a process."""
        return cached_pair(
            2 if self.quick else capacity, SMALL if self.quick else target, self.folder, self.device, self.side
        )

    def interleave(self, functions: Mapping[str, Callable], parts: int = 1) -> dict[str, list[float]]:
        """Returns seconds in turns, of one of `parts` comparisons that share the time of this measure."""
        rounds = {"least": 1, "most": 1} if self.quick else {}
        return interleave(functions, seconds=self.seconds / parts, device=self.device, **rounds)

    def count_steps(self, others: Mapping[str, Callable[[], object]], parts: int) -> int:
        """Returns for how many steps others can take turns with a loop, whose steps take as long as the shortest of them."""
        if self.quick:
            return 3
        times = interleave(others, seconds=0.0, device=self.device, least=1, most=1)
        took = sum(seconds for (seconds,) in times.values()) + min(seconds for (seconds,) in times.values())
        return min(40, max(5, int(self.seconds / parts / took)))


def make_row(
    what: str, unit: str, against: str, times: Mapping[str, Sequence[float]], *, units: Mapping[str, float] | float = 1.0,
    notes: Mapping | None = None, turns: Mapping[str, Sequence[float]] | None = None,
) -> dict:  # fmt: skip
    """Returns a row of the seconds that `against` and other sides took, round by round.

    units: of work that one call does, by side; turns: the seconds of `against` that a side took turns with, where these
    are not times[against].
    """
    of = {side: units[side] if isinstance(units, Mapping) else units for side in times}
    ours = [side for side in times if side != against]
    quotients = {side: ratio((turns or {}).get(side, times[against]), times[side]) for side in ours}
    scales = {side: of[side] / of[against] for side in ours}
    return {
        "what": what,
        "unit": unit,
        "against": against,
        "times": {side: dataclasses.asdict(summarise([1000 * v / of[side] for v in times[side]])) for side in times},
        "ratios": {
            side: {key: value if key == "rounds" else value * scales[side] for key, value in dataclasses.asdict(q).items()}
            for side, q in quotients.items()
        },
        "notes": dict(notes or {}),
    }
