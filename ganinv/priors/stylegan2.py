"""StyleGAN2's networks, run in a form that needs no grouped convolution; nvidia.py and rosinality.py read their files.

Source: Karras et al. 2020, Analyzing and Improving the Image Quality of StyleGAN, section 2.2 and figure 7; Karras et
al. 2018, Progressive Growing of GANs, section 4.1, for the equalised learning rate. Tensors are named as in the
published files of StyleGAN2-ADA. All runs in float32, also layers that were trained in float16.
"""

from __future__ import annotations

import itertools
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ganinv.engine.meta import on_meta
from ganinv.weights.files import check_tensors

FILTER = (1, 3, 3, 1)  # of all published networks; another one is refused
SLOPE = 0.2  # of the leaky ReLU, whose output is multiplied by sqrt(2)
LR_MLP = 0.01  # of the mapping network, in the paper and all published networks
EPSILON = 1e-8
MEAN_LATENTS = 10_000
SEED = 0  # of the latents behind the mean w, and of noise that a file lacks
MOST_RESOLUTION = 2048  # what asks for more is no checkpoint

log = logging.getLogger(__name__)


# ---- filters


def fir_kernel(x: torch.Tensor) -> torch.Tensor:
    """Returns the kernel [C,1,4,4] for x [N,C,H,W]: the filter's outer product, of sum 4, the gain of upsampling."""
    row = torch.tensor(FILTER, dtype=x.dtype, device=x.device) / 4
    return torch.outer(row, row).expand(x.shape[1], 1, 4, 4)


def upsample(x: torch.Tensor) -> torch.Tensor:
    """Returns x [N,C,H,W] at twice its size: zeros between the pixels, then the filter."""
    return F.conv_transpose2d(x, fir_kernel(x), stride=2, padding=1, groups=x.shape[1])


