"""Light: how bright the points of a surface are under one lamp and the light from all around."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ganinv.rendered.bodies import Scene, measure
from ganinv.rendered.camera import SUPERSAMPLES
from ganinv.rendered.geometry import Point
from ganinv.rendered.relief import look_up


@dataclass(frozen=True)
class Surface:
    """Points of a surface [N,M]: in the world and at face coordinates x, v and depth z; its normals; the rays' ways."""

    world: Point
    x: torch.Tensor
    v: torch.Tensor
    z: torch.Tensor
    normal: Point
    way: Point


@dataclass(frozen=True)
class Light:
    """What reaches points of a surface [N,M]. lit: how far they turn to the lamp; direct: the lamp's strength, less its
    shadows; gloss: its reflection; open_sky: how much of the light from all around; tint: the lamp's red, green and blue;
    ambient: the share of the light that comes from all around; bright: the photo's exposure."""

    lit: torch.Tensor
    direct: torch.Tensor
    gloss: torch.Tensor
    open_sky: torch.Tensor
    tint: tuple
    ambient: torch.Tensor
    bright: torch.Tensor

    def fall_on(self, colour: list[torch.Tensor], shine: torch.Tensor) -> list[torch.Tensor]:
        """Returns the colours (3 of [N,M]) that a camera sees of points of these colours, which shine so much [N,M]."""
        return [
            self.bright
            * (
                value * (self.ambient * self.open_sky + self.direct * self.lit * tone)
                + shine * (0.1 * self.gloss * self.direct * tone + 0.02 * self.ambient * self.open_sky**2)
            )
            for value, tone in zip(colour, self.tint, strict=True)
        ]


def illuminate(surface: Surface, scene: Scene) -> Light:
    """Returns the light on a surface, whose points are those of pixels, SUPERSAMPLES^2 of each."""
    n, normal = scene.n, surface.normal
    azimuth, elevation = (n[f"light_{name}"] * (math.pi / 180) for name in ("azimuth", "elevation"))
    lamp = (azimuth.sin() * elevation.cos(), elevation.sin(), azimuth.cos() * elevation.cos())
    facing = sum(one * two for one, two in zip(normal, lamp, strict=True))
    lit = ((facing + 0.2) / 1.2).clamp_min(0)
    shadow = cast_shadow(surface, lamp, scene)
    # a hollow of the relief sees less of the sky
    relief = scene.relief
    blurred = F.avg_pool2d(F.avg_pool2d(F.pad(relief, (8, 8, 8, 8), mode="replicate"), (17, 1), 1), (1, 17), 1)
    hollow = look_up(blurred - relief, surface.x, surface.v) * torch.sigmoid(2 * (surface.z - 1.5))
    open_sky = (1 - 0.55 * hollow.clamp(-0.3, 1.0)) * (0.72 + 0.2 * normal[1] + 0.25 * normal[2])
    half = [lamp[i] - surface.way[i] for i in range(3)]
    half_size = torch.sqrt(sum(value**2 for value in half))
    gloss = sum(one * two / half_size for one, two in zip(normal, half, strict=True)).clamp_min(1e-4) ** 24
    warm = n["light_warmth"]
    tint = (1 + 0.22 * warm, 1.0, 1 - 0.3 * warm)
    direct = (1 - n["ambient"]) * 1.7 * shadow
    return Light(lit, direct, gloss, open_sky, tint, n["ambient"], 2.0 ** n["exposure"])


def cast_shadow(surface: Surface, lamp: Point, scene: Scene) -> torch.Tensor:
    """Returns how much of the lamp's light reaches points [N,K] of a surface: 0 in the shadow, one number per pixel."""
    each = SUPERSAMPLES**2
    start = tuple((point + 0.15 * out)[:, ::each] for point, out in zip(surface.world, surface.normal, strict=True))
    rays = scene.rays(start, lamp)
    shadow = torch.ones_like(start[0])
    for reach in (0.5, 1.1, 2.0, 3.2, 4.8, 7.0):
        clear = measure(rays.at(reach), scene)["any"]
        shadow = torch.minimum(shadow, (0.5 + clear / (0.35 * reach + 0.2)).clamp(0, 1))
    return shadow.repeat_interleave(each, 1)
