"""The networks that are timed: every prior and target twice, as their packages run them and as the engine does.

Weights are random; batch norms are calibrated on the prior's own pictures, since others give denormal numbers, which
slow a CPU. Both come from the same files, the engine's through the public loaders.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from ganinv.attack.transforms import RandomAffine
from ganinv.engine import precision
from ganinv.engine.randomness import seeded
from ganinv.interfaces import Generator, Recognition, Recognizer
from ganinv.priors.loading import load_generator
from ganinv.priors.stylegan2_pytorch import LR_MLP, build_networks
from ganinv.recognizers.classifiers import FACENET, import_facenet
from ganinv.recognizers.loading import load_recognizer
from ganinv.recognizers.preprocessing import Preprocessing
from ganinv.weights.specs import freeze

IDENTITIES = 64
TARGETS = ("mobilenet_v3_small", "resnet18", "inception_resnet_v1")
TRANSFORM = RandomAffine()


@dataclass(frozen=True)
class Route:
    """A prior and a target: the way from a latent to a score."""

    generator: Generator
    recognizer: Recognizer


@dataclass(frozen=True)
class Pair:
    """The same prior and target as their packages run them, and as the engine does."""

    name: str
    stock: Route
    engine: Route


# ---- the stock side


class StockGenerator(nn.Module):
    """stylegan2-pytorch's own modules behind interfaces.Generator: its forward, with a grouped convolution a layer."""

    def __init__(self, mapping: nn.Module, synthesis: nn.Module, mean_w: torch.Tensor, noise: torch.Tensor):
        super().__init__()
        self.mapping, self.synthesis = mapping, synthesis
        self.resolution, self.num_ws = synthesis.image_size, synthesis.num_layers
        self.z_dim = self.w_dim = synthesis.latent_dim
        self.register_buffer("mean_w", mean_w)
        self.register_buffer("noise", noise)

    def map(self, z: torch.Tensor, psi: float = 1.0) -> torch.Tensor:
        """Returns w [N,num_ws,w_dim]."""
        return torch.lerp(self.mean_w, self.mapping(z), psi)[:, None].repeat(1, self.num_ws, 1)

    def synthesize(self, w: torch.Tensor) -> torch.Tensor:
        """Returns images [N,3,R,R]."""
        return self.synthesis(w, self.noise.expand(len(w), -1, -1, -1)) * 2 - 1


