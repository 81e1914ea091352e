"""Refine a prior: bring the distribution of its samples to that of photos."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ganinv import cli
from ganinv.commands.measure_prior import find_source, load_networks, load_real, read_took_part, split_specs
from ganinv.commands.opening import open_named
from ganinv.commands.training_output import MEASURED, claim_output, describe_cost, hash_pixels, keep_prior, watched

# what a card says of the prior's form, which stays, and of what holds for the refined one too; the rest is of before
FORM = (
    *("kind", "stored", "lr_mlp", "resolution", "capacity", "fmap_max", "attention", "no_const", "transparent"),
    *("w_dim", "depth"),
)
SHARED = ("role", "world", "frame", "data", "frozen_networks", "networks")


@dataclass(frozen=True, kw_only=True)
class RefinePrior:
    """Bring the samples of a prior to where photos lie, in the features of frozen networks.

    Example: --prior=runs/mine-prior/prior.safetensors --photos=my_photos --critic=TRUNK
    """

    prior: str = ""  # a prior of stylegan2-pytorch, as train_gan.py writes it; "": the world's own
    world: str = "synthetic"  # whose prior and photos are taken where none are given
    photos: str = ""  # folder or zip of pictures, or of people; "": data/<world>/public
    critic: str = ""  # weights of frozen networks that look at samples and photos, with commas between; no judge
    out: str = ""  # folder of state, log, samples and weights; "": runs/<world>-refined
    eye: str = ""  # weights of role lpips_face, to measure the prior with; "": not
    features: str = ""  # recognizers that measure it too, such as dlib,sface
    steps: int = 3000  # of `batch` samples each
    minutes: float = 0.0  # refine for so long instead; no two such runs are the same
    batch: int = 32  # samples a step
    lr: float = 2e-5  # twice as much swings about the photos
    adversarial: float = 0.6  # push of critics on a sample, in units of the transport's; 0: no critics
    seed: int = 0  # of the draws
    precision: str = "auto"  # auto | bfloat16 | float32; auto: bfloat16 where the device computes in it
    device: str = "auto"  # auto | cpu | cuda
    resume: bool = False  # go on from the state in out
    sample_every: int = 500  # steps between sample grids
    wandb: str = "offline"  # offline | online | disabled


def run(config: RefinePrior) -> None:
    """Refines, writes the averaged weights with their card, and measures them."""
    from ganinv.priors.loading import load_generator
    from ganinv.training.frozen_features import check_sight, load_features
    from ganinv.training.pictures import load_pictures
    from ganinv.training.recipes import HELD_OUT
    from ganinv.training.refining import check_refinable, refine_prior
    from ganinv.worlds.world import open_world

    world, device = open_world(config.world), cli.choose_device(config.device)
    out, share = Path(config.out or f"runs/{world.name}-refined"), (0.0, HELD_OUT[0])
    settings, critics = choose_settings(config, device), split_specs(config.critic)
    place = Path(config.prior or world.file("prior"))
    prior = check_refinable(load_generator(config.prior or str(place), device))
    claim_output(out, out / "prior.safetensors", resume=config.resume)
    # now: a wrong one must not cost a training
    took_part = [*critics, *read_took_part(place)]
    networks = load_networks([*split_specs(config.eye), *split_specs(config.features)], device, took_part=took_part)
    frozen = [load_features(spec, device) for spec in critics]
    for network in frozen:
        check_sight(network, prior.resolution, device)
    source = find_source(config.photos or f"data/{world.name}", world)
    photos = load_pictures(source, prior.resolution, share)
    real = load_real(source, prior.resolution, MEASURED) if networks else None
    with watched(config, settings, photos, out, "refining") as callbacks:
        refined = refine_prior(settings, prior, photos, frozen, out, device=device, resume=config.resume, **callbacks)
    card = describe(config, settings, place, photos, share, refined, device)
    file = out / "prior.safetensors"
    keep_prior(file, refined.weights, card, networks, real, device, lr_mlp=prior.mapping.net[0].lr_mul)
    cost = card["refined"]["cost"]
    print(f"{file}: {cost['pictures_shown']} samples shown in {cost['seconds']} s; --generator={file} searches it")


def choose_settings(config: RefinePrior, device):
    """Returns how the prior is refined. Raises: ValueError for a number out of its range, or no critic."""
    from ganinv.training.refining import Refining

    config = dataclasses.replace(config, precision=cli.choose_training_precision(config.precision, device))
    cli.check_training(config)
    if not split_specs(config.critic):
        raise ValueError(
            "expected --critic=FILE, frozen networks in whose features samples are brought to photos, got none; "
            "docs/priors.md names two"
        )
    return Refining(**{f.name: getattr(config, f.name) for f in dataclasses.fields(Refining) if hasattr(config, f.name)})


def describe(config: RefinePrior, settings, place: Path, photos, share: tuple[float, float], refined, device) -> dict:
    """Returns the card of a refined prior, yet without what it measures: that of the prior before, and what was done."""
    from ganinv.weights.cards import describe_photos, find_card

    old = find_card(place)
    seen = describe_photos(len(photos), len(photos.names), hash_range=share)
    named = old.get("networks") if isinstance(old.get("networks"), Mapping) else {}
    # of one that was refined before, all that took part are named
    critics = list(dict.fromkeys([*split_specs(str(named.get("refined", ""))), *split_specs(config.critic)]))
    return {name: old[name] for name in SHARED if name in old} | {
        "role": "prior",
        "command": cli.name_command("refine_prior"),
        "data": old.get("data", {"public": seen, "sha256": hash_pixels(photos)}),
        "networks": {**named, "refined": ",".join(critics)},
        "refined": {
            "training": dataclasses.asdict(settings),
            "networks": config.critic,
            "data": seen | {"sha256": hash_pixels(photos)},
            "cost": describe_cost(refined, settings, device),
        },
        "before": {name: value for name, value in old.items() if name not in (*FORM, *SHARED)},
        "seed": settings.seed,
        "metrics": {},
    }


def main() -> None:
    """Parses the command line and runs."""
    cli.main(RefinePrior, run, plan=open_named)
