"""Training of the factor regressor: photos of rendered public people, whose factors are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ganinv.photos import Photos, hash_photos
from ganinv.rendered.factors import draw_people
from ganinv.training.recognizer import RecognizerTraining, fit
from ganinv.worlds.truth import FactorRegressor, estimate, standardise

TRAINING = RecognizerTraining(architecture="vgg_trunk", steps=2500, augmentation="slight", seed=11)


def true_factors(photos: Photos) -> torch.Tensor:
    """Returns the standard factors [P,F] of the people of photos, whose names are their seeds.

    Raises: ValueError for names that are none, as of photos of real people.
    """
    if not all(name.isdecimal() for name in photos.names):
        raise ValueError(
            f"expected folders named by the seeds of rendered people, got {photos.names[0]}; see prepare_people.py"
        )
    return standardise(draw_people([int(name) for name in photos.names]))


def train_factors(
    config: RecognizerTraining,
    photos: Photos,
    out: Path,
    *,
    device: torch.device,
    resume: bool = False,
    on_step: Callable[[dict], None] = lambda row: None,
) -> FactorRegressor:
    """Returns the trained regressor, frozen; its r2 is yet to be measured. See training.recognizer.fit for the rest."""
    torch.manual_seed(config.seed)
    model = FactorRegressor(config.architecture, config.input_size).to(device, memory_format=torch.channels_last)
    factors = true_factors(photos)[photos.person]

    def draw(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.randint(len(photos), (config.batch,), generator=generator)
        return photos.images(index), factors[index]

    def lose(images: torch.Tensor, labels: torch.Tensor, step: int) -> tuple[torch.Tensor, dict]:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            estimates = model(images)
        return (estimates - labels).square().mean(), {}

    fit(config, model, draw, lose, out, photos=hash_photos(photos), device=device, resume=resume, on_step=on_step)
    return model.eval().requires_grad_(False)


def measure_r2(model: FactorRegressor, photos: Photos) -> torch.Tensor:
    """Returns the share [F] of each factor's variance over photos of unseen people that the regressor explains."""
    truth = true_factors(photos)[photos.person]
    device = next(model.parameters()).device
    found = estimate(model, photos.images().to(device))
    return 1 - (found - truth).square().sum(0) / (truth - truth.mean(0)).square().sum(0)
