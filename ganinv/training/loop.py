"""The loop of a prior's training: steps, their log, the state on a clock, and going on from it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from ganinv.engine.checkpoint import append_jsonl, load_state, of_these_settings, save_state, truncate_jsonl
from ganinv.training.schedule import Schedule, Trainer

LOG_EVERY = 25  # steps
SHOWN = 32  # samples of a grid


class PriorTrainer(Trainer, Protocol):
    """What trains a prior. Its config has steps, minutes, sample_every, save_every_s."""

    def train_step(self, step: int) -> tuple[dict, torch.Tensor]:
        """Returns a row for the log, and pictures [N,3,R,R] that are shown below samples.

        What the row has as tensors [] is read only when it is logged: reading waits for the device.
        """
        ...

    def draw_samples(self) -> torch.Tensor:
        """Returns pictures [SHOWN,3,R,R] of what is kept, always of the same latents."""
        ...

    def finish(self) -> dict[str, torch.Tensor]:
        """Returns the weights that are kept."""
        ...


@dataclass(frozen=True)
class TrainedPrior:
    """weights: averaged, "SE.*" and "GE.*" as stylegan2-pytorch names them; steps and seconds that the training took."""

    weights: dict[str, torch.Tensor]
    steps: int
    seconds: float


def run_training(
    trainer: PriorTrainer,
    out: Path,
    *,
    resume: bool,
    plan: Callable[[PriorTrainer, Schedule, int], str],
    on_plan: Callable[[str], None] | None,
    on_step: Callable[[dict], None],
    on_samples: Callable[[int, torch.Tensor], None],
) -> TrainedPrior:
    """Returns the trained prior.

    on_plan receives the line that `plan` gives, on how long the training will take. The state is written to
    out/state.safetensors on a clock, the log to out/steps.jsonl; resume goes on from them, to the bit where the number of
    steps is fixed.
    """
    config, state_file, log, step = trainer.config, out / "state.safetensors", out / "steps.jsonl", 0
    schedule = Schedule(config.steps, config.minutes * 60)
    if resume:
        state = load_state(state_file)
        with of_these_settings(state_file):
            step, schedule.elapsed = trainer.restore(state, state_file), state.get("elapsed", 0.0)
        truncate_jsonl(log, step - 1)
    if on_plan:
        on_plan(plan(trainer, schedule, step))
    began = saved_at = time.monotonic()
    before = schedule.elapsed
    while step < (planned := schedule.plan(step)):
        trainer.config = dataclasses.replace(config, steps=planned)
        row, pictures = trainer.train_step(step)
        schedule.elapsed = before + time.monotonic() - began
        last = step + 1 >= schedule.plan(step + 1)
        if step % LOG_EVERY == 0 or last:
            row = {name: float(value) if isinstance(value, torch.Tensor) else value for name, value in row.items()}
            append_jsonl(log, row)
            on_step(row)
        if step % config.sample_every == 0 or last:
            on_samples(step, torch.cat([trainer.draw_samples(), pictures]))
        step += 1
        if time.monotonic() - saved_at > config.save_every_s or last:
            save_state(state_file, trainer.state(step) | {"elapsed": schedule.elapsed})
            saved_at = time.monotonic()
    return TrainedPrior(trainer.finish(), step, schedule.elapsed)
