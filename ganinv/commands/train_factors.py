"""Train the regressor that reads a rendered person's true factors off a picture."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from ganinv import cli
from ganinv.commands.opening import open_named
from ganinv.commands.training_output import claim_output, register_output, shown


@dataclass(frozen=True, kw_only=True)
class TrainFactors:
    """Train the factor regressor of a world of rendered people, on public people.

    Example: --photos=data/synthetic --steps=1000
    """

    world: str = "synthetic"  # name or folder; a folder of your own gets the weights too
    photos: str = ""  # "": data/<world>; folder with public/, made by prepare_people.py
    out: str = ""  # folder of state, log and weights; "": runs/<world>-factors
    steps: int = 2500  # of 128 photos each
    seed: int = 11  # of weights and draws
    precision: str = "auto"  # auto | bfloat16 | float32; auto: bfloat16 where the device computes in it
    device: str = "auto"  # auto | cpu | cuda
    resume: bool = False  # go on from the state in out
    wandb: str = "offline"  # offline | online | disabled


def run(config: TrainFactors) -> None:
    """Trains, measures R2 on unseen people, and writes weights and card."""
    from ganinv.training import factors as training
    from ganinv.training.recipes import HELD_OUT
    from ganinv.weights.cards import describe_photos
    from ganinv.worlds.truth import FACTORS, load_regressor, save_regressor
    from ganinv.worlds.world import load_public, open_world

    world = open_world(config.world)
    folder = config.photos or f"data/{world.name}"
    device = cli.choose_device(config.device)
    precision = cli.choose_training_precision(config.precision, device)
    settings = dataclasses.replace(training.TRAINING, steps=config.steps, seed=config.seed, precision=precision)
    out = Path(config.out or f"runs/{world.name}-factors")
    weights = out / "factors.safetensors"
    cli.check_training(settings)
    claim_output(out, weights, resume=config.resume)
    check_unshifted(Path(folder))
    # now: none of them must not cost a training
    photos, held_out = (load_public(world, folder, share) for share in ((0.0, HELD_OUT[0]), HELD_OUT))
    if len(held_out.names) < 2:
        raise ValueError(f"expected 2 held-out people or more in {folder}, got 1; render more with --public")
    with shown(config, settings.steps, "factors", out) as on_step:
        model = training.train_factors(settings, photos, out, device=device, resume=config.resume, on_step=on_step)
    card = {
        "role": "factors",
        "command": cli.name_command("train_factors"),
        "data": {"public": describe_photos(len(photos), len(photos.names), hash_range=(0.0, HELD_OUT[0]))},
        "training": dataclasses.asdict(settings),
        "seed": settings.seed,
        "metrics": {},
    }
    save_regressor(model, weights, card)
    model = load_regressor(weights, device)  # measured as it is kept, rounded
    model.r2 = training.measure_r2(model, held_out).to(device)
    names = [factor.name for factor in FACTORS]
    card["metrics"] = {"r2_on_unseen_people": dict(zip(names, model.r2.tolist(), strict=True))}
    card["metrics"]["readable_factors"] = int(model.readable.sum())
    save_regressor(model, weights, card)
    register_output(world, "factors", weights)
    print(f"{weights}: {card['metrics']['readable_factors']} of {len(names)} factors can be read off photos")


def check_unshifted(folder: Path) -> None:
    """Raises: ValueError for people of prepare_people.py --shift: their names are seeds of people who look otherwise."""
    from ganinv.json_data import read_json
    from ganinv.photos import MANIFEST

    shift = read_json(folder / MANIFEST).get("shift", 0.0) if (folder / MANIFEST).is_file() else 0.0
    if shift:
        raise ValueError(f"expected people of prepare_people.py without --shift, got {folder} of --shift={shift}")


def main() -> None:
    """Parses the command line and runs."""
    cli.main(TrainFactors, run, plan=open_named)