class StockRecognizer(nn.Module):
    """A package's classifier behind interfaces.Recognizer."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing):
        super().__init__()
        self.network, self.preprocessing = network, preprocessing
        self.num_identities = self.embedding_dim = IDENTITIES

    def forward(self, images: torch.Tensor) -> Recognition:
        """Returns the logits, and as embeddings their direction."""
        logits = self.network(self.preprocessing(images))
        return Recognition(F.normalize(logits, dim=1), logits)


def build_target(name: str, side: int) -> tuple[nn.Module, Preprocessing]:
    """Returns a random classifier of IDENTITIES people and what it is fed: facenet's at its 160 px, others at `side`."""
    if name == "inception_resnet_v1":
        return import_facenet().InceptionResnetV1(classify=True, num_classes=IDENTITIES), FACENET
    import torchvision

    network = torchvision.models.get_model(name, weights=None, num_classes=IDENTITIES)
    return network, Preprocessing(size=side, range=(0.0, 1.0), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@torch.no_grad()
def calibrate(network: nn.Module, inputs: torch.Tensor) -> None:
    """Sets the statistics of batch norms to those of inputs [N,C,H,W], in place; leaves the network in eval mode."""
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.reset_running_stats()
            layer.momentum = None  # the plain mean over what was seen
    network.train()(inputs)
    network.eval()


@torch.no_grad()
def build_prior(capacity: int, side: int) -> StockGenerator:
    """Returns a random prior whose pictures fill [-1,1] and whose noise inputs speak."""
    mapping, synthesis = build_networks(side, capacity)
    for block in synthesis.blocks:
        for layer in (block.to_noise1, block.to_noise2):
            nn.init.normal_(layer.weight, std=0.1)
            nn.init.normal_(layer.bias, std=0.1)
    noise = torch.rand(1, side, side, 1)
    prior = StockGenerator(mapping, synthesis, mapping(torch.randn(256, synthesis.latent_dim)).mean(0), noise)
    spread = synthesis(prior.map(torch.randn(16, prior.z_dim)), noise).std()
    for block in synthesis.blocks:
        block.to_rgb.conv.weight.mul_(0.25 / spread)
    return prior


# ---- both sides


def write_pair(capacity: int, target: str, side: int, prior_file: Path, target_file: Path) -> None:
    """Writes the weights of a random prior and of a target that is calibrated on its pictures."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(capacity)
        prior = build_prior(capacity, side).eval()
        network, preprocessing = build_target(target, side)
        with torch.no_grad():
            pictures = prior.synthesize(prior.map(torch.randn(16, prior.z_dim))).clamp(-1, 1)
            calibrate(network, preprocessing(pictures))
    tensors = {f"SE.{key}": value for key, value in prior.mapping.state_dict().items()}
    tensors |= {f"GE.{key}": value for key, value in prior.synthesis.state_dict().items()}
    save_file(tensors | {"mean_w": prior.mean_w, "noise": prior.noise}, prior_file, {"lr_mlp": str(LR_MLP)})
    fed = {key: getattr(preprocessing, key) for key in ("size", "range", "mean", "std")}
    target_file.with_suffix(".json").write_text(json.dumps({"preprocessing": fed}))
    save_file(network.state_dict(), target_file)


def build_pair(capacity: int, target: str, folder: Path, device: torch.device, *, side: int = 64) -> Pair:
    """Returns a prior of a capacity and a target of TARGETS on both sides; their files stay in the folder."""
    name = f"{target}-{capacity}-{side}.safetensors"
    prior_file, target_file = folder / f"prior-{name}", folder / f"target-{name}"
    if not target_file.is_file():
        write_pair(capacity, target, side, prior_file, target_file)
    tensors = load_file(prior_file)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        networks = dict(zip(("SE", "GE"), build_networks(side, capacity), strict=True))
    for part, module in networks.items():
        own = {key.removeprefix(f"{part}."): value for key, value in tensors.items() if key.startswith(f"{part}.")}
        module.load_state_dict(own, assign=True)
    prior = StockGenerator(networks["SE"], networks["GE"], tensors["mean_w"], tensors["noise"])
    with torch.random.fork_rng(devices=[]):
        network, preprocessing = build_target(target, side)
    network.load_state_dict(load_file(target_file))
    spec = f"facenet:{target_file}" if target == "inception_resnet_v1" else f"torchvision:{target}:{target_file}"
    return Pair(
        f"capacity {capacity}, {target}",
        Route(freeze(prior, device), freeze(StockRecognizer(network, preprocessing), device)),
        Route(
            load_generator(str(prior_file), device),
            precision.ready_recognizer(load_recognizer(spec, device, resolution=side), side, device),
        ),
    )


def draw_latents(generator: Generator, count: int, device: torch.device) -> torch.Tensor:
    """Returns seeded w [count,num_ws,w_dim]."""
    z = torch.randn(count, generator.z_dim, generator=seeded("benchmark", count)).to(device)
    with torch.no_grad():
        return generator.map(z, 0.8).clone()


def take_step(
    route: Route, w: torch.Tensor, identities: torch.Tensor, random: torch.Generator, *, transforms: int = 1
) -> torch.Tensor:
    """Returns the gradient [N,num_ws,w_dim] of the identities' logits: forward and backward, with random transforms."""
    w = w.detach().requires_grad_()
    images = route.generator.synthesize(w)
    views = (TRANSFORM(images, random) for _ in range(transforms))
    total = sum(route.recognizer(view).logits.gather(1, identities[:, None]).sum() for view in views)
    return torch.autograd.grad(total, w)[0]


def make_step(route: Route, batch: int, device: torch.device, **options) -> Callable[[], torch.Tensor]:
    """Returns a function that takes one step of a seeded batch. options: see take_step."""
    w, identities = draw_latents(route.generator, batch, device), torch.arange(batch, device=device) % IDENTITIES
    random = seeded("transforms")
    return lambda: take_step(route, w, identities, random, **options)


def pull_back(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Returns a function that runs forward and backward: the gradient at x of the output's product with seeded numbers."""
    leaf = x.detach().requires_grad_()

    def run() -> torch.Tensor:
        y = function(leaf)
        pull = torch.randn(y.shape, generator=seeded("pull")).to(y)
        return torch.autograd.grad(y, leaf, pull)[0]

    return run


def compare_sides(pair: Pair, device: torch.device, batch: int = 4) -> dict[str, float]:
    """Returns how far the engine is from the stock modules, fed the same latents and the same pictures.

    pictures: greatest difference; logits: greatest difference over their spread; prior_gradients, target_gradients: norm
    of the difference over the norm.
    """
    w = draw_latents(pair.stock.generator, batch, device)
    with torch.no_grad():
        pictures = pair.stock.generator.synthesize(w)
        difference = (pair.engine.generator.synthesize(w) - pictures).abs().max()
        theirs, ours = (side.recognizer(pictures).logits for side in (pair.stock, pair.engine))
    found = {"pictures": difference.item(), "logits": ((ours - theirs).abs().max() / theirs.std()).item()}
    sides = (pair.stock, pair.engine)
    for name, (theirs, ours) in {
        "prior_gradients": [pull_back(side.generator.synthesize, w)() for side in sides],
        "target_gradients": [pull_back(lambda x, side=side: side.recognizer(x).logits, pictures)() for side in sides],
    }.items():
        found[name] = ((ours - theirs).norm() / theirs.norm()).item()
    return found


# ---- precision


def choose_precision(route: Route, batch: int, device: torch.device) -> tuple[Route, str]:
    """Returns prior and target as --precision=auto runs them, and says what was taken."""
    w = draw_latents(route.generator, batch, device)
    choice = precision.choose_precision("auto", route.generator, route.recognizer, w)
    return Route(*choice.apply(route.generator, route.recognizer)), choice.line.removeprefix("precision: ")
