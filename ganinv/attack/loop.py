"""The only optimisation loop: images from a search space, transformed, recognized, scored, one step; and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from ganinv.attack.access import check_answers
from ganinv.attack.config import Optim
from ganinv.attack.posteriors import SEARCHERS
from ganinv.attack.samples import Samples
from ganinv.attack.transforms import Transform
from ganinv.engine.batches import Batch
from ganinv.engine.checkpoint import of_these_settings
from ganinv.engine.randomness import Draws, Streams
from ganinv.interfaces import Access, Evaluation, Goal, Searcher, SearchSpace, require


@dataclass(frozen=True)
class Trial:
    """How samples are tried: whom is asked, what is wanted, through which transform, and how many views of each."""

    access: Access
    goal: Goal
    transform: Transform
    views: int = 1


@dataclass(frozen=True)
class Seen:
    """What a step saw, before its update: losses [N] and scores [N] in [0,1].

    A sample that has left keeps its last numbers; a dropped one has the loss inf.
    """

    losses: torch.Tensor
    scores: torch.Tensor


def evaluate(
    space: SearchSpace, trial: Trial, rows: torch.Tensor, identities: torch.Tensor, draws: Draws, *, gradients: bool = True,
    notice: Callable[[torch.Tensor], None] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:  # fmt: skip
    """Returns losses [n], scores [n] and the gradients of the sum of losses with regard to the space's parameters.

    rows [n]: the samples, of identities [n]; without gradients, there are none. Every view is differentiated as far as
    the images before the next, so that the memory of one of them is held at a time. Nothing is left behind, no query
    counted, where it fails. notice: gets the gradients with regard to the views, which are the target's.
    Raises: ValueError where gradients are wanted of answers that have none.
    """
    access, goal = trial.access, trial.goal
    with torch.set_grad_enabled(gradients), access.queries.attempt():
        images = space(rows)
        seen = images.detach().requires_grad_(gradients)
        losses, scores = torch.zeros(2, len(rows), device=images.device)
        slope = torch.zeros_like(images)
        for _ in range(trial.views):
            views = trial.transform(seen, draws)
            recognition = access(views, identities)
            if gradients and not require(recognition, goal.reads).requires_grad:
                check_answers(access, goal.reads, views.shape[1:], views.device)
            loss = goal(Evaluation(seen, views, recognition, identities)) / trial.views
            if gradients:
                handle = notice and views.register_hook(notice)
                slope += torch.autograd.grad(loss.sum(), seen)[0]
                if handle:
                    handle.remove()
            losses += loss.detach()
            scores += goal.score(recognition, identities) / trial.views
        if not gradients:
            return losses, scores, []
        return losses, scores, list(torch.autograd.grad(images, list(space.parameters(recurse=False)), slope))


@contextmanager
def standing_at(space: SearchSpace, rows: torch.Tensor, values: list[torch.Tensor]) -> Iterator[None]:
    """Has values [n,...] in the rows of a space's parameters, as far as the space allows; [] leaves them as they are."""
    parameters = list(space.parameters(recurse=False)) if values else []
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        with torch.no_grad():
            for parameter, value in zip(parameters, values, strict=True):
                parameter[rows] = value
        if values:
            space.project_()
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)


def measure_points(
    space: SearchSpace, searcher: Searcher, trial: Trial, step: int, samples: Samples, streams: Streams, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor] | None]:
    """Returns losses [M,n] and scores [M,n] of the points that a searcher asks about, and the gradients it wants.

    The points of a step are seen through the same transforms: what differs between them is theirs.
    Raises: ValueError where the first step's gradients are nothing but zeros because the target gives no others.
    """
    rows, noise, losses, scores = samples.alive, streams.take(samples.alive), [], []
    draws, parts, reached = [], [], torch.zeros((), dtype=torch.bool, device=samples.alive.device)

    def notice(slope: torch.Tensor) -> None:
        reached.logical_or_(slope.any())

    def work(part: slice) -> tuple:
        few, mine = rows[part], streams.take(rows[part])
        found = evaluate(
            space, trial, few, samples.identities[few], mine, gradients=searcher.gradients,
            notice=notice if step == 0 else None,
        )  # fmt: skip
        draws.append(mine)
        return found

    for values in searcher.ask(step, rows, noise):
        if not losses:
            streams.advance(noise)
            drawn = noise.used
        with standing_at(space, rows, values):
            parts = batch.over(len(rows), work)
        losses.append(torch.cat([part[0] for part in parts]))
        scores.append(torch.cat([part[1] for part in parts]))
    if noise.used != drawn:
        raise ValueError("expected a searcher that draws its numbers before its first point, got one that draws later")
    streams.advance(draws[0])
    gradients = None
    if searcher.gradients:
        gradients = [sum(slopes) for slopes in zip(*(part[2] for part in parts), strict=True)]
        if step == 0 and not reached:
            check_answers(trial.access, trial.goal.reads, space(rows[:1]).shape[1:], rows.device)
    return torch.stack(losses), torch.stack(scores), gradients


def minimise(
    space: SearchSpace,
    trial: Trial,
    identities: torch.Tensor,
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
) -> torch.Tensor:
    """Moves the parameters of `space` (first dimension N) down the goal; returns which samples [N] were not dropped.

    identities: [N]; halving keeps at least `keep` samples of each. batch: how many samples go through the networks at a
    time, all by default. on_step(step, seen) is called every log_every steps, and at the last of all. The SUM over
    samples is differentiated, so a sample's path does not depend on the others. A sample that has left or was dropped is
    computed no more; with patience, each ends in the state of its lowest objective. After every step on_state gets a
    function that describes the search; with its answer as `state`, a later call goes on from there to the bit.

    Raises: FaultError when the objective is not finite; ValueError for a target that gives no gradients where they are
    wanted.
    """
    parameters = list(space.parameters(recurse=False))  # its own: not those of a frozen prior
    searcher = SEARCHERS[optim.optimizer](parameters, optim, steps)
    samples = Samples(parameters, identities, optim, steps, keep)
    batch, first = batch or Batch(len(identities)), 0
    if state is not None:
        with of_these_settings("the state"):
            samples.set_state(state)
            searcher.load_state_dict(state["searcher"])
            streams.set_state(state["streams"])
            first = state["step"]

    def describe(step: int) -> dict:
        return {
            **samples.get_state(), "step": step, "searcher": searcher.state_dict(), "streams": streams.get_state()
        }  # fmt: skip

    for step in range(first, steps):
        samples.halve(step)
        rows = samples.alive
        if not len(rows):
            break
        losses, scores, gradients = measure_points(space, searcher, trial, step, samples, streams, batch)
        samples.note(step, losses.mean(0), scores.mean(0))
        ended = step == steps - 1 or not len(samples.alive)
        if step % log_every == 0 or ended:
            samples.check()
            on_step(step, Seen(samples.own["losses"], samples.own["scores"]))
        if not len(samples.alive):
            break
        before = samples.copy_parameters()
        searcher.tell(step, rows, losses, gradients)
        space.project_()
        samples.hold_still(before)
        samples.average(step)
        on_state(partial(describe, step + 1))
    samples.finish()
    if optim.average_last:
        space.project_()  # a mean of points on a sphere lies inside it
    return ~samples.own["dropped"]
