"""Training of a prior: stylegan2-pytorch's own networks, an encoder that leaves no face out, and a discriminator.

Sources: Karras et al. 2020 (style mixing, lazy R1, averaged weights); Mescheder et al. 2018 (R1); Zhao et al. 2020
(differentiable augmentation); Kingma and Welling 2014 (the encoder); Larsen et al. 2016 (encoder, generator and
discriminator).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ganinv.engine.checkpoint import check_photos, load_state, restore
from ganinv.photos import Photos, hash_photos
from ganinv.priors.stylegan2_pytorch import build_networks, num_layers
from ganinv.priors.stylegan2_pytorch_form import run_generator
from ganinv.training.critics import Critics, build_feature_discriminator
from ganinv.training.discriminators import FeatureDiscriminator, PictureDiscriminator
from ganinv.training.frozen_features import FrozenFeatures, measure_distance
from ganinv.training.gan_networks import (
    ImageNetwork,
    clip_gradients,
    is_grey,
    name_weights,
    silence_noise,
    soften,
    tie_colours,
    update_average,
)
from ganinv.training.latents import Moments, draw_latents
from ganinv.training.loop import SHOWN, TrainedPrior, run_training
from ganinv.training.pictures import draw_photos
from ganinv.training.schedule import fall, tell_plan

# without samples: pushed by features alone, nothing holds them, and within minutes half of them were one bad face
FEATURES = {"inside": 5.0, "adversarial": 0.6, "samples": 0.0, "average": 0.999, "decay": 0.35}
# what a discriminator sees -> settings that go with it
DISCRIMINATORS = {"pictures": {}, "features": FEATURES}


@dataclass(frozen=True, kw_only=True)
class GanTraining:
    """How a prior is trained; the defaults are those of the shipped one."""

    resolution: int = 64
    capacity: int = 8
    steps: int = 8000
    minutes: float = 0.0  # of training; steps are then as many as there is time for, and a resumed one is not the same
    alone: float = 0.5625  # share of the steps in which only encoder and generator learn; then the discriminator joins
    batch: int = 16  # photos a step
    samples: float = 0.5  # as a share of the photos, once the discriminator has joined; 0: it sees reconstructions alone
    lr: float = 2e-4  # no network has equalised convolutions: 4e-4 against a discriminator diverges
    lr_alone: float = 4e-4
    decay: float = 0.3  # share of the steps, at the end, in which the rate falls to zero in a straight line
    mapping_lr: float = 5.0  # times the rate: the mapping's own scale of 0.1 makes its steps small
    r1_gamma: float = 1.0
    r1_every: int = 16
    mixing: float = 0.5
    noise: bool = False  # the noise inputs: off, since a young generator hides behind the grain and w should say it all
    average: float = 0.998  # per step, of the weights that are kept
    divergence: float = 1e-4  # weight of the encoder's divergence from the normal distribution, per nat
    perceptual: float = 0.1  # weight of the distance between a photo's and its reconstruction's features
    identity: float = 0.05  # weight of 1 - cosine between their embeddings
    clip: float = 3.0  # longest gradient, in units of its running length: a rare batch can undo a thousand steps
    discriminator: str = "pictures"  # pictures | features: of the frozen network that compares photos
    inside: float = 0.0  # weight of the square of what a picture has beyond [-1,1], where some frozen networks are blind
    adversarial: float = 0.5  # size of the discriminator's gradient on a picture, in units of the reconstruction's
    discriminator_width: int = 24  # channels at full resolution; doubles with every halving, at most 384
    precision: str = "bfloat16"  # of the convolutions; weights, averages and losses stay float32
    seed: int = 0
    save_every_s: float = 180.0
    sample_every: int = 500


def first_with_discriminator(config: GanTraining) -> int:
    """Returns the first step in which there is a discriminator."""
    return round(config.alone * config.steps)


def falling_rate(config: GanTraining, step: int) -> float:
    """Returns the learning rate of a step: constant, then a straight line to zero over the last `decay` of the steps."""
    rate = config.lr_alone if step < first_with_discriminator(config) else config.lr
    return rate * fall(step, config.steps, config.decay)


# ---- a step


@dataclass(frozen=True)
class Codes:
    """What an encoder says of photos: mean and log variance [N,D] of z, a draw z [N,D], and the mean divergence []."""

    mean: torch.Tensor
    log_variance: torch.Tensor
    z: torch.Tensor
    divergence: torch.Tensor


class Trainer:
    """All that a training changes, and one step of it.

    An encoder gives each photo a normal distribution of z, from which the generator must give the photo back; so no face
    can be left out, as a discriminator alone allows. A discriminator then sharpens reconstructions and samples (Larsen et
    al. 2016).
    """

    def __init__(self, config: GanTraining, photos: Photos, features: FrozenFeatures | None, device: torch.device):
        torch.manual_seed(config.seed)
        self.config, self.photos, self.device = config, photos, device
        self.photos_hash = hash_photos(photos)
        self.layers = num_layers(config.resolution)
        self.mapping, self.synthesis = (net.to(device) for net in build_networks(config.resolution, config.capacity))
        self.z_dim = self.mapping.net[0].weight.shape[1]
        self.features = features
        self.encoder = ImageNetwork(config.resolution, config.discriminator_width, 2 * self.z_dim)
        self.encoder = self.encoder.to(device, memory_format=torch.channels_last)
        discriminator = self.build_discriminator().to(device, memory_format=torch.channels_last)
        nn.init.constant_(self.encoder.outputs.bias[self.z_dim :], -2.0)  # sure of itself at first: what is said is heard
        if not config.noise:
            silence_noise(self.synthesis)
        if config.inside:
            soften(self.synthesis)
        self.grey = is_grey(photos.pixels)
        if self.grey:
            tie_colours(self.synthesis)
        self.averages = [copy.deepcopy(net).requires_grad_(False) for net in (self.mapping, self.synthesis)]
        self.generator = torch.Generator().manual_seed(config.seed)
        self.moments = Moments(self.z_dim).to(device)
        # running means: how large the discriminator's push must be made, and the usual length of a gradient
        self.balance = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros((), device=device), requires_grad=False) for name in ("scale", "norm")}
        )
        self.critics = Critics(discriminator, config.lr, config.adversarial, self.generator, self.balance["scale"])
        self.optimizers = {"generator": self.make_optimizer(), "discriminator": self.critics.optimizer}

    def build_discriminator(self) -> PictureDiscriminator | FeatureDiscriminator:
        """Returns the discriminator, newborn. Raises: ValueError for one of features where there are none."""
        config = self.config
        if config.discriminator == "pictures":
            return PictureDiscriminator(
                config.resolution, config.discriminator_width, r1_gamma=config.r1_gamma, r1_every=config.r1_every,
                dtype=getattr(torch, config.precision),
            )  # fmt: skip
        if self.features is None:
            raise ValueError("expected a frozen network for a discriminator of features, got none; pass --critic=FILE")
        return build_feature_discriminator(self.features, self.photos, config.seed, self.device)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Returns the optimizer of encoder and generator, whose second group is the mapping."""
        others = [p for net in (self.encoder, self.synthesis) for p in net.parameters() if p.requires_grad]
        groups = [{"params": others}, {"params": [*self.mapping.parameters()]}]
        return torch.optim.Adam(groups, self.config.lr, betas=(0.5, 0.99))

    def modules(self) -> dict[str, nn.Module]:
        """Returns what has a state, by the names of stylegan2-pytorch where it has one."""
        return {
            "S": self.mapping, "G": self.synthesis, "E": self.encoder, "D": self.critics.discriminator,
            "SE": self.averages[0], "GE": self.averages[1], "balance": self.balance, "moments": self.moments,
        }  # fmt: skip

    def state(self, step: int) -> dict:
        """Returns all that a training needs to go on from a step."""
        optimizers = {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()}
        states = {name: module.state_dict() for name, module in self.modules().items()}
        random = self.generator.get_state()
        return states | {"optimizers": optimizers, "random": random, "photos": self.photos_hash, "step": step}

    def restore(self, state: dict, file: Path) -> int:
        """Takes up a state, and returns the step that comes next. Raises: ValueError when it is of other work."""
        check_photos(state, self.photos_hash)
        for name, module in self.modules().items():
            restore(module, state.get(name, {}), file)
        for name, optimizer in self.optimizers.items():
            restore(optimizer, state["optimizers"].get(name, {}), file)
        self.generator.set_state(state["random"])
        return state["step"]

    def start_from(self, state: dict, file: Path) -> None:
        """Takes up what another training learned, whose discriminator may be another: all but that, draws and steps.

        Raises: ValueError when it is of other settings.
        """
        for name in ("S", "G", "E", "SE", "GE", "moments"):
            restore(self.modules()[name], state.get(name, {}), file)
        restore(self.optimizers["generator"], state["optimizers"].get("generator", {}), file)

    def autocast(self) -> torch.autocast:
        """Returns the context in which convolutions run in the training's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16")

    def train_step(self, step: int) -> tuple[dict, torch.Tensor]:
        """Trains all networks on one batch; returns a row for the log, and some photos and what was made of them."""
        config, batch = self.config, self.config.batch
        joined = step >= first_with_discriminator(config)
        self.set_rates(falling_rate(config, step))
        real = draw_photos(self.photos, batch, self.generator, self.device)
        codes = self.encode(real)
        images = self.generate(self.find_latents(codes.z, int(config.samples * batch) if joined else 0))
        gradient, losses = self.compare(images, real)
        row = {"step": step, "pixels": losses.pop("pixels"), "divergence": codes.divergence.detach()} | losses
        if joined:
            kept = batch - (len(images) - batch)  # of the reconstructions, and all samples
            fake = torch.cat([images[:kept], images[batch:]]).detach().requires_grad_()
            row["discriminator"], seen = self.critics.train(real, fake, step)
            age = step - first_with_discriminator(config)
            row["generator"], push = self.critics.push(fake, seen, gradient[:batch].norm(), age)
            gradient[:kept] += push[:kept]
            gradient[batch:] += push[kept:]
        self.optimizers["generator"].zero_grad(set_to_none=True)
        torch.autograd.backward([images, config.divergence * codes.divergence], [gradient, None])
        clip_gradients(self.optimizers["generator"], self.balance["norm"], config.clip, step)
        self.optimizers["generator"].step()
        # a short memory at first, so that early averages are not full of the first weights
        decay = min(config.average, (step + 1) / (step + 10))
        update_average(self.averages[0], self.mapping, decay)
        update_average(self.averages[1], self.synthesis, decay)
        self.moments.update(codes.mean, codes.log_variance, decay)
        return row, torch.cat([real[:8], images[:8].detach()])

    def set_rates(self, rate: float) -> None:
        """Sets the learning rates of a step."""
        self.critics.set_rate(rate)
        for group, times in zip(self.optimizers["generator"].param_groups, (1.0, self.config.mapping_lr), strict=True):
            group["lr"] = rate * times

    def encode(self, real: torch.Tensor) -> Codes:
        """Returns the codes of photos. Source: Kingma and Welling 2014, section 3."""
        with self.autocast():
            mean, log_variance = self.encoder(real).chunk(2, dim=1)
        z = mean + torch.exp(log_variance / 2) * torch.randn(mean.shape, generator=self.generator).to(self.device)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        return Codes(mean, log_variance, z, divergence)

    def find_latents(self, z: torch.Tensor, samples: int) -> torch.Tensor:
        """Returns w [N,layers,w_dim] of codes z, and of so many samples."""
        w = self.mapping(z)[:, None].expand(-1, self.layers, -1)
        if not samples:
            return w
        map_z = partial(self.moments.map, self.mapping)
        drawn = draw_latents(
            map_z, self.z_dim, samples, self.layers, self.config.mixing, self.generator, self.device
        )  # fmt: skip
        return torch.cat([w, drawn])

    def generate(self, w: torch.Tensor) -> torch.Tensor:
        """Returns pictures [N,3,R,R], about [-1,1], of w [N,layers,w_dim]."""
        side = self.config.resolution
        count = len(w) if self.config.noise else 1  # without weights it has no effect, and need not be drawn
        noise = torch.rand(count, side, side, 1, generator=self.generator).to(self.device)
        with self.autocast():
            images = run_generator(self.synthesis, w, noise).float() * 2 - 1
        # equal channels get equal gradients, so tied colours stay tied
        return images.mean(1, keepdim=True).expand(-1, 3, -1, -1) if self.grey else images

    def compare(self, images: torch.Tensor, real: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Returns the reconstruction loss's gradient on images, of which the first are the photos', and its parts."""
        leaf = images.detach().requires_grad_()
        ours = leaf[: len(real)]
        pixels = (ours - real).square().mean()
        loss, parts = pixels, {"pixels": pixels.detach()}
        if self.features:
            with self.autocast():
                perceptual, identity = measure_distance(self.features, leaf[: len(real)], real)
            loss = loss + self.config.perceptual * perceptual + self.config.identity * identity
            parts |= {"perceptual": perceptual.detach(), "identity": identity.detach()}
        if self.config.inside:
            loss = loss + self.config.inside * (leaf - leaf.clamp(-1, 1)).square().mean()
        return torch.autograd.grad(loss, leaf)[0], parts

    @torch.no_grad()
    def draw_samples(self) -> torch.Tensor:
        """Returns pictures [SHOWN,3,R,R] of the averaged weights, always of the same latents."""
        side = self.config.resolution
        z = torch.randn(SHOWN, self.z_dim, generator=torch.Generator().manual_seed(1)).to(self.device)
        noise = torch.rand(1, side, side, 1, generator=torch.Generator().manual_seed(2)).to(self.device)
        w = self.moments.map(self.averages[0], z)[:, None].expand(-1, self.layers, -1)
        return run_generator(self.averages[1], w, noise) * 2 - 1

    def finish(self) -> dict[str, torch.Tensor]:
        """Returns the averaged weights, named as stylegan2-pytorch names them: "SE.*" and "GE.*"."""
        if self.grey:
            tie_colours(self.averages[1])  # rounding may have parted them in the last bit
        self.moments.fold(self.averages[0])
        return name_weights(*self.averages)


# ---- the training


def train_gan(
    config: GanTraining,
    photos: Photos,
    out: Path,
    *,
    device: torch.device,
    features: FrozenFeatures | None = None,
    resume: bool = False,
    start: Path | None = None,
    on_plan: Callable[[str], None] | None = None,
    on_step: Callable[[dict], None] = lambda row: None,
    on_samples: Callable[[int, torch.Tensor], None] = lambda step, images: None,
) -> TrainedPrior:
    """Returns the trained prior; see Trainer, and loop.run_training.

    photos: public people only. features: by which reconstructions are compared; None: by pixels alone.
    on_plan receives a line on how long the training will take, measured on steps that are undone. start: the state of
    another training to begin with, see Trainer.start_from.
    """
    trainer = Trainer(config, photos, features, device)
    if start and not resume:
        trainer.start_from(load_state(start), start)
    plan = partial(tell_plan, joined=first_with_discriminator(config))
    return run_training(trainer, out, resume=resume, plan=plan, on_plan=on_plan, on_step=on_step, on_samples=on_samples)
