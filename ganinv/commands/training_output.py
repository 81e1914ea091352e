"""What the training commands share: an output folder of their own, and progress."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def claim_output(out: Path, weights: Path, *, resume: bool) -> None:
    """Makes the output folder. Raises: ValueError when it holds a training and resume is not asked for."""
    for file, what in ((weights, "a finished training"), (out / "state.safetensors", "a training")):
        if file.exists() and not resume:
            raise ValueError(f"expected a new folder, got {out}, which holds {what}; pass --resume or another --out")
    out.mkdir(parents=True, exist_ok=True)


def register_output(world, role: str, weights: Path, *, sees_users: bool | None = None, is_target: bool = False) -> None:
    """Copies trained weights and their card into a world that is a folder of the user's own, and says so there.

    A shipped world stays as it is. sees_users, is_target: see World.register.
    """
    from ganinv.worlds.world import PRETRAINED

    if world.folder.parent != PRETRAINED:
        world.register(role, weights, sees_users=sees_users, is_target=is_target)
        print(f"{world.folder}: {role} added")


@contextmanager
def shown(config, steps: int, name: str, out: Path) -> Iterator[Callable[[dict], None]]:
    """Gives a training's on_step, which moves a bar of tqdm and logs to Weights & Biases as config.wandb says.

    steps: in all; 0 where they are not known.
    """
    from ganinv.engine.progress import open_bar
    from ganinv.reports import tracking

    with (
        open_bar(total=steps or None, desc=name) as bar,
        tracking.track_training(config.wandb, dataclasses.asdict(config), out) as log,
    ):

        def on_step(row: dict) -> None:
            bar.update(row["step"] + 1 - bar.n)
            bar.set_postfix({key: f"{value:.2f}" for key, value in row.items() if key != "step"})
            log(row)

        yield on_step
