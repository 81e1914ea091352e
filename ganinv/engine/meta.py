"""Networks without memory or first weights, whose shapes alone are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode

DRAWS = {"normal_", "uniform_", "trunc_normal_"}


class Undrawn(TorchFunctionMode):
    """Has tensors filled with random numbers left as they are: without memory torch would load its compiler to draw them."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def on_meta() -> Iterator[None]:
    """Builds networks on no device; the caller's random numbers stay where they are."""
    with torch.device("meta"), Undrawn():
        yield