def modulated_conv(
    x: torch.Tensor, weight: torch.Tensor, style: torch.Tensor, *, demodulate: bool = True, up: bool = False
) -> torch.Tensor:
    """Returns x [N,C,H,W] convolved with weight [F,C,k,k] scaled by style [N,C], at twice the size if up.

    Scaling the input by the style, convolving, then scaling the output is the modulated and demodulated convolution
    with the factors moved (Karras et al. 2020, Eq. 1-3).
    """
    y = x * style[:, :, None, None]
    if up:  # zeros between the pixels, convolution and filter in one; the filter takes the extra row and column away
        y = F.conv_transpose2d(y, weight.transpose(0, 1), stride=2)
        y = F.conv2d(y, fir_kernel(y), padding=1, groups=y.shape[1])
    else:
        y = F.conv2d(y, weight, padding=weight.shape[2] // 2)
    if not demodulate:
        return y
    energy = weight.square().sum((2, 3))  # [F,C]
    return y * torch.rsqrt(style.square() @ energy.T + EPSILON)[:, :, None, None]


def normalise(x: torch.Tensor) -> torch.Tensor:
    """Returns x [N,D] scaled to a mean square of 1."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + EPSILON)


def clamp(x: torch.Tensor, limit: float | None) -> torch.Tensor:
    """Returns x clamped to [-limit,limit]; None: x itself."""
    return x if limit is None else x.clamp(-limit, limit)


# ---- networks


@dataclass(frozen=True)
class Architecture:
    """What the networks are built from. channels: of each block, from 4 px on; features: of each mapping layer.

    kind: "skip" (each block adds to the picture), "resnet" or "orig" (the last block alone makes it). label_dim,
    embed_dim: of a conditional prior's labels, else 0. clamp: limit of activations, None for none.
    """

    kind: str
    channels: tuple[int, ...]
    image_channels: int
    z_dim: int
    features: tuple[int, ...]
    label_dim: int = 0
    embed_dim: int = 0
    noise: bool = True
    clamp: float | None = None
    lr_mlp: float = LR_MLP


class Dense(nn.Module):
    """A fully connected layer with an equalised learning rate: weights are stored at unit variance."""

    def __init__(self, inputs: int, outputs: int, *, lr: float = 1.0):
        super().__init__()
        self.lr = lr
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight * (self.lr / math.sqrt(self.weight.shape[1])), self.bias * self.lr)


class MappingNetwork(nn.Module):
    """z [N,z_dim] -> w [N,w_dim]; of a conditional prior, for one label. w_avg [w_dim] is the mean w."""

    def __init__(self, shape: Architecture):
        super().__init__()
        if shape.label_dim:
            self.embed = Dense(shape.label_dim, shape.embed_dim)
        widths = (shape.z_dim + shape.embed_dim, *shape.features)
        for index, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            self.add_module(f"fc{index}", Dense(inputs, outputs, lr=shape.lr_mlp))
        self.depth, self.label_dim, self.label = len(shape.features), shape.label_dim, 0
        self.register_buffer("w_avg", torch.empty(shape.features[-1]))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = normalise(z)
        if self.label_dim:
            one_hot = F.one_hot(torch.tensor([self.label], device=z.device), self.label_dim).to(z.dtype)
            x = torch.cat([x, normalise(self.embed(one_hot)).expand(len(z), -1)], 1)
        for index in range(self.depth):
            x = F.leaky_relu(getattr(self, f"fc{index}")(x), SLOPE) * math.sqrt(2)
        return x


class StyledConv(nn.Module):
    """A 3x3 convolution modulated by w, fixed noise, a bias and a leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, resolution: int, shape: Architecture, *, up: bool = False):
        super().__init__()
        self.up, self.limit = up, shape.clamp
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.empty(outputs))
        self.affine = Dense(shape.features[-1], inputs)
        if shape.noise:
            self.noise_strength = nn.Parameter(torch.empty([]))
            self.register_buffer("noise_const", torch.empty(resolution, resolution))
        self.noise = shape.noise

    def forward(self, x: torch.Tensor, w: torch.Tensor, *, gain: float = 1.0) -> torch.Tensor:
        x = modulated_conv(x, self.weight, self.affine(w), up=self.up)
        if self.noise:
            x = x + self.noise_const * self.noise_strength
        x = F.leaky_relu(x + self.bias[:, None, None], SLOPE) * (math.sqrt(2) * gain)
        return clamp(x, self.limit and self.limit * gain)


class ToRGB(nn.Module):
    """A 1x1 convolution modulated by w, without demodulation, and a bias: features to a picture."""

    def __init__(self, inputs: int, shape: Architecture):
        super().__init__()
        self.limit = shape.clamp
        self.weight = nn.Parameter(torch.empty(shape.image_channels, inputs, 1, 1))
        self.bias = nn.Parameter(torch.empty(shape.image_channels))
        self.affine = Dense(shape.features[-1], inputs)

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        style = self.affine(w) / math.sqrt(x.shape[1])  # the equalised learning rate, which demodulation cancels elsewhere
        x = modulated_conv(x, self.weight, style, demodulate=False)
        return clamp(x + self.bias[:, None, None], self.limit)


class Skip(nn.Module):
    """A 1x1 convolution at twice the size, past the others of a "resnet" block."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return upsample(F.conv2d(x, self.weight / math.sqrt(x.shape[1])))


class Block(nn.Module):
    """One resolution: features and the picture so far, both None before the first."""

    def __init__(self, index: int, shape: Architecture):
        super().__init__()
        outputs, resolution = shape.channels[index], 4 * 2**index
        self.first, self.residual = index == 0, index > 0 and shape.kind == "resnet"
        if self.first:
            self.const = nn.Parameter(torch.empty(outputs, 4, 4))
        else:
            inputs = shape.channels[index - 1]
            self.conv0 = StyledConv(inputs, outputs, resolution, shape, up=True)
        self.conv1 = StyledConv(outputs, outputs, resolution, shape)
        if self.residual:
            self.skip = Skip(inputs, outputs)
        last = index == len(shape.channels) - 1
        self.torgb = ToRGB(outputs, shape) if last or shape.kind == "skip" else None

    def forward(self, x: torch.Tensor | None, picture: torch.Tensor | None, w: torch.Tensor, at: int):
        """Returns features [N,F,H,W], the picture [N,C,H,W] or None, and the index of the next block's first w."""
        if self.first:
            x = self.const.expand(len(w), -1, -1, -1)
        half = math.sqrt(0.5) if self.residual else 1.0
        past = self.skip(x) * half if self.residual else 0.0
        for conv, gain in ((self.conv1, half),) if self.first else ((self.conv0, 1.0), (self.conv1, half)):
            x = conv(x, w[:, at], gain=gain)
            at += 1
        x = x + past
        if picture is not None:
            picture = upsample(picture)
        if self.torgb is not None:  # it shares its w with the next block's first convolution
            own = self.torgb(x, w[:, at])
            picture = own if picture is None else picture + own
        return x, picture, at


