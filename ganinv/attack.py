"""The straight line: candidates, start choice, search, final choice. No judge is seen here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from ganinv import images as image_convention
from ganinv.interfaces import Generator, Recognizer
from ganinv.objectives import OBJECTIVES, weighted_sum
from ganinv.optimization import OPTIMIZERS, Optim, minimise
from ganinv.precision import PRECISIONS
from ganinv.randomness import Streams, seeded
from ganinv.search_spaces import SEARCH_SPACES, PixelSpace, WSpace, ZSpace, fit_whitening
from ganinv.selection import best_per_identity, score_flipped, score_transformed
from ganinv.transforms import RandomAffine, Transform


@dataclass(frozen=True, kw_only=True)
class Augment:
    """The random transform of every view."""

    flip: float = 0.5  # probability of a mirror image
    degrees: float = 5.0  # largest rotation
    scale: tuple[float, float] = (0.95, 1.1)  # smallest and largest magnification
    shift: float = 0.04  # largest shift, as a share of the side


@dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """What one attack does; everything but the models, the identities and the seed."""

    space: str = "w_plus"  # z | w | w_plus | pixels
    objective: str = "max_margin"  # max_margin | logit | cross_entropy | poincare | confidence
    tv: float = 0.0  # weight of total variation
    l2: float = 0.0  # weight of the squared pixels
    steps: int = 100
    candidates: int = 2000  # seeded latents scored by the target for the start; 0: random ones, unscored
    restarts: int = 4  # best candidates per identity that are optimised
    keep: int = 1  # results kept per identity
    psi: float = 0.8  # truncation of the start
    bound: float = 2.0  # standard deviations of the prior that w may leave its mean
    final_transforms: int = 64  # random transforms in the final choice
    batch: int = 40  # candidates that share a batch; changes no result but the last bits
    blur_sigma: float = 0.0  # pixels: smoothing between steps
    image_every: int = 25  # steps between pictures for Weights & Biases
    precision: str = "float32"  # float32 | bfloat16 | auto: the fastest that leaves the target's scores
    optim: Optim = field(default_factory=Optim)
    augment: Augment = field(default_factory=Augment)


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


def check_config(config: AttackConfig, recognizer: Recognizer, identities: tuple[int, ...], has_prior: bool) -> None:
    """Raises: ValueError for anything in a configuration that cannot be run."""
    if config.space not in SEARCH_SPACES:
        raise ValueError(f"expected a space among {', '.join(SEARCH_SPACES)}, got {config.space}")
    if config.space != "pixels" and not has_prior:
        raise ValueError(f"expected a generator for the space {config.space}, got none; pass --generator")
    if not recognizer.num_identities:
        raise ValueError("expected a target with identities (logits), got one that only embeds")
    unknown = [identity for identity in identities if not 0 <= identity < recognizer.num_identities]
    if unknown or not identities:
        last = recognizer.num_identities - 1
        raise ValueError(f"expected identities from 0 to {last}, got {', '.join(map(str, unknown)) or 'none'}")
    least = {"steps": 0, "candidates": 0, "restarts": 1, "keep": 1, "final_transforms": 1, "batch": 1, "image_every": 1}
    for name, value in least.items():
        if getattr(config, name) < value:
            raise ValueError(f"expected {name} of at least {value}, got {getattr(config, name)}")
    if config.precision not in PRECISIONS:
        raise ValueError(f"expected a precision among {', '.join(PRECISIONS)}, got {config.precision}")
    if config.objective not in OBJECTIVES:
        raise ValueError(f"expected an objective among {', '.join(OBJECTIVES)}, got {config.objective}")
    ranges = {"psi": (0.0, 2.0), "bound": (0.0, 100.0), "blur_sigma": (0.0, 5.0)}
    for name, (low, high) in ranges.items():
        if not low <= getattr(config, name) <= high:
            raise ValueError(f"expected {name} from {low} to {high}, got {getattr(config, name)}")
    if config.optim.patience < 0 or not config.optim.lr > 0:
        raise ValueError(
            f"expected optim.patience of at least 0 and optim.lr above 0, got {config.optim.patience} and {config.optim.lr}"
        )
    if config.optim.optimizer not in OPTIMIZERS:
        raise ValueError(f"expected an optimizer among {', '.join(OPTIMIZERS)}, got {config.optim.optimizer}")
    if config.optim.transforms < 1:
        raise ValueError(f"expected optim.transforms of at least 1, got {config.optim.transforms}")
    if config.keep > config.restarts:
        raise ValueError(f"expected to keep at most the {config.restarts} restarts, got {config.keep}")
    if config.space != "pixels" and 0 < config.candidates < config.restarts:
        raise ValueError(f"expected at most {config.candidates} restarts (the candidates), got {config.restarts}")


@torch.no_grad()
def choose_start(
    generator: Generator, recognizer: Recognizer, identities: torch.Tensor, config: AttackConfig, seed: int
) -> torch.Tensor:
    """Returns z [T,restarts,z_dim]: of one seeded pool, the candidates that the target scores best per identity.

    Without candidates, every identity and restart has a random z of its own.
    """
    if config.candidates == 0:
        keys = [(seed, "random", identity, r) for identity in identities.tolist() for r in range(config.restarts)]
        z = torch.stack([torch.randn(generator.z_dim, generator=seeded(*key)) for key in keys])
        return z.view(len(identities), config.restarts, -1).to(identities.device)
    pool = draw_pool(generator, config, seed).to(identities.device)
    scores = [
        score_flipped(recognizer, generator.synthesize(generator.map(z, config.psi)).clamp(-1, 1), identities)
        for z in pool.split(256)
    ]
    return pool[best_per_identity(torch.cat(scores, 1), config.restarts)]


def draw_pool(generator: Generator, config: AttackConfig, seed: int) -> torch.Tensor:
    """Returns the seeded latents z [candidates,z_dim] among which the start is chosen."""
    return torch.randn(config.candidates, generator.z_dim, generator=seeded(seed, "candidates"))


def split_work(identities: tuple[int, ...], restarts: int, batch: int) -> Iterator[list[tuple[int, int]]]:
    """Yields lists of at most `batch` (position of the identity, restart): candidates of all identities share batches."""
    work = [(position, restart) for restart in range(restarts) for position in range(len(identities))]
    for start in range(0, len(work), batch):
        yield work[start : start + batch]


def invert(
    generator: Generator | None,
    recognizer: Recognizer,
    identities: tuple[int, ...],
    config: AttackConfig,
    *,
    seed: int = 0,
    start: torch.Tensor | None = None,
    device: torch.device | str = "cpu",
    searched: tuple[Generator | None, Recognizer] | None = None,
    on_step: Callable[[dict], None] = ignore,
    state: Mapping | None = None,
    on_state: Callable[[Callable[[], dict]], None] = ignore,
) -> AttackResult:
    """Returns the pictures that the target takes for its users, found without any information on them.

    generator: the prior, None for the space "pixels". identities: classes of the target. start: [T,C,R,R] in [-1,1],
    the first pictures of the space "pixels" (C=1: greyscale, the restarts differ only in their transforms). searched: the
    same prior and target in another precision, for the start choice and the search; not for the final choice. on_step gets
    one row a step: {"step","objective","target_score","identities"} and, every image_every steps, "images", one of each.
    on_state gets, after every step and every part, a function that describes the work so far, for state.save_state; with
    its answer as `state` and everything else unchanged, a later call goes on from there and ends in the same result.

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
    objective = weighted_sum({config.objective: 1.0, "total_variation": config.tv, "l2": config.l2})
    transform: Transform = RandomAffine(
        flip=config.augment.flip, degrees=config.augment.degrees, scale=config.augment.scale, shift=config.augment.shift
    )
    progress = dict(state) if state else {"finished": [], "search": None, "seconds": 0.0}
    before, whitening = progress["seconds"], None
    fast_generator, fast_recognizer = searched or (generator, recognizer)
    if config.space != "pixels":
        start = progress["start"] if state else choose_start(fast_generator, fast_recognizer, wanted, config, seed)
        start = start.to(device)
        whitening = fit_whitening(generator, device=device) if config.space != "z" else None
        progress["start"] = start
    with torch.no_grad():
        best = start if config.space == "pixels" else generator.synthesize(generator.map(start[:, 0], config.psi))
    first_pictures = image_convention.from_uint8(image_convention.to_uint8(best.expand(-1, 3, -1, -1))).cpu()

    def describe(search: Callable[[], dict] | None = None) -> dict:
        now = search() if search else None
        steps = len(progress["finished"]) * config.steps + (now["step"] if now else 0)
        return progress | {"search": now, "steps": steps, "seconds": before + time.perf_counter() - began}

    on_state(describe)
    parts = list(split_work(identities, config.restarts, config.batch))
    for number, work in enumerate(parts):
        if number < len(progress["finished"]):
            continue
        position = torch.tensor([p for p, _ in work], device=device)
        restart = torch.tensor([r for _, r in work], device=device)
        keys = [(seed, "search", identities[p], r) for p, r in work]
        first = start[position] if config.space == "pixels" else start[position, restart]
        space = build_space(config, fast_generator, first, whitening)
        gradients = minimise(
            space, fast_recognizer, wanted[position], objective, transform, Streams(keys),
            steps=config.steps, optim=config.optim,
            on_step=report_steps(on_step, number * config.steps, identities, position, config), state=progress["search"],
            on_state=lambda search: on_state(partial(describe, search)),
        )  # fmt: skip
        space.generator = generator
        with torch.no_grad():
            pictures = image_convention.from_uint8(image_convention.to_uint8(space()))
            streams = Streams((seed, "final", *key[2:]) for key in keys)
            scores = score_transformed(recognizer, pictures, wanted[position], transform, streams, config.final_transforms)
        part = {"position": position, "pictures": pictures, "scores": scores, "latents": space.latents()}
        progress["finished"].append(part | {"gradients": gradients})
        progress["search"] = None
        on_state(describe)
    candidates = 2 * config.candidates if config.space != "pixels" else 0
    return collect(progress["finished"], identities, config, candidates, before + time.perf_counter() - began, first_pictures)


