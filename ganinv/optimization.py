"""The only optimisation loop: images from a search space, transformed, recognized, scored, one step; and again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from ganinv.interfaces import Evaluation, FaultError, Recognizer, Term
from ganinv.randomness import Streams
from ganinv.transforms import Transform


@dataclass(frozen=True, kw_only=True)
class Optim:
    """How the search steps. Adam's short memory (Struppek et al. 2022 use betas 0.1, 0.1) suits few, noisy steps."""

    optimizer: str = "adam"  # adam | gradient_descent
    lr: float = 0.05
    betas: tuple[float, float] = (0.9, 0.99)
    decay: bool = True  # the learning rate follows a half cosine to a tenth
    transforms: int = 2  # random transforms of every sample in every step
    patience: int = 0  # stop a sample after this many steps without improvement, and return its best; 0: never
    threshold: float = 0.0  # stop a sample whose objective is at or below this; needs patience


OPTIMIZERS: dict[str, Callable] = {
    "adam": lambda params, optim: torch.optim.Adam(params, optim.lr, betas=optim.betas),
    "gradient_descent": lambda params, optim: torch.optim.SGD(params, optim.lr),
}


def falling_rate(optim: Optim, step: int, steps: int) -> float:
    """Returns the learning rate of a step: constant, or a half cosine from lr to a tenth of it."""
    return optim.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))) if optim.decay else optim.lr


def minimise(
    space: nn.Module,
    recognizer: Recognizer,
    identities: torch.Tensor,
    objective: Term,
    transform: Transform,
    streams: Streams,
    *,
    steps: int,
    optim: Optim,
    on_step: Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], None] = lambda *_: None,
    state: Mapping | None = None,
    on_state: Callable[[Callable[[], dict]], None] = lambda _: None,
) -> int:
    """Moves the parameters of `space` (first dimension N) down the objective; returns the number of gradients taken.

    identities: [N]. on_step(step, losses [N], scores [N], images [N,3,R,R]) sees every step before its update. The SUM
    over samples is differentiated, so a sample's path does not depend on the others. With patience, each sample ends in
    the state of its lowest objective and counts no further gradients once it has stopped. After every step on_state gets
    a function that describes the search; with its answer as `state`, a later call goes on from there to the bit.

    Raises: FaultError when the objective is not finite.
    """
    parameters = list(space.parameters())
    optimizer = OPTIMIZERS[optim.optimizer](parameters, optim)
    count = len(identities)
    best = torch.full((count,), torch.inf, device=identities.device)
    kept = [parameter.detach().clone() for parameter in parameters]
    waited = torch.zeros(count, dtype=torch.long, device=identities.device)
    running = torch.ones(count, dtype=torch.bool, device=identities.device)
    first, gradients = 0, 0
    if state is not None:
        with torch.no_grad():
            for parameter, copy, now, lowest in zip(parameters, kept, state["parameters"], state["kept"], strict=True):
                parameter.copy_(now)
                copy.copy_(lowest)
        optimizer.load_state_dict(state["optimizer"])
        best, waited, running = (state[name].to(identities.device) for name in ("best", "waited", "running"))
        streams.set_state(state["streams"])
        first, gradients = state["step"], state["gradients"]

    def describe(step: int) -> dict:
        return {
            "step": step,
            "gradients": gradients,
            "parameters": parameters,
            "optimizer": optimizer.state_dict(),
            "kept": kept,
            "best": best,
            "waited": waited,
            "running": running,
            "streams": streams.get_state(),
        }

    for step in range(first, steps):
        optimizer.param_groups[0]["lr"] = falling_rate(optim, step, steps)
        images = space()
        total = torch.zeros(count, device=images.device)
        scores = torch.zeros_like(total)
        for _ in range(optim.transforms):
            logits = recognizer(transform(images, streams)).logits
            total = total + objective(Evaluation(images, logits, identities))
            scores = scores + logits.detach().softmax(1).gather(1, identities[:, None]).squeeze(1)
        losses = total / optim.transforms
        if not torch.isfinite(losses.sum()):
            raise FaultError(f"the objective is not finite at step {step}; lower --optim.lr or check the recognizer")
        on_step(step, losses.detach(), scores / optim.transforms, images.detach())
        if optim.patience:
            better = running & (losses.detach() < best)
            best = torch.where(better, losses.detach(), best)
            waited = torch.where(better, 0, waited + 1)
            for copy, parameter in zip(kept, parameters, strict=True):
                copy[better] = parameter.detach()[better]
            running &= (waited < optim.patience) & (best > optim.threshold)
            if not running.any():
                break
        gradients += int(running.sum()) * optim.transforms if optim.patience else count * optim.transforms
        optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        optimizer.step()
        space.project_()
        on_state(partial(describe, step + 1))
    if optim.patience:
        with torch.no_grad():
            for copy, parameter in zip(kept, parameters, strict=True):
                parameter.copy_(copy)
    return gradients
