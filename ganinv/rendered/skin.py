"""The colours of a face: complexion, folds, beard, mouth, nose, eyes and brows, laid over each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ganinv.rendered.colours import IRIS, SKIN, mix, ramp
from ganinv.rendered.geometry import Numbers, bell, smoothstep, step
from ganinv.rendered.hair import hair_colour

Colour = list[torch.Tensor]  # red, green and blue, [N,M] or [N,1]


@dataclass(frozen=True)
class Face:
    """Points of a face at face coordinates x, v and depth z [N,M], and what more than one of its features needs.

    soft: cm, of edges; skin, hair: their colours; beside: |x|; front: 1 on the front of the head, 0 behind; mouth, nose:
    the v of mouth and nose tip.
    """

    x: torch.Tensor
    v: torch.Tensor
    z: torch.Tensor
    n: Numbers
    soft: float
    skin: Colour
    hair: Colour
    beside: torch.Tensor
    front: torch.Tensor
    mouth: torch.Tensor
    nose: torch.Tensor

    def tint(self, red: float, green: float, blue: float) -> Colour:
        """Returns the skin's colour with its channels multiplied."""
        return [red * self.skin[0], green * self.skin[1], blue * self.skin[2]]


@dataclass(frozen=True)
class Mouth:
    """Half its width, the v of its middle line, and how much of each point is of the lips or the gap between them."""

    width: torch.Tensor
    middle: torch.Tensor
    gap_low: torch.Tensor
    lips: torch.Tensor
    gap: torch.Tensor


def paint_skin(x: torch.Tensor, v: torch.Tensor, z: torch.Tensor, n: Numbers, soft: float) -> tuple[Colour, torch.Tensor]:
    """Returns the colours (3 of [N,M]) of skin and features at points of the head, and how much they shine [N,M]."""
    skin = ramp(n["skin_tone"], SKIN)
    red = n["skin_redness"]
    skin = [skin[0] * (1 + 0.12 * red), skin[1] * (1 - 0.1 * red), skin[2] * (1 - 0.06 * red)]
    face = Face(
        x, v, z, n, soft, skin, hair_colour(n, 1.0), beside=x.abs(), front=torch.sigmoid(3 * (z - 2.0)),
        mouth=-n["mouth_height"], nose=-n["nose_length"],
    )  # fmt: skip
    colour = paint_complexion(face)
    colour = paint_folds(face, colour)
    mouth = shape_mouth(face)
    colour, beard = paint_beard(face, mouth, colour)
    colour = paint_mouth(face, mouth, colour)
    colour = paint_nostrils(face, colour)
    across = face.beside - n["eye_spacing"]  # from the middle of the nearer eye
    colour, opened = paint_eyes(face, across, colour)
    colour, brow = paint_brows(face, across, colour)
    shine = (1 - beard) * (1 - brow) * (0.6 + 0.6 * mouth.lips) + 2.0 * opened
    return colour, shine


def paint_complexion(face: Face) -> Colour:
    """Returns the colour of bare skin with its blush, freckles and mole."""
    x, v, n, skin = face.x, face.v, face.n, face.skin
    colour = [one.expand_as(x) for one in skin]
    blush = bell((face.beside - 4.0) / 1.8, (v + 4.0) / 1.7)
    blush = blush + bell(x / 1.2, v - face.nose)
    blush = face.front * blush * (0.12 + 0.1 * n["skin_redness"])
    colour = [colour[0], colour[1] * (1 - blush), colour[2] * (1 - 0.8 * blush)]
    pattern = torch.sin(7.1 * x + 3 * torch.sin(3.3 * v)) * torch.sin(6.7 * v + 2 * torch.sin(4.1 * x + 1))
    freckles = step(pattern - 0.45, 0.12) * bell((v + 3.0) / 2.2, (face.beside / 4.8) ** 2)
    strength = 0.7 * face.front * n["freckles"] * (1 - 0.5 * n["skin_tone"])
    colour = mix(colour, face.tint(0.55, 0.38, 0.3), strength * freckles)
    distance = torch.sqrt((x - n["mole_x"]) ** 2 + (v - n["mole_y"]) ** 2 + 1e-6)
    mole = face.front * step(n["mole_size"] - distance, face.soft) * smoothstep(n["mole_size"], 0.05, 0.2)
    return mix(colour, face.tint(0.25, 0.16, 0.14), 0.9 * mole)