def build_space(config: AttackConfig, generator: Generator | None, first: torch.Tensor, whitening) -> nn.Module:
    """Returns the search space of a configuration, at its start: z [N,z_dim], or pixels [N,C,R,R]."""
    if config.space == "pixels":
        return PixelSpace(first, blur_sigma=config.blur_sigma)
    if config.space == "z":
        return ZSpace(generator, first, psi=config.psi)
    return WSpace(generator, first, psi=config.psi, bound=config.bound, whitening=whitening, plus=config.space == "w_plus")


def report_steps(on_step: Callable[[dict], None], done: int, identities: tuple[int, ...], position: torch.Tensor, config):
    """Returns minimise's callback: it turns samples into one row a step, the best sample speaking for its identity."""

    def report(step: int, losses: torch.Tensor, scores: torch.Tensor, pictures: torch.Tensor) -> None:
        row = {"step": done + step, "objective": losses.mean().item(), "target_score": scores.mean().item()}
        seen = position.unique()
        best = [torch.where(position == p, losses, torch.inf).argmin() for p in seen]
        row["identities"] = {identities[p]: scores[b].item() for p, b in zip(seen.tolist(), best, strict=True)}
        if step % config.image_every == 0 or step == config.steps - 1:
            row["images"] = pictures[torch.stack(best)].clamp(-1, 1).cpu()
        on_step(row)

    return report


def collect(
    parts: list[dict], identities: tuple[int, ...], config: AttackConfig, candidates: int, seconds: float, first: torch.Tensor
) -> AttackResult:
    """Returns the AttackResult: the best `keep` samples per identity by the target's transformed score.

    parts: position [n], pictures [n,3,R,R], scores [n], latents and gradients of every part of the work; candidates: the
    images that the start was chosen from; first [T,3,R,R].
    """
    position, pictures, scores = (
        torch.cat([part[name].cpu() for part in parts]) for name in ("position", "pictures", "scores")
    )
    latents = {name: torch.cat([part["latents"][name].cpu() for part in parts]) for name in parts[0]["latents"]}
    table = torch.stack([torch.where(position == p, scores, -1.0) for p in range(len(identities))])
    chosen = best_per_identity(table, config.keep)
    gradients, queries = sum(part["gradients"] for part in parts), candidates + len(position) * config.final_transforms
    cost = Cost(seconds, gradients + queries, gradients, queries)
    latents = {name: rows[chosen.flatten()] for name, rows in latents.items()}
    # in one layout, whichever way the parts came here: the judges' last bits depend on it
    return AttackResult(identities, pictures[chosen].contiguous(), scores[chosen], latents, cost, first.contiguous())
