"""Colours, in linear light: the scales of skin, hair and eyes, and how one is laid over another."""

from __future__ import annotations

import torch


def srgb(*colours: tuple[int, int, int]) -> tuple[tuple[float, ...], ...]:
    """Returns linear colours of 8-bit ones."""
    return tuple(tuple((value / 255) ** 2.2 for value in colour) for colour in colours)


SKIN = srgb((252, 224, 205), (238, 195, 165), (217, 164, 128), (181, 124, 86), (133, 84, 56), (90, 56, 40), (68, 45, 35))
HAIR = srgb((226, 196, 140), (170, 122, 72), (100, 64, 40), (52, 34, 26), (18, 15, 15))
IRIS = srgb((110, 150, 185), (120, 140, 130), (125, 120, 70), (100, 66, 35), (45, 28, 18))


def ramp(share: torch.Tensor, colours: tuple) -> list[torch.Tensor]:
    """Returns the red, green and blue [N,1] at a share [N,1] in [0,1] of the way through colours."""
    place = share * (len(colours) - 1)
    weights = [(1 - (place - index).abs()).clamp_min(0) for index in range(len(colours))]
    return [sum(weight * colour[channel] for weight, colour in zip(weights, colours, strict=True)) for channel in range(3)]


def mix(colour: list[torch.Tensor], other, share: torch.Tensor) -> list[torch.Tensor]:
    """Returns colour with a share of another laid over it."""
    return [one + share * (two - one) for one, two in zip(colour, other, strict=True)]
