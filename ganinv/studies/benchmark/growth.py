"""How time and memory grow with the work, and where a step spends its time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from ganinv.attack.config import AttackConfig
from ganinv.attack.invert import invert
from ganinv.studies.benchmark.bench import DEEP, SMALL, Bench, cached_pair
from ganinv.studies.benchmark.networks import choose_precision, make_step
from ganinv.studies.benchmark.timing import fit_slope, summarise


def measure_growth(bench: Bench) -> Iterator[dict]:
    """Yields {"along", "sizes", "seconds", "slope"}: whole short inversions on a small prior, and how their time grows."""
    folder, device = bench.folder, bench.device
    side, sides = (16, (16, 32)) if bench.quick else (32, (32, 64, 128))
    routes = {r: cached_pair(2, SMALL, folder, device, r).engine for r in sides}
    batch = 2 if bench.quick else 8
    short = {"space": "z", "final_transforms": 1, "candidates": 0, "steps": 1 if bench.quick else 3}

    def run(users: int, resolution: int = side, **options) -> Callable[[], object]:
        config = AttackConfig(**(short | {"restarts": 1, "batch": batch} | options))
        route = routes[resolution]
        return lambda: invert(route.generator, route.recognizer, tuple(range(users)), config, device=device)

    doubled = [batch * factor for factor in ((1, 2) if bench.quick else (1, 2, 4, 8))]
    growths = {
        "users": {n: run(n) for n in doubled},
        "restarts (candidates that are optimised)": {n: run(batch // 2, restarts=n) for n in doubled},
        "pool (candidates that are scored)": {n: run(1, candidates=n, steps=0) for n in [64 * n for n in doubled]},
        "resolution (side)": {r: run(batch, r) for r in sides},
        "batch, the same work": {n: run(doubled[-1], batch=n) for n in [doubled[0] // 2, *doubled]},
    }
    for along, functions in growths.items():
        times = bench.interleave({str(size): function for size, function in functions.items()}, len(growths))
        seconds = [summarise(values).median for values in times.values()]
        yield {"along": along, "sizes": list(functions), "seconds": seconds, "slope": fit_slope(list(functions), seconds)}


def measure_profile(bench: Bench) -> Iterator[dict]:
    """Yields where the engine's step spends its time.

    {"profile", "ms", "shares": {kind of operator: share}, "convolutions": GFLOP/s of them, "best": of the fastest
    convolution, "operators": [{"name", "share", "ms", "calls"}]}: so much of the step is arithmetic, as fast as that.
    """
    from torch.profiler import ProfilerActivity, profile
    from torch.utils.flop_counter import FlopCounterMode

    best = {dtype: time_convolution(bench, getattr(torch, dtype)) for dtype in ("float32", "bfloat16")}
    for capacity, target in bench.pairs:
        pair = bench.pair(capacity, target)
        auto, taken = choose_precision(pair.engine, bench.batch, bench.device)
        for precision, route in {"float32": pair.engine, f"auto ({taken})": auto}.items():
            step = make_step(route, bench.batch, bench.device)
            with FlopCounterMode(display=False) as counted:
                step()
            with profile(activities=[ProfilerActivity.CPU]) as profiled:
                step()
            events = sorted(profiled.key_averages(), key=lambda event: -event.self_cpu_time_total)
            shares = dict.fromkeys(("convolutions", "matrix products", "all else"), 0.0)
            total = sum(event.self_cpu_time_total for event in events)
            for event in events:
                shares[classify_operator(event.key)] += event.self_cpu_time_total / total
            operators = [
                {
                    "name": event.key,
                    "share": event.self_cpu_time_total / total,
                    "ms": event.self_cpu_time_total / 1000,
                    "calls": event.count,
                }
                for event in events[:12]
            ]
            flops = sum(value for op, value in counted.get_flop_counts()["Global"].items() if "convolution" in str(op))
            yield {
                "profile": f"step, {pair.name}, {precision}",
                "ms": total / 1000,
                "shares": shares,
                "convolutions": flops / 1000 / (total * shares["convolutions"]),
                "best": best["float32" if precision == "float32" else "bfloat16"],
                "operators": operators,
            }


def classify_operator(name: str) -> str:
    """Returns of what kind an operator of the profiler is."""
    if "convolution" in name:
        return "convolutions"
    return "matrix products" if name.endswith(("mm", "linear")) else "all else"


@torch.no_grad()
def time_convolution(bench: Bench, dtype: torch.dtype) -> float:
    """Returns the GFLOP/s of a convolution whose shape suits a processor: 3x3, 256 to 256 channels, at 32 px."""
    count, channels, side = bench.batch, 16 if bench.quick else 256, 32
    x = torch.randn(count, channels, side, side, device=bench.device, dtype=dtype)
    weight = torch.randn(channels, channels, 3, 3, device=bench.device, dtype=dtype)
    x, weight = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, weight))
    times = bench.interleave({"best": lambda: torch.nn.functional.conv2d(x, weight, padding=1)})["best"]
    return 2 * 9 * count * channels**2 * side**2 / min(times) / 1e9


def use_memory(bench: Bench, case: str) -> dict:
    """Runs what a case of MEMORY names; for a process of its own, whose peak is then read."""
    what, _, count = case.rpartition(" ")
    pair = bench.pair(8, DEEP)
    before = read_peak(bench.device)
    if what == "users":
        config = AttackConfig(candidates=0, restarts=1, batch=bench.batch, final_transforms=1, steps=2)
        invert(pair.engine.generator, pair.engine.recognizer, tuple(range(int(count))), config, device=bench.device)
    else:
        step = make_step({"stock": pair.stock, "engine": pair.engine}[what], int(count), bench.device)
        for _ in range(2):
            step()
    after = read_peak(bench.device)
    return {"case": f"{case}, {pair.name}", "peak_mib": after, "rise_mib": after - before}


def read_peak(device: torch.device) -> float:
    """Returns the most memory that the process has had, in MiB: on the CPU all of it, on a GPU what torch allocated."""
    import resource

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB


MEMORY = ("stock 16", "engine 16", "users 16", "users 64")
