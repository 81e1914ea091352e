"""One attack on many workers: the candidates and the parts of the search are units of work, finished in any order."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from ganinv.attack.config import AttackConfig
from ganinv.attack.invert import Attack, ignore
from ganinv.attack.selection import best_per_identity
from ganinv.attack.start import choose_start, draw_candidates, draw_pool, score_candidates
from ganinv.engine.batches import Batch
from ganinv.interfaces import Generator, Goal, Recognizer
from ganinv.priors.stylegan2_pytorch import import_stylegan2_pytorch

SCORED = 5  # batches of candidates a unit


class Workers(Protocol):
    """What work is spread over, such as engine.cluster.RayWorkers."""

    count: int
    seconds: float  # of the last run, from the first unit that a worker took to the end of the last

    def hold(self, recipe: Callable[[], object], memory: int, prepare: Callable[[], object]) -> None:
        """Says what every worker is built from, which takes so many bytes, and what is called before that is read."""

    def run(self, units: Mapping[Hashable, tuple], on_wait: Callable[[], None] = ...) -> Iterator[tuple[Hashable, dict]]:
        """Yields (key, value) of units {key: (method, its arguments ...)} as they are finished."""


@dataclass(frozen=True)
class Recipe:
    """All that a worker needs to do parts of an attack. Called, it builds the worker."""

    identities: tuple[int, ...]
    config: AttackConfig
    goal: Goal
    seed: int
    device: torch.device
    generator: Generator | None
    recognizer: Recognizer
    searched: tuple[Generator | None, Recognizer]
    batch: int

    def __call__(self) -> PartWorker:
        return PartWorker(self)


class PartWorker:
    """Does parts of an attack, one after the other, each as one process would."""

    def __init__(self, recipe: Recipe):
        self.recipe, self.rows = recipe, []
        self.attack = Attack(
            recipe.identities, recipe.config, recipe.goal, recipe.seed, recipe.device, on_step=self.rows.append
        )
        self.attack.hold(recipe.generator, recipe.recognizer, recipe.searched)
        self.batch = recipe.batch
        self.empty = self.attack.queries.get_state()

    @torch.no_grad()
    def score(self, first: int, last: int) -> dict:
        """Returns {"scores" [T,last-first], "queries"} of candidates of the seeded pool."""
        attack = self.begin()
        pool = draw_pool(attack.fast_generator, attack.config, attack.seed)[first:last].to(attack.device)

        def score(rows: slice) -> torch.Tensor:
            pictures = draw_candidates(attack.fast_generator, pool[rows], attack.config)
            return score_candidates(attack.fast_trial.access, attack.goal, pictures, attack.wanted)

        scores = torch.cat(attack.batch.over(len(pool), score), 1).cpu()
        return {"scores": scores, "queries": attack.queries.get_state()}

    def search(self, number: int, members: list[tuple[int, int]], start: torch.Tensor, goal: Goal) -> dict:
        """Returns {"part", "rows", "queries"} of one part. start [n,...]: of the identities among its members, in order."""
        attack = self.begin()
        positions = sorted({position for position, _ in members})
        whole = torch.zeros(len(attack.identities), *start.shape[1:])
        whole[positions] = start
        attack.start = whole.to(attack.device)
        attack.fast_trial, attack.goal = replace(attack.fast_trial, goal=goal), goal
        attack.progress = {"finished": {}, "search": None}
        attack.search_part(number, members, ignore)
        return {"part": attack.progress["finished"][number], "rows": self.rows, "queries": attack.queries.get_state()}

    def begin(self) -> Attack:
        """Returns the attack, with nothing counted and no rows, as before its first unit."""
        self.rows.clear()
        self.attack.batch = Batch(self.batch)
        self.attack.queries.set_state({**self.empty, "each": self.empty["each"].clone()})
        return self.attack


def check_spread(config: AttackConfig) -> None:
    """Raises: ValueError for an operator whose answers depend on all queries before, which no worker knows of."""
    operator = config.operator
    if operator.limit is not None or operator.budget is not None:
        raise ValueError(
            "expected an operator without limit and budget on several workers, got one that counts queries; "
            "leave out --engine=ray"
        )


class Spread:
    """A schedule (see invert.InTurn) that spreads an attack over workers.

    The result is to the bit that of one process with the same AttackConfig.together, on processors of one kind: the random
    numbers belong to users and restarts. steps.jsonl counts steps in the order in which parts are finished.
    """

    def __init__(self, workers: Workers):
        self.workers, self.held = workers, None

    def count_workers(self) -> int:
        """Returns how many parts are worked on at a time."""
        return self.workers.count

    def hold(self, attack: Attack) -> None:
        """Sends the networks to the workers, once. Raises: ValueError, see check_spread."""
        if self.held is attack:
            return
        check_spread(attack.config)
        self.held, searched = attack, (attack.fast_generator, attack.fast_target)
        recipe = Recipe(
            attack.identities, attack.config, attack.goal, attack.seed, attack.device, attack.generator, attack.target,
            searched, attack.batch.size,
        )  # fmt: skip
        self.workers.hold(recipe, 0 if attack.device.type == "cuda" else attack.needed, import_stylegan2_pytorch)

    @torch.no_grad()
    def choose_start(self, attack: Attack, prior: str, on_scored: Callable[[int, int], None]) -> torch.Tensor:
        """Returns the start z [T,restarts,z_dim], the same as one process chooses."""
        config = attack.config
        if not config.candidates:
            return choose_start(
                attack.fast_generator, attack.fast_trial.access, attack.goal, attack.wanted, config, attack.seed, attack.batch
            )  # fmt: skip
        self.hold(attack)
        size, count, done = SCORED * attack.batch.size, config.candidates, 0
        units = {first: ("score", first, min(first + size, count)) for first in range(0, count, size)}
        found: dict[int, torch.Tensor] = {}
        for first, value in self.workers.run(units, lambda: None):
            found[first] = value["scores"]
            attack.queries.merge(value["queries"])
            done += value["scores"].shape[1]
            on_scored(done, count)
        scores = torch.cat([found[first] for first in units], 1)
        return draw_pool(attack.fast_generator, config, attack.seed)[best_per_identity(scores, config.restarts)].to(
            attack.device
        )

    def search(self, attack: Attack, on_state: Callable) -> float:
        """Finishes all parts; what is finished is saved at once, what a worker was at is begun again on a resume."""
        finished = attack.progress["finished"]
        units = {
            number: self.describe_unit(attack, number, members)
            for number, members in enumerate(attack.parts)
            if number not in finished
        }
        self.hold(attack)
        for number, value in self.workers.run(units, lambda: on_state(attack.describe)):
            before, done = attack.queries.gradients, len(finished) * attack.config.steps
            attack.queries.merge(value["queries"])
            finished[number] = value["part"]
            for row in value["rows"]:
                step = done + row["step"] - number * attack.config.steps
                queries = before + row["gradient_queries"]
                attack.on_step(row | {"step": step, "gradient_queries": queries, "seconds": round(attack.elapsed(), 3)})
            on_state(attack.describe)
        return self.workers.seconds

    def describe_unit(self, attack: Attack, number: int, members: list[tuple[int, int]]) -> tuple:
        """Returns the unit of one part: the worker's method and its arguments."""
        positions = sorted({position for position, _ in members})
        return "search", number, members, attack.start[positions].cpu(), attack.goal
