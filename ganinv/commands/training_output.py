"""What the training commands share: an output folder of their own, and progress."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

MEASURED = 2000  # samples, and as many held-out photos


def claim_output(out: Path, weights: Path, *, resume: bool) -> None:
    """Makes the output folder; the log of a training that ended before its first state is removed.

    Raises: ValueError when it holds a training and resume is not asked for, or when it is and there is none.
    """
    from ganinv.engine.checkpoint import find_before

    state = out / "state.safetensors"
    for file, what in ((weights, "a finished training"), (state, "a training")):
        if file.exists() and not resume:
            raise ValueError(f"expected a new folder, got {out}, which holds {what}; pass --resume or another --out")
    if resume and not (state.exists() or find_before(state).exists()):
        raise ValueError(f"expected the state of a training in {state}, got none; leave --resume out to begin anew")
    out.mkdir(parents=True, exist_ok=True)
    if not resume:
        (out / "steps.jsonl").unlink(missing_ok=True)


def register_output(world, role: str, weights: Path, *, sees_users: bool | None = None, is_target: bool = False) -> None:
    """Copies trained weights and their card into a world that is a folder of the user's own, and says so there.

    A shipped world stays as it is. sees_users, is_target: see World.register.
    """
    from ganinv.worlds.world import PRETRAINED, open_world

    if world.folder.parent != PRETRAINED:
        # as it is now: while this was trained, another training may have added what it made
        open_world(world.folder).register(role, weights, sees_users=sees_users, is_target=is_target)
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


@contextmanager
def watched(config, settings, photos, out: Path, name: str) -> Iterator[dict]:
    """Gives the callbacks of a prior's training: how long it will take is printed, progress shown, sheets of samples kept.

    config: of the command; settings: of the training.
    """
    from ganinv import images

    def on_samples(step: int, samples) -> None:
        images.save(images.grid(samples, 8), out / f"samples-{step:06d}.png", scale=2)

    def on_plan(line: str) -> None:
        print(line, flush=True)

    print(f"{len(photos)} pictures of {len(photos.names)} people; samples in {out} every {settings.sample_every} steps")
    # under a clock nobody knows how many steps there will be
    with shown(config, 0 if config.minutes else settings.steps, name, out) as on_step:
        yield {"on_plan": on_plan, "on_step": on_step, "on_samples": on_samples}


def hash_pixels(photos) -> str:
    """Returns the SHA-256 of the pixels of photos, which a card names."""
    return hashlib.sha256(photos.pixels.numpy().tobytes()).hexdigest()


def describe_cost(trained, settings, device) -> dict:
    """Returns what a prior's training cost, as its card says it."""
    import torch

    return {
        "pictures_shown": trained.steps * settings.batch,
        "seconds": round(trained.seconds),
        "hardware": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
    }


def keep_prior(file: Path, weights: Mapping, card: dict, networks: Mapping, real, device, **options) -> None:
    """Writes a trained prior with its card, and what networks measure of it, which is printed too.

    networks: by name; of none, nothing is measured. real: RealPhotos to measure with. options: of save_prior.
    """
    from ganinv.attack.config import AttackConfig
    from ganinv.commands.measure_prior import measure, tell_quality
    from ganinv.priors.loading import load_generator
    from ganinv.priors.stylegan2_pytorch_files import save_prior

    save_prior(file, weights, card, **options)
    if networks:
        generator = load_generator(str(file), device)  # measured as it is kept, rounded
        psis = tuple(sorted({1.0, AttackConfig().psi}, reverse=True))
        card["metrics"] = measure(generator, networks, real, file.parent, psis, card["seed"])
        save_prior(file, weights, card, **options)
        for line in tell_quality(card["metrics"]):
            print(line)
