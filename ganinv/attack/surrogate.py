"""A local copy of a target, fitted on a public recognizer to the scores that the target showed; and the search in it.

Pictures of the prior are shown once, for all users. A copy with the same answers is fitted on the embeddings that a public
recognizer gives of them, and searched with gradients, which costs no query. Then back to the target: what was found is shown
to it, its answers mend the copy, and the search begins again. What the target itself scores best is returned.

Source: Li et al. 2025, SMILE (From Head to Tail: Efficient Black-box Model Inversion Attack via Long-tailed Learning), whose
steps these are. It trains a network on the answers and ends with a search on the target without gradients; here the copy is
a head that ridge regression fits in closed form, and the return to the target is repeated.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import nn

from ganinv import images as image_convention
from ganinv.attack.access import Queries, TargetAccess
from ganinv.attack.checks import check_config
from ganinv.attack.config import AttackConfig, Operator, Surrogate
from ganinv.attack.goals import ClassGoal, make_goal
from ganinv.attack.invert import ignore, invert
from ganinv.attack.result import AttackResult, Cost
from ganinv.attack.selection import best_per_identity
from ganinv.attack.start import draw_candidates, draw_pool
from ganinv.attack.transcript import Transcript
from ganinv.attack.transforms import RandomAffine
from ganinv.engine.randomness import Streams
from ganinv.interfaces import Generator, Recognition, Recognizer, require

TOGETHER = 64  # pictures shown at a time
LEADING = 16  # coordinates of an embedding whose products may explain scores, too
FLOOR = 1e-20  # a score below this, or below half a step of rounding, says no more than this
RIDGES = tuple(10.0**power for power in range(-6, 3))  # of which leave-one-out chooses, as shares of the mean square


class FittedCopy(nn.Module):
    """A recognizer: a public network and a head on its embeddings that gives a target's logits, but for what all share.

    The head is linear in the principal coordinates of the embeddings or, where leave-one-out says that it is better, in
    those and the products of the leading ones. error: of leave-one-out, root mean square over that of the answers.
    """

    def __init__(self, network: Recognizer, embeddings: torch.Tensor, scores: torch.Tensor, floor: float = FLOOR):
        """Fits the head. embeddings [N,D]: of pictures; scores [N,C]: what the target showed of them, in [0,1]."""
        super().__init__()
        self.network, self.num_identities, self.embedding_dim = network, scores.shape[1], embeddings.shape[1]
        self.metric = getattr(network, "metric", "cosine")
        x, y = embeddings.double(), scores.double().clamp_min(floor).log()
        y = y - y.mean(1, keepdim=True)
        self.register_buffer("centre", x.mean(0))
        variance, basis = torch.linalg.eigh((x - self.centre).T @ (x - self.centre) / len(x))
        kept = variance > 1e-8 * variance[-1]
        variance, basis = variance[kept].flip(0), basis[:, kept].flip(1)  # the leading coordinate first
        self.register_buffer("basis", basis / variance.sqrt())
        self.register_buffer("spread", (variance / variance[0]) ** 0.25)  # those that vary little may say less, not nothing
        self.leading = 0
        fits = []
        for leading in (0, min(LEADING, len(variance))):
            rows = self.lift(x, leading)
            fits.append((*fit_ridge(rows, y), leading))
        self.error, weights, bias, self.leading = min(fits, key=lambda fit: fit[0])
        self.register_buffer("weights", weights)
        self.register_buffer("bias", bias)

    def lift(self, embeddings: torch.Tensor, leading: int) -> torch.Tensor:
        """Returns what the head is linear in [N,F]."""
        x = (embeddings - self.centre) @ self.basis
        first, second = torch.triu_indices(leading, leading, device=x.device)
        return torch.cat([x * self.spread, x[:, first] * x[:, second]], 1)

    def forward(self, images: torch.Tensor) -> Recognition:
        """Returns the network's embeddings [N,D] and the copy's logits [N,C]."""
        embeddings = self.network(images).embeddings
        logits = self.lift(embeddings.double(), self.leading) @ self.weights + self.bias
        return Recognition(embeddings, logits.to(embeddings))


def fit_ridge(rows: torch.Tensor, values: torch.Tensor) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Returns the leave-one-out error and the weights [F,C] and bias [C] of the best ridge for values [N,C] of rows [N,F].

    The error is the root mean square over that of the values; the bias is not held down.
    """
    middle, mean = rows.mean(0), values.mean(0)
    left, size, right = torch.linalg.svd(rows - middle, full_matrices=False)
    around = values - mean
    best = (math.inf, torch.zeros_like(right[:1].T), mean)
    for ridge in RIDGES:
        shrunk = size.square() / (size.square() + ridge * len(rows))
        fitted = left @ (shrunk[:, None] * (left.T @ around))
        own = (left.square() @ shrunk + 1 / len(rows)).clamp(max=1 - 1e-6)  # how much each answer has of its own fit
        error = ((around - fitted) / (1 - own)[:, None]).square().mean().sqrt() / around.square().mean().sqrt()
        if error < best[0]:
            weights = right.T @ ((shrunk / size.clamp_min(1e-12))[:, None] * (left.T @ around))
            best = (float(error), weights, mean - middle @ weights)
    return best


