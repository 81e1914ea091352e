"""stylegan2-pytorch networks as priors, run in an equivalent form that needs no grouped convolution.

Source: Karras et al. 2020, Analyzing and Improving the Image Quality of StyleGAN, section 2.2; the networks are those
of the package stylegan2-pytorch 1.9 (lucidrains), whose checkpoints load here.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import logging
import math
import os
import re
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ganinv.weights.cards import read_card, read_json
from ganinv.weights.checkpoints import find_checkpoint
from ganinv.weights.files import (
    check_tensors,  # fmt: skip
    read_tensors,
    save_weights,
)
from ganinv.weights.quantisation import dequantise, quantise
from ganinv.weights.quoting import show

LR_MLP = 0.1  # the package's default; no checkpoint says its own, though the mapping network depends on it
MEAN_LATENTS = 10_000
SEED = 0  # of the noise input and of the latents behind the mean w
SLOPE = 0.2  # of every leaky ReLU
MOST_BLOCKS = 10  # 2048 px; what asks for more is no checkpoint
PARTS = ("S", "G", "D", "SE", "GE", "D_aug", "D_cl")  # of the package's StyleGAN2; SE and GE are the averaged networks

log = logging.getLogger(__name__)


@functools.cache
def import_stylegan2_pytorch() -> types.ModuleType:
    """Returns the package's module of networks, also where there is no GPU.

    The package asserts CUDA and imports the tracker `aim` when it is imported; neither is needed for its networks, so
    both are feigned during the import alone.
    """
    import einops  # noqa: F401  (imported for real before `aim` is feigned)
    import kornia.filters  # noqa: F401
    import torchvision  # noqa: F401

    stub = types.ModuleType("aim")
    stub.__spec__ = importlib.machinery.ModuleSpec("aim", None)
    saved, is_available = sys.modules.get("aim"), torch.cuda.is_available
    sys.modules.setdefault("aim", stub)
    torch.cuda.is_available = lambda: True
    try:
        return importlib.import_module("stylegan2_pytorch.stylegan2_pytorch")
    finally:
        torch.cuda.is_available = is_available
        if saved is None:
            del sys.modules["aim"]


# ---- the equivalent form


@dataclass(frozen=True)
class ConvForm:
    """One modulated convolution. weight: [F,C,k,k], channels last; energy: [C,F], its squares summed over the kernel;
    what is added to its output: places [1 or N,H*W,K] @ noise [K,F], K=2, or 1 where it is the same at all places."""

    weight: torch.Tensor
    energy: torch.Tensor
    places: torch.Tensor
    noise: torch.Tensor
    epsilon: float


@dataclass(frozen=True)
class BlockForm:
    """One resolution. style: weight and bias of its three styles, of which `widths` are the sizes, as one layer; to_rgb:
    [3 or 4,C]; enlarging: the matrix that doubles the picture, None for the last block."""

    attention: nn.Module | None
    style: tuple[torch.Tensor, torch.Tensor]
    widths: tuple[int, int, int]
    convs: tuple[ConvForm, ConvForm]
    to_rgb: torch.Tensor
    enlarging: torch.Tensor | None


@dataclass(frozen=True)
class GeneratorForm:
    """The package's Generator with a noise input, made ready: all that no latent changes is computed.

    start: the first features [1,C,4,4], or what makes them [N,C,4,4] of w.
    """

    start: torch.Tensor | Callable[[torch.Tensor], torch.Tensor]
    blocks: tuple[BlockForm, ...]
    dtype: torch.dtype


def prepare_generator(network: nn.Module, noise: torch.Tensor, dtype: torch.dtype) -> GeneratorForm:
    """Returns the form of the package's Generator in which features and convolutions are of a dtype.

    noise: [N or 1,R,R,1] in [0,1). Styles, demodulation and pictures keep the network's own dtype. Gradients reach the
    network's weights, as training needs it.
    """
    if network.no_const:

        def start(w: torch.Tensor) -> torch.Tensor:
            return network.initial_conv(network.to_initial_block(w.mean(1)[:, :, None, None]))
    else:
        start = network.initial_conv(network.initial_block)
    blocks, side = [], 4
    for block, attention in zip(network.blocks, network.attns, strict=True):
        side *= 2 if block.upsample is not None else 1
        styles = (block.to_style1, block.to_style2, block.to_rgb.to_style)
        # the package scales by the style plus one
        bias = torch.cat([style.bias for style in styles]) + 1
        layers = ((block.conv1, block.to_noise1), (block.conv2, block.to_noise2))
        blocks.append(
            BlockForm(
                attention=attention,
                style=(torch.cat([style.weight for style in styles]), bias),
                widths=tuple(style.out_features for style in styles),
                convs=tuple(prepare_conv(conv, to_noise, noise[:, :side, :side], dtype) for conv, to_noise in layers),
                to_rgb=block.to_rgb.conv.weight[:, :, 0, 0],
                enlarging=make_enlarging(side, bias.device, bias.dtype) if block.to_rgb.upsample is not None else None,
            )
        )
    return GeneratorForm(start, tuple(blocks), dtype)


def prepare_conv(conv: nn.Module, to_noise: nn.Module, noise: torch.Tensor, dtype: torch.dtype) -> ConvForm:
    """Returns the form of a Conv2DMod, and of the layer that makes of noise [N,H,W,1] what is added to its output."""
    # the package swaps height and width of the noise; its checkpoints were trained so
    places, shares = noise.transpose(1, 2).flatten(1, 2), to_noise.weight.T
    silent = not shares.requires_grad and not shares.any()  # trained without: a bias is left
    same = places.new_ones(1 if silent else len(places), places.shape[1], 1)
    places, shares = (same, shares[:0]) if silent else (torch.cat([places, same], 2), shares)
    weight = conv.weight.to(dtype).contiguous(memory_format=torch.channels_last)
    energy = conv.weight.square().sum((2, 3)).T.contiguous()
    return ConvForm(weight, energy, places.to(dtype), torch.cat([shares, to_noise.bias[None]]), conv.eps)


@functools.cache
def make_enlarging(side: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Returns M [2*side,side]: M @ picture @ M.T is its bilinear enlargement, then the package's [1,2,1] blur.

    Two small matrix products take less time than two passes over the pixels, and their gradients too.
    """
    with torch.inference_mode(False), torch.no_grad():
        rows = F.interpolate(torch.eye(side)[:, None], scale_factor=2, mode="linear", align_corners=False)
        blurred = F.conv1d(F.pad(rows, (1, 1), mode="reflect"), torch.tensor([[[0.25, 0.5, 0.25]]]))
        return blurred[:, 0].T.contiguous().to(device, dtype)