def paint_folds(face: Face, colour: Colour) -> Colour:
    """Returns the colour with folds from nose to mouth, on the forehead, under and beside the eyes."""
    v, n, beside, eye = face.v, face.n, face.beside, face.n["eye_spacing"]
    fold = bell((beside - 1.75 * n["nose_width"].clamp(0.8, 1.2) - 0.45 * (face.nose - v)) / 0.28)
    fold = fold * smoothstep(v, -8.6, -7.0) * smoothstep(-v, 4.3, 5.0)
    lines = 0.5 + 0.5 * torch.cos(2 * math.pi * (v - n["forehead_height"]) / 1.05)
    lines = lines**4 * smoothstep(v, 3.0, 3.8) * smoothstep(-v, -6.4, -5.6) * bell((face.x / 3.8) ** 2)
    bags = bell((beside - eye + 0.1) / 1.2, (v + 1.15 - 0.12 * (beside - eye) ** 2) / 0.22)
    feet = bell((beside - eye - 2.2) / 0.5, v) * (0.5 + 0.5 * torch.cos(9 * v)) ** 2
    folds = n["age"] * (0.3 * fold + 0.4 * lines + 0.3 * bags + 0.35 * feet)
    folds = folds + (0.08 + 0.25 * n["smile"].clamp_min(0)) * fold + 0.12 * bags
    return mix(colour, face.tint(0.45, 0.35, 0.32), (face.front * folds).clamp(0, 0.8))


def shape_mouth(face: Face) -> Mouth:
    """Returns where lips and gap are."""
    x, v, n, soft, smile = face.x, face.v, face.n, face.soft, face.n["smile"]
    width = n["mouth_width"] * (1 + 0.14 * smile)
    inside = 1 - (x / width) ** 2
    bow = inside.clamp_min(0)
    middle = face.mouth + 0.55 * smile * ((x / width) ** 2).clamp(max=1.5) - 0.1 * smile
    gap_up = (0.22 * n["mouth_open"] + 0.12 * smile.clamp_min(0)) * bow
    gap_low = (1.15 * n["mouth_open"] + 0.22 * smile.clamp_min(0)) * bow
    upper = middle + gap_up + n["upper_lip"] * bow.clamp_min(1e-4).sqrt() * (1 - 0.22 * bell(x / 0.35))
    lower = middle - gap_low - n["lower_lip"] * bow.clamp_min(1e-4).sqrt()
    lips = step(upper - v, soft) * step(v - lower, soft) * step(inside, 0.06)
    gap = face.front * step(middle + gap_up - v, soft) * step(v - middle + gap_low, soft) * step(inside, 0.06)
    gap = gap * smoothstep(gap_up + gap_low, 0.02, 0.25)
    return Mouth(width, middle, gap_low, lips, gap)


def paint_beard(face: Face, mouth: Mouth, colour: Colour) -> tuple[Colour, torch.Tensor]:
    """Returns the colour with beard and moustache, which do not grow on the lips, and how much [N,M] there is of them."""
    v, z, n = face.v, face.z, face.n
    cheek_line = -6.3 + 4.6 * (face.beside / 6.6) ** 3
    grown = step(cheek_line - v, 0.35) * smoothstep(-z, -20.0, 2.0) * smoothstep(z, -3.5, -1.0) * smoothstep(v, -14.0, -12.0)
    lip_fuzz = 0.85 * bell(face.x / (0.9 * mouth.width), (v - 0.65 * face.mouth - 0.35 * face.nose) / 0.7)
    beard = n["beard"] ** 2 * torch.maximum(grown, lip_fuzz * face.front) * (1 - mouth.lips)
    beard = (1.3 * beard).clamp(max=0.93)
    return mix(colour, [0.75 * value for value in face.hair], beard), beard


