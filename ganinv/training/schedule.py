"""How long a training takes: a fixed number of steps, or as many as there is time for."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch


class Trainer(Protocol):
    """What is trained: it goes a step on, gives its state, and takes up one."""

    config: Any
    device: torch.device

    def train_step(self, step: int) -> object: ...

    def state(self, step: int) -> dict: ...

    def restore(self, state: dict, file: Path) -> int: ...


@dataclass
class Schedule:
    """steps: in all. seconds: of training in all, which then decides; 0: the steps do. elapsed: seconds trained so far."""

    steps: int
    seconds: float = 0.0
    elapsed: float = 0.0

    def plan(self, step: int) -> int:
        """Returns the number of steps in all, as far as can be said when `step` of them are done; `step` where time is up.

        Phases and rates are shares of it, so under a clock they follow the share of the time that has gone.
        """
        if not self.seconds or not self.elapsed:
            return self.steps
        if self.elapsed >= self.seconds:
            return step
        return max(step + 1, round(step * self.seconds / self.elapsed))


def fall(step: int, steps: int, share: float) -> float:
    """Returns the factor of a step's rate: 1, then a straight line to 0 over the last `share` of the steps, and 0."""
    return max(0.0, min(1.0, (steps - step) / max(1.0, share * steps)))


@dataclass(frozen=True)
class Costs:
    """Seconds of a step: while encoder and generator learn alone, with the discriminator, and with its penalty too."""

    alone: float
    joined: float
    penalised: float

    def total(self, first: int, joined: int, steps: int, penalty_every: int) -> float:
        """Returns the seconds from step `first` to the end, where the discriminator joins in step `joined`."""
        alone, rest = max(0, joined - first), steps - max(first, joined)
        return self.alone * alone + rest * (self.joined + (self.penalised - self.joined) / penalty_every)


def rehearse(trainer: Trainer, joined: int) -> Costs:
    """Returns what steps cost on this machine: two of each kind are trained and undone, the second of which counts.

    joined: the first step with a discriminator. The trainer ends in the state in which it came, to the bit.
    """
    every = trainer.config.r1_every
    penalised = -(-joined // every) * every
    return Costs(*time_undone(trainer, (joined - 1, penalised + 1, penalised)))


def time_undone(trainer: Trainer, steps: Sequence[int]) -> list[float]:
    """Returns the seconds of steps that are trained and undone: the trainer ends in the state in which it came."""
    before = copy.deepcopy(trainer.state(0))
    times = [time_step(trainer, step) for step in steps]
    trainer.restore(before, Path("rehearsal"))
    return times


def time_step(trainer: Trainer, step: int) -> float:
    """Returns the seconds of a step when it is trained for the second time: in the first, kernels are built."""
    for _ in range(2):
        began = time.perf_counter()
        trainer.train_step(step)
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
    return time.perf_counter() - began


def tell_duration(seconds: float) -> str:
    """Returns a duration in words: "1 h 16 min", "12 min", "40 s"."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def tell_pace(steps: int, each: float, batch: int) -> str:
    """Returns a line on how long so many steps of `each` seconds will take, and until when."""
    end = time.strftime("%H:%M", time.localtime(time.time() + steps * each))
    return f"{steps} steps take about {tell_duration(steps * each)}, until {end}: {each:.2f} s per step of {batch} pictures"


def tell_even_plan(trainer: Trainer, schedule: Schedule, first: int, every: int) -> str:
    """Returns tell_plan's line for a training whose steps cost the same, but for each that `every` divides."""
    dearer, plain = time_undone(trainer, (0, 1))
    each = plain + (dearer - plain) / every
    if not schedule.seconds:
        return tell_pace(trainer.config.steps - first, each, trainer.config.batch)
    return tell_clock(schedule, each, f"{each:.2f} s per step of {trainer.config.batch} pictures")


def tell_clock(schedule: Schedule, each: float, words: str) -> str:
    """Returns a line on how many steps of `each` seconds there is time for."""
    left = max(0.0, schedule.seconds - schedule.elapsed)
    return f"{tell_duration(left)} are enough for about {left / each:.0f} steps: {words}"


def tell_plan(trainer: Trainer, schedule: Schedule, first: int, joined: int) -> str:
    """Returns a line on how long the training will take on this machine from step `first`; the discriminator joins later."""
    config, costs = trainer.config, rehearse(trainer, joined)
    each = f"{costs.alone:.2f} s per step of {config.batch} pictures, {costs.joined:.2f} s with the discriminator"
    if schedule.seconds:
        mean = costs.total(0, joined, config.steps, config.r1_every) / config.steps
        return tell_clock(schedule, mean, each)
    seconds = costs.total(first, joined, config.steps, config.r1_every)
    end = time.strftime("%H:%M", time.localtime(time.time() + seconds))
    return f"{config.steps - first} steps take about {tell_duration(seconds)}, until {end}: {each}"