class Mixing(torch.autograd.Function):
    """Pictures mix [N,K,C] @ features.T, [N,K,H*W], of features [N,H*W,C].

    torch's own gradient has its channels first in memory, and every pass that meets it then takes tenfold its time.
    """

    @staticmethod
    def forward(ctx, features: torch.Tensor, mix: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(features, mix)
        with torch.autocast(features.device.type, enabled=False):
            return torch.bmm(mix, features.transpose(1, 2))

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features, mix = ctx.saved_tensors
        with torch.autocast(features.device.type, enabled=False):
            return torch.bmm(gradient.transpose(1, 2), mix), torch.bmm(gradient, features)


def run_conv(
    form: ConvForm, x: torch.Tensor, scale: torch.Tensor | None, gain: torch.Tensor, *, upsample: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns features [N,F,H,W], and their factors [N,F], which whoever reads them has yet to multiply.

    x: [N,C,H,W], whose own factors are scale [N,C]; gain: [N,C], the style plus one. Scaling the input by the style,
    convolving, then scaling the output is Conv2DMod with the factors moved (Karras et al. 2020, Eq. 1-3). A style scales
    whole channels, so it commutes with the bilinear upsampling; demodulation, being positive, commutes with the leaky
    ReLU when noise is divided by it, so that it joins the next style and costs no pass over the features.
    """
    dtype = form.weight.dtype
    x = x * (gain if scale is None else gain * scale).to(dtype)[:, :, None, None]
    if upsample:
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    y = F.conv2d(x, form.weight, padding=form.weight.shape[2] // 2)
    norm = (gain.square() @ form.energy + form.epsilon).sqrt()
    return add_and_activate(y, form.places, form.noise * norm[:, None]), 1 / norm


def add_and_activate(y: torch.Tensor, places: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Returns leaky_relu(y + places [1 or N,H*W,K] @ noise [N,K,F]), [N,F,H,W], in the memory of y, which nobody else reads.

    As a matrix product that adds to y: one pass over the features, and one in the gradient, where the sum of a noise map
    and its product with a number a sample take two and three, slowly, over rows of F.
    """
    count, _, height, width = y.shape
    with torch.autocast(y.device.type, enabled=False):
        rows = y.permute(0, 2, 3, 1).flatten(1, 2).to(places.dtype)
        rows = F.leaky_relu_(rows.baddbmm_(places.expand(count, -1, -1), noise.to(places.dtype)), SLOPE)
    return rows.view(count, height, width, -1).permute(0, 3, 1, 2)


def attend(attention: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Returns what the attention layer gives, x [N,C,H,W] -> [N,C,H,W], in float32 also under autocast.

    Its softmax runs over all H*W places, whose shares a 16-bit float rounds away.
    """
    with torch.autocast(x.device.type, enabled=False):
        return attention(x.float()).to(x.dtype)


def draw_pictures(form: GeneratorForm, w: torch.Tensor) -> torch.Tensor:
    """Returns what the package's Generator gives: pictures [N,3 or 4,R,R], about [0,1], of w [N,num_ws,w_dim]."""
    x = form.start(w) if callable(form.start) else form.start.expand(len(w), -1, -1, -1)
    x = x.to(form.dtype).contiguous(memory_format=torch.channels_last)
    scale, picture = None, None
    for index, block in enumerate(form.blocks):
        if block.attention is not None:
            x = x if scale is None else x * scale.to(x.dtype)[:, :, None, None]
            x, scale = attend(block.attention, x).contiguous(memory_format=torch.channels_last), None
        gains = F.linear(w[:, index], *block.style).split(block.widths, dim=1)
        x, scale = run_conv(block.convs[0], x, scale, gains[0], upsample=index > 0)
        x, scale = run_conv(block.convs[1], x, scale, gains[1])
        count, _, height, width = x.shape
        with torch.autocast(x.device.type, enabled=False):
            mix = (block.to_rgb * (gains[2] * scale).to(block.to_rgb)[:, None]).to(x.dtype)
            own = Mixing.apply(x.permute(0, 2, 3, 1).flatten(1, 2), mix).to(w.dtype).view(count, -1, height, width)
            picture = own if picture is None else picture + own
            if block.enlarging is not None:
                picture = block.enlarging @ (picture @ block.enlarging.T)
    return picture


def run_generator(network: nn.Module, w: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Returns what the package's Generator gives: pictures [N,3 or 4,R,R], about [0,1]; for weights that change.

    w: [N,num_ws,w_dim]; noise: [N or 1,R,R,1] in [0,1).
    """
    return draw_pictures(prepare_generator(network, noise, noise.dtype), w)


def build_networks(
    resolution: int, capacity: int, *, attention: tuple[int, ...] = (), no_const: bool = False,
    transparent: bool = False, w_dim: int = 512, depth: int = 8, lr_mlp: float = LR_MLP, fmap_max: int = 512,
) -> tuple[nn.Module, nn.Module]:  # fmt: skip
    """Returns the package's own StyleVectorizer and Generator, initialised as its StyleGAN2 class does."""
    package = import_stylegan2_pytorch()
    mapping = package.StyleVectorizer(w_dim, depth, lr_mul=lr_mlp)
    synthesis = package.Generator(
        resolution, w_dim, capacity,
        transparent=transparent, attn_layers=list(attention), no_const=no_const, fmap_max=fmap_max,
    )  # fmt: skip
    for module in (*mapping.modules(), *synthesis.modules()):
        if type(module) in (nn.Conv2d, nn.Linear):
            nn.init.kaiming_normal_(module.weight, a=0, mode="fan_in", nonlinearity="leaky_relu")
    for block in synthesis.blocks:
        for layer in (block.to_noise1, block.to_noise2):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    return mapping, synthesis


def num_layers(resolution: int) -> int:
    """Returns the number of synthesis blocks, each with a w of its own: log2(R)-1."""
    return int(math.log2(resolution) - 1)


# ---- the prior


class StyleGAN2PyTorch(nn.Module):
    """stylegan2-pytorch's mapping and synthesis networks as an interfaces.Generator: frozen, eval, deterministic.

    mapping, synthesis: the package's StyleVectorizer and Generator. mean_w: [w_dim], by default that of MEAN_LATENTS
    seeded latents. noise: [1,R,R,1] in [0,1), the one noise input that all candidates share, by default seeded.
    """

    w_slope = SLOPE  # of the mapping's last leaky ReLU, which attack.spaces.Whitening undoes

    def __init__(
        self,
        mapping: nn.Module,
        synthesis: nn.Module,
        *,
        mean_w: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
    ):
        super().__init__()
        self.mapping, self.synthesis = mapping, synthesis
        self.resolution, self.num_ws = synthesis.image_size, synthesis.num_layers
        self.z_dim = self.w_dim = synthesis.latent_dim
        seeded = torch.Generator().manual_seed(SEED)
        if noise is None:
            noise = torch.rand(1, self.resolution, self.resolution, 1, generator=seeded)
        if mean_w is None:
            with torch.no_grad():
                z = torch.randn(MEAN_LATENTS, self.z_dim, generator=seeded.manual_seed(SEED))
                mean_w = mapping(z.to(next(mapping.parameters()).device)).mean(0)
        self.register_buffer("noise", noise)
        self.register_buffer("mean_w", mean_w)
        self.forms: dict[torch.dtype, GeneratorForm] = {}
        self.eval().requires_grad_(False)

    def _apply(self, *arguments, **options):
        """Moves or casts the tensors; the forms are of the old ones, and are made anew when they are needed."""
        self.forms.clear()
        return super()._apply(*arguments, **options)

    def _load_from_state_dict(self, *arguments):
        self.forms.clear()
        super()._load_from_state_dict(*arguments)

    def form(self) -> GeneratorForm:
        """Returns the synthesis network made ready, in the dtype of torch.autocast where that is on."""
        own, kind = self.noise.dtype, self.noise.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else own
        if dtype not in self.forms:
            # inference tensors could not take part in a later search
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(kind, enabled=False):
                self.forms[dtype] = prepare_generator(self.synthesis, self.noise, dtype)
        return self.forms[dtype]

    def map(self, z: torch.Tensor, psi: float = 1.0) -> torch.Tensor:
        """Returns w [N,num_ws,w_dim] of z [N,z_dim], the same for every layer, pulled towards the mean w by psi."""
        w = torch.lerp(self.mean_w, self.mapping(z), psi)
        return w[:, None].repeat(1, self.num_ws, 1)

    def synthesize(self, w: torch.Tensor) -> torch.Tensor:
        """Returns images [N,3,R,R], about [-1,1] and not clamped, of w [N,num_ws,w_dim]; differentiable.

        The pictures of a transparent prior are laid on mid-grey (0), which favours neither dark nor bright outlines;
        their alpha is clamped to [0,1].
        """
        if w.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"expected w of shape [N,{self.num_ws},{self.w_dim}], got {list(w.shape)}")
        form = self.form()
        with torch.autocast(w.device.type, enabled=False):  # the form has its own dtype
            pictures = draw_pictures(form, w)
        images = pictures[:, :3] * 2 - 1
        return images if pictures.shape[1] == 3 else images * pictures[:, 3:].clamp(0, 1)


# ---- checkpoints


def load_checkpoint(path: str | Path) -> StyleGAN2PyTorch:
    """Returns the prior of stylegan2-pytorch's own model_<N>.pt or of a file that save_prior wrote, on the CPU.

    path: the file, or a folder models/<name>, whose latest model_<N>.pt is taken. Raises: see parse_checkpoint.
    """
    path = find_checkpoint(path)
    return parse_checkpoint(path, *read_tensors(path))


def parse_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor], said: Mapping) -> StyleGAN2PyTorch:
    """Returns the prior of what read_tensors gave of a file.

    The architecture is read off the tensors, so a model_<N>.pt needs no .config.json beside it; lr_mlp alone stands
    there, and is assumed and logged where nothing says it. A card beside a .safetensors file must carry its SHA-256.
    Raises: ValueError when a file is missing or not whole, its tensors are missing, odd, of another shape or not
    finite, or its card or .config.json tells of another model.
    """
    if path.suffix == ".safetensors" and os.path.lexists(path.with_suffix(".json")):
        read_card(path)
    if any(name.startswith("GAN.") for name in tensors):
        tensors = {name.removeprefix("GAN."): value for name, value in tensors.items() if name.startswith("GAN.")}
    tensors = dict(tensors)
    extras = {name: tensors.pop(name) for name in ("mean_w", "noise") if name in tensors}
    if odd := sorted(name for name in tensors if name.split(".")[0] not in PARTS):
        raise ValueError(f"expected tensors of {', '.join(PARTS)} in {path}, got {', '.join(map(show, odd[:4]))}")
    weights = {name: value for name, value in tensors.items() if name.startswith(("SE.", "GE."))}
    architecture = infer_architecture(weights, path)
    return build_prior(weights, architecture, find_lr_mlp(path, said, architecture), extras, path)


def infer_architecture(weights: Mapping[str, torch.Tensor], path: str | Path) -> dict:
    """Returns what build_networks takes, all but lr_mlp, read off the names and shapes of "SE.*" and "GE.*".

    fmap_max comes back as the widest layer and capacity as half the narrowest, which build the same network.
    Raises: ValueError naming a tensor that this needs and that is missing or of another rank.
    """

    def shape(name: str, ndim: int) -> torch.Size:
        got = list(weights[name].shape) if name in weights else "none of that name"
        if name not in weights or weights[name].ndim != ndim:
            raise ValueError(f"expected the tensor {name} with {ndim} dimensions in {path}, got {got}")
        return weights[name].shape

    def indices(pattern: str) -> list[int]:
        return sorted({int(match[1]) for match in (re.match(pattern, name) for name in weights) if match})

    blocks = indices(r"GE\.blocks\.(\d{1,3})\.")
    if not blocks or blocks != list(range(len(blocks))) or len(blocks) > MOST_BLOCKS:
        raise ValueError(f"expected 1 to {MOST_BLOCKS} blocks GE.blocks.0, 1, ... in {path}, got {blocks or 'none'}")
    narrowest = shape(f"GE.blocks.{blocks[-1]}.conv2.weight", 4)[0]
    return {
        "resolution": 2 ** (len(blocks) + 1),
        "capacity": -(-narrowest // 2),
        "fmap_max": shape("GE.initial_conv.weight", 4)[0],
        "attention": tuple(len(blocks) - index for index in indices(r"GE\.attns\.(\d{1,3})\.")),
        "no_const": "GE.to_initial_block.weight" in weights,
        "transparent": shape("GE.blocks.0.to_rgb.conv.weight", 4)[0] == 4,
        "w_dim": shape("SE.net.0.weight", 2)[1],
        "depth": len(indices(r"SE\.net\.(\d{1,3})\.")),
    }


def find_lr_mlp(path: Path, said: Mapping, architecture: Mapping) -> float:
    """Returns lr_mlp from a file's own metadata or the .config.json beside it; else the default, which is logged.

    Raises: ValueError when the .config.json is broken or tells of another architecture.
    """
    config_path, config = path.with_name(".config.json"), dict(said)
    if "lr_mlp" not in said and path.suffix != ".safetensors" and os.path.lexists(config_path):
        config = read_json(config_path, beside=path)
        found = {"image_size": "resolution", "transparent": "transparent", "no_const": "no_const"}
        other = [name for name, ours in found.items() if config.get(name, architecture[ours]) != architecture[ours]]
        if other:
            raise ValueError(
                f"expected {other[0]} {architecture[found[other[0]]]} as in {path}, got {show(str(config[other[0]]))} from "
                f"{config_path}, which belongs to another model; remove it"
            )
    if "lr_mlp" not in config:
        log.warning("%s does not say lr_mlp: assumed the default, %s", path, LR_MLP)
        return LR_MLP
    try:
        lr_mlp = float(config["lr_mlp"])
    except (TypeError, ValueError, OverflowError):
        lr_mlp = math.nan
    if not math.isfinite(lr_mlp):
        raise ValueError(f"expected a number lr_mlp with {path}, got {show(repr(config['lr_mlp']))}")
    return lr_mlp


def build_prior(
    weights: Mapping[str, torch.Tensor], architecture: Mapping, lr_mlp: float, extras: Mapping[str, torch.Tensor], path
) -> StyleGAN2PyTorch:
    """Returns the prior of weights "SE.*" and "GE.*"; extras: mean_w, noise, if known. Raises: see load_checkpoint."""
    # nothing is drawn for weights that are replaced: faster, and the caller's random numbers stay
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        networks = dict(zip(("SE", "GE"), build_networks(**architecture, lr_mlp=lr_mlp), strict=True))
    expected = {f"{part}.{name}": value for part, net in networks.items() for name, value in net.state_dict().items()}
    weights = check_tensors(weights, expected, path)
    for part, network in networks.items():
        own = {name.removeprefix(f"{part}."): value for name, value in weights.items() if name.startswith(f"{part}.")}
        network.load_state_dict(own, assign=True)
    size = architecture["resolution"]
    sizes = {"mean_w": torch.empty(architecture["w_dim"]), "noise": torch.empty(1, size, size, 1)}
    extras = check_tensors(extras, {name: sizes[name] for name in extras}, path)
    return StyleGAN2PyTorch(networks["SE"], networks["GE"], **extras)


def save_prior(path: str | Path, weights: Mapping[str, torch.Tensor], card: Mapping, *, lr_mlp: float = LR_MLP) -> dict:
    """Writes a prior: <name>.safetensors with weights, mean w and noise, and its card. Returns the card.

    weights: "SE.*" and "GE.*", as train_gan returns them; stored as loading.quantise says, and the mean w is that of the
    stored weights. card: what else there is to say: command, data, seed, metrics, ...
    Raises: ValueError when the weights are no prior, or see loading.save_weights.
    """
    stored = quantise(weights)
    rounded = dequantise(stored)
    architecture = infer_architecture(rounded, path)
    prior = build_prior(rounded, architecture, lr_mlp, {}, path)
    card = {**card, "kind": "stylegan2_pytorch", **architecture, "lr_mlp": lr_mlp, "stored": "int8 rows"}
    tensors = stored | {"mean_w": prior.mean_w, "noise": prior.noise}
    return save_weights(path, tensors, card, metadata={"lr_mlp": str(lr_mlp)})
