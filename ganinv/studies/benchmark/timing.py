"""Times of functions that take turns, so that noise hits all of them; their medians, spreads and slopes."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of the rounds."""

    median: float
    low: float
    high: float
    rounds: int


def summarise(values: Sequence[float]) -> Spread:
    """Returns the spread of values. Raises: ValueError for none."""
    if not values:
        raise ValueError("expected the times of at least one round, got none")
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return Spread(statistics.median(values), quartiles[0], quartiles[2], len(values))


def ratio(reference: Sequence[float], ours: Sequence[float]) -> Spread:
    """Returns how many times faster ours is: the spread of the quotients, round by round."""
    return summarise([a / b for a, b in zip(reference, ours, strict=False)])


def fit_slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """Returns the least-squares slope of log(seconds) over log(sizes): 1 is linear, 0 constant.

    Raises: ValueError for fewer than two sizes, or for what has no logarithm.
    """
    if len(sizes) != len(seconds) or len(set(sizes)) < 2 or min(*sizes, *seconds) <= 0:
        raise ValueError(f"expected times above 0 of at least two sizes above 0, got {list(sizes)} and {list(seconds)}")
    x, y = ([math.log(value) for value in values] for values in (sizes, seconds))
    return statistics.linear_regression(x, y).slope


def wait_for(device: torch.device) -> None:
    """Returns when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_once(function: Callable[[], object], device: torch.device) -> float:
    """Returns the seconds that one call takes."""
    wait_for(device)
    began = time.perf_counter()
    function()
    wait_for(device)
    return time.perf_counter() - began


def interleave(
    functions: Mapping[str, Callable[[], object]], *, seconds: float, device: torch.device, least: int = 3, most: int = 30
) -> dict[str, list[float]]:
    """Returns the seconds of every function in every round: A, B, C, A, B, C, ... after one call each that is not counted.

    Rounds follow until `seconds` are spent, at least `least` and at most `most`.
    """
    began = time.perf_counter()
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(most):
        if number >= least and (time.perf_counter() - began) * (number + 2) / (number + 1) > seconds:
            break
        for name, function in functions.items():
            times[name].append(time_once(function, device))
    return times


@dataclass
class Turns:
    """A callback for on_state of attack.invert: after every step others take a turn, so loop and others are timed in turn.

    Not on_step, while which the loop holds the memory of its forward pass: the others would have to fetch memory anew.
    The first step, and the others' turns before it, are not counted.
    """

    others: Mapping[str, Callable[[], object]]
    device: torch.device
    times: dict[str, list[float]] = field(default_factory=lambda: {"loop": []})
    last: tuple[int, float] | None = None  # steps done, clock

    def __call__(self, describe: Callable[[], Mapping]) -> None:
        wait_for(self.device)
        now, steps = time.perf_counter(), describe()["steps"]
        counts = self.last is not None and self.last[0] > 0 and steps > self.last[0]
        if counts:
            self.times["loop"].append((now - self.last[1]) / (steps - self.last[0]))
        for name, other in self.others.items():
            taken = time_once(other, self.device)
            if counts:
                self.times.setdefault(name, []).append(taken)
        self.last = steps, time.perf_counter()
