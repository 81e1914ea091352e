"""The straight line: candidates, start choice, search, final choice. No judge is seen here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from ganinv import images as image_convention
from ganinv.attack.checks import check_config
from ganinv.attack.config import AttackConfig
from ganinv.attack.loop import Seen, evaluate, minimise
from ganinv.attack.objectives import weighted_sum
from ganinv.attack.selection import best_per_identity, score_flipped, score_transformed
from ganinv.attack.spaces import PixelSpace, Whitening, WSpace, ZSpace, fit_whitening
from ganinv.attack.transforms import RandomAffine, Transform
from ganinv.engine import cache
from ganinv.engine.batches import PROBES, Batch, measure, parse_memory, plan
from ganinv.engine.randomness import Streams, seeded
from ganinv.interfaces import Generator, Recognizer, Term

FORWARD = 4  # times a batch fit where nothing is kept for a backward pass


TOGETHER = 4  # batches that are stepped together


MOST_KEPT = 2**28  # bytes of candidates' pictures that are worth a place on the disk: 2 000 of 64 px take 25 MB


@dataclass(frozen=True)
class Cost:
    """What an attack took. seconds: wall clock; counts are of single images through the target, in the search as many as
    gradients were taken."""

    seconds: float
    images_evaluated: int
    gradient_queries: int
    score_queries: int


@dataclass(frozen=True)
class AttackResult:
    """identities [T]; images [T,K,3,R,R] in [-1,1], as 8-bit files hold them; scores [T,K], the target's mean score in
    the final choice; latents, each [T*K,...]; cost; first [T,3,R,R]: the pictures that the best start of each identity
    gives, before any search."""

    identities: tuple[int, ...]
    images: torch.Tensor
    scores: torch.Tensor
    latents: dict[str, torch.Tensor]
    cost: Cost
    first: torch.Tensor


def ignore(row: dict) -> None:
    """A callback that does nothing."""


@torch.no_grad()
def choose_start(
    generator: Generator,
    recognizer: Recognizer,
    identities: torch.Tensor,
    config: AttackConfig,
    seed: int,
    batch: Batch,
    prior: str = "",
) -> torch.Tensor:
    """Returns z [T,restarts,z_dim]: of one seeded pool, the candidates that the target scores best per identity.

    Without candidates, every identity and restart has a random z of its own. The candidates' pictures are scored as 8-bit
    files hold them, and with the prior's hash kept for the next run of any target.
    """
    if config.candidates == 0:
        keys = [(seed, "random", identity, r) for identity in identities.tolist() for r in range(config.restarts)]
        z = torch.stack([torch.randn(generator.z_dim, generator=seeded(*key)) for key in keys])
        return z.view(len(identities), config.restarts, -1).to(identities.device)
    pool = draw_pool(generator, config, seed).to(identities.device)
    shape = (len(pool), 3, generator.resolution, generator.resolution)
    file = None
    if prior and math.prod(shape) <= MOST_KEPT:
        file = cache.find_place(f"candidates-{prior[:16]}-{config.psi}-{seed}-{len(pool)}")
    kept = cache.recall(file, "pictures", shape, torch.uint8) if file else None

    def score(rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        if kept is None:
            pictures = image_convention.to_uint8(generator.synthesize(generator.map(pool[rows], config.psi)))
        else:
            pictures = kept[rows].to(identities.device)
        seen = image_convention.from_uint8(pictures)
        return pictures.cpu(), score_flipped(recognizer, seen, identities)

    pictures, scores = zip(*batch.over(len(pool), score), strict=True)
    if file and kept is None:
        cache.keep(file, "pictures", torch.cat(pictures))
    return pool[best_per_identity(torch.cat(scores, 1), config.restarts)]


def draw_pool(generator: Generator, config: AttackConfig, seed: int) -> torch.Tensor:
    """Returns the seeded latents z [candidates,z_dim] among which the start is chosen."""
    return torch.randn(config.candidates, generator.z_dim, generator=seeded(seed, "candidates"))


def split_work(identities: tuple[int, ...], restarts: int, batch: int) -> Iterator[list[tuple[int, int]]]:
    """Yields parts, lists of (position of the identity, restart): whole identities, at least one and about TOGETHER batches.

    A part is stepped together, its batches in turn, so that an identity's restarts can be compared on the way, and the
    batches stay full when some leave. What it takes does not grow with the number of identities.
    """
    many = max(1, TOGETHER * batch // restarts)
    for first in range(0, len(identities), many):
        positions = range(first, min(first + many, len(identities)))
        yield [(position, restart) for restart in range(restarts) for position in positions]


@dataclass(frozen=True)
class Work:
    """What an attack searches with: the models, the objective, the transform, and the whitening that some spaces need."""

    generator: Generator | None
    recognizer: Recognizer
    objective: Term
    transform: Transform
    whitening: Whitening | None
    device: torch.device


def prepare(generator: Generator | None, recognizer: Recognizer, config: AttackConfig, device: torch.device) -> Work:
    """Returns what a configuration searches with."""
    objective = weighted_sum({config.objective: 1.0, "total_variation": config.tv, "l2": config.l2})
    augment = config.augment
    transform = RandomAffine(flip=augment.flip, degrees=augment.degrees, scale=augment.scale, shift=augment.shift)
    whitening = fit_whitening(generator, device=device) if config.space in ("w", "w_plus") else None
    return Work(generator, recognizer, objective, transform, whitening, device)


def plan_batch(work: Work, config: AttackConfig, start: torch.Tensor | None) -> Batch:
    """Returns the batch that config.memory holds, measured on the first step of a few samples.

    start: [T,C,R,R], the first pictures of the space "pixels". Raises: ValueError when not even one sample fits.
    """

    def step(count: int) -> None:
        if start is None:
            first = torch.randn(count, work.generator.z_dim, generator=seeded("probe")).to(work.device)
        else:
            first = start[:1].expand(count, -1, -1, -1)
        space = build_space(config, work.generator, first, work.whitening)
        identities = torch.zeros(count, dtype=torch.long, device=work.device)
        draws = Streams((("probe", index) for index in range(count)), work.device).take()
        rows = torch.arange(count, device=work.device)
        evaluate(space, rows, work.recognizer, identities, work.objective, work.transform, draws, 1)
        sizes.append(sum(parameter.nbytes for parameter in space.parameters(recurse=False)) // count)

    sizes: list[int] = []
    fixed, each = measure(step, work.device)
    weights = sum(
        tensor.nbytes for network in (work.generator, work.recognizer) if isinstance(network, nn.Module)
        for tensor in network.state_dict().values()
    )  # fmt: skip
    fixed += 0 if work.device.type == "cuda" else weights  # there they are among what is measured
    # a sample's parameters, gradient, Adam's two moments, the copy before a step and the best so far, for a whole part
    return plan(parse_memory(config.memory), fixed, each + 6 * TOGETHER * sizes[0], config.batch, work.device)


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
    on_step: Callable[[dict], None] = ignore,
    state: Mapping | None = None,
    on_state: Callable[[Callable[[], dict]], None] = ignore,
) -> AttackResult:
    """Returns the pictures that the target takes for its users, found without any information on them.

    generator: the prior, None for the space "pixels". identities: classes of the target. start: [T,C,R,R] in [-1,1],
    the first pictures of the space "pixels" (C=1: greyscale, the restarts differ only in their transforms). prior: a hash
    of the generator, under which its candidates' pictures are kept in a cache; "": they are not. searched: the same prior
    and target in another precision, for the start choice and the search; not for the final choice. on_step gets
    a row every log_every steps: {"step","seconds","gradient_queries","objective","target_score","identities"} and,
    about every image_every steps, "images", one of each. on_state gets, after every step and every part, a function that
    describes the work so far, for state.save_state; with its answer as `state` and everything else unchanged, a later
    call goes on from there and ends in the same result.

    Raises: ValueError for a configuration that cannot be run; FaultError when the objective is not finite.
    """
    check_config(config, recognizer, identities, generator is not None)
    if config.space == "pixels" and (start is None or len(start) != len(identities)):
        got = None if start is None else list(start.shape)
        raise ValueError(f"expected start pictures [{len(identities)},C,R,R] for the space pixels, got {got}")
    began = time.perf_counter()
    device = torch.device(device)
    start = None if start is None else start.to(device)
    wanted = torch.tensor(identities, device=device)
    work = prepare(generator, recognizer, config, device)
    fast_generator, fast_recognizer = searched or (generator, recognizer)
    fast = replace(work, generator=fast_generator, recognizer=fast_recognizer)
    if state:
        progress, batch = dict(state), Batch(state["batch"])
        start = start if config.space == "pixels" else progress["start"].to(device)
    else:
        batch = plan_batch(fast, config, start)
        progress = {"finished": [], "search": None, "seconds": 0.0, "planned": batch.size}
        if config.space != "pixels":
            start = progress["start"] = choose_start(fast_generator, fast_recognizer, wanted, config, seed, batch, prior)
    before, parts = progress["seconds"], list(split_work(identities, config.restarts, progress["planned"]))
    progress["of"] = len(parts) * config.steps

    def elapsed() -> float:
        return before + time.perf_counter() - began

    def describe(search: Callable[[], dict] | None = None) -> dict:
        now = search() if search else None
        steps = len(progress["finished"]) * config.steps + (now["step"] if now else 0)
        return progress | {"search": now, "steps": steps, "batch": batch.size, "seconds": elapsed()}

    @torch.no_grad()
    def draw_first(rows: slice) -> torch.Tensor:
        first = start[rows] if config.space == "pixels" else generator.synthesize(generator.map(start[rows, 0], config.psi))
        return image_convention.to_uint8(first.expand(-1, 3, -1, -1)).cpu()

    first_pictures = image_convention.from_uint8(torch.cat(batch.over(len(identities), draw_first)))
    on_state(describe)
    for number, members in enumerate(parts):
        if number < len(progress["finished"]):
            continue
        position, restart = torch.tensor(members, device=device).T
        keys = [(seed, "search", identities[p], r) for p, r in members]
        first = start[position] if config.space == "pixels" else start[position, restart]
        space = build_space(config, fast_generator, first, work.whitening)
        done = {
            "steps": number * config.steps,
            "gradients": sum(PROBES) + sum(part["gradients"] for part in progress["finished"]),
        }
        report = report_steps(on_step, done, elapsed, space, identities, position, config)
        search = minimise(
            space, fast_recognizer, wanted[position], work.objective, work.transform, Streams(keys, device),
            steps=config.steps, optim=config.optim, keep=config.keep, batch=batch, on_step=report, state=progress["search"],
            log_every=config.log_every or (1 if device.type == "cpu" else 10),  # a row waits for the device
            on_state=lambda search: on_state(partial(describe, search)),
        )  # fmt: skip
        space.generator = generator
        rows = torch.where(search.finished)[0]
        streams = Streams(((seed, "final", *key[2:]) for key in keys), device)
        part = judge_finished(space, rows, wanted[position], streams, work, config, batch)
        progress["finished"].append(part | {"position": position[rows].cpu(), "gradients": search.gradients})
        progress["search"] = None
        on_state(describe)
    candidates = 2 * config.candidates if config.space != "pixels" else 0
    return collect(progress["finished"], identities, config, candidates, elapsed(), first_pictures)


@torch.no_grad()
def judge_finished(
    space: nn.Module,
    rows: torch.Tensor,
    identities: torch.Tensor,
    streams: Streams,
    work: Work,
    config: AttackConfig,
    batch: Batch,
) -> dict:
    """Returns the pictures (uint8), the target's transformed scores and the latents of the samples `rows` of a space."""

    def judge(part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        few = rows[part]
        pictures = image_convention.to_uint8(space(few))
        seen, draws = image_convention.from_uint8(pictures), streams.take(few)
        scores = score_transformed(
            work.recognizer, seen, identities[few], work.transform, draws, config.final_transforms,
            batch=FORWARD * batch.size,
        )  # fmt: skip
        return pictures.cpu(), scores.cpu()

    pictures, scores = (torch.cat(found) for found in zip(*batch.over(len(rows), judge), strict=True))
    latents = {name: values[rows].cpu() for name, values in space.latents().items()}
    return {"pictures": pictures, "scores": scores, "latents": latents}


def build_space(config: AttackConfig, generator: Generator | None, first: torch.Tensor, whitening) -> nn.Module:
    """Returns the search space of a configuration, at its start: z [N,z_dim], or pixels [N,C,R,R]."""
    if config.space == "pixels":
        return PixelSpace(first, blur_sigma=config.blur_sigma)
    if config.space == "z":
        return ZSpace(generator, first, psi=config.psi)
    return WSpace(generator, first, psi=config.psi, bound=config.bound, whitening=whitening, plus=config.space == "w_plus")


def report_steps(
    on_step: Callable[[dict], None],
    done: Mapping[str, int],
    elapsed: Callable[[], float],
    space: nn.Module,
    identities: tuple[int, ...],
    position: torch.Tensor,
    config: AttackConfig,
) -> Callable[[int, Seen], None]:
    """Returns minimise's callback: it turns samples into one row, the best sample speaking for its identity.

    done: steps and gradients of the parts before; position [N]: of the samples' identities.
    """
    shown = -1  # pictures come with the first row of every image_every steps

    def report(step: int, seen: Seen) -> None:
        nonlocal shown
        losses, scores, own = seen.losses.cpu(), seen.scores.cpu(), position.cpu()
        present = losses.isfinite()
        row = {
            "step": done["steps"] + step,
            "seconds": round(elapsed(), 3),
            "gradient_queries": done["gradients"] + seen.gradients,
            "objective": losses[present].mean().item(),
            "target_score": scores[present].mean().item(),
        }
        best = {p: torch.where(own == p, losses, torch.inf).argmin().item() for p in own.unique().tolist()}
        row["identities"] = {identities[p]: scores[index].item() for p, index in best.items()}
        if step // config.image_every != shown or step == config.steps - 1:
            shown = step // config.image_every
            with torch.no_grad():
                pictures = [space(slice(index, index + 1)) for index in best.values()]
            row["images"] = torch.cat(pictures).clamp(-1, 1).cpu()
        on_step(row)

    return report


def collect(
    parts: list[dict], identities: tuple[int, ...], config: AttackConfig, candidates: int, seconds: float, first: torch.Tensor
) -> AttackResult:
    """Returns the AttackResult: the best `keep` samples per identity by the target's transformed score.

    parts: position [n], pictures [n,3,R,R] (uint8), scores [n], latents and gradients of every part of the work;
    candidates: the images that the start was chosen from; first [T,3,R,R].
    """
    position, pictures, scores = (torch.cat([part[name] for part in parts]) for name in ("position", "pictures", "scores"))
    latents = {name: torch.cat([part["latents"][name] for part in parts]) for name in parts[0]["latents"]}
    table = torch.stack([torch.where(position == p, scores, -1.0) for p in range(len(identities))])
    chosen = best_per_identity(table, config.keep)
    gradients = sum(PROBES) + sum(part["gradients"] for part in parts)
    queries = candidates + len(position) * config.final_transforms
    cost = Cost(seconds, gradients + queries, gradients, queries)
    latents = {name: rows[chosen.flatten()] for name, rows in latents.items()}
    # in one layout, whichever way the parts came here: the judges' last bits depend on it
    images = image_convention.from_uint8(pictures[chosen].contiguous())
    return AttackResult(identities, images, scores[chosen], latents, cost, first.contiguous())