def invert_by_copy(
    generator: Generator,
    recognizer: Recognizer,
    identities: tuple[int, ...],
    config: AttackConfig,
    *,
    surrogate: Recognizer,
    seed: int = 0,
    device: torch.device | str = "cpu",
    state: Mapping | None = None,
    goal: object = None,
    searched: object = None,
    on_step: Callable[[dict], None] = ignore,
    on_state: Callable[[Callable[[], dict]], None] = ignore,
    on_answers: Callable[[Callable[[], dict]], None] = ignore,
    **options,
) -> AttackResult:
    """Returns the pictures found through a copy of the target on the public network `surrogate`; takes what invert takes.

    result.queries and result.cost are of the target's answers; queries["own_copy"] says how many pictures went through the
    copy, queries["copy_error"] how far its answers are off at last. on_answers: see offline.invert_offline; a state of either
    kind goes on, and asks nothing again.
    """
    check_config(config, recognizer, identities, generator is not None, make_goal(config, recognizer))
    work = CopyWork(generator, recognizer, surrogate, identities, config, seed, device, state or {}, on_answers)
    inner = replace(
        config, access="gradients", operator=Operator(), surrogate=Surrogate(), keep=config.restarts, final_transforms=1
    )
    work.show_samples()
    for number in range(len(work.rounds), config.surrogate.rounds):
        copy = work.fit()

        def report(row: dict, done: int = number * config.steps) -> None:
            on_step(row | {"step": row["step"] + done, "gradient_queries": 0})

        result = invert(
            generator, copy, identities, inner, seed=seed, device=device, state=work.take_inner(), on_step=report,
            on_state=lambda describe: on_state(lambda: work.describe(describe())), **options,
        )  # fmt: skip
        work.return_to_target(result)
    return work.collect()


