"""The renderer of people.py: a head as an implicit surface in three dimensions, painted, lit and photographed.

Lengths are in cm, colours linear light. Two frames: the world (x right, y up, z to the camera) and the head, turned in
it, with the eyes at y 0. A face coordinate is (x, v): v is the head's y, stretched so that the eyes are at 0, the chin
at -11.5 and the crown at 11.5 of every person.

Source: Hart 1996, Sphere tracing (the search along a ray); Quilez, Distance functions (ellipsoids, smooth unions).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

from ganinv.engine.randomness import seeded

CAMERA = 95.0  # distance of the camera
FRAME = 26.0  # height of what is seen, at z 0: a face fills 70 % of it
CENTRE = -1.7  # y in the middle of the picture
# least steps of the search along a ray, from afar and from near; they lead into the surface, to learn how deep a ray goes
STEPS, STEPS_AGAIN = (0.5,) * 26, tuple(min(0.2 * 1.25**index, 0.9) for index in range(14))
SUPERSAMPLES = 2  # rays a pixel, along each side
GRID = (192, 128)  # samples of the relief, over RELIEF_Y and RELIEF_X
RELIEF_X, RELIEF_Y = 8.0, (-14.0, 9.0)
CHUNK = 4  # rows at a time, so that intermediate results stay in the CPU's cache
CHUNK_ACCELERATOR = 256  # rows at a time elsewhere: 4 GB at 64 px
EPSILON = 0.12  # of the differences that give normals: a cell of the relief

Point = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Numbers = dict[str, torch.Tensor]  # name -> [N,1]


def srgb(*colours: tuple[int, int, int]) -> tuple[tuple[float, ...], ...]:
    """Returns linear colours of 8-bit ones."""
    return tuple(tuple((value / 255) ** 2.2 for value in colour) for colour in colours)


SKIN = srgb((252, 224, 205), (238, 195, 165), (217, 164, 128), (181, 124, 86), (133, 84, 56), (90, 56, 40), (68, 45, 35))
HAIR = srgb((226, 196, 140), (170, 122, 72), (100, 64, 40), (52, 34, 26), (18, 15, 15))
IRIS = srgb((110, 150, 185), (120, 140, 130), (125, 120, 70), (100, 66, 35), (45, 28, 18))


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


def ramp(share: torch.Tensor, colours: tuple) -> list[torch.Tensor]:
    """Returns the red, green and blue [N,1] at a share [N,1] in [0,1] of the way through colours."""
    place = share * (len(colours) - 1)
    weights = [(1 - (place - index).abs()).clamp_min(0) for index in range(len(colours))]
    return [sum(weight * colour[channel] for weight, colour in zip(weights, colours, strict=True)) for channel in range(3)]


def mix(colour: list[torch.Tensor], other, share: torch.Tensor) -> list[torch.Tensor]:
    """Returns colour with a share of another laid over it."""
    return [one + share * (two - one) for one, two in zip(colour, other, strict=True)]


# ---- the relief of the face, over (|x|, v)


def bumps(n: Numbers) -> torch.Tensor:
    """Returns [N,7,G]: height, |x|, v, radii along both, slant and mirror of the Gaussians that make the relief."""
    one = torch.ones_like(n["age"])
    eye, mouth, nose, wide = n["eye_spacing"], -n["mouth_height"], -n["nose_length"], n["nose_width"]
    smile, opened, upper, lower = n["smile"], n["mouth_open"], n["upper_lip"], n["lower_lip"]
    width = n["mouth_width"] * (1 + 0.12 * smile)
    table = [
        # height, |x|, v, radius along x, radius along v
        (n["nose_bridge"], 0, 0.42 * nose, 0.72 * wide, 1.9 * one),
        (0.55 * n["nose_bridge"], 0, 0.1, 0.6 * wide, 1.0),
        (n["nose_tip"], 0, nose, 0.85 * wide, 0.8),
        (0.95, 1.25 * wide, nose - 0.25, 0.5 * wide, 0.55),
        (-0.55, 0.55 * wide, nose - 0.95, 0.45, 0.3),
        (-n["eye_depth"], eye - 0.1, 0.05, 1.75, 1.15),
        (-0.5 * n["eye_depth"], 1.6, 0.4, 0.6, 0.8),
        (0.5, eye, 0.0, 1.15, 0.65),
        (n["brow_ridge"], eye - 0.3, n["brow_height"] - 0.1, 2.2, 0.75),
        (n["cheekbones"], 5.0, -2.9, 1.7, 1.5),
        (n["cheek_fullness"], 4.2, -6.6, 2.0, 2.3),
        (0.55 * smile, 3.5, -4.6, 1.3, 1.1),
        (0.75, 0, mouth + 0.3, 2.6, 1.7),
        (0.25 + 0.35 * upper, 0, mouth + 0.4 * upper + 0.3 * opened, 0.55 * width, 0.6 * upper + 0.1),
        (0.3 + 0.35 * lower, 0, mouth - 0.55 * lower - 0.7 * opened, 0.5 * width, 0.6 * lower + 0.1),
        (-0.3 - 0.5 * opened, 0, mouth - 0.2 * opened, 0.6 * width, 0.16 + 0.5 * opened),
        (-0.25, 1.02 * width, mouth + 0.5 * smile, 0.4, 0.4),
        (-0.5, 0, mouth - 1.75, 1.6, 0.5),
        (n["chin_depth"], 0, -10.6, 1.7, 1.15),
        (-n["chin_cleft"], 0, -10.7, 0.3, 0.7),
        (-0.35, 6.4, 3.0, 1.2, 2.2),
        (n["forehead_bulge"], 0, 5.3, 4.2, 2.2),
        (-0.35 * n["age"], 2.4 + 0.2 * smile, mouth + 1.1, 0.35, 1.0),
        (0.2 * n["age"], eye - 0.2, -1.25, 1.0, 0.35),
    ]
    return torch.stack([torch.cat([one * value for value in row], 1) for row in table], 2)


def make_relief(n: Numbers) -> torch.Tensor:
    """Returns the relief [N,1,*GRID]: height in cm that the face stands out from the smooth head."""
    table = bumps(n)
    y = torch.linspace(*RELIEF_Y, GRID[0], dtype=table.dtype, device=table.device)
    x = torch.linspace(-RELIEF_X, RELIEF_X, GRID[1], dtype=table.dtype, device=table.device)
    height, at_x, at_y, radius_x, radius_y = table[:, :, None].unbind(1)  # [N,1,G]
    along_x = bell(math.sqrt(0.5) * (x.abs()[None, :, None] - at_x) / radius_x)  # [N,X,G]
    along_y = bell(math.sqrt(0.5) * (y[None, :, None] - at_y) / radius_y)  # [N,Y,G]
    # a Gaussian without a slant is a product: the relief is a product of matrices
    return ((height * along_y) @ along_x.transpose(1, 2))[:, None]


def look_up(grid: torch.Tensor, x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Returns [N,M], a grid over the face at face coordinates [N,M]."""
    low, high = RELIEF_Y
    place = torch.stack([x / RELIEF_X, (v - (low + high) / 2) * (2 / (high - low))], -1)[:, None]
    return F.grid_sample(grid, place, padding_mode="border", align_corners=True)[:, 0, 0]