def paint_mouth(face: Face, mouth: Mouth, colour: Colour) -> Colour:
    """Returns the colour with lips, the line between them, and teeth in an open mouth."""
    skin, redness = face.skin, face.n["lip_redness"]
    lip = [skin[0] * (0.95 - 0.1 * redness), skin[1] * (0.72 - 0.34 * redness), skin[2] * (0.75 - 0.28 * redness)]
    colour = mix(colour, lip, 0.92 * face.front * mouth.lips)
    above = face.v - mouth.middle
    line = face.front * bell(above / 0.13) * step(1.08 - (face.x / mouth.width) ** 2, 0.06)
    colour = mix(colour, face.tint(0.22, 0.12, 0.12), 0.65 * line * (1 - mouth.gap))
    teeth = smoothstep(face.v - mouth.middle + 0.35 * mouth.gap_low, -0.05, 0.1)
    within = [0.06 + teeth * 0.5, 0.015 + teeth * 0.46, 0.015 + teeth * 0.4]
    return mix(colour, within, mouth.gap)


def paint_nostrils(face: Face, colour: Colour) -> Colour:
    """Returns the colour with the nostrils."""
    wide = face.n["nose_width"]
    nostril = bell((face.beside - 0.72 * wide) / (0.36 * wide), (face.v - face.nose + 0.62) / 0.24)
    return mix(colour, face.tint(0.18, 0.1, 0.09), 0.8 * face.front * nostril)


def paint_eyes(face: Face, across: torch.Tensor, colour: Colour) -> tuple[Colour, torch.Tensor]:
    """Returns the colour with eyes, their lids and lashes, and how much [N,M] is of the open eyes."""
    n, soft, front = face.n, face.soft, face.front
    rise = face.v - across * torch.tan(n["eye_slant"] * (math.pi / 180))
    almond = 1 - (across / n["eye_width"]) ** 2
    lid_low = -0.48 * almond
    lid_up = ((n["eye_height"] + 0.48) * n["eyelids"] - 0.48) * almond
    opened = front * step(lid_up - rise, soft) * step(rise - lid_low, soft) * step(almond, 0.08)
    ball = paint_eyeballs(face, across, rise, lid_up)
    crease = front * bell((rise - lid_up - 0.38) / 0.15) * step(almond + 0.1, 0.1)
    colour = mix(colour, face.tint(0.4, 0.32, 0.3), 0.45 * crease)
    colour = mix(colour, ball, opened)
    lash = front * bell((rise - lid_up) / 0.14) * step(almond + 0.08, 0.06)
    colour = mix(colour, [0.02, 0.014, 0.012], 0.85 * lash)
    under = front * bell((rise - lid_low) / 0.1) * step(almond, 0.08)
    return mix(colour, face.tint(0.3, 0.2, 0.2), 0.4 * under), opened


def paint_eyeballs(face: Face, across: torch.Tensor, rise: torch.Tensor, lid_up: torch.Tensor) -> Colour:
    """Returns the colour of the eyes at places across and up from the middle of an eye: iris, pupil, shade and glint."""
    x, n, soft = face.x, face.n, face.soft
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
    return mix(ball, [1.0] * 3, 0.8 * glint * iris)


def paint_brows(face: Face, across: torch.Tensor, colour: Colour) -> tuple[Colour, torch.Tensor]:
    """Returns the colour with brows, and how much [N,M] is of them."""
    n = face.n
    along = (across - 0.1) / 2.0  # -1 at the inner end, 1 at the outer
    curve = n["brow_height"] + 0.45 * n["brow_raise"] + n["brow_arch"] * (0.5 - 0.7 * (along - 0.2) ** 2)
    curve = curve + n["brow_slant"] * along
    thick = n["brow_thickness"] * (1 - 0.55 * smoothstep(along, 0.1, 1.0))
    edge = 0.6 * face.soft + 0.05
    brow = face.front * step(thick - (face.v - curve).abs(), edge) * step(1 - along.abs(), 0.06)
    brow_colour = [0.4 * one + 0.1 * two for one, two in zip(hair_colour(n, 0.4), face.skin, strict=True)]
    return mix(colour, brow_colour, 0.88 * brow), brow
