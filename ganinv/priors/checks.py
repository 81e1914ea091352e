"""Checks that a prior keeps the convention of interfaces.py."""

from __future__ import annotations

import logging

import torch

from ganinv.interfaces import Generator
from ganinv.recognizers.callable import call_theirs
from ganinv.recognizers.recognize import find_device

SAMPLES = 2
BRIGHTEST = 8.0  # a young prior may leave [-1,1] by some; pictures in [0,255] leave it by far
NUMBERS = ("z_dim", "num_ws", "w_dim", "resolution")

log = logging.getLogger(__name__)


def check_prior(prior: Generator, *, device: torch.device | str | None = None) -> None:
    """Asks a prior twice for the pictures of the same latents; returns if it keeps the convention of interfaces.py.

    device: of the latents; by default that of the prior's parameters, else the CPU. Pictures that look like [0,1] are
    told of in a line of the log.
    Raises: ValueError saying what came, when it raises, or numbers, shapes, types, device or values are not as agreed, the
    two answers differ, or the pictures do not change with the latents by a finite gradient.
    """
    for name in NUMBERS:
        if type(number := getattr(prior, name, None)) is not int or number < 1:
            raise ValueError(f"expected a prior with {name} above 0, got {number!r}")
    device = find_device(prior) if device is None else torch.device(device)
    z = torch.randn(SAMPLES, prior.z_dim, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.enable_grad():
        w = call_theirs(lambda: prior.map(z, 1.0), "an answer of map", "prior").detach()
        check_tensor("w", w, [SAMPLES, prior.num_ws, prior.w_dim], device)
        w.requires_grad_()
        pictures = call_theirs(lambda: prior.synthesize(w), "an answer of synthesize", "prior")
    side = prior.resolution
    check_tensor("pictures", pictures, [SAMPLES, 3, side, side], device)
    low, high = pictures.min().item(), pictures.max().item()
    if max(-low, high) > BRIGHTEST:
        raise ValueError(f"expected pictures in [-1,1] from the prior, got [{low:.3g},{high:.3g}]; scale them")
    with torch.no_grad():
        again = call_theirs(lambda: prior.synthesize(prior.map(z, 1.0)), "an answer of synthesize", "prior")
    # some GPU kernels add in no fixed order, hence a tolerance
    if not torch.allclose(pictures, again, rtol=1e-3, atol=1e-3):
        raise ValueError("expected the same pictures twice for the same latents, got others; fix the noise, or call eval()")
    # a plain sum would be flat where pictures are normalised
    weights = torch.linspace(1, 2, pictures.numel(), device=device)
    slope = None
    if pictures.requires_grad:
        (slope,) = torch.autograd.grad((pictures.flatten() * weights).sum(), w, allow_unused=True)
    if slope is None or not torch.isfinite(slope).all() or not slope.any():
        raise ValueError(
            "expected pictures that change with the latents by a finite gradient, got none; run the prior without "
            "torch.no_grad, rounding or numpy inside"
        )
    if low >= 0 and 0.5 < high <= 1.001:
        log.warning("the prior's pictures lie in [%.2g,%.2g]: if black is 0 there, return 2 * pictures - 1", low, high)


def check_tensor(name: str, value: object, shape: list[int], device: torch.device) -> None:
    """Raises ValueError unless a value is a finite tensor of a shape, float32, on a device."""
    if not isinstance(value, torch.Tensor) or list(value.shape) != shape:
        got = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise ValueError(f"expected {name} of shape {shape} from the prior, got {got}")
    if value.dtype != torch.float32 or value.device.type != device.type:
        raise ValueError(f"expected {name} of float32 on {device.type} from the prior, got {value.dtype} on {value.device}")
    if not torch.isfinite(value).all():
        raise ValueError(f"expected finite {name} from the prior, got NaN or infinity")
