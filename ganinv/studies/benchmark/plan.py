"""What an attack on many users would take on many workers: costs measured here, and a simulation of their schedule."""

from __future__ import annotations

import copy
import heapq
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from ganinv.attack.attacks import LatentAttack
from ganinv.attack.config import LATENT, AttackConfig
from ganinv.attack.invert import count_together, invert
from ganinv.attack.spread import SCORED
from ganinv.engine.batches import ON_CPU
from ganinv.engine.precision import ready_recognizer
from ganinv.interfaces import Generator, Recognizer
from ganinv.priors.stylegan2_pytorch import StyleGAN2PyTorch
from ganinv.reports.report import judge
from ganinv.studies.benchmark.networks import build_prior
from ganinv.worlds.world import World

RESOLUTIONS = (64, 256, 1024)
CAPACITY = 16  # of the random priors that stand for those that no world has
SAMPLES = {64: 16, 256: 4, 1024: 1}  # that share a batch while a step is timed
STEPS = 4  # of which the first is left out: it builds kernels
JUDGED = (2, 6)  # users: what does not grow with them cancels


@dataclass(frozen=True)
class Costs:
    """What one worker was measured to need. start: seconds until a worker can be asked; send: seconds to copy the networks in
    memory; size: their bytes; candidate: seconds for one candidate; call: for a step whatever its samples; step: for one
    view of one sample more, forward and backward; final: for one view in the final choice; verdict: (seconds whatever the
    users, for each in one process, and for each by whichever worker is free)."""

    resolution: int
    start: float
    send: float
    size: int
    candidate: float
    call: float
    step: float
    final: float
    verdict: tuple[float, float, float]


@dataclass(frozen=True)
class Plan:
    """A schedule that was simulated: seconds by phase, in the order in which they happen."""

    resolution: int
    users: int
    workers: int
    phases: dict[str, float]

    @property
    def seconds(self) -> float:
        """Returns how long it takes."""
        return sum(self.phases.values())

    @property
    def worker_hours(self) -> float:
        """Returns what is paid for: the workers until the report is there."""
        return self.workers * self.seconds / 3600

    @property
    def bottleneck(self) -> str:
        """Returns the phase that takes longest."""
        return max(self.phases, key=self.phases.__getitem__)


# ---- measured


def measure_costs(world: World, resolution: int, device: torch.device) -> Costs:
    """Returns the costs of the world's target with its prior, or with a random one of another resolution."""
    generator = world.prior if resolution == world.resolution else draw_prior(resolution).to(device)
    target = ready_recognizer(world.target, resolution, device)
    began = time.perf_counter()
    copy.deepcopy((generator, target))
    send = time.perf_counter() - began
    many = SAMPLES.get(resolution, 1)
    few = max(1, many // 4)  # as many as halving leaves in the end
    candidate, most, final = time_attack(generator, target, many, device)
    least = time_attack(generator, target, few, device)[1] if few < many else most
    views = LATENT.optim.transforms
    step = (most - least) / (many - few) / views if few < many else most / many / views
    call = max(0.0, most - many * views * step)
    size = count_bytes(generator, target)
    return Costs(resolution, time_start(), send, size, candidate, call, step, final, time_verdict(world))


def draw_prior(resolution: int) -> Generator:
    """Returns a random prior of a resolution in the engine's form."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stock = build_prior(CAPACITY, resolution)
    return (
        StyleGAN2PyTorch(stock.mapping, stock.synthesis, mean_w=stock.mean_w, noise=stock.noise).eval().requires_grad_(False)
    )


def time_attack(generator: Generator, target: Recognizer, samples: int, device: torch.device) -> tuple[float, float, float]:
    """Returns seconds for a candidate, for a step of so many samples, and for a view in the final choice."""
    config = replace(
        LATENT, steps=STEPS, candidates=4 * samples, restarts=samples, batch=samples, final_transforms=4, log_every=1,
        optim=replace(LATENT.optim, halve_at=()),
    )  # fmt: skip
    scored, stepped = [], []
    invert(
        generator, target, (0,), config, device=device, on_scored=lambda *_: scored.append(time.perf_counter()),
        on_step=lambda _: stepped.append(time.perf_counter()),
    )  # fmt: skip
    ended = time.perf_counter()
    steps = [after - before for before, after in zip(stepped, stepped[1:], strict=False)]
    candidates = [after - before for before, after in zip(scored, scored[1:], strict=False)]
    final = (ended - stepped[-1]) / (samples * config.final_transforms)
    return statistics.median(candidates) / samples, statistics.median(steps), final


def time_start() -> float:
    """Returns the seconds that a new process takes until it could build a worker."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import ganinv.attack.spread"], check=True)
    return time.perf_counter() - began


