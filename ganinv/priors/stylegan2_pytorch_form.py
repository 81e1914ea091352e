"""stylegan2-pytorch's Generator in an equivalent form that needs no grouped convolution.

Source: Karras et al. 2020, Analyzing and Improving the Image Quality of StyleGAN, section 2.2; the networks are those
of the package stylegan2-pytorch 1.9 (lucidrains).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

SLOPE = 0.2  # of every leaky ReLU
CHANNELS_LAST = torch.channels_last


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
    y = y.to(form.places.dtype, memory_format=CHANNELS_LAST)  # autocast may have chosen another
    return Activation.apply(y, form.places, (form.noise * norm[:, None]).to(form.places.dtype)), 1 / norm


class Activation(torch.autograd.Function):
    """leaky_relu(y + places [1 or N,H*W,K] @ noise [N,K,F]), [N,F,H,W], in the memory of y, which nobody else reads.

    As a matrix product that adds to y: one pass over the features, and one in the gradient, where the sum of a noise map
    and its product with a number per sample take two and three, slowly, over rows of F. torch's own gradient of what is
    changed through a view copies all of it four times.
    """

    @staticmethod
    def forward(ctx, y: torch.Tensor, places: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        ctx.mark_dirty(y)
        with torch.autocast(y.device.type, enabled=False):
            rows = y.permute(0, 2, 3, 1).flatten(1, 2)  # a view: y is channels last
            F.leaky_relu_(rows.baddbmm_(places.expand(len(y), -1, -1), noise), SLOPE)
        ctx.save_for_backward(y, places)
        return y

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None, torch.Tensor]:
        y, places = ctx.saved_tensors
        with torch.autocast(y.device.type, enabled=False):
            gradient = torch.ops.aten.leaky_relu_backward(gradient.contiguous(memory_format=CHANNELS_LAST), y, SLOPE, True)
            rows = gradient.permute(0, 2, 3, 1).flatten(1, 2)
            return gradient, None, torch.bmm(places.expand(len(y), -1, -1).transpose(1, 2), rows)


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
