"""Refining of a prior: the features of its samples are drawn to where those of photos lie.

No encoder: samples are looked at by frozen networks, and the optimal transport between two Gaussians says where each sample's
features ought to be; see transport.py. Critics beside it, small discriminators on the same networks' maps, see what two
Gaussians have no word for, such as grain.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from ganinv.engine import cache
from ganinv.engine.checkpoint import hash_state, restore
from ganinv.engine.progress import open_bar
from ganinv.engine.randomness import seeded
from ganinv.interfaces import Generator
from ganinv.photos import Photos, hash_photos
from ganinv.priors.stylegan2_pytorch import OlderNorm, StyleGAN2PyTorch, lay_on_grey
from ganinv.priors.stylegan2_pytorch_form import run_generator
from ganinv.training.critics import Critics, build_feature_discriminator
from ganinv.training.frozen_features import FrozenFeatures, SeveralFeatures
from ganinv.training.gan_networks import clip_gradients, is_grey, name_weights, tie_colours, update_average
from ganinv.training.loop import SHOWN, TrainedPrior, run_training
from ganinv.training.pictures import draw_photos
from ganinv.training.schedule import fall, tell_even_plan
from ganinv.training.transport import Gaussian, Sums, Transport

LOOKED_AT = 50  # pictures at a time
PROBED = 8  # photos by whose features a network is known again


@dataclass(frozen=True, kw_only=True)
class Refining:
    """How a prior is refined."""

    steps: int = 3000
    minutes: float = 0.0  # of training; steps are then as many as there is time for, and a resumed one is not the same
    batch: int = 32  # samples a step
    lr: float = 2e-5  # of synthesis and mapping alike: at twice as much, samples swing about the photos
    warm: int = 50  # steps in which the rate rises
    decay: float = 0.35  # share of the steps, at the end, in which the rate falls to zero in a straight line
    depths: tuple[float, ...] = (1.0, 0.5)  # weights of the deepest that a network sees, of what lies before it, ...
    strangers: float = 0.3  # of the deepest map of a network without embeddings, which knows things and not people
    jitter: float = 0.15  # of a picture's side, which a random crop leaves out at most: pixels cannot be tuned to a network
    most_photos: int = 20_000  # that are looked at
    components: int = 256  # principal components of a map's features, at most
    queue: int = 2000  # samples whose features the covariance is taken of
    recent: int = 500  # the last of them, whose mean is taken: an older one lags behind
    every: int = 4  # steps between two transports
    inside: float = 5.0  # weight of the square of what a picture has beyond [-1,1], where frozen networks are blind
    adversarial: float = 0.6  # size of the critics' gradient on a sample, in units of all else's; 0: there are no critics
    critics_lr: float = 2e-4
    average: float = 0.995  # per step, of the weights that are kept
    clip: float = 3.0  # longest gradient, in units of its running length
    precision: str = "bfloat16"  # of the convolutions; weights, features and averages stay float32
    seed: int = 0
    save_every_s: float = 180.0
    sample_every: int = 500


# ---- what networks see


def check_refinable(prior: Generator) -> StyleGAN2PyTorch:
    """Returns the prior. Raises: ValueError unless its networks can be trained, and kept as save_prior keeps them."""
    if not isinstance(prior, StyleGAN2PyTorch):
        raise ValueError(
            f"expected a prior of stylegan2-pytorch to refine, got {type(prior).__name__}; pass --prior=FILE.safetensors, "
            "as train_gan.py writes it"
        )
    if any(isinstance(module, OlderNorm) for module in prior.synthesis.modules()):
        raise ValueError("expected a prior of stylegan2-pytorch from 1.8.8 on, got an older one, whose attention is another")
    return prior


def pool(features: torch.Tensor) -> torch.Tensor:
    """Returns the mean [N,C] over the places of a map [N,C,h,w]."""
    return features.float().mean((2, 3))


def crop_randomly(images: torch.Tensor, side: int, jitter: float, generator: torch.Generator) -> torch.Tensor:
    """Returns a random crop [N,3,side,side] of each image, whose side is shorter by up to `jitter` of its own."""
    count = len(images)
    scale = 1 - jitter * torch.rand(count, generator=generator)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = (torch.rand(count, 2, generator=generator) * 2 - 1) * (1 - scale)[:, None]
    grid = F.affine_grid(theta.to(images), [count, 3, side, side], align_corners=False)
    return F.grid_sample(images.contiguous(), grid, mode="bilinear", padding_mode="border", align_corners=False)


@dataclass(frozen=True)
class Eye:
    """A frozen network that looks at random crops of pictures [N,3,R,R].

    What it sees is, from the deepest on: its embedding, then the means of its last map, of the one before it, ... An
    embedding that is merely the mean of the last map is not seen twice; see FrozenFeatures.embeds_beyond_maps.

    weights: of what it sees, the deepest first; size: of the pictures that it looks at; side: of the crops, which all
    networks share.
    """

    network: FrozenFeatures
    weights: tuple[float, ...]
    size: int
    side: int
    jitter: float

    def look(self, crops: torch.Tensor) -> list[torch.Tensor]:
        """Returns what has a weight of what the network sees, each [N,C], the deepest first."""
        if crops.shape[3] != self.size:
            crops = F.interpolate(crops, size=self.size, mode="bilinear", antialias=True)
        maps, embedding = self.network.look(crops, pool)
        seen = [*maps, embedding] if self.network.embeds_beyond_maps else maps
        return seen[::-1][: len(self.weights)]

    def crop(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Returns what is looked at of images."""
        return crop_randomly(images, self.side, self.jitter, generator)