class Timed:
    """Workers without a cluster, who take turns here. seconds: that their units took."""

    count, seconds = 1, 0.0

    def hold(self, recipe: Callable[[], object], memory: int = 0, prepare: Callable[[], object] = lambda: None) -> None:
        """Says what every worker is built from."""
        self.worker = recipe()

    def run(
        self, units: Mapping[Hashable, tuple], on_wait: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[Hashable, object]]:
        """Yields (key, value) of units."""
        for key, (method, *arguments) in units.items():
            began = time.perf_counter()
            value = getattr(self.worker, method)(*arguments)
            self.seconds += time.perf_counter() - began
            yield key, value


def time_verdict(world: World) -> tuple[float, float, float]:
    """Returns the seconds of a verdict whatever the users, for each in one process, and for each by any worker."""
    here, spread_out = [], []
    attack = LatentAttack(steps=0, candidates=JUDGED[-1] * LATENT.restarts, final_transforms=1)
    for users in (JUDGED[0], *JUDGED):  # the first reads photos that the others find read: a cost whatever the users
        result = attack(world.prior, world.target, range(users))
        workers, began = Timed(), time.perf_counter()
        judge(result, world.target, world=world, workers=workers)
        here.append(time.perf_counter() - began - workers.seconds)
        spread_out.append(workers.seconds)
    each, each_out = (max(0.0, (of[2] - of[1]) / (JUDGED[1] - JUDGED[0])) for of in (here, spread_out))
    return max(0.0, here[0] + spread_out[0] - (each + each_out) * JUDGED[0]), each, each_out


def count_bytes(*networks: nn.Module) -> int:
    """Returns the bytes of networks' weights."""
    return sum(tensor.nbytes for network in networks for tensor in network.state_dict().values())


# ---- simulated


def simulate(costs: Costs, users: int, workers: int, *, config: AttackConfig = LATENT, bandwidth: float = 1e9) -> Plan:
    """Returns the plan of an attack on so many users. bandwidth: bits a second between nodes, shared by all.

    Units are given to whichever worker is free first, as engine.cluster does.
    """
    together = min(config.together or count_together(config.restarts, ON_CPU), math.ceil(users / workers))
    slices = list_sizes(config.candidates, SCORED * ON_CPU)
    parts = list_sizes(users, together)
    return Plan(
        costs.resolution,
        users,
        workers,
        {
            "start": costs.start,
            "transfer": costs.send * 2 + workers * costs.size * 8 / bandwidth,
            "candidates": spread([size * costs.candidate for size in slices], workers),
            "search": spread([time_part(costs, config, size) for size in parts], workers),
            "verdict": costs.verdict[0] + users * (costs.verdict[1] + costs.verdict[2] / workers),
        },
    )


def time_part(costs: Costs, config: AttackConfig, users: int) -> float:
    """Returns the seconds of the search and final choice of users who are searched together, on one worker."""
    left, before, seconds = config.restarts, 0.0, 0.0
    for share in (*config.optim.halve_at, 1.0):
        step = costs.call + users * left * config.optim.transforms * costs.step
        seconds += (share - before) * config.steps * step
        before = share
        if share < 1.0:
            left = max(config.keep, math.ceil(left / 2))
    return seconds + users * left * config.final_transforms * costs.final


def list_sizes(count: int, most: int) -> list[int]:
    """Returns the sizes of slices of at most `most`."""
    return [min(most, count - first) for first in range(0, count, most)]


def spread(seconds: Sequence[float], workers: int) -> float:
    """Returns when the last of some units ends, each given to the worker that is free first."""
    free = [0.0] * workers
    for one in seconds:
        heapq.heapreplace(free, free[0] + one)
    return max(free)


def make_plans(world: World, users: int, workers: Sequence[int], device: torch.device) -> Iterator[Plan]:
    """Yields a plan for each of RESOLUTIONS and each number of workers, as costs are measured."""
    for resolution in RESOLUTIONS:
        costs = measure_costs(world, resolution, device)
        for count in workers:
            yield simulate(costs, users, count)


def format_plans(plans: Sequence[Plan]) -> str:
    """Returns the table of plans in Markdown."""
    lines = [
        "| prior | users | workers | time | worker-hours | longest phase | its share |",
        "|---|---:|---:|---:|---:|---|---:|",
    ]
    for plan in plans:
        share = plan.phases[plan.bottleneck] / plan.seconds
        lines.append(
            f"| {plan.resolution} px | {plan.users} | {plan.workers} | {format_time(plan.seconds)} "
            f"| {plan.worker_hours:.3g} | {plan.bottleneck} | {share:.0%} |"
        )
    return "\n".join(lines) + "\n"


def format_time(seconds: float) -> str:
    """Returns a duration as people read it: 40 s, 12 min, 3.4 h, 2.1 d."""
    for unit, size, most in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172800)):
        if seconds < most:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86400:.3g} d"
