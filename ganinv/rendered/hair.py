"""The colour of hair."""

from __future__ import annotations

import torch

from ganinv.rendered.colours import HAIR, SKIN, mix, ramp
from ganinv.rendered.geometry import Numbers, Point, bell, smoothstep


def hair_colour(n: Numbers, share_grey: float) -> list[torch.Tensor]:
    """Returns the colour (3 of [N,1]) of hair, with a share of its grey: brows keep their colour longer."""
    # light and red hair are rare on dark skin, so the scales are shorter there
    rare = 1 - 0.8 * n["skin_tone"]
    red, grey = n["hair_redness"] * rare, n["hair_grey"] ** 1.5 * (1.1 - 0.45 * n["skin_tone"])
    base = ramp(1 - (1 - n["hair_darkness"]) * rare, HAIR)
    base = [base[0] * (1 + 0.9 * red), base[1] * (1 - 0.1 * red), base[2] * (1 - 0.55 * red)]
    return mix(base, [0.42, 0.42, 0.43], 0.85 * share_grey * grey)


def paint_hair(head: Point, n: Numbers) -> list[torch.Tensor]:
    """Returns the colour (3 of [N,M]) of hair with strands, and the parting."""
    x, y, z = head
    strands = torch.sin(5.7 * x + 1.9 * torch.sin(0.9 * y + 0.4 * z)) + torch.sin(4.3 * z + 1.3 * torch.sin(0.7 * y + x))
    strands = 0.5 * strands + 0.4 * torch.sin(2.3 * x + 1.9 * z + torch.sin(0.5 * y))
    part = bell((x - n["hair_parting"]) / 0.28) * smoothstep(y, 5.0, 7.0)
    skin = ramp(n["skin_tone"], SKIN)
    shade = 1 + 0.25 * strands
    return mix([value * shade for value in hair_colour(n, 1.0)], [0.6 * value for value in skin], 0.55 * part)
