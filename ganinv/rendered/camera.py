"""The camera: rays through the picture's frame, what they meet, and what lens and sensor add.

Source: Hart 1996, Sphere tracing (the search along a ray).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ganinv.engine.randomness import seeded
from ganinv.rendered.bodies import Scene, measure
from ganinv.rendered.geometry import Numbers, Rays

CAMERA = 95.0  # distance of the camera
FRAME = 26.0  # height of what is seen, at z 0: a face fills 70 % of it
CENTRE = -1.7  # y in the middle of the picture
# least steps of the search along a ray, from afar and from near; they lead into the surface, to learn how deep a ray goes
STEPS, STEPS_AGAIN = (0.5,) * 26, tuple(min(0.2 * 1.25**index, 0.9) for index in range(14))
SUPERSAMPLES = 2  # rays a pixel, along each side


@dataclass(frozen=True)
class View:
    """What a picture's rays [N,M] meet: at t, where the head and clothes cover a share of each ray's place."""

    rays: Rays
    t: torch.Tensor
    cover: torch.Tensor


def view(scene: Scene, resolution: int) -> View:
    """Returns what the rays of a picture [N,(R*SUPERSAMPLES)^2] meet, with a gradient at the surface."""
    coarse, rays = (photograph(scene, count) for count in (resolution, resolution * SUPERSAMPLES))

    def distance(t: torch.Tensor, rays: Rays = rays) -> torch.Tensor:
        return measure(rays.at(t), scene)["any"]

    with torch.no_grad():
        # first one ray a pixel from afar, then all of them from just before what the neighbours met
        far, _, _ = search(lambda t: distance(t, coarse), torch.full_like(coarse.start[0], -15.0), STEPS)
        start = enlarge(-F.max_pool2d(-far.view(-1, 1, resolution, resolution), 3, 1, 1)) - 0.8
        near, deepest, hit = search(distance, start, STEPS_AGAIN)
        ahead = distance(near + 0.02)
    # one Newton step where the ray meets the surface carries the gradient (implicit function theorem)
    left = distance(near)
    slope = ((ahead - left.detach()) / 0.02).clamp(max=-0.15)
    t = near - torch.where(hit, left / slope, 0.0).clamp(-0.3, 0.3)
    cover = torch.sigmoid(-distance(deepest) / (0.3 * (FRAME / resolution) / SUPERSAMPLES))
    return View(rays, t, cover)


def search(
    distance: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, steps: Sequence[float]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns along each ray [N,M]: where it meets the surface, where it is deepest in (or nearest to) it, whether it does.

    Steps go on into the body for a while: the depth of a grazing ray says how much of the pixel is covered.
    """
    t = start
    value = distance(t)
    best, deepest = value, t
    near, hit = t, torch.zeros_like(t, dtype=torch.bool)
    for least in steps:
        ahead = (0.8 * value).clamp_min(least)
        following = t + ahead
        now = distance(following)
        crossing = (now < 0) & (value >= 0) & ~hit
        near = torch.where(crossing, t + ahead * (value / (value - now).clamp_min(1e-6)), near)
        hit = hit | crossing
        deeper = now < best
        best, deepest = torch.where(deeper, now, best), torch.where(deeper, following, deepest)
        t, value = following, now
    # the last step may have ended just inside
    now = distance(near + 0.4)
    deepest = torch.where(hit & (now < best), near + 0.4, deepest)
    return torch.where(hit, near, deepest), deepest, hit


def photograph(scene: Scene, side: int) -> Rays:
    """Returns the rays [N,side*side] of a picture, row by row from the top, through a frame at z 0."""
    n = scene.n
    across, down = frame(n, side)
    x = across / n["zoom"] - n["offset_x"]
    y = down / n["zoom"] - n["offset_y"] + CENTRE
    length = torch.sqrt(x**2 + (y - CENTRE) ** 2 + CAMERA**2)
    return scene.rays((x, y, torch.zeros_like(x)), (x / length, (y - CENTRE) / length, -CAMERA / length))


def frame(n: Numbers, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the places [1,side*side] in a picture's frame, right and up from its middle, in cm."""
    like = n["age"]
    centre = ((torch.arange(side, dtype=like.dtype, device=like.device) + 0.5) / side - 0.5) * FRAME
    return centre.repeat(side)[None], -centre.repeat_interleave(side)[None]


def enlarge(pixels: torch.Tensor) -> torch.Tensor:
    """Returns [N,M], the value of its pixel for every ray, of pixels [N,1,R,R]."""
    return F.interpolate(pixels, scale_factor=SUPERSAMPLES).flatten(1)


def develop(picture: torch.Tensor, n: Numbers) -> torch.Tensor:
    """Returns images [N,3,R,R] blurred and with the sensor's noise, in [-1,1]."""
    resolution = picture.shape[-1]
    width = (n["blur"] * (resolution / 64)).clamp_min(0.05)[:, :, None, None]
    radius = math.ceil(2.5 * 0.9 * resolution / 64)
    offsets = range(-radius, radius + 1)
    for axis in (2, 3):
        weights = [torch.exp(-(offset**2) / (2 * width**2)) for offset in offsets]
        padding = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
        padded = F.pad(picture, padding, mode="replicate")
        total = sum(weights)
        picture = sum(
            weight / total * padded.narrow(axis, offset + radius, resolution)
            for weight, offset in zip(weights, offsets, strict=True)
        )
    patterns = [seeded("noise", round(which)) for which in n["noise_pattern"][:, 0].tolist()]
    noise = torch.stack([torch.randn(3, resolution, resolution, generator=pattern) for pattern in patterns]).to(picture)
    return (picture + 2 * n["noise"][:, :, None, None] * noise).clamp(-1, 1)
