"""Train a prior on public people and measure it."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

from ganinv import cli
from ganinv.commands.measure_prior import find_source, load_networks, load_real, read_took_part, split_specs
from ganinv.commands.opening import open_named
from ganinv.commands.training_output import (
    MEASURED,
    claim_output,
    describe_cost,
    hash_pixels,
    keep_prior,
    register_output,
    watched,
)


@dataclass(frozen=True, kw_only=True)
class TrainGan:
    """Train a stylegan2-pytorch generator on photos of public people.

    Example: --world=worlds/mine --photos=my_photos --out=runs/mine-prior
    """

    world: str = "synthetic"  # name or folder; a folder of your own gets the weights too
    photos: str = ""  # folder or zip of pictures, or of people; "": data/<world>/public
    out: str = ""  # folder of state, log, samples and weights; "": runs/<world>-prior
    critic: str = ""  # weights whose features compare photos, several with commas between; "": pixels do
    eye: str = ""  # weights of role lpips_face, to measure the prior with; "": not
    discriminator: str = "pictures"  # pictures | features: what it sees, the latter of --critic
    features: str = ""  # recognizers that measure it too, such as dlib,sface
    resolution: int = 0  # px, a power of 2; 0: the world's
    steps: int = 8000  # of `batch` pictures each
    minutes: float = 0.0  # train for so long instead; no two such runs are the same
    batch: int = 16  # pictures a step
    capacity: int = 8  # of the generator, as in stylegan2-pytorch
    alone: float = 0.5625  # share of the steps before the discriminator joins
    perceptual: float = 0.1  # weight of the distance in the features of --critic
    identity: float = 0.05  # weight of the distance between the embeddings of --critic
    divergence: float = 1e-4  # weight of the codes' divergence from the normal distribution, per nat
    lr: float = 2e-4  # 4e-4 diverges
    seed: int = 0  # of weights and draws
    precision: str = "auto"  # auto | bfloat16 | float32; auto: bfloat16 where the device computes in it
    device: str = "auto"  # auto | cpu | cuda
    resume: bool = False  # go on from the state in out
    start: str = ""  # state.safetensors of another training to begin with; "": from nothing
    sample_every: int = 500  # steps between sample grids
    wandb: str = "offline"  # offline | online | disabled


def run(config: TrainGan) -> None:
    """Trains, writes the averaged weights with their card, and measures them."""
    from ganinv.training.frozen_features import check_sight, load_features
    from ganinv.training.pictures import load_pictures
    from ganinv.training.recipes import HELD_OUT
    from ganinv.worlds.world import open_world

    world, device = open_world(config.world), cli.choose_device(config.device)
    out, share = Path(config.out or f"runs/{world.name}-prior"), (0.0, HELD_OUT[0])
    settings = choose_settings(config, world, device)
    claim_output(out, out / "prior.safetensors", resume=config.resume)
    # now: a wrong one must not cost a training
    critics, before = split_specs(config.critic), find_before(config.start)
    specs = [*split_specs(config.eye), *split_specs(config.features)]
    networks = load_networks(specs, device, took_part=[*critics, *before])
    features = load_features(",".join(critics), device) if critics else None
    if features:
        check_sight(features, settings.resolution, device)
    source = find_source(config.photos or f"data/{world.name}", world)
    photos = load_pictures(source, settings.resolution, share)
    real = load_real(source, settings.resolution, MEASURED) if networks else None
    trained = train(config, settings, photos, features, device, out)
    taught = {"critic": ",".join(critics), "start": ",".join(before)}
    card = describe(settings, photos, share, taught, trained, device)
    file = out / "prior.safetensors"
    keep_prior(file, trained.weights, card, networks, real, device)
    register_output(world, "prior", file)
    print(f"{file}: {card['cost']['pictures_shown']} pictures shown in {card['cost']['seconds']} s")


def find_before(start: str) -> list[str]:
    """Returns the networks that took part in the training with whose state another begins, as the card beside it says.

    Where there is no such card, a line on stderr says so.
    """
    prior = Path(start).with_name("prior.safetensors") if start else None
    if prior and not prior.is_file():
        print(f"{start}: no {prior.name} beside it says which networks took part; measure with none of them", file=sys.stderr)
    return read_took_part(prior) if prior else []


def choose_settings(config: TrainGan, world, device):
    """Returns how the prior is trained. Raises: ValueError for a number out of its range."""
    from ganinv.training.gan import DISCRIMINATORS, GanTraining

    config = dataclasses.replace(config, precision=cli.choose_training_precision(config.precision, device))
    cli.check_training(config)
    resolution = config.resolution or world.resolution
    if resolution < 8 or resolution & (resolution - 1):
        raise ValueError(f"expected a resolution that is a power of 2 from 8 on, got {resolution}; take 64")
    shared = {f.name: getattr(config, f.name) for f in dataclasses.fields(GanTraining) if hasattr(config, f.name)}
    if config.discriminator not in DISCRIMINATORS:
        raise ValueError(f"expected a discriminator among {', '.join(DISCRIMINATORS)}, got {config.discriminator}")
    if config.discriminator == "features" and not config.critic:
        raise ValueError(
            "expected --critic=FILE for a discriminator of features, got none; pass --critic=FILE, or another --discriminator"
        )
    if config.discriminator == "features" and config.batch < 2:
        raise ValueError(f"expected a batch of 2 or more for a discriminator of features, got {config.batch}")
    return GanTraining(**shared | DISCRIMINATORS[config.discriminator] | {"resolution": resolution})


def train(config: TrainGan, settings, photos, features, device, out: Path):
    """Returns the trained prior; shows how long it will take, progress, and sheets of samples."""
    from ganinv.training.gan import train_gan

    with watched(config, settings, photos, out, "prior") as callbacks:
        return train_gan(
            settings, photos, out, device=device, features=features, resume=config.resume,
            start=Path(config.start) if config.start else None, **callbacks,
        )  # fmt: skip


def describe(settings, photos, share: tuple[float, float], taught: dict[str, str], trained, device) -> dict:
    """Returns the card of a trained prior, yet without what it measures.

    taught: the networks that took part, with commas between, by how they did.
    """
    from ganinv.weights.cards import describe_photos

    public = describe_photos(len(photos), len(photos.names), hash_range=share)
    return {
        "role": "prior",
        "command": cli.name_command("train_gan"),
        "data": {"public": public, "sha256": hash_pixels(photos)},
        "training": dataclasses.asdict(settings),
        "networks": {how: specs for how, specs in taught.items() if specs},
        "cost": describe_cost(trained, settings, device),
        "seed": settings.seed,
        "metrics": {},
    }


def main() -> None:
    """Parses the command line and runs."""
    cli.main(TrainGan, run, plan=open_named)
