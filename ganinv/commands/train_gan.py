"""Train a prior on public people and measure it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from ganinv import cli
from ganinv.commands.training_output import claim_output, register_output, shown


@dataclass(frozen=True, kw_only=True)
class TrainGan:
    """Train a stylegan2-pytorch generator on photos of public people."""

    world: str = "synthetic"  # name or folder; a folder of your own gets the weights too
    photos: str = ""  # "": data/<world>; folder with public/, one sub-folder per person
    out: str = ""  # folder of state, log, samples and weights; "": runs/<world>-prior
    critic: str = ""  # weights of role critic, in whose features reconstructions are compared; "": by pixels alone
    eye: str = ""  # weights of role lpips_face, in whose features the prior is measured; "": not measured
    steps: int = 8000  # of `batch` pictures each
    batch: int = 16  # pictures a step
    capacity: int = 8  # of the generator, as in stylegan2-pytorch
    alone: float = 0.5625  # share of the steps before the discriminator joins
    perceptual: float = 0.1  # weight of the distance in the features of --critic
    lr: float = 2e-4  # 4e-4 diverges
    seed: int = 0  # of weights and draws
    precision: str = "auto"  # auto | bfloat16 | float32; auto: bfloat16 where the device computes in it
    device: str = "auto"  # auto | cpu | cuda
    resume: bool = False  # go on from the state in out
    sample_every: int = 500  # steps between sample grids
    wandb: str = "offline"  # offline | online | disabled


def run(config: TrainGan) -> None:
    """Trains, writes the averaged weights with their card, and measures them."""
    from ganinv import images
    from ganinv.priors.loading import load_generator
    from ganinv.priors.stylegan2_pytorch_files import save_prior
    from ganinv.recognizers.loading import load_recognizer
    from ganinv.training.gan import GanTraining, train_gan
    from ganinv.training.prior_quality import measure_prior
    from ganinv.weights.cards import describe_photos
    from ganinv.worlds.world import load_public, open_world

    world, device = open_world(config.world), cli.choose_device(config.device)
    out = Path(config.out or f"runs/{world.name}-prior")
    folder = config.photos or f"data/{world.name}"
    precision = cli.choose_training_precision(config.precision, device)
    cli.check_training(dataclasses.replace(config, precision=precision))
    claim_output(out, out / "prior.safetensors", resume=config.resume)
    shared = {f.name: getattr(config, f.name) for f in dataclasses.fields(GanTraining) if hasattr(config, f.name)}
    settings = GanTraining(resolution=world.resolution, **shared | {"precision": precision})
    eye = load_recognizer(config.eye, device) if config.eye else None  # now: a wrong one must not cost a training
    features = load_recognizer(config.critic, device) if config.critic else None
    photos = load_public(world, folder, (0.0, 0.8))
    with shown(config, settings.steps, "prior", out) as on_step:

        def on_samples(step: int, samples) -> None:
            images.save(images.grid(samples, 8), out / f"samples-{step:06d}.png", scale=2)

        weights = train_gan(
            settings, photos, out, device=device, features=features, resume=config.resume, on_step=on_step,
            on_samples=on_samples,
        )  # fmt: skip
    card = {
        "role": "prior",
        "command": cli.name_command("train_gan"),
        "data": {"public": describe_photos(len(photos), len(photos.names), hash_range=(0.0, 0.8))},
        "training": dataclasses.asdict(settings),
        "seed": settings.seed,
        "metrics": {},
    }
    file = out / "prior.safetensors"
    save_prior(file, weights, card)
    if eye:
        generator = load_generator(str(file), device)  # measured as it is kept, rounded
        card["metrics"] = measure_prior(generator, eye, world, folder, out)
        save_prior(file, weights, card)
    register_output(world, "prior", file)
    print(f"{file}: {card['metrics']}")


def main() -> None:
    """Parses the command line and runs."""
    cli.main(TrainGan, run)
