"""The engine against the stock modules: a step of the search, and the final choice."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator

import torch

from ganinv.attack.access import TargetAccess
from ganinv.attack.goals import ClassGoal
from ganinv.attack.invert import FORWARD
from ganinv.attack.selection import score_flipped, score_transformed
from ganinv.engine.randomness import Streams
from ganinv.studies.benchmark import networks
from ganinv.studies.benchmark.bench import PUBLISHED_BATCH, PUBLISHED_SIDE, SMALL, STOCK, Bench, make_row
from ganinv.studies.benchmark.networks import TRANSFORM, Route, choose_precision, make_step


def measure_steps(bench: Bench) -> Iterator[dict]:
    """Yields forward+backward to the latent, one random transform included: stock modules, float32 and auto."""
    for capacity, target in bench.pairs:
        pair = bench.pair(capacity, target)
        auto, taken = choose_precision(pair.engine, bench.batch, bench.device)
        sides = {STOCK: pair.stock, "float32": pair.engine, "auto": auto}
        steps = {name: make_step(side, bench.batch, bench.device) for name, side in sides.items()}
        times = bench.interleave(steps, len(bench.pairs))
        notes = {"auto": taken, "differences": networks.compare_sides(pair, bench.device, 2)}
        yield make_row(f"step, {pair.name}", "ms per candidate and step", STOCK, times, units=bench.batch, notes=notes)


def measure_selection(bench: Bench) -> Iterator[dict]:
    """Yields the initial and the final selection, against the way of Struppek et al. 2022 over the stock modules."""
    pair = bench.pair(8, SMALL)
    auto, taken = choose_precision(pair.engine, bench.batch, bench.device)
    pool, wanted = 2 * bench.batch if bench.quick else 256, torch.arange(5, device=bench.device)
    sides = {"float32": pair.engine, "auto": auto}

    @torch.no_grad()
    def start(route: Route) -> torch.Tensor:
        z = torch.randn(pool, route.generator.z_dim, device=bench.device)
        pictures = route.generator.synthesize(route.generator.map(z, 0.8)).clamp(-1, 1)
        return score_flipped(TargetAccess(route.recognizer), ClassGoal(), pictures, wanted)

    times = bench.interleave(
        {STOCK: lambda: start_published(pair.stock, bench.device)}
        | {name: functools.partial(start, route) for name, route in sides.items()},
        2,
    )
    units = {STOCK: PUBLISHED_BATCH, "float32": pool, "auto": pool}
    yield make_row(f"initial selection, {pair.name}", "ms per latent", STOCK, times, units=units, notes={"auto": taken})

    with torch.no_grad():
        w = networks.draw_latents(pair.stock.generator, bench.batch, bench.device)
        pictures = pair.stock.generator.synthesize(w).clamp(-1, 1)
    identities, count = torch.arange(bench.batch, device=bench.device), 1 if bench.quick else 8

    def finish(route: Route) -> torch.Tensor:
        draws = Streams((("final", index) for index in range(bench.batch)), bench.device).take()
        return score_transformed(
            TargetAccess(route.recognizer), ClassGoal(), pictures, identities, TRANSFORM, draws, count,
            batch=FORWARD * bench.batch,
        )  # fmt: skip

    published = make_published_choice(pair.stock, pictures, identities, 1)
    times = bench.interleave(
        {STOCK: published} | {name: functools.partial(finish, route) for name, route in sides.items()}, 2
    )
    units = {STOCK: bench.batch, "float32": bench.batch * count, "auto": bench.batch * count}
    yield make_row(
        f"final selection, {pair.name}", "ms per candidate and transform", STOCK, times, units=units, notes={"auto": taken}
    )


@torch.no_grad()
def start_published(route: Route, device: torch.device) -> torch.Tensor:
    """Returns the confidences [N,C] of a batch of latents as Plug & Play attacks score them: at 224 px, with the mirror.

    Source: Struppek et al. 2022, attacks/initial_selection.py of their code, whose centre crop a 64 px prior does not need.
    """
    from torchvision.transforms.v2.functional import resize

    z = torch.randn(PUBLISHED_BATCH, route.generator.z_dim, device=device)
    images = route.generator.synthesize(route.generator.map(z, 0.7)).clamp(-1, 1)
    images = resize(images, [PUBLISHED_SIDE, PUBLISHED_SIDE], antialias=True)
    return sum(recognize_as_given(route, view).softmax(1) / 2 for view in (images, images.flip(3)))


def make_published_choice(
    route: Route, pictures: torch.Tensor, identities: torch.Tensor, count: int
) -> Callable[[], torch.Tensor]:
    """Returns a function that scores pictures [N,3,R,R] over transforms as Plug & Play attacks do: always at 224 px.

    Source: Struppek et al. 2022, attacks/final_selection.py of their code and its default transforms.
    """
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.RandomResizedCrop((PUBLISHED_SIDE, PUBLISHED_SIDE), scale=(0.5, 0.9), ratio=(0.8, 1.2), antialias=True),
            v2.RandomHorizontalFlip(0.5),
        ]
    )

    @torch.no_grad()
    def choose() -> torch.Tensor:
        views = (transform(pictures) for _ in range(count))
        return sum(recognize_as_given(route, view).softmax(1).gather(1, identities[:, None]) for view in views) / count

    return choose


def recognize_as_given(route: Route, images: torch.Tensor) -> torch.Tensor:
    """Returns the logits of the stock classifier at the pictures' own size."""
    recognizer = route.recognizer
    return recognizer.network(dataclasses.replace(recognizer.preprocessing, size=None)(images))
