"""Training a prior against stylegan2-pytorch's own."""

from __future__ import annotations

import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ganinv.images import from_uint8
from ganinv.studies.benchmark import networks
from ganinv.studies.benchmark.bench import STOCK, Bench, make_row
from ganinv.studies.benchmark.timing import time_once, wait_for
from ganinv.weights.specs import freeze


@dataclass(frozen=True)
class RandomPhotos:
    """data.Photos of noise, [N,3,R,R], whose reader lets others take a turn before every step of train_gan."""

    pixels: torch.Tensor
    take_turn: Callable[[], None]

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self, index: torch.Tensor, device: torch.device | str = "cpu") -> torch.Tensor:
        """Returns images [n,3,R,R] in [-1,1]."""
        self.take_turn()
        return from_uint8(self.pixels[index].to(device))


def measure_training(bench: Bench) -> Iterator[dict]:
    """Yields a training step of the prior against one of stylegan2-pytorch, penalties spread as each spreads them."""
    from ganinv.cli import choose_training_precision
    from ganinv.recognizers.cosine import CosineRecognizer
    from ganinv.training.frozen_features import RecognizerFeatures
    from ganinv.training.gan import GanTraining, train_gan

    batch, capacity, skipped = (2, 2, 0) if bench.quick else (16, 8, 2)  # kernels are built in the first steps
    # the penalty comes every second step, so that few steps time both kinds; then its share is that of the defaults
    config = GanTraining(
        resolution=bench.side, capacity=capacity, batch=batch, alone=0.0, r1_every=2, steps=3 if bench.quick else 9,
        save_every_s=math.inf, precision=choose_training_precision("auto", bench.device),
    )  # fmt: skip
    pixels = torch.randint(0, 256, (64, 3, bench.side, bench.side), dtype=torch.uint8)
    features = CosineRecognizer("vgg_trunk", num_identities=0)
    networks.calibrate(features.backbone, from_uint8(pixels))
    stock, turn, clock = StockTraining(config.resolution, capacity, batch, bench.device), itertools.count(), []
    times: dict[str, list[float]] = {STOCK: [], "default": []}

    def take_turn() -> None:
        wait_for(bench.device)
        now, number = time.perf_counter(), next(turn)
        if clock:
            times["default"].append(now - clock.pop())
        if skipped <= number < config.steps - 1:  # after the last there is no step of ours that ends with a turn
            times[STOCK].append(time_once(lambda: stock.step(penalty=number % 2 == 0), bench.device))
        elif number == 0:
            stock.step(penalty=False)
        clock.append(time.perf_counter())

    folder = Path(tempfile.mkdtemp(dir=bench.folder))
    eye = RecognizerFeatures(freeze(features, bench.device))
    train_gan(config, RandomPhotos(pixels, take_turn), folder, device=bench.device, features=eye)
    every = {STOCK: StockTraining.penalty_every, "default": GanTraining().r1_every}
    times["default"] = times["default"][skipped:]
    times = {side: spread_penalty(values, every[side]) for side, values in times.items()}
    notes = {"default": f"{config.precision}; with encoder and face distance", "steps between penalties": every}
    yield make_row(f"training step, capacity {capacity}, batch {batch}", "ms per step", STOCK, times, notes=notes)


def spread_penalty(times: Sequence[float], every: int) -> list[float]:
    """Returns the seconds of a step with its share of a penalty that comes every `every` steps.

    times: of steps with and without the penalty, in turn.
    """
    return [plain + max(0.0, penalised - plain) / every for penalised, plain in zip(times[::2], times[1::2], strict=False)]


class StockTraining:
    """stylegan2-pytorch's own training step: its networks, hinge losses, and gradient penalty on both sides.

    Source: Trainer.train of stylegan2-pytorch 1.9, without augmentation and the path penalty, both off at first there.
    """

    penalty_every = 4

    def __init__(self, resolution: int, capacity: int, batch: int, device: torch.device):
        from ganinv.priors.stylegan2_pytorch import build_networks, import_stylegan2_pytorch

        self.package = import_stylegan2_pytorch()
        self.mapping, self.synthesis = (net.to(device) for net in build_networks(resolution, capacity))
        self.critic = self.package.Discriminator(resolution, capacity).to(device)
        self.photos = torch.rand(batch, 3, resolution, resolution, device=device)
        generator = [*self.mapping.parameters(), *self.synthesis.parameters()]
        self.optimizers = [torch.optim.Adam(p, 2e-4, betas=(0.5, 0.9)) for p in (generator, self.critic.parameters())]

    def draw(self) -> torch.Tensor:
        """Returns generated pictures."""
        batch, device, network = len(self.photos), self.photos.device, self.synthesis
        w = self.mapping(torch.randn(batch, network.latent_dim, device=device))
        noise = torch.rand(batch, network.image_size, network.image_size, 1, device=device)
        return network(w[:, None].expand(-1, network.num_layers, -1), noise)

    def step(self, *, penalty: bool) -> None:
        """Trains the discriminator, then the generator."""
        fake, photos = self.draw().detach().clone(), self.photos.clone()
        for images in (fake, photos):
            images.requires_grad_(penalty)
        fake_logits, logits = self.critic(fake)[0], self.critic(photos)[0]
        loss = self.package.hinge_loss(fake_logits, logits)
        if penalty:
            loss = loss + self.package.gradient_penalty(photos, logits) + self.package.gradient_penalty(fake, fake_logits)
        self.optimizers[1].zero_grad()
        loss.backward()
        self.optimizers[1].step()
        self.optimizers[0].zero_grad()
        self.package.gen_hinge_loss(self.critic(self.draw())[0], None).backward()
        self.optimizers[0].step()
