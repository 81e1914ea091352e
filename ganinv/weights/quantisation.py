"""Weights as int8 rows: a quarter of the size, each row with a step of its own."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def quantise(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns copies on the CPU in a quarter of the size: weights (two dimensions or more) as int8, one step a row.

    A weight w [F,...] becomes w, the nearest of -127..127, and w.step [F], float32; other tensors stay. The rounding is
    at most half a step, 1/254 of the row's largest value. read_tensors undoes it.
    """
    packed: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        if tensor.ndim < 2 or not tensor.is_floating_point():
            packed[name] = tensor.clone()
            continue
        rows = tensor.float().flatten(1)
        step = (rows.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
        packed[name] = (rows / step[:, None]).round().to(torch.int8).view_as(tensor)
        packed[f"{name}.step"] = step
    return packed


def dequantise(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns what quantise was given, rounded; tensors without a step of their own stay as they are."""
    plain = {}
    for name, tensor in tensors.items():
        step = tensors.get(f"{name}.step")
        if name.endswith(".step") and tensors.get(name.removesuffix(".step"), tensor).dtype == torch.int8:
            continue
        if tensor.dtype == torch.int8 and step is not None and step.shape == tensor.shape[:1] != ():
            tensor = tensor.float() * step.view(-1, *[1] * (tensor.ndim - 1))
        plain[name] = tensor
    return plain
