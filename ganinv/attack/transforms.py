"""Differentiable augmentation: every draw is per sample, from a generator or streams handed in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ganinv.engine.randomness import Draws

Random = torch.Generator | Draws
Transform = Callable[[torch.Tensor, Random], torch.Tensor]  # images [N,3,H,W] -> images [N,3,H,W]


def uniform(count: int, low: float, high: float, generator: Random) -> torch.Tensor:
    """Returns [count] draws from [low,high), on the generator's device; of streams, sample after sample."""
    if isinstance(generator, Draws):
        return generator.uniform(count, low, high)
    return torch.empty(count, device=generator.device).uniform_(low, high, generator=generator)


def affine_grid(
    size: tuple[int, int], angle: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor, flip: torch.Tensor
) -> torch.Tensor:
    """Returns a sampling grid [N,H,W,2] for grid_sample.

    angle [N] in radians; scale [N], above 1 magnifies; shift [N,2] in half image sides; flip [N] in {-1,1}.
    """
    cosine, sine = torch.cos(angle) / scale, torch.sin(angle) / scale
    rows = torch.stack([flip * cosine, -sine, shift[:, 0], flip * sine, cosine, shift[:, 1]], 1)
    return F.affine_grid(rows.view(-1, 2, 3), [len(rows), 1, *size], align_corners=False)


@dataclass(frozen=True, kw_only=True)
class RandomAffine:
    """Flip, rotate, crop and shift every image by its own draw; edges are reflected, so nothing black enters.

    flip: probability; degrees: largest rotation; scale: smallest and largest magnification; shift: largest shift as a
    share of the image side; whole_pixels: shifts are rounded to pixels, so that alone they blur nothing. One bilinear
    resampling carries them all. Images and gradients keep their range.
    """

    flip: float = 0.5
    degrees: float = 5.0
    scale: tuple[float, float] = (0.95, 1.1)
    shift: float = 0.04
    whole_pixels: bool = False

    def __call__(self, images: torch.Tensor, generator: Random) -> torch.Tensor:
        count = len(images)
        angle = uniform(count, -self.degrees, self.degrees, generator) * (torch.pi / 180)
        scale = uniform(count, *self.scale, generator)
        shift = uniform(2 * count, -2 * self.shift, 2 * self.shift, generator).view(count, 2)
        if self.whole_pixels:
            half_sides = torch.tensor([images.shape[3], images.shape[2]], device=shift.device) / 2
            shift = (shift * half_sides).round() / half_sides
        flip = 1 - 2 * (uniform(count, 0, 1, generator) < self.flip).float()
        grid = affine_grid(tuple(images.shape[-2:]), angle, scale, shift, flip).to(images)
        return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


@dataclass(frozen=True, kw_only=True)
class RandomLight:
    """Scale contrast and shift brightness of every image by its own draw.

    clamp: keep [-1,1]. Off while a prior is trained: a young generator leaves the range, and a clamp hides the way back.
    """

    contrast: float = 0.2
    brightness: float = 0.15
    clamp: bool = True

    def __call__(self, images: torch.Tensor, generator: Random) -> torch.Tensor:
        gain = 1 + uniform(len(images), -self.contrast, self.contrast, generator)
        offset = uniform(len(images), -self.brightness, self.brightness, generator)
        lit = images * gain.to(images)[:, None, None, None] + offset.to(images)[:, None, None, None]
        return lit.clamp(-1, 1) if self.clamp else lit


@dataclass(frozen=True, kw_only=True)
class RandomBlur:
    """Blur a share of the images by down- and upsampling, the loss of detail that a small picture has."""

    probability: float = 0.3
    factor: int = 2

    def __call__(self, images: torch.Tensor, generator: Random) -> torch.Tensor:
        chosen = (uniform(len(images), 0, 1, generator) < self.probability).to(images.device)
        small = F.avg_pool2d(images, self.factor)
        blurred = F.interpolate(small, images.shape[-2:], mode="bilinear", align_corners=False)
        return torch.where(chosen[:, None, None, None], blurred, images)


@dataclass(frozen=True, kw_only=True)
class Cutout:
    """Set one square per image, of `share` of the side, at a random place, to mid-grey."""

    share: float = 0.3
    probability: float = 1.0

    def __call__(self, images: torch.Tensor, generator: Random) -> torch.Tensor:
        count, _, height, width = images.shape
        chosen = uniform(count, 0, 1, generator) < self.probability
        centre = uniform(2 * count, 0, 1, generator).view(count, 2).T[:, :, None]
        half = torch.where(chosen, self.share / 2, -1.0)[:, None]
        y, x = ((torch.arange(side, device=half.device) + 0.5) / side for side in (height, width))
        rows, columns = (y - centre[0]).abs() < half, (x - centre[1]).abs() < half
        keep = ~(rows[:, :, None] & columns[:, None, :])
        return images * keep[:, None].to(images)


@dataclass(frozen=True)
class Chain:
    """Apply transforms one after another."""

    steps: tuple[Transform, ...]

    def __call__(self, images: torch.Tensor, generator: Random) -> torch.Tensor:
        for step in self.steps:
            images = step(images, generator)
        return images
