"""The picture of a scene: the head painted, lit, with glasses on, before a background.

Colours are linear light until the end.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ganinv.rendered.bodies import Scene, find_normal, make_scene, measure
from ganinv.rendered.camera import FRAME, SUPERSAMPLES, View, frame, list_rays, view
from ganinv.rendered.colours import mix
from ganinv.rendered.geometry import Numbers, Point, Rays, smoothstep, step
from ganinv.rendered.hair import paint_hair
from ganinv.rendered.light import Light, Surface, illuminate
from ganinv.rendered.relief import stretch
from ganinv.rendered.skin import paint_skin


def draw_picture(n: Numbers, resolution: int) -> torch.Tensor:
    """Returns images [N,3,R,R] in [-1,1], before blur and noise."""
    soft, side = max(0.1 * (FRAME / resolution), 0.03), resolution * SUPERSAMPLES
    scene = make_scene(n)
    seen = view(scene, resolution)
    world, head = seen.rays.at(seen.t)
    bodies = measure((world, head), scene)
    normal = find_normal(world, bodies["any"], scene)
    v = stretch(head[1], n)
    v = v + 0.7 * n["chin_length"] * smoothstep(-v, 7.5, 11.0)
    colour, shine = paint(head, v, bodies, n, soft)
    light = illuminate(Surface(world, head[0], v, head[2], normal, seen.rays.way), scene)
    colour = light.fall_on(colour, shine)
    # glasses, in a plane before the eyes; then the background
    colour = put_on_glasses(colour, light, scene, seen.rays, soft)
    behind = torch.stack([value * light.bright for value in paint_background(n, side)], 1)
    picture = F.avg_pool2d(lay_over(behind, colour, seen, resolution).view(-1, 3, side, side), SUPERSAMPLES)
    return (1 - torch.exp(-1.7 * picture)).clamp_min(1e-4) ** (1 / 2.2) * 2 - 1


def lay_over(behind: torch.Tensor, colour: list[torch.Tensor], seen: View, resolution: int) -> torch.Tensor:
    """Returns the background [N,3,M] with the colours (3 of [N,K]) of the rays of some pixels laid over it."""
    count = behind.shape[2]
    index = list_rays(resolution).to(behind.device)[seen.pixels].flatten(1)
    places = index[:, None].expand(-1, 3, -1)
    there = behind.gather(2, places)
    mixed = torch.stack(mix(list(there.unbind(1)), colour, seen.cover), 1)
    # pixels that only fill up a row go to a place of their own, which is cut off
    index = torch.where(seen.shown.repeat_interleave(SUPERSAMPLES**2, 1), index, count)
    padded = torch.cat([behind, behind[:, :, :1]], 2)
    return padded.scatter(2, index[:, None].expand(-1, 3, -1), mixed)[:, :, :count]


def paint(
    head: Point, v: torch.Tensor, bodies: dict[str, torch.Tensor], n: Numbers, soft: float
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Returns the colours (3 of [N,M]) of points of the head, of whichever body is nearest, and how much they shine."""
    x, _, z = head
    colour, shine = paint_skin(x, v, z, n, soft)
    is_hair = step(bodies["skin"] - bodies["hair"], 0.05)
    colour = mix(colour, paint_hair(head, n), is_hair)
    clothes = [n[f"clothes_{name}"] for name in ("red", "green", "blue")]
    is_clothes = step(torch.minimum(bodies["skin"], bodies["hair"]) - bodies["clothes"], 0.05)
    colour = mix(colour, clothes, is_clothes)
    return colour, shine * (1 - is_hair) * (1 - is_clothes) + 0.35 * is_hair


def paint_background(n: Numbers, side: int) -> list[torch.Tensor]:
    """Returns the colours (3 of [N,side*side]) of the background: brighter to one side, with soft blobs."""
    across, down = frame(n, side)
    level = 1 + 2 * (n["background_x"] * across + n["background_y"] * down) / FRAME
    blobs = torch.sin(0.33 * across + n["background_phase"]) * torch.sin(0.27 * down + 2 * n["background_phase"])
    level = (level * (1 + n["background_blobs"] * blobs)).clamp_min(0.02)
    return [level * n[f"background_{name}"] for name in ("red", "green", "blue")]


def put_on_glasses(colour: list[torch.Tensor], light: Light, scene: Scene, rays: Rays, soft: float) -> list[torch.Tensor]:
    """Returns the colours (3 of [N,M]) that rays see, with the rims of the glasses before them."""
    rims = draw_glasses(scene.n, rays, soft)
    rim_colour = [0.015 + 0.5 * scene.n["glasses_shade"] ** 2 * tone for tone in (1.0, 0.75, 0.5)]
    return mix(colour, [value * light.bright * (0.5 + 0.4 * light.lit) for value in rim_colour], rims)


def draw_glasses(n: Numbers, rays: Rays, soft: float) -> torch.Tensor:
    """Returns how much [N,M] of each ray the rims of the glasses cover; 0 without glasses."""
    reach = (9.0 - rays.head_start[2]) / rays.head_way[2]  # the plane of the glasses
    x, y, _ = rays.at(reach)[1]
    v = stretch(y, n)
    large = 0.85 + 0.3 * n["glasses_size"]
    across, up = (x.abs() - n["eye_spacing"] - 0.05) / (2.35 * large), (v + 0.25) / (1.75 * large)
    ring = (across.abs() ** 3 + up.abs() ** 3 + 1e-6) ** (1 / 3)
    rim = step(0.2 - (ring - 1).abs() * 2.0, soft)
    bridge = step(0.17 - (v - 0.35).abs(), soft) * step(n["eye_spacing"] - 2.2 * large - x.abs(), soft)
    beyond = step(x.abs() - n["eye_spacing"] - 2.3 * large, soft)
    arm = step(0.17 - (v - 0.4).abs(), soft) * beyond * step(7.6 - x.abs(), soft)
    return torch.sigmoid((n["glasses"] - 0.85) * 60) * torch.maximum(torch.maximum(rim, bridge), arm)
