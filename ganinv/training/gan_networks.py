"""The networks of a training: those that a prior is trained with and does not keep, and what is done to its own."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from ganinv.interfaces import FaultError
from ganinv.priors.stylegan2_pytorch import num_layers

# ---- what a prior is trained with


class ResidualBlock(nn.Module):
    """x [N,C,H,W] -> [N,F,H/2,W/2]."""

    def __init__(self, channels: int, filters: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, filters, 3, padding=1)
        self.skip = nn.Conv2d(channels, filters, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.avg_pool2d(F.leaky_relu(self.conv1(x), 0.2), 2)
        y = F.leaky_relu(self.conv2(y), 0.2)
        return (y + self.skip(F.avg_pool2d(x, 2))) * 0.5**0.5


class ImageNetwork(nn.Module):
    """Images [N,3,R,R] in [-1,1] -> outputs [N,K]: a discriminator's logit (K=1, high for real images) or a code."""

    def __init__(self, resolution: int, width: int, outputs: int = 1, most: int = 384):
        super().__init__()
        channels = [min(most, width * 2**level) for level in range(num_layers(resolution))]
        self.first = nn.Conv2d(3, channels[0], 1)
        self.blocks = nn.ModuleList(ResidualBlock(a, b) for a, b in zip(channels[:-1], channels[1:], strict=True))
        self.compares = outputs == 1  # an image with its neighbours in the batch; a code is of one image alone
        self.last = nn.Conv2d(channels[-1] + self.compares, channels[-1], 3, padding=1)
        self.dense = nn.Linear(channels[-1] * 16, max(256, outputs))
        self.outputs = nn.Linear(max(256, outputs), outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.leaky_relu(self.first(images.contiguous(memory_format=torch.channels_last)), 0.2)
        for block in self.blocks:
            x = block(x)
        if self.compares:
            x = torch.cat([x, minibatch_deviation(x)], 1)
        x = F.leaky_relu(self.last(x), 0.2).flatten(1)
        return self.outputs(F.leaky_relu(self.dense(x), 0.2)).float()


@torch.no_grad()
def start_loud(discriminator: nn.Module) -> None:
    """Draws a discriminator's weights such that its layers keep the size of a signal, in place (He et al. 2015).

    With PyTorch's own, its logits hardly differ at first, and against a trained generator it said nothing for 280 steps.
    """
    for layer in discriminator.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, a=0.2, nonlinearity="leaky_relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def minibatch_deviation(x: torch.Tensor, group: int = 4) -> torch.Tensor:
    """Returns one map [N,1,H,W]: the mean deviation within groups of x [N,C,H,W]. Source: Karras et al. 2018, section 3."""
    count, _, height, width = x.shape
    group = group if count % group == 0 else count
    # groups are neighbours, so that real and generated images of one batch do not share one
    deviation = x.float().reshape(count // group, group, -1).var(1, correction=0).add(1e-8).sqrt().mean(1)
    return deviation.repeat_interleave(group)[:, None, None, None].expand(-1, 1, height, width).to(x.dtype)


# ---- the generator in training


@torch.no_grad()
def update_average(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Moves the averaged weights towards the module's by 1-decay, in place."""
    torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), 1 - decay)


def is_grey(pixels: torch.Tensor) -> bool:
    """Returns whether all photos [N,3,R,R] have three equal channels."""
    return torch.equal(pixels[:, 0], pixels[:, 1]) and torch.equal(pixels[:, 0], pixels[:, 2])


@torch.no_grad()
def tie_colours(synthesis: nn.Module) -> None:
    """Makes a generator's pictures grey, in place: every channel becomes the mean of the three."""
    for block in synthesis.blocks:
        weight = block.to_rgb.conv.weight  # [3,C,1,1]
        weight.copy_(weight.mean(0, keepdim=True).expand_as(weight))


def silence_noise(synthesis: nn.Module) -> None:
    """Fixes the weights of a generator's noise inputs at zero, in place; their biases, which are the layers', stay."""
    for block in synthesis.blocks:
        for layer in (block.to_noise1, block.to_noise2):
            layer.weight.requires_grad_(False).zero_()


@torch.no_grad()
def soften(synthesis: nn.Module, times: float = 0.1) -> None:
    """Lowers the contrast of a newborn generator's pictures, in place: they begin within [-1,1]."""
    for block in synthesis.blocks:
        block.to_rgb.conv.weight.mul_(times)


def name_weights(mapping: nn.Module, synthesis: nn.Module) -> dict[str, torch.Tensor]:
    """Returns the weights of a prior as stylegan2-pytorch names its averaged ones: "SE.*" and "GE.*"."""
    nets = {"SE": mapping, "GE": synthesis}
    return {f"{name}.{key}": value for name, net in nets.items() for key, value in net.state_dict().items()}


def clip_gradients(optimizer: torch.optim.Optimizer, usual: torch.Tensor, most: float, step: int) -> None:
    """Shortens the gradient of all parameters to `most` times its usual length, a running mean, which it updates.

    Raises: FaultError when the gradient is not finite.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    before = usual.item()
    limit = most * before if before > 0 else math.inf
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
    if not torch.isfinite(norm):
        raise FaultError(f"the training diverged at step {step}; go on from its last state with --resume and a lower --lr")
    usual.lerp_(norm.clamp(max=limit), 0.01 if before > 0 else 1.0)
