"""The relief of a face: how far it stands out from the smooth head, over the face coordinates (|x|, v).

v is the head's y, stretched so that the eyes are at 0, the chin at -11.5 and the crown at 11.5 of every person.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ganinv.rendered.geometry import Numbers, bell

GRID = (192, 128)  # samples of the relief, over RELIEF_Y and RELIEF_X
RELIEF_X, RELIEF_Y = 8.0, (-14.0, 9.0)


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


def stretch(y: torch.Tensor, n: Numbers) -> torch.Tensor:
    """Returns the face coordinate v of the head's y."""
    below = torch.sigmoid(-y / 1.5)
    return y / (n["forehead_height"] + (n["face_length"] - n["forehead_height"]) * below)
