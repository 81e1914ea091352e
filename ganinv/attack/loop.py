"""The only optimisation loop: images from a search space, transformed, recognized, scored, one step; and again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from ganinv.attack.config import Optim
from ganinv.attack.transforms import Transform
from ganinv.engine.batches import Batch
from ganinv.engine.randomness import Draws, Streams
from ganinv.interfaces import Evaluation, FaultError, Recognizer, Term

TREND = 0.2  # weight of the last step in the running mean of losses that halving goes by
SURE = 10  # steps running in which a sample that leaves by leave_at was scored so high
OPTIMIZERS: dict[str, Callable] = {
    "adam": lambda params, optim: torch.optim.Adam(params, optim.lr, betas=optim.betas),
    "gradient_descent": lambda params, optim: torch.optim.SGD(params, optim.lr),
}
LOOK_EVERY = 5  # steps between looks at which samples have stopped; every one on the CPU, where no device is waited for


@dataclass(frozen=True)
class Search:
    """What a search did. gradients: taken, one a sample, transform and step; finished [N]: False where it was dropped."""

    gradients: int
    finished: torch.Tensor


@dataclass(frozen=True)
class Seen:
    """What a step saw, before its update: losses [N], scores [N] in [0,1] and gradients taken until then.

    A sample that has left keeps its last numbers; a dropped one has the loss inf.
    """

    losses: torch.Tensor
    scores: torch.Tensor
    gradients: int


def falling_rate(optim: Optim, step: int, steps: int) -> float:
    """Returns the learning rate of a step: constant, or a half cosine from lr to a tenth of it."""
    return optim.lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / max(1, steps)))) if optim.decay else optim.lr


def evaluate(
    space: nn.Module,
    rows: torch.Tensor,
    recognizer: Recognizer,
    identities: torch.Tensor,
    objective: Term,
    transform: Transform,
    draws: Draws,
    count: int,
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """Returns losses [n], scores [n] and the gradients of the sum of losses with regard to the space's parameters.

    rows [n]: the samples, of identities [n]. Every one of `count` transforms is differentiated as far as the images before
    the next, so that the memory of one of them is held at a time. Nothing is left behind where it fails.
    """
    images = space(rows)
    seen = images.detach().requires_grad_()
    losses, scores = torch.zeros(2, len(rows), device=images.device)
    slope = torch.zeros_like(images)
    for _ in range(count):
        logits = recognizer(transform(seen, draws)).logits
        loss = objective(Evaluation(seen, logits, identities)) / count
        slope += torch.autograd.grad(loss.sum(), seen)[0]
        losses += loss.detach()
        scores += logits.detach().softmax(1).gather(1, identities[:, None]).squeeze(1) / count
    return losses, scores, list(torch.autograd.grad(images, list(space.parameters(recurse=False)), slope))


def drop_worse(losses: torch.Tensor, identities: torch.Tensor, keep: int) -> torch.Tensor:
    """Returns which samples [N] of each identity go on: the half of lower loss, but at least `keep`; inf is gone already."""
    table, own = losses.cpu(), identities.cpu()
    kept = torch.zeros(len(own), dtype=torch.bool)
    for identity in own.unique():
        members = torch.where((own == identity) & table.isfinite())[0]
        order = members[table[members].argsort(stable=True)]  # ties go to the lower index
        kept[order[: max(keep, -(-len(members) // 2))]] = True
    return kept.to(losses.device)


def note_stops(own: dict, rows: torch.Tensor, optim: Optim, parameters: list, kept: list) -> None:
    """Notes which samples `rows` stop by their losses and scores, and with patience the parameters of the lowest losses.

    The device is not waited for.
    """
    running, losses = ~own["stopped"][rows], own["losses"][rows]
    if optim.patience:
        better = running & (losses < own["best"][rows])
        own["best"][rows] = torch.where(better, losses, own["best"][rows])
        own["waited"][rows] = torch.where(better, 0, own["waited"][rows] + 1)
        for copy, parameter in zip(kept, parameters, strict=True):
            copy[rows] = torch.where(spread(better, copy), parameter.detach()[rows], copy[rows])
        running &= (own["waited"][rows] < optim.patience) & (own["best"][rows] > optim.threshold)
    if optim.leave_at:
        own["sure"][rows] = torch.where(own["scores"][rows] >= optim.leave_at, own["sure"][rows] + 1, 0)
        running &= own["sure"][rows] < SURE
    own["stopped"][rows] = ~running


def spread(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Returns a mask [N] as [N,1,...], to choose rows of `like`."""
    return mask.view(-1, *[1] * (like.ndim - 1))


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
    keep: int = 1,
    batch: Batch | None = None,
    log_every: int = 1,
    on_step: Callable[[int, Seen], None] = lambda *_: None,
    state: Mapping | None = None,
    on_state: Callable[[Callable[[], dict]], None] = lambda _: None,
) -> Search:
    """Moves the parameters of `space` (first dimension N) down the objective.

    identities: [N]; halving keeps at least `keep` samples of each. batch: how many samples go through the networks at a
    time, all by default. on_step(step, seen) is called every log_every steps, and at the last of all. The SUM over
    samples is differentiated, so a sample's path does not depend on the others. A sample that has left or was dropped is
    computed no more; with patience, each ends in the state of its lowest objective. After every step on_state gets a
    function that describes the search; with its answer as `state`, a later call goes on from there to the bit.

    Raises: FaultError when the objective is not finite.
    """
    parameters = list(space.parameters(recurse=False))  # its own: not those of a frozen prior
    optimizer = OPTIMIZERS[optim.optimizer](parameters, optim)
    count, device = len(identities), identities.device
    batch = batch or Batch(count)
    own = {  # of every sample: its last loss and score, the loss's trend, the lowest, steps since, steps of a high score
        **{name: torch.full((count,), torch.inf, device=device) for name in ("losses", "trend", "best")},
        "scores": torch.zeros(count, device=device),
        **{name: torch.zeros(count, dtype=torch.long, device=device) for name in ("waited", "sure")},
        **{name: torch.zeros(count, dtype=torch.bool, device=device) for name in ("stopped", "dropped")},
        "bad": torch.tensor(torch.inf, device=device),  # the first step at which an objective was not finite
    }
    alive = torch.arange(count, device=device)  # the samples that are computed
    kept = [parameter.detach().clone() for parameter in parameters] if optim.patience else []
    first, gradients = 0, 0
    if state is not None:
        with torch.no_grad():
            for here, there in zip([*parameters, *kept], [*state["parameters"], *state["kept"]], strict=True):
                here.copy_(there)
        optimizer.load_state_dict(state["optimizer"])
        own = {name: value.to(device) for name, value in state["own"].items()}
        alive = state["alive"].to(device)
        streams.set_state(state["streams"])
        first, gradients = state["step"], state["gradients"]

    def check() -> None:
        if (worst := own["bad"].item()) < torch.inf:
            raise FaultError(f"the objective is not finite at step {worst:.0f}; lower --optim.lr or check the recognizer")

    def describe(step: int) -> dict:
        check()
        return {
            "step": step,
            "gradients": gradients,
            "parameters": parameters,
            "optimizer": optimizer.state_dict(),
            "kept": kept,
            "own": own,
            "alive": alive,
            "streams": streams.get_state(),
        }

    halvings = {round(share * steps) for share in optim.halve_at}
    may_stop = bool(optim.patience or optim.leave_at)
    look_every = 1 if device.type == "cpu" else LOOK_EVERY
    for step in range(first, steps):
        if step and step in halvings:
            own["dropped"] |= ~drop_worse(own["trend"], identities, keep)
            own["trend"][own["dropped"]] = own["losses"][own["dropped"]] = torch.inf
            alive = alive[~own["dropped"][alive]]
            if not len(alive):
                break
        optimizer.param_groups[0]["lr"] = falling_rate(optim, step, steps)
        rows, draws = alive, []

        def work(part: slice, rows=rows, draws=draws) -> tuple:
            few = rows[part]
            mine = streams.take(few)
            found = evaluate(space, few, recognizer, identities[few], objective, transform, mine, optim.transforms)
            draws.append(mine)
            return found

        parts = batch.over(len(rows), work)
        streams.advance(draws[0])
        gradients += len(rows) * optim.transforms
        losses, scores = (torch.cat([part[index] for part in parts]) for index in (0, 1))
        own["bad"] = torch.where(losses.sum().isfinite(), own["bad"], own["bad"].clamp(max=step))
        own["losses"][rows], own["scores"][rows] = losses, scores
        trend = own["trend"][rows]
        own["trend"][rows] = torch.where(trend.isinf(), losses, trend.lerp(losses, TREND))
        if may_stop:
            note_stops(own, rows, optim, parameters, kept)
            if step % look_every == look_every - 1:
                alive = rows[~own["stopped"][rows]]
        ended = step == steps - 1 or not len(alive)
        if step % log_every == 0 or ended:
            check()
            on_step(step, Seen(own["losses"], own["scores"], gradients))
        if not len(alive):
            break
        before = [parameter.detach().clone() for parameter in parameters] if may_stop or halvings else []
        for index, parameter in enumerate(parameters):
            parameter.grad = sum(part[2][index] for part in parts)
        optimizer.step()
        space.project_()
        with torch.no_grad():
            still = own["stopped"] | own["dropped"]
            for parameter, old in zip(parameters, before):  # noqa: B905  none where nothing stops
                parameter.copy_(torch.where(spread(still, parameter), old, parameter))
        on_state(partial(describe, step + 1))
    with torch.no_grad():
        for parameter, lowest in zip(parameters, kept):  # noqa: B905  none without patience
            parameter.copy_(lowest)
    return Search(gradients, ~own["dropped"])