def make_eyes(networks: Sequence[FrozenFeatures], config: Refining, example: torch.Tensor) -> list[Eye]:
    """Returns the eyes of networks; example: pictures [N,3,R,R]. Raises: ValueError for a network that has no maps."""
    resolution, eyes = example.shape[3], []
    sizes = [getattr(network, "side", 0) or resolution for network in networks]
    for network, size in zip(networks, sizes, strict=True):
        maps, embeddings = network.look(example, pool)
        if not maps:
            raise ValueError("expected frozen networks with maps, got one that has none; pass another --critic")
        deepest = len(maps) + network.embeds_beyond_maps
        weights = config.depths[:deepest] if embeddings is not None else (config.strangers,)
        eyes.append(Eye(network, weights, size, max(resolution, *sizes), config.jitter))
    return eyes


@torch.no_grad()
def fit_photos(eye: Eye, photos: Photos, most: int, device: torch.device) -> list[Gaussian]:
    """Returns the Gaussians of what an eye sees of photos, at most so many of them, and of their mirror images.

    They are kept for the next time in $XDG_CACHE_HOME/ganinv, found again by the photos and by what the network makes of
    the first of them.
    """
    generator = seeded("photos")
    chosen = torch.randperm(len(photos), generator=generator)[:most]
    probes = eye.look(photos.images(slice(PROBED), device))
    digest = hashlib.sha256(f"{hash_photos(photos)} {len(chosen)} {eye.size} {eye.side} {eye.jitter}".encode())
    for probe in probes:
        digest.update(probe.cpu().contiguous().numpy().tobytes())
    files = [cache.find_place(f"gaussian-{digest.hexdigest()[:16]}-{index}") for index in range(len(probes))]
    sizes = [probe.shape[1] for probe in probes]
    kept = [cache.recall(file, "moments", (size + 1, size), torch.float64) for file, size in zip(files, sizes, strict=True)]
    if any(moments is None for moments in kept):
        sums = [Sums() for _ in probes]
        for part in open_bar(chosen.split(LOOKED_AT), "looking at photos", leave=False):
            images = photos.images(part, device)
            for one, rows in zip(sums, eye.look(eye.crop(torch.cat([images, images.flip(3)]), generator)), strict=True):
                one.add(rows)
        fitted = [one.fit() for one in sums]
        kept = [torch.cat([one.mean[None], one.covariance]).cpu() for one in fitted]
        for file, moments in zip(files, kept, strict=True):
            cache.keep(file, "moments", moments)
    return [Gaussian(moments[0].to(device), moments[1:].to(device)) for moments in kept]


# ---- a step


