"""The camera: rays through the picture's frame, what they meet, and what lens and sensor add."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

from ganinv.engine.randomness import seeded
from ganinv.rendered.bodies import Scene, measure
from ganinv.rendered.geometry import Numbers, Rays
from ganinv.rendered.march import Search, pack, search

CAMERA = 95.0  # distance of the camera
FRAME = 26.0  # height of what is seen, at z 0: a face fills 70 % of it
CENTRE = -1.7  # y in the middle of the picture
# least steps of the search along a ray, from afar and from near; they lead into the surface, to learn how deep a ray goes
STEPS, STEPS_AGAIN = (0.5,) * 26, tuple(min(0.2 * 1.25**index, 0.9) for index in range(14))
SUPERSAMPLES = 2  # rays a pixel, along each side
BEHIND = 18.0  # cm along a ray from the frame: behind all bodies
CLEAR = 3.0  # cm: a pixel whose ray and whose neighbours' rays stay so far from all bodies shows none of them
LEAVING = 2.5  # cm from all bodies: a ray that has been nearer to one is on its way out of the picture
SURE, BARELY = 18.0, 22.0  # edges: a ray so deep in a body is covered to the last bit, one so far from it not at all


@dataclass(frozen=True)
class View:
    """What the rays [N,K] of some pixels meet: at t, where the head and clothes cover a share of each ray's place.

    pixels: [N,P], the numbers of the pixels, each of which has SUPERSAMPLES^2 rays, one after the other; shown: which of
    them count. All other pixels show the background.
    """

    rays: Rays
    t: torch.Tensor
    cover: torch.Tensor
    pixels: torch.Tensor
    shown: torch.Tensor


def view(scene: Scene, resolution: int) -> View:
    """Returns what the rays of a picture meet, with a gradient at the surface."""
    coarse, rays = (photograph(scene, count) for count in (resolution, resolution * SUPERSAMPLES))
    edge = 0.3 * (FRAME / resolution) / SUPERSAMPLES  # cm, of the cover: a sigmoid, which is 1 or nothing from some on
    with torch.no_grad():
        # first one ray a pixel from afar, then those of pixels near a body from just before what the neighbours met
        start = torch.full_like(coarse.start[0], -15.0)
        first = search(coarse, scene, start, STEPS, lambda part: part.hit | (part.t > BEHIND))
        far = torch.where(first.hit, first.near, first.deepest)
        start = enlarge(widest(-far, resolution)).neg() - 0.8
        close = enlarge(widest((first.best < CLEAR).to(far), resolution)) > 0
        found = search(rays, scene, start, STEPS_AGAIN, partial(is_settled, edge=edge), close)
        pixels, shown = pack((found.best < BARELY * edge)[:, list_rays(resolution)].any(2))
        index = list_rays(resolution).to(pixels.device)[pixels].flatten(1)
    rays = rays.take(index)
    with torch.no_grad():
        found = found.take(index)
        look_deeper(found, rays, scene, -SURE * edge)
        near = torch.where(found.hit, found.near, found.deepest)
        ahead = measure(rays.at(near + 0.02), scene)["any"]
    # one Newton step where the ray meets the surface carries the gradient (implicit function theorem)
    left = measure(rays.at(near), scene)["any"]
    slope = ((ahead - left.detach()) / 0.02).clamp(max=-0.15)
    t = near - torch.where(found.hit, left / slope, 0.0).clamp(-0.3, 0.3)
    cover = torch.sigmoid(-measure(rays.at(found.deepest), scene)["any"] / edge)
    return View(rays, t, cover, pixels, shown)


def is_settled(part: Search, edge: float) -> torch.Tensor:
    """Returns which rays [N,K] need no further step: they are deep in a body, or have passed it and leave it behind."""
    return torch.where(part.hit, part.best < -SURE * edge, (part.value > LEAVING) & (part.value > part.best + 1))


def look_deeper(found: Search, rays: Rays, scene: Scene, sure: float) -> None:
    """Looks once more behind the surface that was met, in place: the last step may have ended just inside."""
    unsure, _ = pack(found.hit & (found.best >= sure))
    part = found.take(unsure)
    now = measure(rays.take(unsure).at(part.near + 0.4), scene)["any"]
    part.deepest = torch.where(part.hit & (now < part.best), part.near + 0.4, part.deepest)
    found.put(unsure, part)


def widest(values: torch.Tensor, resolution: int) -> torch.Tensor:
    """Returns [N,1,R,R], the largest value of each pixel and its neighbours, of values [N,R*R]."""
    return F.max_pool2d(values.view(-1, 1, resolution, resolution), 3, 1, 1)


def list_rays(resolution: int) -> torch.Tensor:
    """Returns the numbers [R*R,SUPERSAMPLES^2] of the rays of every pixel, as photograph counts them."""
    side = resolution * SUPERSAMPLES
    numbers = torch.arange(side * side).view(resolution, SUPERSAMPLES, resolution, SUPERSAMPLES)
    return numbers.permute(0, 2, 1, 3).reshape(resolution * resolution, -1)


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