class CopyWork:
    """An attack through a copy on its way: what was asked, and what each round has found."""

    def __init__(
        self, generator: Generator, recognizer: Recognizer, network: Recognizer, identities: tuple[int, ...],
        config: AttackConfig, seed: int, device: torch.device | str, state: Mapping, on_answers: Callable,
    ):  # fmt: skip
        self.clock, self.before = time.perf_counter(), state.get("copy_seconds", 0.0)
        self.generator, self.network, self.identities, self.config = generator, network, identities, config
        self.seed, self.device, self.inner = seed, device, state.get("inner")
        self.queries, self.rounds = Queries(max(identities) + 1, device), list(state.get("rounds", []))
        if state:
            self.queries.set_state(state["asked"])
        access = TargetAccess(recognizer, config.access, queries=self.queries, options=config.operator)
        self.asked = Transcript(
            access, range(recognizer.num_identities), state.get("answers"), lambda: on_answers(lambda: self.describe(None))
        )
        augment = config.augment
        self.transform = RandomAffine(flip=augment.flip, degrees=augment.degrees, scale=augment.scale, shift=augment.shift)
        self.goal, self.embeddings, self.scores = ClassGoal(), [], []

    def describe(self, inner: Mapping | None) -> dict:
        """Returns the work so far. inner: the state of the search that is under way."""
        steps = len(self.rounds) * self.config.steps + (inner["steps"] if inner else 0)
        known = {"answers": self.asked.get_state(), "asked": self.queries.get_state(), "rounds": self.rounds, "inner": inner}
        of = self.config.surrogate.rounds * self.config.steps
        return known | {"copy_seconds": self.elapsed(), "steps": steps, "of": max(of, steps)}

    def elapsed(self) -> float:
        """Returns the seconds since the attack began, those before it was resumed included."""
        return self.before + time.perf_counter() - self.clock

    def take_inner(self) -> Mapping | None:
        """Returns the state of the search that was under way when the call before was stopped, once."""
        inner, self.inner = self.inner, None
        return inner

    @torch.no_grad()
    def show(self, images: torch.Tensor, identities: torch.Tensor | None) -> Recognition:
        """Returns what the target says of images, and remembers it beside the public network's embeddings."""
        seen = self.asked(images, identities)
        self.embeddings.append(require(self.network(images), "embeddings").float())
        self.scores.append(require(seen, "logits").exp())
        return seen

    @torch.no_grad()
    def show_samples(self) -> None:
        """Shows samples of the prior for all users together, then what the rounds before have found."""
        count = self.config.surrogate.pictures
        z = draw_pool(self.generator, replace(self.config, candidates=count), self.seed).to(self.device)
        for part in z.split(TOGETHER):
            self.show(image_convention.from_uint8(draw_candidates(self.generator, part, self.config)), None)
        for number, found in enumerate(self.rounds):
            self.show_found(number, found["pictures"])

    def show_found(self, number: int, pictures: torch.Tensor) -> torch.Tensor:
        """Returns the target's mean scores [T,K] of pictures uint8 [T,K,3,R,R]: as they are, and transformed."""
        users, kept = pictures.shape[:2]
        shown = image_convention.from_uint8(pictures.flatten(0, 1)).to(self.device)
        asked = torch.tensor(self.identities, device=self.device).repeat_interleave(kept)
        keys = [(self.seed, "copy", number, user, k) for user in self.identities for k in range(kept)]
        draws, total = Streams(keys, self.device).take(), torch.zeros(len(shown), device=self.device)
        for view in range(self.config.surrogate.views):
            seen = shown if view == 0 else self.transform(shown, draws)
            for rows in torch.arange(len(shown)).split(TOGETHER):
                total[rows] += self.goal.score(self.show(seen[rows], asked[rows]), asked[rows])
        return (total / self.config.surrogate.views).view(users, kept).cpu()

    def fit(self) -> FittedCopy:
        """Returns the copy that all answers so far make."""
        decimals = self.config.operator.decimals
        floor = FLOOR if decimals is None else 0.5 * 10.0**-decimals
        return FittedCopy(self.network, torch.cat(self.embeddings), torch.cat(self.scores), floor).to(self.device)

    def return_to_target(self, result: AttackResult) -> None:
        """Shows the target what a search in the copy has found, and keeps it with the scores."""
        pictures, shape = image_convention.to_uint8(result.images), result.images.shape[:2]
        scores = self.show_found(len(self.rounds), pictures)
        latents = {name: rows.view(*shape, *rows.shape[1:]) for name, rows in result.latents.items()}
        found = {"pictures": pictures, "scores": scores, "latents": latents, "own": result.cost.images_evaluated}
        self.rounds.append(found | {"first": result.first, "stuck": list(result.stuck)})

    def collect(self) -> AttackResult:
        """Returns of each user the pictures of all rounds that the target scores best."""
        pictures, scores = (torch.cat([found[name] for found in self.rounds], 1) for name in ("pictures", "scores"))
        chosen = best_per_identity(scores, self.config.keep)
        row = torch.arange(len(chosen))[:, None]
        latents = {
            name: torch.cat([found["latents"][name] for found in self.rounds], 1)[row, chosen].flatten(0, 1)
            for name in self.rounds[0]["latents"]
        }
        stuck = set.intersection(*(set(found["stuck"]) for found in self.rounds))
        answers = self.queries.answers
        queries = self.queries.describe() | {
            "own_copy": sum(found["own"] for found in self.rounds), "copy_error": round(self.fit().error, 4)
        }  # fmt: skip
        images = image_convention.from_uint8(pictures[row, chosen].contiguous())
        return AttackResult(
            self.identities, images, scores[row, chosen], latents, Cost(self.elapsed(), answers, 0, answers),
            self.rounds[0]["first"], tuple(sorted(stuck)), queries, self.config, self.seed,
        )  # fmt: skip