class Synthesis(nn.Module):
    """w [N,num_ws,w_dim] -> pictures [N,1 or 3,R,R]."""

    def __init__(self, shape: Architecture):
        super().__init__()
        self.names = [f"b{4 * 2**index}" for index in range(len(shape.channels))]
        for index, name in enumerate(self.names):
            self.add_module(name, Block(index, shape))

    def forward(self, w: torch.Tensor) -> torch.Tensor:
        x, picture, at = None, None, 0
        for name in self.names:
            x, picture, at = getattr(self, name)(x, picture, w, at)
        return picture


# ---- the prior


class StyleGAN2(nn.Module):
    """StyleGAN2's mapping and synthesis networks as an interfaces.Generator: frozen, eval, deterministic.

    The noise inputs are the file's own. A grey prior's pictures have three equal channels.
    """

    w_slope = SLOPE  # of the mapping's last leaky ReLU, which attack.spaces.Whitening undoes

    def __init__(self, shape: Architecture):
        super().__init__()
        self.mapping, self.synthesis = MappingNetwork(shape), Synthesis(shape)
        self.z_dim, self.w_dim = shape.z_dim, shape.features[-1]
        self.num_ws, self.resolution = 2 * len(shape.channels), 4 * 2 ** (len(shape.channels) - 1)
        self.eval().requires_grad_(False)

    def map(self, z: torch.Tensor, psi: float = 1.0) -> torch.Tensor:
        """Returns w [N,num_ws,w_dim] of z [N,z_dim], the same for every layer, pulled towards the mean w by psi."""
        return torch.lerp(self.mapping.w_avg, self.mapping(z), psi)[:, None].repeat(1, self.num_ws, 1)

    def synthesize(self, w: torch.Tensor) -> torch.Tensor:
        """Returns images [N,3,R,R], about [-1,1] and not clamped, of w [N,num_ws,w_dim]; differentiable."""
        if w.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"expected w of shape [N,{self.num_ws},{self.w_dim}], got {list(w.shape)}")
        return self.synthesis(w).to(w.dtype).expand(-1, 3, -1, -1)


# ---- tensors to a prior


