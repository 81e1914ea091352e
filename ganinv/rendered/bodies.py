"""The bodies of a portrait as an implicit surface: skin, hair and clothes, and the distances of points to them."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ganinv.rendered.geometry import (
    Numbers,
    Point,
    Rays,
    bell,
    ellipsoid,
    make_rays,
    rotate,
    smooth_union,
    smoothstep,
)
from ganinv.rendered.relief import look_up, make_relief, stretch

EPSILON = 0.12  # of the differences that give normals: a cell of the relief


@dataclass(frozen=True)
class Scene:
    """What is photographed: numbers, rotation [N,3,3] from the head to the world, and relief [N,1,*GRID] of the face."""

    n: Numbers
    rotation: torch.Tensor
    relief: torch.Tensor

    def rays(self, start: Point, way: Point) -> Rays:
        """Returns the rays with these starts and unit directions in the world."""
        return make_rays(start, way, self.rotation)


def make_scene(n: Numbers) -> Scene:
    """Returns the scene of a person's and a photo's numbers."""
    return Scene(n, rotate(n), make_relief(n))


def measure(points: tuple[Point, Point], scene: Scene) -> dict[str, torch.Tensor]:
    """Returns about the signed distances [N,M] of points (see Rays.at) to skin, hair and clothes, and to all ("any")."""
    world, head = points
    n, v = scene.n, stretch(head[1], scene.n)
    skull, skin = measure_skin(world, head, v, scene)
    hair = measure_hair(head, v, skull, n)
    clothes = ellipsoid(world[0], world[1] + 27.0, world[2] + 3, 21.0, 13.0, 9.5)
    return {"skin": skin, "hair": hair, "clothes": clothes, "any": torch.minimum(torch.minimum(skin, hair), clothes)}


def measure_skin(world: Point, head: Point, v: torch.Tensor, scene: Scene) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the distances [N,M] to the smooth head, and to all skin: the head with its face, ears and neck."""
    (world_x, world_y, world_z), (x, _, z), n = world, head, scene.n
    beside = x.abs()
    # the skull, and the face that narrows towards the jaw
    skull = ellipsoid(x / n["head_width"], v - 2.5, z + 1.5, 7.5, 9.0, 9.3)
    lower = smoothstep(-v, 1.0, 10.0)
    narrow = n["face_width"] * (1 + (n["jaw_width"] - 1) * lower)
    drop = n["chin_length"] * smoothstep(-v, 7.5, 11.0)
    smooth = smooth_union(skull, ellipsoid(x / narrow, v + 2.9 + drop, z - 1.2, 6.7, 8.8, 6.9), 2.5)
    front = torch.sigmoid(2 * (z - 1.5))
    face = smooth - front * look_up(scene.relief, x, v + 0.7 * drop)
    # ears, thin and turned outwards
    out = beside - 7.1 * n["head_width"] - 0.5 * n["ear_angle"]
    back = z + 1.2 + 0.9 * n["ear_angle"] * 0.5
    out = out + (0.35 + 0.25 * n["ear_angle"]) * back
    ear = ellipsoid(out, v + 1.6, back, 0.75, 3.1 * n["ear_size"], 1.9 * n["ear_size"])
    skin = smooth_union(face, ear, 0.5)
    neck = torch.sqrt(world_x**2 + (world_y + 8).clamp_min(0) ** 2 + (world_z + 2.2) ** 2 + 1e-6) - 5.2 * n["neck_width"]
    return smooth, smooth_union(skin, neck, 1.2)


def measure_hair(head: Point, v: torch.Tensor, smooth: torch.Tensor, n: Numbers) -> torch.Tensor:
    """Returns the distances [N,M] to the hair: a layer on the smooth head where hair grows, and what falls behind it."""
    x, y, z = head
    edge = n["hair_line"] + n["hair_recession"] * (1 - bell(x / 2.6))
    grows = v - edge - 0.95 * (z - 7.3) + 0.2 * torch.sin(4.1 * x + 1.7 * torch.sin(1.3 * x))
    top = smoothstep(v, 3.0, 9.0)
    thick = n["hair_sides"] + (n["hair_top"] - n["hair_sides"]) * top
    parting = bell((x - n["hair_parting"]) / 0.5) * top
    curl = n["hair_curl"] * torch.sin(2.1 * x + 1.3 * y) * torch.sin(2.3 * y - 1.1 * z) * torch.sin(1.9 * z + 0.7 * x)
    share = smoothstep(grows, -0.5, 1.6)
    hair = smooth - (thick * (1 - 0.45 * parting) + curl) * share + 2.2 * (1 - share) ** 2
    fall = n["hair_length"] - 4
    long = ellipsoid(
        x, v + 0.5 * fall + 1.0, z + 3.2, 7.6 * n["head_width"] + 1.2 * n["hair_sides"] + 0.9 * smoothstep(fall, 0.0, 6.0),
        8 + 0.5 * fall, 5.0,
    ) - curl  # fmt: skip
    return smooth_union(hair, long + 2.5 * smoothstep(-fall, -2.0, 2.0), 0.8)


def find_normal(world: Point, here: torch.Tensor, scene: Scene) -> Point:
    """Returns the unit normals (3 of [N,M]) of the surface at points of the world, whose distance to it is here."""
    rise, like = [], scene.n["age"]
    for axis in range(3):
        way = [torch.zeros_like(like)] * 3
        way[axis] = torch.ones_like(like)
        rise.append(measure(scene.rays(world, way).at(EPSILON), scene)["any"] - here)
    size = torch.sqrt(sum(value**2 for value in rise) + 1e-12)
    return tuple(value / size for value in rise)
