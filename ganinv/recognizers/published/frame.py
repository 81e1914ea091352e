"""From the world's frame to the chip that a published recognizer was trained on: one fixed, differentiable resampling.

A frame says where the mean face lies in a square picture. Between two frames lies the least-squares similarity of their
five points (Umeyama 1991), here without a turn: both faces stand upright, and the turn that is left out moves no point by
more than half a pixel of a chip. So a picture is resampled by one matrix down and one across.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Frame:
    """Where a mean face lies: (x, y) of left eye, right eye, nose tip and the corners of the mouth, as shares of the side.

    Left is the picture's left; (0, 0) is the picture's corner, so the centre of the first of 64 pixels is at 1/128.
    """

    points: Points

    def __post_init__(self):
        numbers = [number for point in self.points for number in point]
        if len(self.points) != 5 or len(numbers) != 10 or not all(math.isfinite(number) for number in numbers):
            raise ValueError(f"expected five points (x, y) of a frame, got {self.points!r}")

    @classmethod
    def of_pixels(cls, side: int, points: Points) -> Frame:
        """Returns the frame of points in pixels of a side, in which a pixel's centre is a whole number."""
        return cls(tuple(((x + 0.5) / side, (y + 0.5) / side) for x, y in points))


# dlib's face chips with a padding of 0.2, as of UTKFace; the shares are of dlib's mean face
WORLD = Frame(((0.304, 0.295), (0.693, 0.294), (0.498, 0.519), (0.320, 0.699), (0.668, 0.700)))
# dlib's face chips with a padding of 0.25, measured on its own chips
DLIB = Frame.of_pixels(150, ((47.6, 46.6), (100.5, 46.6), (74.0, 76.6), (50.4, 103.0), (97.6, 103.0)))
# the five-point template of ArcFace (Deng et al. 2019), also SFace's, InsightFace's and EdgeFace's
ARCFACE = Frame.of_pixels(
    112, ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
)


def fit_similarity(source: Frame, target: Frame) -> tuple[float, float, float]:
    """Returns (scale, right, down), target = scale * source + (right, down) in shares, that fits the five points best.

    Source: Umeyama 1991, Eqs. 40 to 42, with the rotation held at none.
    """
    start, end = np.array(source.points), np.array(target.points)
    centre, goal = start.mean(0), end.mean(0)
    scale = ((start - centre) * (end - goal)).sum() / np.square(start - centre).sum()
    right, down = goal - scale * centre
    return float(scale), float(right), float(down)


@functools.lru_cache(maxsize=64)
def resampling_matrix(length: int, size: int, scale: float, shift: float, beyond: str) -> np.ndarray:
    """Returns float64 [size,length]: rows of weights of a line's pixels, for the same line scaled and shifted.

    A share s of the old line becomes scale * s + shift of the new. Linear between pixels where it is enlarged; where it
    shrinks, the triangle is as wide as a new pixel, which is Pillow's antialiasing. beyond the ends: "edge", the last pixel
    goes on; "zero".
    """
    step = length / (size * scale)  # old pixels a new one
    reach = max(1.0, step)
    centres = ((np.arange(size) + 0.5) / size - shift) / scale * length - 0.5
    near = np.arange(math.floor(centres[0] - reach), math.ceil(centres[-1] + reach) + 1)
    weights = np.clip(1 - np.abs(near - centres[:, None]) / reach, 0, None)
    weights /= weights.sum(1, keepdims=True)
    if beyond == "zero":
        weights[:, (near < 0) | (near >= length)] = 0
    matrix = np.zeros((size, length))
    np.add.at(matrix.T, np.clip(near, 0, length - 1), weights.T)
    return matrix


class Reframe(nn.Module):
    """Pictures [N,3,H,W] in [-1,1] in one frame, of any size, to [N,3,side,side] in another; has no parameters.

    beyond: what is seen where the old picture has ended: "edge", its last pixels; "black", as where the original software
    cuts a chip from a photo that ends there.
    """

    def __init__(self, source: Frame, target: Frame, side: int, *, beyond: str = "edge"):
        super().__init__()
        if beyond not in ("edge", "black"):
            raise ValueError(f"expected edge or black beyond a picture, got {beyond!r}")
        self.side, self.beyond = side, beyond
        self.scale, self.right, self.down = fit_similarity(source, target)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns pictures [N,3,side,side] of the same range and type; differentiable."""
        height, width = images.shape[-2:]
        beyond = "zero" if self.beyond == "black" else "edge"
        down = resampling_matrix(height, self.side, self.scale, self.down, beyond)
        across = resampling_matrix(width, self.side, self.scale, self.right, beyond)
        down, across = (torch.as_tensor(matrix, dtype=images.dtype, device=images.device) for matrix in (down, across))
        with torch.autocast(images.device.type, enabled=False):  # 16 bits would round the picture itself
            return down @ ((images + 1) @ across.T) - 1  # black is 0 between