def infer_architecture(weights: Mapping[str, torch.Tensor], path: str | Path) -> dict:
    """Returns what Architecture takes, all but clamp and lr_mlp, read off names and shapes.

    Raises: ValueError naming a tensor that this needs and that is missing or of another rank or size.
    """

    def shape(name: str, ndim: int) -> torch.Size:
        if name not in weights or weights[name].ndim != ndim or 0 in weights[name].shape:
            got = list(weights[name].shape) if name in weights else "none of that name"
            raise ValueError(f"expected the tensor {name} with {ndim} dimensions in {path}, got {got}")
        return weights[name].shape

    def numbers(pattern: str) -> list[int]:
        return sorted({int(match[1]) for match in (re.match(pattern, name) for name in weights) if match})

    sides = numbers(r"synthesis\.b(\d{1,5})\.")
    if not sides or sides != [4 * 2**index for index in range(len(sides))] or sides[-1] > MOST_RESOLUTION:
        got = f"blocks of {sides} px" if sides else "none; StyleGAN2 is read, StyleGAN3 and others are not"
        raise ValueError(f"expected blocks synthesis.b4, b8, ... to {MOST_RESOLUTION} px in {path}, got {got}")
    layers = numbers(r"mapping\.fc(\d{1,3})\.")
    if layers != list(range(len(layers))) or not layers:
        raise ValueError(f"expected layers mapping.fc0, fc1, ... in {path}, got {layers or 'none'}")
    embed_dim, label_dim = shape("mapping.embed.weight", 2) if "mapping.embed.weight" in weights else (0, 0)
    image_channels = shape(f"synthesis.b{sides[-1]}.torgb.weight", 4)[0]
    if image_channels not in (1, 3):
        raise ValueError(f"expected a prior of 1 or 3 channels in {path}, got {image_channels}")
    kind = "skip" if "synthesis.b4.torgb.weight" in weights else "orig"
    return {
        "kind": "resnet" if "synthesis.b8.skip.weight" in weights else kind,
        "channels": tuple(shape(f"synthesis.b{side}.conv1.weight", 4)[0] for side in sides),
        "image_channels": image_channels,
        "z_dim": shape("mapping.fc0.weight", 2)[1] - embed_dim,
        "features": tuple(shape(f"mapping.fc{index}.weight", 2)[0] for index in layers),
        "label_dim": label_dim,
        "embed_dim": embed_dim,
        "noise": "synthesis.b4.conv1.noise_strength" in weights,
    }


def take_filters(tensors: Mapping[str, torch.Tensor], suffix: str, total: float, path) -> dict[str, torch.Tensor]:
    """Returns the tensors without those whose name ends in suffix, which must be the filter, scaled to a sum.

    Raises: ValueError when one of them is another filter.
    """
    row = torch.tensor(FILTER, dtype=torch.float32) / sum(FILTER)
    expected, rest = torch.outer(row, row) * total, {}
    for name, tensor in tensors.items():
        if not name.endswith(suffix):
            rest[name] = tensor
        elif tensor.shape != expected.shape or not torch.allclose(tensor.float(), expected, atol=1e-6):
            raise ValueError(f"expected the filter {list(FILTER)} in {path}, got another one, {name}")
    return rest


@torch.no_grad()
def build_prior(
    tensors: Mapping[str, torch.Tensor], path: str | Path, *, lr_mlp: float, limit: float | None = None, label: int = 0
) -> StyleGAN2:
    """Returns the prior of tensors "synthesis.*" and "mapping.*", on the CPU.

    limit: of activations (conv_clamp); label: the class of a conditional prior. Without "mapping.w_avg", the mean w is
    that of MEAN_LATENTS seeded latents.
    Raises: ValueError naming the tensors that are missing, odd, of another shape or not finite.
    """
    shape = Architecture(**infer_architecture(tensors, path), clamp=limit, lr_mlp=lr_mlp)
    if shape.z_dim < 1:
        raise ValueError(f"expected mapping.fc0.weight wider than the label's {shape.embed_dim} in {path}, got no more")
    with on_meta():
        prior = StyleGAN2(shape)
    mean_w = tensors.get("mapping.w_avg")
    tensors = dict(tensors)
    if mean_w is None:
        tensors["mapping.w_avg"] = torch.zeros(prior.w_dim)
    prior.load_state_dict(check_tensors(tensors, prior.state_dict(), path), assign=True)
    if shape.label_dim:
        if not 0 <= label < shape.label_dim:
            raise ValueError(f"expected a label from 0 to {shape.label_dim - 1} for {path}, got {label}")
        prior.mapping.label = label
        log.warning("%s has %d classes: only class %d is used", path, shape.label_dim, label)
    if mean_w is None:
        z = torch.randn(MEAN_LATENTS, prior.z_dim, generator=torch.Generator().manual_seed(SEED))
        prior.mapping.w_avg = prior.mapping(z).mean(0)
    return prior.eval().requires_grad_(False)