class Refiner:
    """All that a refining changes, and one step of it; see loop.PriorTrainer."""

    def __init__(
        self, config: Refining, prior: StyleGAN2PyTorch, photos: Photos, networks: Sequence[FrozenFeatures],
        device: torch.device,
    ):  # fmt: skip
        """Raises: ValueError for fewer than two photos, or a network that has no maps."""
        if len(photos) < 2:
            raise ValueError(f"expected at least 2 photos, got {len(photos)}; add some to --photos")
        self.config, self.photos, self.device = config, photos, device
        self.noise, self.num_ws, self.z_dim = prior.noise.to(device), prior.num_ws, prior.z_dim
        nets = [copy.deepcopy(net).to(device) for net in (prior.mapping, prior.synthesis)]
        self.start = hash_state(
            "", {f"{i}.{name}": value.cpu() for i in (0, 1) for name, value in nets[i].state_dict().items()}
        )
        self.mapping, self.synthesis = (net.requires_grad_(True) for net in nets)
        self.grey = is_grey(photos.pixels)
        if self.grey:
            tie_colours(self.synthesis)
        for block in self.synthesis.blocks:  # the prior's own treatment of noise stays
            for layer in (block.to_noise1, block.to_noise2):
                layer.weight.requires_grad_(False)
        self.averages = [copy.deepcopy(net).requires_grad_(False) for net in (self.mapping, self.synthesis)]
        trained = [p for net in (self.mapping, self.synthesis) for p in net.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(trained, config.lr, betas=(0.5, 0.99))
        self.norm = torch.zeros((), device=device)  # the usual length of a gradient
        self.generator = seeded(config.seed, "refining")
        self.eyes = make_eyes(networks, config, photos.images(slice(2), device))
        most = min(config.components, len(photos) - 1)
        gaussians = [one for eye in self.eyes for one in fit_photos(eye, photos, config.most_photos, device)]
        self.transports = [Transport(one, most) for one in gaussians]
        self.weights = [weight for eye in self.eyes for weight in eye.weights]
        self.rows = [torch.zeros(0, one.basis.shape[1], device=device) for one in self.transports]  # of the last samples
        self.place = 0  # in them, of the next
        self.critics = self.build_critics(networks) if config.adversarial else None

    def build_critics(self, networks: Sequence[FrozenFeatures]) -> Critics:
        """Returns newborn critics on the maps of all networks."""
        config = self.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            discriminator = build_feature_discriminator(SeveralFeatures(networks), self.photos, config.seed, self.device)
        discriminator = discriminator.to(self.device, memory_format=torch.channels_last)
        scale = torch.zeros((), device=self.device)
        return Critics(discriminator, config.critics_lr, config.adversarial, self.generator, scale)

    def modules(self) -> dict[str, torch.nn.Module]:
        """Returns what has a state, by the names of stylegan2-pytorch."""
        nets = {"S": self.mapping, "G": self.synthesis, "SE": self.averages[0], "GE": self.averages[1]}
        return nets | ({"D": self.critics.discriminator} if self.critics else {})

    def state(self, step: int) -> dict:
        """Returns all that a refining needs to go on from a step."""
        kept = {name: net.state_dict() for name, net in self.modules().items()} | {
            "optimizer": self.optimizer.state_dict(),
            "norm": self.norm,
            "rows": self.rows,
            "place": self.place,
            "transports": [one.state() for one in self.transports],
            "random": self.generator.get_state(),
            "start": self.start,
            "step": step,
        }
        if self.critics:
            kept["critics"] = {"optimizer": self.critics.optimizer.state_dict(), "scale": self.critics.scale}
        return kept

    def restore(self, state: dict, file: Path) -> int:
        """Takes up a state, and returns the step that comes next. Raises: ValueError when it is of other settings."""
        if state["start"] != self.start:
            raise ValueError("it began with another prior")
        if ("critics" in state) != bool(self.critics):
            had = "critics; pass --adversarial as it was" if "critics" in state else "no critics; pass --adversarial=0"
            raise ValueError(f"it has {had}")
        if [rows.shape[0] for rows in state["rows"]] != [self.count_rows()] * len(self.rows):
            raise ValueError("it is of another batch or queue")
        pairs = list(zip(self.transports, state["transports"], strict=True))
        if not all(math.isclose(kept["variance"], own.variance, rel_tol=1e-3) for own, kept in pairs):
            raise ValueError("it is of other photos, or of other networks")
        for name, net in self.modules().items():
            restore(net, state[name], file)
        restore(self.optimizer, state["optimizer"], file)
        if self.critics:
            restore(self.critics.optimizer, state["critics"]["optimizer"], file)
            self.critics.scale.copy_(state["critics"]["scale"])
        self.norm = state["norm"].to(self.device)
        self.rows, self.place = [rows.to(self.device) for rows in state["rows"]], state["place"]
        for own, kept in pairs:
            own.restore(kept)
        self.generator.set_state(state["random"])
        return state["step"]

    def generate(self, nets: Sequence[torch.nn.Module], z: torch.Tensor) -> torch.Tensor:
        """Returns images [N,3,R,R], about [-1,1], of z."""
        w = nets[0](z.to(self.device))[:, None].expand(-1, self.num_ws, -1)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            images = lay_on_grey(run_generator(nets[1], w, self.noise).float())
        # equal channels get equal gradients, so tied colours stay tied
        return images.mean(1, keepdim=True).expand(-1, 3, -1, -1) if self.grey else images

    def draw(self, count: int) -> torch.Tensor:
        """Returns images of new samples."""
        return self.generate((self.mapping, self.synthesis), torch.randn(count, self.z_dim, generator=self.generator))

    def look(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Returns the components [N,K] of images in every map that is looked at."""
        crops = self.eyes[0].crop(images, self.generator)
        seen = [rows for eye in self.eyes for rows in eye.look(crops)]
        return [transport.project(rows) for transport, rows in zip(self.transports, seen, strict=True)]

    def count_rows(self) -> int:
        """Returns how many samples' rows are kept: whole batches."""
        return math.ceil(self.config.queue / self.config.batch) * self.config.batch

    @torch.no_grad()
    def fill(self) -> None:
        """Fills the rows with those of the first samples."""
        parts = [self.look(self.draw(self.config.batch)) for _ in range(self.count_rows() // self.config.batch)]
        self.rows = [torch.cat(rows) for rows in zip(*parts, strict=True)]

    def keep(self, seen: Sequence[torch.Tensor]) -> None:
        """Puts the rows of a batch in the place of the oldest."""
        for rows, new in zip(self.rows, seen, strict=True):
            rows[self.place : self.place + len(new)] = new.detach()
        self.place = (self.place + len(seen[0])) % len(self.rows[0])

    def update_transports(self) -> None:
        """Finds all transports anew."""
        recent = min(self.config.recent, len(self.rows[0]))
        index = torch.arange(self.place - recent, self.place, device=self.device) % len(self.rows[0])
        for transport, rows in zip(self.transports, self.rows, strict=True):
            transport.update(rows, rows[index])

    def train_step(self, step: int) -> tuple[dict, torch.Tensor]:
        """Draws a batch of samples nearer to photos; returns a row for the log, and no pictures but samples."""
        config = self.config
        if step % config.every == 0:
            self.update_transports()
        falling = fall(step, config.steps, config.decay)
        self.optimizer.param_groups[0]["lr"] = config.lr * min(1.0, (step + 1) / config.warm) * falling
        images = self.draw(config.batch)
        leaf = images.detach().requires_grad_()
        seen, outside = self.look(leaf), (leaf - leaf.clamp(-1, 1)).square().mean()
        pulls = [weight * one.pull(rows) for weight, one, rows in zip(self.weights, self.transports, seen, strict=True)]
        (gradient,) = torch.autograd.grad(sum(pulls) + config.inside * outside, leaf)
        row = {"step": step} | self.tell_gap() | {"outside": outside.detach()}
        if self.critics:
            self.critics.set_rate(config.critics_lr * falling)
            real = draw_photos(self.photos, config.batch, self.generator, self.device)
            row["discriminator"], judged = self.critics.train(real, leaf, step)
            row["generator"], push = self.critics.push(leaf, judged, gradient.norm(), step)
            gradient += push
        self.optimizer.zero_grad(set_to_none=True)
        images.backward(gradient)
        clip_gradients(self.optimizer, self.norm, config.clip, step)
        self.optimizer.step()
        # a short memory at first, so that early averages are not full of the first weights
        decay = min(config.average, (step + 1) / (step + 10))
        for average, net in zip(self.averages, (self.mapping, self.synthesis), strict=True):
            update_average(average, net, decay)
        self.keep(seen)
        return row, images[:0].detach()

    def tell_gap(self) -> dict[str, float]:
        """Returns transport.Gap's numbers when the transports were found last, a mean over the maps by their weights."""
        shares = [weight / sum(self.weights) for weight in self.weights]
        return {
            name: sum(share * getattr(one.gap, name) for share, one in zip(shares, self.transports, strict=True))
            for name in ("distance", "mean", "spread")
        }

    @torch.no_grad()
    def draw_samples(self) -> torch.Tensor:
        """Returns pictures [SHOWN,3,R,R] of the averaged weights, always of the same latents."""
        return self.generate(self.averages, torch.randn(SHOWN, self.z_dim, generator=torch.Generator().manual_seed(1)))

    def finish(self) -> dict[str, torch.Tensor]:
        """Returns the averaged weights, named as stylegan2-pytorch names them: "SE.*" and "GE.*"."""
        if self.grey:
            tie_colours(self.averages[1])  # rounding may have parted them in the last bit
        return name_weights(*self.averages)


def refine_prior(
    config: Refining,
    prior: Generator,
    photos: Photos,
    networks: Sequence[FrozenFeatures],
    out: Path,
    *,
    device: torch.device,
    resume: bool = False,
    on_plan: Callable[[str], None] | None = None,
    on_step: Callable[[dict], None] = lambda row: None,
    on_samples: Callable[[int, torch.Tensor], None] = lambda step, images: None,
) -> TrainedPrior:
    """Returns the refined prior; the one that is given stays as it is. See Refiner, and loop.run_training.

    photos: public people only, of the prior's resolution. networks: no judges of what the prior yields.
    Raises: ValueError, see check_refinable and Refiner.
    """
    refiner = Refiner(config, check_refinable(prior), photos, networks, device)
    if not resume:
        refiner.fill()
    plan = partial(tell_even_plan, every=config.every)
    return run_training(refiner, out, resume=resume, plan=plan, on_plan=on_plan, on_step=on_step, on_samples=on_samples)
