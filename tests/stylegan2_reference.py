"""StyleGAN2's operations the straightforward way: explicit zeros between the pixels, one set of weights a sample."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ganinv.attack.config import AttackConfig
from ganinv.attack.invert import invert
from tests.toys import DistanceRecognizer

ROW = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
FIR = torch.outer(ROW, ROW)  # of sum 1


def stuff(x: torch.Tensor) -> torch.Tensor:
    """Returns x [C,H,W] with a zero after each pixel, [C,2H,2W]."""
    stuffed = torch.zeros(len(x), 2 * x.shape[1], 2 * x.shape[2])
    stuffed[:, ::2, ::2] = x
    return stuffed


def filtered(x: torch.Tensor, before: int, after: int) -> torch.Tensor:
    """Returns x [C,H,W], padded by zeros, convolved with the filter at gain 4, channel by channel."""
    padded = F.pad(x, (before, after, before, after))
    return torch.cat([F.conv2d(channel[None, None], 4 * FIR.flip(0, 1)[None, None])[0] for channel in padded])


def upsampled(x: torch.Tensor) -> torch.Tensor:
    """Returns x [C,H,W] at twice its size."""
    return filtered(stuff(x), 2, 1)


def modulated(x: torch.Tensor, weight: torch.Tensor, style: torch.Tensor, *, demodulate=True, up=False) -> torch.Tensor:
    """Returns x [C,H,W] convolved with the weight [F,C,k,k] of this very sample (Karras et al. 2020, Eq. 1-3)."""
    weight = weight * style[None, :, None, None]
    if demodulate:
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
    if not up:
        return F.conv2d(x[None], weight, padding=weight.shape[2] // 2)[0]
    stuffed = stuff(x)[:, :-1, :-1]  # a convolution proper, with its kernel mirrored, then the filter
    return filtered(F.conv2d(F.pad(stuffed, (2, 2, 2, 2))[None], weight.flip(2, 3))[0], 1, 1)


def dense(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, lr: float = 1.0) -> torch.Tensor:
    """Returns x [D] through a layer of equalised learning rate."""
    return weight @ x * lr / math.sqrt(len(x)) + bias * lr


def lrelu(x: torch.Tensor) -> torch.Tensor:
    """Returns the leaky ReLU of slope 0.2 and gain sqrt(2)."""
    return torch.where(x < 0, 0.2 * x, x) * math.sqrt(2)


def normalised(x: torch.Tensor) -> torch.Tensor:
    """Returns x [D] at a mean square of 1."""
    return x / (x.square().mean() + 1e-8).sqrt()


def complete_an_attack(prior) -> None:
    """Runs two steps in each latent space against a recognizer that knows two of the prior's own pictures."""
    with torch.no_grad():
        centres = prior.synthesize(prior.map(torch.randn(2, prior.z_dim))).mean(1).flatten(1)
    target = DistanceRecognizer(centres, sharpness=1 / centres.var().item())
    for space in ("z", "w", "w_plus"):
        config = AttackConfig(space=space, steps=2, candidates=4, restarts=2, final_transforms=2)
        result = invert(prior, target, (0, 1), config)
        assert result.images.shape == (2, 1, 3, prior.resolution, prior.resolution)
        assert result.images.std() > 0.01 and result.scores.isfinite().all()