# ---- the bodies


def stretch(y: torch.Tensor, n: Numbers) -> torch.Tensor:
    """Returns the face coordinate v of the head's y."""
    below = torch.sigmoid(-y / 1.5)
    return y / (n["forehead_height"] + (n["face_length"] - n["forehead_height"]) * below)


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


def make_rays(start: Point, way: Point, rotation: torch.Tensor) -> Rays:
    """Returns the rays with these starts and unit directions in the world; rotation [N,3,3]: from the head to the world."""

    def turn(vector: Point) -> Point:
        return tuple(sum(part * rotation[:, j, i, None] for j, part in enumerate(vector)) for i in range(3))

    return Rays(start, way, turn(start), turn(way))


def measure(points: tuple[Point, Point], n: Numbers, relief: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns about the signed distances [N,M] of points (see Rays.at) to skin, hair and clothes, and to all ("any")."""
    (world_x, world_y, world_z), (x, y, z) = points
    v = stretch(y, n)
    beside = x.abs()
    # the skull, and the face that narrows towards the jaw
    skull = ellipsoid(x / n["head_width"], v - 2.5, z + 1.5, 7.5, 9.0, 9.3)
    lower = smoothstep(-v, 1.0, 10.0)
    narrow = n["face_width"] * (1 + (n["jaw_width"] - 1) * lower)
    drop = n["chin_length"] * smoothstep(-v, 7.5, 11.0)
    head = smooth_union(skull, ellipsoid(x / narrow, v + 2.9 + drop, z - 1.2, 6.7, 8.8, 6.9), 2.5)
    front = torch.sigmoid(2 * (z - 1.5))
    face = head - front * look_up(relief, x, v + 0.7 * drop)
    # ears, thin and turned outwards
    out = beside - 7.1 * n["head_width"] - 0.5 * n["ear_angle"]
    back = z + 1.2 + 0.9 * n["ear_angle"] * 0.5
    out = out + (0.35 + 0.25 * n["ear_angle"]) * back
    ear = ellipsoid(out, v + 1.6, back, 0.75, 3.1 * n["ear_size"], 1.9 * n["ear_size"])
    skin = smooth_union(face, ear, 0.5)
    neck = torch.sqrt(world_x**2 + (world_y + 8).clamp_min(0) ** 2 + (world_z + 2.2) ** 2 + 1e-6) - 5.2 * n["neck_width"]
    skin = smooth_union(skin, neck, 1.2)
    # hair: a layer on the head where hair grows, and a volume that falls behind the face
    edge = n["hair_line"] + n["hair_recession"] * (1 - bell(x / 2.6))
    grows = v - edge - 0.95 * (z - 7.3) + 0.2 * torch.sin(4.1 * x + 1.7 * torch.sin(1.3 * x))
    top = smoothstep(v, 3.0, 9.0)
    thick = n["hair_sides"] + (n["hair_top"] - n["hair_sides"]) * top
    parting = bell((x - n["hair_parting"]) / 0.5) * top
    curl = n["hair_curl"] * torch.sin(2.1 * x + 1.3 * y) * torch.sin(2.3 * y - 1.1 * z) * torch.sin(1.9 * z + 0.7 * x)
    share = smoothstep(grows, -0.5, 1.6)
    hair = head - (thick * (1 - 0.45 * parting) + curl) * share + 2.2 * (1 - share) ** 2
    fall = n["hair_length"] - 4
    long = ellipsoid(
        x, v + 0.5 * fall + 1.0, z + 3.2, 7.6 * n["head_width"] + 1.2 * n["hair_sides"] + 0.9 * smoothstep(fall, 0.0, 6.0),
        8 + 0.5 * fall, 5.0,
    ) - curl  # fmt: skip
    hair = smooth_union(hair, long + 2.5 * smoothstep(-fall, -2.0, 2.0), 0.8)
    clothes = ellipsoid(world_x, world_y + 27.0, world_z + 3, 21.0, 13.0, 9.5)
    return {"skin": skin, "hair": hair, "clothes": clothes, "any": torch.minimum(torch.minimum(skin, hair), clothes)}


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


# ---- the paint


def paint_skin(x: torch.Tensor, v: torch.Tensor, z: torch.Tensor, n: Numbers, soft: float) -> tuple[list, torch.Tensor]:
    """Returns the colours (3 of [N,M]) of skin and features at points of the head, and how much they shine [N,M]."""
    skin = ramp(n["skin_tone"], SKIN)
    red = n["skin_redness"]
    skin = [skin[0] * (1 + 0.12 * red), skin[1] * (1 - 0.1 * red), skin[2] * (1 - 0.06 * red)]
    hair = hair_colour(n, 1.0)
    beside = x.abs()
    front = torch.sigmoid(3 * (z - 2.0))
    eye, mouth, nose, wide = n["eye_spacing"], -n["mouth_height"], -n["nose_length"], n["nose_width"]
    smile, age = n["smile"], n["age"]
    colour = [one.expand_as(x) for one in skin]

    # blush, freckles, mole
    blush = bell((beside - 4.0) / 1.8, (v + 4.0) / 1.7)
    blush = blush + bell(x / 1.2, v - nose)
    blush = front * blush * (0.12 + 0.1 * red)
    colour = [colour[0], colour[1] * (1 - blush), colour[2] * (1 - 0.8 * blush)]
    pattern = torch.sin(7.1 * x + 3 * torch.sin(3.3 * v)) * torch.sin(6.7 * v + 2 * torch.sin(4.1 * x + 1))
    freckles = step(pattern - 0.45, 0.12) * bell((v + 3.0) / 2.2, (beside / 4.8) ** 2)
    colour = mix(
        colour,
        [0.55 * skin[0], 0.38 * skin[1], 0.3 * skin[2]],
        0.7 * front * n["freckles"] * (1 - 0.5 * n["skin_tone"]) * freckles,
    )
    distance = torch.sqrt((x - n["mole_x"]) ** 2 + (v - n["mole_y"]) ** 2 + 1e-6)
    mole = front * step(n["mole_size"] - distance, soft) * smoothstep(n["mole_size"], 0.05, 0.2)
    colour = mix(colour, [0.25 * skin[0], 0.16 * skin[1], 0.14 * skin[2]], 0.9 * mole)

    # folds: nose to mouth, forehead, under and beside the eyes
    fold = bell((beside - 1.75 * wide.clamp(0.8, 1.2) - 0.45 * (nose - v)) / 0.28)
    fold = fold * smoothstep(v, -8.6, -7.0) * smoothstep(-v, 4.3, 5.0)
    lines = 0.5 + 0.5 * torch.cos(2 * math.pi * (v - n["forehead_height"]) / 1.05)
    lines = lines**4 * smoothstep(v, 3.0, 3.8) * smoothstep(-v, -6.4, -5.6) * bell((x / 3.8) ** 2)
    bags = bell((beside - eye + 0.1) / 1.2, (v + 1.15 - 0.12 * (beside - eye) ** 2) / 0.22)
    feet = bell((beside - eye - 2.2) / 0.5, v) * (0.5 + 0.5 * torch.cos(9 * v)) ** 2
    folds = age * (0.3 * fold + 0.4 * lines + 0.3 * bags + 0.35 * feet)
    folds = folds + (0.08 + 0.25 * smile.clamp_min(0)) * fold + 0.12 * bags
    colour = mix(colour, [0.45 * skin[0], 0.35 * skin[1], 0.32 * skin[2]], (front * folds).clamp(0, 0.8))

    # beard and moustache, not on the lips
    width = n["mouth_width"] * (1 + 0.14 * smile)
    inside = 1 - (x / width) ** 2
    bow = inside.clamp_min(0)
    middle = mouth + 0.55 * smile * ((x / width) ** 2).clamp(max=1.5) - 0.1 * smile
    gap_up = (0.22 * n["mouth_open"] + 0.12 * smile.clamp_min(0)) * bow
    gap_low = (1.15 * n["mouth_open"] + 0.22 * smile.clamp_min(0)) * bow
    upper = middle + gap_up + n["upper_lip"] * bow.clamp_min(1e-4).sqrt() * (1 - 0.22 * bell(x / 0.35))
    lower = middle - gap_low - n["lower_lip"] * bow.clamp_min(1e-4).sqrt()
    lips = step(upper - v, soft) * step(v - lower, soft) * step(inside, 0.06)
    gap = front * step(middle + gap_up - v, soft) * step(v - middle + gap_low, soft) * step(inside, 0.06)
    gap = gap * smoothstep(gap_up + gap_low, 0.02, 0.25)
    cheek_line = -6.3 + 4.6 * (beside / 6.6) ** 3
    grown = step(cheek_line - v, 0.35) * smoothstep(-z, -20.0, 2.0) * smoothstep(z, -3.5, -1.0) * smoothstep(v, -14.0, -12.0)
    lip_fuzz = 0.85 * bell(x / (0.9 * width), (v - 0.65 * mouth - 0.35 * nose) / 0.7)
    beard = n["beard"] ** 2 * torch.maximum(grown, lip_fuzz * front) * (1 - lips)
    beard = (1.3 * beard).clamp(max=0.93)
    colour = mix(colour, [0.75 * value for value in hair], beard)

    # lips, mouth
    redness = n["lip_redness"]
    lip = [skin[0] * (0.95 - 0.1 * redness), skin[1] * (0.72 - 0.34 * redness), skin[2] * (0.75 - 0.28 * redness)]
    colour = mix(colour, lip, 0.92 * front * lips)
    line = front * bell((v - middle) / 0.13) * step(1.08 - (x / width) ** 2, 0.06)
    colour = mix(colour, [0.22 * skin[0], 0.12 * skin[1], 0.12 * skin[2]], 0.65 * line * (1 - gap))
    teeth = smoothstep(v - middle + 0.35 * gap_low, -0.05, 0.1)
    within = [0.06 + teeth * 0.5, 0.015 + teeth * 0.46, 0.015 + teeth * 0.4]
    colour = mix(colour, within, gap)

    # nostrils
    nostril = bell((beside - 0.72 * wide) / (0.36 * wide), (v - nose + 0.62) / 0.24)
    colour = mix(colour, [0.18 * skin[0], 0.1 * skin[1], 0.09 * skin[2]], 0.8 * front * nostril)

    # eyes
    across = beside - eye
    rise = v - across * torch.tan(n["eye_slant"] * (math.pi / 180))
    almond = 1 - (across / n["eye_width"]) ** 2
    lid_low = -0.48 * almond
    lid_up = ((n["eye_height"] + 0.48) * n["eyelids"] - 0.48) * almond
    opened = front * step(lid_up - rise, soft) * step(rise - lid_low, soft) * step(almond, 0.08)
    looked = across - n["gaze"] * torch.sign(x)
    distance = torch.sqrt(looked**2 + (rise - 0.08) ** 2 + 1e-6)
    iris = step(0.66 - distance, soft)
    ball = [torch.full_like(x, value) for value in (0.54, 0.51, 0.48)]
    eye_colour = ramp(1 - (1 - n["eye_colour"]) * (1 - 0.6 * n["skin_tone"]), IRIS)
    ball = mix(ball, eye_colour, iris)
    ball = mix(ball, [0.3 * value for value in eye_colour], iris * smoothstep(distance, 0.42, 0.66))
    ball = mix(ball, [0.008] * 3, step(0.27 - distance, soft))
    shade = 0.55 + 0.45 * smoothstep(lid_up - rise, 0.0, 0.45)
    ball = [value * shade for value in ball]
    glint = bell((looked * torch.sign(x) - 0.2) / 0.14, (rise - 0.28) / 0.14)
    ball = mix(ball, [1.0] * 3, 0.8 * glint * iris)
    crease = front * bell((rise - lid_up - 0.38) / 0.15) * step(almond + 0.1, 0.1)
    colour = mix(colour, [0.4 * skin[0], 0.32 * skin[1], 0.3 * skin[2]], 0.45 * crease)
    colour = mix(colour, ball, opened)
    lash = front * bell((rise - lid_up) / 0.14) * step(almond + 0.08, 0.06)
    colour = mix(colour, [0.02, 0.014, 0.012], 0.85 * lash)
    under = front * bell((rise - lid_low) / 0.1) * step(almond, 0.08)
    colour = mix(colour, [0.3 * skin[0], 0.2 * skin[1], 0.2 * skin[2]], 0.4 * under)

    # brows
    along = (across - 0.1) / 2.0  # -1 at the inner end, 1 at the outer
    curve = n["brow_height"] + 0.45 * n["brow_raise"] + n["brow_arch"] * (0.5 - 0.7 * (along - 0.2) ** 2)
    curve = curve + n["brow_slant"] * along
    thick = n["brow_thickness"] * (1 - 0.55 * smoothstep(along, 0.1, 1.0))
    brow = front * step(thick - (v - curve).abs(), 0.6 * soft + 0.05) * step(1 - along.abs(), 0.06)
    brow_colour = [0.4 * one + 0.1 * two for one, two in zip(hair_colour(n, 0.4), skin, strict=True)]
    colour = mix(colour, brow_colour, 0.88 * brow)

    shine = (1 - beard) * (1 - brow) * (0.6 + 0.6 * lips) + 2.0 * opened
    return colour, shine


def hair_colour(n: Numbers, share_grey: float) -> list[torch.Tensor]:
    """Returns the colour (3 of [N,1]) of hair, with a share of its grey: brows keep their colour longer."""
    # light and red hair are rare on dark skin, so the scales are shorter there
    rare = 1 - 0.8 * n["skin_tone"]
    red, grey = n["hair_redness"] * rare, n["hair_grey"] ** 1.5 * (1.1 - 0.45 * n["skin_tone"])
    base = ramp(1 - (1 - n["hair_darkness"]) * rare, HAIR)
    base = [base[0] * (1 + 0.9 * red), base[1] * (1 - 0.1 * red), base[2] * (1 - 0.55 * red)]
    return mix(base, [0.42, 0.42, 0.43], 0.85 * share_grey * grey)


def paint_hair(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor, n: Numbers) -> list[torch.Tensor]:
    """Returns the colour (3 of [N,M]) of hair with strands, and the parting."""
    strands = torch.sin(5.7 * x + 1.9 * torch.sin(0.9 * y + 0.4 * z)) + torch.sin(4.3 * z + 1.3 * torch.sin(0.7 * y + x))
    strands = 0.5 * strands + 0.4 * torch.sin(2.3 * x + 1.9 * z + torch.sin(0.5 * y))
    part = bell((x - n["hair_parting"]) / 0.28) * smoothstep(y, 5.0, 7.0)
    skin = ramp(n["skin_tone"], SKIN)
    shade = 1 + 0.25 * strands
    return mix([value * shade for value in hair_colour(n, 1.0)], [0.6 * value for value in skin], 0.55 * part)


# ---- the picture


def render_rows(n: Numbers, resolution: int) -> torch.Tensor:
    """Returns images [N,3,R,R] in [-1,1], before blur and noise."""
    pixel = FRAME / resolution
    soft = max(0.1 * pixel, 0.03)
    side = resolution * SUPERSAMPLES
    rotation, relief = rotate(n), make_relief(n)
    coarse, rays = (photograph(n, rotation, count) for count in (resolution, side))

    def distance(t: torch.Tensor, rays: Rays = rays) -> torch.Tensor:
        return measure(rays.at(t), n, relief)["any"]

    with torch.no_grad():
        # first one ray a pixel from afar, then all of them from just before what the neighbours met
        far, _, _ = search(partial(distance, rays=coarse), torch.full_like(coarse.start[0], -15.0), STEPS)
        start = enlarge(-F.max_pool2d(-far.view(-1, 1, resolution, resolution), 3, 1, 1)) - 0.8
        near, deepest, hit = search(distance, start, STEPS_AGAIN)
        ahead = distance(near + 0.02)
    # one Newton step where the ray meets the surface carries the gradient (implicit function theorem)
    left = distance(near)
    slope = ((ahead - left.detach()) / 0.02).clamp(max=-0.15)
    t = near - torch.where(hit, left / slope, 0.0).clamp(-0.3, 0.3)
    cover = torch.sigmoid(-distance(deepest) / (0.3 * pixel / SUPERSAMPLES))
    world, head = rays.at(t)
    bodies = measure((world, head), n, relief)
    normal = find_normal(world, bodies["any"], rotation, n, relief)

    # paint
    x, y, z = head
    v = stretch(y, n)
    v = v + 0.7 * n["chin_length"] * smoothstep(-v, 7.5, 11.0)
    colour, shine = paint_skin(x, v, z, n, soft)
    is_hair = step(bodies["skin"] - bodies["hair"], 0.05)
    colour = mix(colour, paint_hair(x, y, z, n), is_hair)
    clothes = [n[f"clothes_{name}"] for name in ("red", "green", "blue")]
    is_clothes = step(torch.minimum(bodies["skin"], bodies["hair"]) - bodies["clothes"], 0.05)
    colour = mix(colour, clothes, is_clothes)
    shine = shine * (1 - is_hair) * (1 - is_clothes) + 0.35 * is_hair

    # light
    azimuth, elevation = (n[f"light_{name}"] * (math.pi / 180) for name in ("azimuth", "elevation"))
    light = (azimuth.sin() * elevation.cos(), elevation.sin(), azimuth.cos() * elevation.cos())
    facing = sum(one * two for one, two in zip(normal, light, strict=True))
    lit = ((facing + 0.2) / 1.2).clamp_min(0)
    shadow = cast_shadow(world, normal, light, rotation, n, relief, side)
    blurred = F.avg_pool2d(F.avg_pool2d(F.pad(relief, (8, 8, 8, 8), mode="replicate"), (17, 1), 1), (1, 17), 1)
    hollow = look_up(blurred - relief, x, v) * torch.sigmoid(2 * (z - 1.5))
    open_sky = (1 - 0.55 * hollow.clamp(-0.3, 1.0)) * (0.72 + 0.2 * normal[1] + 0.25 * normal[2])
    half = [light[i] - rays.way[i] for i in range(3)]
    half_size = torch.sqrt(sum(value**2 for value in half))
    gloss = sum(one * two / half_size for one, two in zip(normal, half, strict=True)).clamp_min(1e-4) ** 24
    warm = n["light_warmth"]
    tint = (1 + 0.22 * warm, 1.0, 1 - 0.3 * warm)
    direct = (1 - n["ambient"]) * 1.7 * shadow
    bright = 2.0 ** n["exposure"]
    colour = [
        bright
        * (
            value * (n["ambient"] * open_sky + direct * lit * tone)
            + shine * (0.1 * gloss * direct * tone + 0.02 * n["ambient"] * open_sky**2)
        )
        for value, tone in zip(colour, tint, strict=True)
    ]

    # glasses, in a plane before the eyes; then the background
    rims = draw_glasses(n, rays, soft)
    rim_colour = [0.015 + 0.5 * n["glasses_shade"] ** 2 * tone for tone in (1.0, 0.75, 0.5)]
    colour = mix(colour, [value * bright * (0.5 + 0.4 * lit) for value in rim_colour], rims)
    behind = [value * bright for value in paint_background(n, side)]
    colour = mix(behind, colour, cover)

    picture = torch.stack(colour, 1).view(-1, 3, side, side)
    picture = F.avg_pool2d(picture, SUPERSAMPLES)
    return (1 - torch.exp(-1.7 * picture)).clamp_min(1e-4) ** (1 / 2.2) * 2 - 1


def search(distance, start: torch.Tensor, steps: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
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


def photograph(n: Numbers, rotation: torch.Tensor, side: int) -> Rays:
    """Returns the rays [N,side*side] of a picture, row by row from the top, through a frame at z 0."""
    across, down = frame(n, side)
    x = across / n["zoom"] - n["offset_x"]
    y = down / n["zoom"] - n["offset_y"] + CENTRE
    length = torch.sqrt(x**2 + (y - CENTRE) ** 2 + CAMERA**2)
    return make_rays((x, y, torch.zeros_like(x)), (x / length, (y - CENTRE) / length, -CAMERA / length), rotation)


def frame(n: Numbers, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the places [1,side*side] in a picture's frame, right and up from its middle, in cm."""
    like = n["age"]
    centre = ((torch.arange(side, dtype=like.dtype, device=like.device) + 0.5) / side - 0.5) * FRAME
    return centre.repeat(side)[None], -centre.repeat_interleave(side)[None]


def find_normal(world: Point, here: torch.Tensor, rotation: torch.Tensor, n: Numbers, relief: torch.Tensor) -> Point:
    """Returns the unit normals (3 of [N,M]) of the surface at points of the world, whose distance to it is here."""
    rise = []
    for axis in range(3):
        way = [torch.zeros_like(n["age"])] * 3
        way[axis] = torch.ones_like(n["age"])
        rise.append(measure(make_rays(world, way, rotation).at(EPSILON), n, relief)["any"] - here)
    size = torch.sqrt(sum(value**2 for value in rise) + 1e-12)
    return tuple(value / size for value in rise)


def cast_shadow(
    world: Point, normal: Point, light: Point, rotation: torch.Tensor, n: Numbers, relief: torch.Tensor, side: int
) -> torch.Tensor:
    """Returns how much of the light reaches points of the world [N,side*side]: 0 in the shadow, one number a pixel."""

    def thin(value: torch.Tensor) -> torch.Tensor:
        return value.view(-1, side, side)[:, ::SUPERSAMPLES, ::SUPERSAMPLES].flatten(1)

    start = tuple(thin(point + 0.15 * out) for point, out in zip(world, normal, strict=True))
    rays = make_rays(start, light, rotation)
    shadow = torch.ones_like(start[0])
    for reach in (0.5, 1.1, 2.0, 3.2, 4.8, 7.0):
        clear = measure(rays.at(reach), n, relief)["any"]
        shadow = torch.minimum(shadow, (0.5 + clear / (0.35 * reach + 0.2)).clamp(0, 1))
    return enlarge(shadow.view(-1, 1, side // SUPERSAMPLES, side // SUPERSAMPLES))


def enlarge(pixels: torch.Tensor) -> torch.Tensor:
    """Returns [N,M], the value of its pixel for every ray, of pixels [N,1,R,R]."""
    return F.interpolate(pixels, scale_factor=SUPERSAMPLES).flatten(1)


def paint_background(n: Numbers, side: int) -> list[torch.Tensor]:
    """Returns the colours (3 of [N,side*side]) of the background: brighter to one side, with soft blobs."""
    across, down = frame(n, side)
    level = 1 + 2 * (n["background_x"] * across + n["background_y"] * down) / FRAME
    blobs = torch.sin(0.33 * across + n["background_phase"]) * torch.sin(0.27 * down + 2 * n["background_phase"])
    level = (level * (1 + n["background_blobs"] * blobs)).clamp_min(0.02)
    return [level * n[f"background_{name}"] for name in ("red", "green", "blue")]


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
