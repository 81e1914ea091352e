"""Shapes and curves of which a head is made: distances to bodies, soft steps, rays and turns.

Lengths are in cm. Two frames: the world (x right, y up, z to the camera) and the head, turned in it, with the eyes at y 0.

Source: Quilez, Distance functions (ellipsoids, smooth unions).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

Point = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Numbers = dict[str, torch.Tensor]  # name of a factor or photo parameter -> [N,1]


def smoothstep(value: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Returns 0 below low, 1 above high, a smooth rise between."""
    value = ((value - low) / (high - low)).clamp(0, 1)
    return value * value * (3 - 2 * value)


def bell(*values: torch.Tensor) -> torch.Tensor:
    """Returns 1 where all values are 0, falling off as a Gaussian."""
    # beyond 80 are numbers so small that a CPU needs ten times as long for them
    return torch.exp(-sum(value * value for value in values).clamp(max=80))


def step(value: torch.Tensor, soft: float) -> torch.Tensor:
    """Returns 0 where value is negative, 1 where positive, with an edge of about 4 soft."""
    return torch.sigmoid(value / soft)


def smooth_union(first: torch.Tensor, second: torch.Tensor, radius: float) -> torch.Tensor:
    """Returns the distance to two bodies, blended over about radius."""
    share = (0.5 + 0.5 * (second - first) / radius).clamp(0, 1)
    return second + share * (first - second) - radius * share * (1 - share)


def ellipsoid(x, y, z, rx, ry, rz) -> torch.Tensor:
    """Returns about the signed distance to an ellipsoid around 0 with these radii."""
    x, y, z = x / rx, y / ry, z / rz
    size = torch.sqrt(x * x + y * y + z * z + 1e-6)
    x, y, z = x / rx, y / ry, z / rz
    return size * (size - 1) / torch.sqrt(x * x + y * y + z * z + 1e-9)


@dataclass(frozen=True)
class Rays:
    """Straight lines [N,M], a point for every t: in the world, and the same in the frame of the head."""

    start: Point
    way: Point
    head_start: Point
    head_way: Point

    def at(self, t: torch.Tensor) -> tuple[Point, Point]:
        """Returns the points at t [N,M], in the world and in the frame of the head."""
        world = tuple(start + way * t for start, way in zip(self.start, self.way, strict=True))
        return world, tuple(start + way * t for start, way in zip(self.head_start, self.head_way, strict=True))

    def take(self, index: torch.Tensor) -> Rays:
        """Returns some of the rays, index [N,K]."""
        parts = (self.start, self.way, self.head_start, self.head_way)
        return Rays(*(tuple(value.gather(1, index) for value in part) for part in parts))


def make_rays(start: Point, way: Point, rotation: torch.Tensor) -> Rays:
    """Returns the rays with these starts and unit directions in the world; rotation [N,3,3]: from the head to the world."""

    def turn(vector: Point) -> Point:
        return tuple(sum(part * rotation[:, j, i, None] for j, part in enumerate(vector)) for i in range(3))

    return Rays(start, way, turn(start), turn(way))


def rotate(photo: Numbers) -> torch.Tensor:
    """Returns rotations [N,3,3] from the head to the world: yaw, then pitch, then roll."""
    yaw, pitch, roll = (photo[name][:, 0] * (math.pi / 180) for name in ("yaw", "pitch", "roll"))
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)

    def matrix(*rows):
        return torch.stack([torch.stack(row, -1) for row in rows], -2)

    sin, cos = yaw.sin(), yaw.cos()
    turned = matrix((cos, zero, sin), (zero, one, zero), (-sin, zero, cos))
    sin, cos = -pitch.sin(), pitch.cos()
    tilted = matrix((one, zero, zero), (zero, cos, -sin), (zero, sin, cos))
    sin, cos = roll.sin(), roll.cos()
    rolled = matrix((cos, -sin, zero), (sin, cos, zero), (zero, zero, one))
    return rolled @ tilted @ turned
