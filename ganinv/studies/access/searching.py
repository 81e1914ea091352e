"""What somebody gets of a secret network: searches with its answers, looked at after so many queries; all can be resumed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from ganinv import images as image_convention
from ganinv.attack.access import Queries, TargetAccess
from ganinv.attack.config import LATENT, TEMPLATE, AttackConfig
from ganinv.attack.goals import ClassGoal, TemplateGoal
from ganinv.attack.loop import Trial, minimise
from ganinv.attack.objectives import OBJECTIVES
from ganinv.attack.recovery import Pool
from ganinv.attack.searchers import SEARCHERS
from ganinv.attack.spaces import SPACES, Origin
from ganinv.attack.surrogate import invert_by_copy
from ganinv.attack.transforms import RandomAffine
from ganinv.engine.batches import Batch
from ganinv.engine.checkpoint import drop_state, load_state, save_state
from ganinv.engine.randomness import Streams
from ganinv.interfaces import Goal, Recognition, SearchSpace
from ganinv.studies.access.cells import BATCH, Bench
from ganinv.studies.access.plan import ATTACKERS, Attacker, Cell

SHOWN = 1000  # pictures of the prior that are shown for all users before a search
EVERY = 20.0  # seconds between states, from which a killed search goes on
RESTARTS = 2  # of each search in a copy


def search_target(bench: Bench, cell: Cell, counts: Sequence[int]) -> dict[int, dict]:
    """Returns queries a user -> {"pictures" uint8 [T,3,R,R], "asked" {user: pictures}, "failed" [users]}.

    counts: at which it is looked at, shared queries among them. Up to SHOWN, a user's picture is the best of those shown;
    beyond it, the place to which the search has come. failed: users as whom no picture was accepted before the search.
    """
    attacker, file = ATTACKERS[cell.attacker], bench.work / f"{cell.name}-search.safetensors"
    if attacker.copy:
        return {count: search_copy(bench, cell, count) for count in counts}
    kept = load_state(file) if file.is_file() else None
    queries = Queries(bench.assets.target.num_identities)
    access, pool = bench.open_door(attacker, queries), bench.pool(cell.seed)
    shown = min(SHOWN, max(counts), len(pool.pictures))
    users = torch.tensor(bench.identities)
    goal, ranks = show_first(bench, attacker, access, pool, shown)
    accepted = ranks.amax(0).exp() > 0.5 if attacker.access == "decisions" else torch.ones(len(users), dtype=torch.bool)
    failed = users[~accepted].tolist()
    found = {}
    for count in [count for count in counts if count <= shown]:
        best = ranks[:count].argmax(0)
        found[count] = {"pictures": pool.pictures[best], "asked": dict.fromkeys(bench.identities, count), "failed": failed}
    later = [count for count in counts if count > shown]
    if later:
        space = begin_search(bench, pool.w[ranks.argmax(0)])
        search = SearchOnTheWay(bench, space, queries, later, attacker, shown, file, kept)
        trial = Trial(access, goal, RandomAffine(), attacker.search.transforms)
        streams = Streams((cell.seed, "access", user) for user in bench.identities)
        if kept:
            queries.set_state(kept["queries"])
        minimise(
            space, trial, users, streams, steps=search.steps, optim=attacker.search, batch=Batch(BATCH),
            log_every=max(1, search.steps), state=kept and kept["search"], on_state=search.look,
        )  # fmt: skip
        found |= {count: entry | {"failed": failed} for count, entry in search.found.items()}
        drop_state(file)
    return found


@torch.no_grad()
def show_first(bench: Bench, attacker: Attacker, access: TargetAccess, pool: Pool, shown: int) -> tuple[Goal, torch.Tensor]:
    """Returns the goal of an attacker, and how it ranks the first pictures for each user [shown,T]; all are queries."""
    users, seen = torch.tensor(bench.identities), []
    for rows in torch.arange(shown).split(BATCH):
        seen.append(access(pool.show(rows.tolist())))
    if attacker.goal == "template":
        goal = TemplateGoal(bench.assets.target.templates, metric=bench.assets.target.metric)
        embeddings = torch.cat([one.embeddings for one in seen])
        return goal.aim_past(embeddings, TEMPLATE.contrast), goal.rank(Recognition(embeddings, None), users)
    goal = ClassGoal(OBJECTIVES[attacker.objective])
    return goal, goal.rank(Recognition(None, torch.cat([one.logits for one in seen])), users)


@torch.no_grad()
def begin_search(bench: Bench, w: torch.Tensor) -> SearchSpace:
    """Returns the space w_plus that begins at w [T,num_ws,w_dim]."""
    z = torch.zeros(len(w), bench.assets.generator.z_dim)
    space = SPACES["w_plus"].begin(Origin(LATENT, bench.assets.generator, z, lambda: bench.whitening))
    space.v.copy_(bench.whitening.to_v(w))
    space.project_()
    return space


class SearchOnTheWay:
    """Looks at a search after each of its steps: takes the pictures where it is time for that, and keeps the state."""

    def __init__(
        self, bench: Bench, space: SearchSpace, queries: Queries, counts: Sequence[int], attacker: Attacker, shown: int,
        file: Path, kept: Mapping | None,
    ):  # fmt: skip
        self.bench, self.space, self.queries, self.shown, self.file = bench, space, queries, shown, file
        points = getattr(SEARCHERS[attacker.search.optimizer], "count_points", lambda optim: 1)(attacker.search)
        each = points * attacker.search.transforms
        self.due = {max(1, (count - shown) // each): count for count in counts}  # steps done -> queries
        self.steps, self.found = max(self.due), dict(kept["found"]) if kept else {}
        self.saved = time.monotonic()

    def look(self, describe: Callable[[], dict]) -> None:
        """Takes in a function that describes the search after a step."""
        state = None
        for steps, count in self.due.items():
            if count not in self.found:
                state = state or describe()
                if state["step"] == steps:
                    self.found[count] = {"pictures": draw(self.space, len(self.bench.identities)), "asked": self.count()}
        if time.monotonic() - self.saved > EVERY:
            kept = {"search": state or describe(), "found": self.found, "queries": self.queries.get_state()}
            save_state(self.file, kept)
            self.saved = time.monotonic()

    def count(self) -> dict[int, int]:
        """Returns the queries that were spent on each user, those for all among them."""
        return {user: self.shown + int(self.queries.each[user]) for user in self.bench.identities}


@torch.no_grad()
def draw(space: SearchSpace, count: int) -> torch.Tensor:
    """Returns the pictures uint8 [T,3,R,R] at which a search is."""
    return torch.cat([image_convention.to_uint8(space(rows)) for rows in torch.arange(count).split(BATCH)])


def search_copy(bench: Bench, cell: Cell, count: int) -> dict:
    """Returns the entry of search_target of an attacker who searches a copy, fitted to so many answers."""
    attacker, file = ATTACKERS[cell.attacker], bench.work / f"{cell.name}-copy{count}.safetensors"
    own = attacker.copy.rounds * attacker.copy.views * RESTARTS
    copy = dataclasses.replace(attacker.copy, pictures=max(16, count - own))
    config = AttackConfig(
        access="scores", steps=bench.steps, candidates=min(400, copy.pictures), restarts=RESTARTS, optim=attacker.search,
        operator=attacker.operator, surrogate=copy,
    )  # fmt: skip
    saved = time.monotonic()

    def keep(describe: Callable[[], dict]) -> None:
        nonlocal saved
        if time.monotonic() - saved > EVERY:
            save_state(file, describe())
            saved = time.monotonic()

    found = invert_by_copy(
        bench.assets.generator, bench.assets.target, bench.identities, config, surrogate=bench.load_public(copy.network),
        seed=cell.seed, state=load_state(file) if file.is_file() else None, on_state=keep, on_answers=keep,
    )  # fmt: skip
    drop_state(file)
    asked = {user: copy.pictures + spent for user, spent in found.queries["per_identity"].items()}
    return {"pictures": image_convention.to_uint8(found.images[:, 0]), "asked": asked, "failed": []}
