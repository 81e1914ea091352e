"""The straight line: candidates, start choice, search, final choice. No judge is seen here."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import nn

from ganinv import images as image_convention
from ganinv.attack.access import Queries, TargetAccess
from ganinv.attack.checks import check_config
from ganinv.attack.config import AttackConfig
from ganinv.attack.goals import TemplateGoal, make_goal
from ganinv.attack.loop import Seen, Trial, evaluate, minimise
from ganinv.attack.posteriors import SEARCHERS
from ganinv.attack.result import AttackResult, Cost
from ganinv.attack.selection import best_per_identity, score_transformed
from ganinv.attack.spaces import SPACES, Origin, fit_whitening
from ganinv.attack.start import choose_start
from ganinv.attack.transforms import RandomAffine
from ganinv.engine.batches import Batch, measure, parse_memory, plan
from ganinv.engine.checkpoint import of_these_settings
from ganinv.engine.randomness import Streams, seeded
from ganinv.interfaces import Generator, Goal, Recognizer, SearchSpace, require

FORWARD = 4  # times a batch fit where nothing is kept for a backward pass
TOGETHER = 4  # batches that are stepped together
TRACE = 8  # levels of 255: nobody sees a change of a pixel up to so many, and a judge hardly
OTHERS = 200  # samples of the prior whose mean embedding stands for everybody


def ignore(row: dict) -> None:
    """A callback that does nothing."""


class InTurn:
    """The schedule of one process: one part after the other. Another one, such as spread.Spread, has the same methods."""

    workers = None

    def count_workers(self) -> int:
        """Returns how many parts are worked on at a time."""
        return 1

    def choose_start(self, attack: Attack, prior: str, on_scored: Callable[[int, int], None]) -> torch.Tensor:
        """Returns the start z [T,restarts,z_dim] of an attack. prior, on_scored: see invert."""
        return choose_start(
            attack.fast_generator, attack.fast_trial.access, attack.goal, attack.wanted, attack.config, attack.seed,
            attack.batch, prior, on_scored,
        )  # fmt: skip

    def search(self, attack: Attack, on_state: Callable) -> float:
        """Finishes all parts of an attack; returns the seconds of the work alone. on_state: see invert."""
        began = time.perf_counter()
        for number, members in enumerate(attack.parts):
            if number not in attack.progress["finished"]:
                attack.search_part(number, members, on_state)
                on_state(attack.describe)
        return time.perf_counter() - began


def invert(
    generator: Generator | None,
    recognizer: Recognizer,
    identities: tuple[int, ...],
    config: AttackConfig,
    *,
    seed: int = 0,
    start: torch.Tensor | None = None,
    device: torch.device | str = "cpu",
    prior: str = "",
    searched: tuple[Generator | None, Recognizer] | None = None,
    goal: Goal | None = None,
    on_step: Callable[[dict], None] = ignore,
    state: Mapping | None = None,
    on_state: Callable[[Callable[[], dict]], None] = ignore,
    on_scored: Callable[[int, int], None] = lambda *_: None,
    schedule: InTurn | None = None,
) -> AttackResult:
    """Returns the pictures that the target takes for its users, found without any information on them.

    generator: the prior, None for the space "pixels". identities: classes of the target, or rows of a goal's templates.
    start: [T,C,R,R] in [-1,1], the first pictures of the space "pixels" (C=1: greyscale, the restarts differ only in their
    transforms). prior: a hash of the generator, under which its candidates' pictures are kept in a cache; "": they are
    not. searched: the same prior and target in another precision, for the start choice and the search; not for the final
    choice. goal: what is wanted; None: a high score of the class by config.objective; see goals.make_goal. on_step gets
    a row every log_every steps: {"step","seconds","gradient_queries","objective","target_score","identities"} and,
    about every image_every steps, "images", one of each. on_state gets, after every step and every part, a function that
    describes the work so far, for checkpoint.save_state; with its answer as `state` and everything else unchanged, a later
    call goes on from there and ends in the same result. on_scored(done, all) is called as candidates are scored.
    schedule: where the parts of the work are done; None: here, in turn.

    Raises: ValueError for a configuration that cannot be run, or a target without the gradients that it needs; FaultError
    when the objective is not finite.
    """
    goal = goal or make_goal(config, recognizer)
    check_config(config, recognizer, identities, generator is not None, goal)
    if not SPACES[config.space].needs_prior and (start is None or len(start) != len(identities)):
        got = None if start is None else list(start.shape)
        raise ValueError(f"expected start pictures [{len(identities)},C,R,R] for {config.space}, got {got}; pass start=")
    schedule = schedule or InTurn()
    attack = Attack(identities, config, goal, seed, torch.device(device), on_step)
    attack.hold(generator, recognizer, searched)
    attack.begin(start, prior, state, on_scored, schedule)
    first = attack.draw_first()
    on_state(attack.describe)
    return attack.collect(first, schedule.search(attack, on_state))


class Attack:
    """One attack on its way: what it asks and searches with, its start, and the parts of its work that are finished."""

    def __init__(
        self,
        identities: tuple[int, ...],
        config: AttackConfig,
        goal: Goal,
        seed: int,
        device: torch.device,
        on_step: Callable,
    ):
        self.clock, self.before = time.perf_counter(), 0.0
        self.identities, self.config, self.goal, self.seed, self.device = identities, config, goal, seed, device
        self.wanted = torch.tensor(identities, device=device)
        self.queries, self.on_step = Queries(max(identities) + 1, device), on_step
        self.from_prior = SPACES[config.space].needs_prior
        self.needed = 0  # bytes that the planned batch takes

    def hold(
        self, generator: Generator | None, recognizer: Recognizer, searched: tuple[Generator | None, Recognizer] | None
    ) -> None:
        """Takes the networks: for the final choice those given, for start choice and search their other form."""
        augment = self.config.augment
        transform = RandomAffine(flip=augment.flip, degrees=augment.degrees, scale=augment.scale, shift=augment.shift)
        self.generator, self.target = generator, recognizer
        self.fast_generator, self.fast_target = searched or (generator, recognizer)
        self.trial, self.fast_trial = (
            Trial(
                TargetAccess(target, self.config.access, queries=self.queries, options=self.config.operator), self.goal,
                transform, views,
            )
            for target, views in ((recognizer, 1), (self.fast_target, self.config.optim.transforms))
        )  # fmt: skip
        self.whiten = functools.cache(lambda: fit_whitening(generator, device=self.device))

    def begin(
        self, start: torch.Tensor | None, prior: str, state: Mapping | None, on_scored: Callable, schedule: InTurn
    ) -> None:
        """Plans the batch and chooses the start, or goes on from a state."""
        self.start = None if start is None else start.to(self.device)
        if state:
            with of_these_settings("the state"):
                self.progress, self.batch, self.before = dict(state), Batch(state["batch"]), state["seconds"]
                self.queries.set_state(state["queries"])
                if self.from_prior:
                    self.start = self.progress["start"].to(self.device)
        else:
            self.batch = self.plan_batch()
            together = self.config.together or count_together(self.config.restarts, self.batch.size)
            together = min(together, -(-len(self.identities) // schedule.count_workers()))
            self.progress = {"finished": {}, "search": None, "seconds": 0.0, "together": together}
            if self.from_prior:
                self.start = self.progress["start"] = schedule.choose_start(self, prior, on_scored)
        if self.config.contrast and self.from_prior and isinstance(self.goal, TemplateGoal):
            self.goal = self.goal.aim_past(self.see_others(), self.config.contrast)
            self.fast_trial = replace(self.fast_trial, goal=self.goal)
        self.parts = list(split_work(len(self.identities), self.config.restarts, self.progress["together"]))
        self.progress["of"] = len(self.parts) * self.config.steps

    @torch.no_grad()
    def see_others(self) -> torch.Tensor:
        """Returns the embeddings [OTHERS,D] of random samples of the prior, asked for once: a resumed run has them."""
        if self.progress.get("others") is None:
            generator, config = self.fast_generator, self.config
            z = torch.randn(OTHERS, generator.z_dim, generator=seeded(self.seed, "others")).to(self.device)

            def see(rows: slice) -> torch.Tensor:
                with self.queries.attempt():
                    pictures = generator.synthesize(generator.map(z[rows], config.psi)).clamp(-1, 1)
                    return require(self.fast_trial.access(pictures), "embeddings").float().cpu()

            self.progress["others"] = torch.cat(self.batch.over(OTHERS, see))
        return self.progress["others"].to(self.device)

    def plan_batch(self) -> Batch:
        """Returns the batch that config.memory holds, measured on the first step of a few samples.

        Raises: ValueError when not even one sample fits.
        """
        sizes: list[int] = []
        options = replace(self.config.operator, limit=None, budget=None)  # these few are counted, and checked, with the next
        access = TargetAccess(self.fast_target, self.config.access, queries=Queries(), options=options)
        trial = replace(self.fast_trial, access=access, views=1)

        def step(count: int) -> None:
            if self.from_prior:
                first = torch.randn(count, self.fast_generator.z_dim, generator=seeded("probe")).to(self.device)
            else:
                first = self.start[:1].expand(count, -1, -1, -1)
            space = self.build_space(self.fast_generator, first)
            identities = torch.zeros(count, dtype=torch.long, device=self.device)
            draws = Streams((("probe", index) for index in range(count)), self.device).take()
            rows = torch.arange(count, device=self.device)
            gradients = SEARCHERS[self.config.optim.optimizer].gradients
            evaluate(space, trial, rows, identities, draws, gradients=gradients)
            sizes.append(sum(parameter.nbytes for parameter in space.parameters(recurse=False)) // count)

        fixed, each = measure(step, self.device)
        self.queries.add(access.queries)
        weights = sum(
            tensor.nbytes for network in (self.fast_generator, self.fast_target) if isinstance(network, nn.Module)
            for tensor in network.state_dict().values()
        )  # fmt: skip
        fixed += 0 if self.device.type == "cuda" else weights  # there they are among what is measured
        # a sample's parameters, gradient, Adam's two moments, the copy before a step and the best so far, for a whole part
        memory, each = parse_memory(self.config.memory), each + 6 * TOGETHER * sizes[0]
        batch = plan(memory, fixed, each, self.config.batch, self.device)
        self.needed = fixed + each * batch.size
        return batch

    def build_space(self, generator: Generator | None, first: torch.Tensor) -> SearchSpace:
        """Returns the search space at its start: z [N,z_dim], or pictures [N,C,R,R]."""
        return SPACES[self.config.space].begin(Origin(self.config, generator, first, self.whiten))

    def describe(self, search: Callable[[], dict] | None = None) -> dict:
        """Returns the work so far, for a later call to go on from.

        search: describes the part that is searched; without it, the part that a resumed attack has yet to take up stays as
        it was, or its queries would be counted, and its steps be taken, twice.
        """
        now = search() if search else self.progress["search"]
        steps = len(self.progress["finished"]) * self.config.steps + (now["step"] if now else 0)
        so_far = {"batch": self.batch.size, "seconds": self.elapsed(), "queries": self.queries.get_state()}
        return self.progress | so_far | {"search": now, "steps": steps}

    def elapsed(self) -> float:
        """Returns the seconds since the attack began, those before it was resumed included."""
        return self.before + time.perf_counter() - self.clock

    @torch.no_grad()
    def draw_first(self) -> torch.Tensor:
        """Returns the pictures [T,3,R,R] of the best start of each identity."""

        def draw(rows: slice) -> torch.Tensor:
            if not self.from_prior:
                first = self.start[rows]
            else:
                first = self.generator.synthesize(self.generator.map(self.start[rows, 0], self.config.psi))
            return image_convention.to_uint8(first.expand(-1, 3, -1, -1)).cpu()

        return image_convention.from_uint8(torch.cat(self.batch.over(len(self.identities), draw)))

    def search_part(self, number: int, members: list[tuple[int, int]], on_state: Callable) -> None:
        """Searches for one part's (position of the identity, restart), and notes the pictures it finds as finished."""
        config, device = self.config, self.device
        position, restart = torch.tensor(members, device=device).T
        keys = [(self.seed, "search", self.identities[p], r) for p, r in members]
        first = self.start[position, restart] if self.from_prior else self.start[position]
        begun = self.draw_pictures(self.build_space(self.generator, first), torch.arange(len(members), device=device))
        space = self.build_space(self.fast_generator, first)
        finished = minimise(
            space, self.fast_trial, self.wanted[position], Streams(keys, device), steps=config.steps, optim=config.optim,
            keep=config.keep, batch=self.batch, state=self.progress["search"],
            on_step=self.report_steps(number * config.steps, space, position),
            log_every=config.log_every or (1 if device.type == "cpu" else 10),  # a row waits for the device
            on_state=lambda search: on_state(functools.partial(self.describe, search)),
        )  # fmt: skip
        final = self.build_space(self.generator, first)
        with torch.no_grad():
            for value, found in zip(final.parameters(recurse=False), space.parameters(recurse=False), strict=True):
                value.copy_(found)
        rows = torch.where(finished)[0]
        streams = Streams(((self.seed, "final", *key[2:]) for key in keys), device)
        part = self.score_final(final, rows, self.wanted[position], streams)
        moved = (part["pictures"].int() - begun[rows.cpu()].int()).abs().flatten(1).amax(1) > TRACE
        self.progress["finished"][number] = part | {"position": position[rows].cpu(), "moved": moved}
        self.progress["search"] = None

    @torch.no_grad()
    def draw_pictures(self, space: SearchSpace, rows: torch.Tensor) -> torch.Tensor:
        """Returns the pictures [n,3,R,R] of samples of a space as 8-bit files hold them, on the CPU."""
        return torch.cat(self.batch.over(len(rows), lambda part: image_convention.to_uint8(space(rows[part])).cpu()))

    @torch.no_grad()
    def score_final(self, space: SearchSpace, rows: torch.Tensor, identities: torch.Tensor, streams: Streams) -> dict:
        """Returns the pictures (uint8), the target's transformed scores and the latents of the samples `rows` of a space."""

        def score(part: slice) -> tuple[torch.Tensor, torch.Tensor]:
            few = rows[part]
            pictures = image_convention.to_uint8(space(few))
            seen, draws = image_convention.from_uint8(pictures), streams.take(few)
            with self.queries.attempt():
                scores = score_transformed(
                    self.trial.access, self.goal, seen, identities[few], self.trial.transform, draws,
                    self.config.final_transforms, batch=FORWARD * self.batch.size,
                )  # fmt: skip
            return pictures.cpu(), scores.cpu()

        pictures, scores = (torch.cat(found) for found in zip(*self.batch.over(len(rows), score), strict=True))
        latents = {name: values[rows].cpu() for name, values in space.latents().items()}
        return {"pictures": pictures, "scores": scores, "latents": latents}

    def report_steps(self, done: int, space: SearchSpace, position: torch.Tensor) -> Callable[[int, Seen], None]:
        """Returns minimise's callback: it turns samples into one row, the best sample speaking for its identity.

        done: steps of the parts before; position [N]: of the samples' identities.
        """
        config, shown = self.config, -1  # pictures come with the first row of every image_every steps

        def report(step: int, seen: Seen) -> None:
            nonlocal shown
            losses, scores, own = seen.losses.cpu(), seen.scores.cpu(), position.cpu()
            present = losses.isfinite()
            row = {
                "step": done + step,
                "seconds": round(self.elapsed(), 3),
                "gradient_queries": self.queries.gradients,
                "objective": losses[present].mean().item(),
                "target_score": scores[present].mean().item(),
            }
            best = {p: torch.where(own == p, losses, torch.inf).argmin().item() for p in own.unique().tolist()}
            row["identities"] = {self.identities[p]: scores[index].item() for p, index in best.items()}
            if step // config.image_every != shown or step == config.steps - 1:
                shown = step // config.image_every
                with torch.no_grad():
                    pictures = [space(slice(index, index + 1)) for index in best.values()]
                row["images"] = torch.cat(pictures).detach().clamp(-1, 1).cpu()
            self.on_step(row)

        return report

    def collect(self, first: torch.Tensor, searched: float) -> AttackResult:
        """Returns the result: the best `keep` samples per identity by the target's transformed score.

        first [T,3,R,R]: the pictures of the best starts; searched: seconds.
        """
        parts = [part for _, part in sorted(self.progress["finished"].items())]
        seconds, count = self.elapsed(), len(self.identities)
        position, pictures, scores, moved = (
            torch.cat([part[name] for part in parts]) for name in ("position", "pictures", "scores", "moved")
        )
        latents = {name: torch.cat([part["latents"][name] for part in parts]) for name in parts[0]["latents"]}
        table = torch.stack([torch.where(position == p, scores, -1.0) for p in range(count)])
        chosen = best_per_identity(table, self.config.keep)
        stuck = [self.identities[p] for p in range(count) if self.config.steps and not moved[position == p].any()]
        queries = self.queries
        cost = Cost(seconds, queries.gradients + queries.answers, queries.gradients, queries.answers, searched)
        latents = {name: rows[chosen.flatten()] for name, rows in latents.items()}
        # in one layout, whichever way the parts came here: the judges' last bits depend on it
        images = image_convention.from_uint8(pictures[chosen].contiguous())
        return AttackResult(
            self.identities,
            images,
            scores[chosen],
            latents,
            cost,
            first.contiguous(),
            tuple(stuck),
            queries.describe(),
            self.config,
            self.seed,
        )


def count_together(restarts: int, batch: int) -> int:
    """Returns how many identities are stepped together: at least one, and about TOGETHER batches of samples."""
    return max(1, TOGETHER * batch // restarts)


def split_work(count: int, restarts: int, together: int) -> Iterator[list[tuple[int, int]]]:
    """Yields parts, lists of (position of the identity, restart): whole identities, `together` of `count`.

    A part is stepped together, its batches in turn, so that an identity's restarts can be compared on the way, and the
    batches stay full when some leave. What it takes does not grow with the number of identities.
    """
    for first in range(0, count, together):
        positions = range(first, min(first + together, count))
        yield [(position, restart) for restart in range(restarts) for position in positions]
