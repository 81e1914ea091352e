"""Time the engine: against the stock modules and published loops, against its own floor, and as the work grows."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ganinv import cli

# glibc returns large blocks to the system at once and takes them back page by page; this makes it keep them
CHEAP_ALLOCATION = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**36)}
# seconds of every measure in the default run; training's rounds are fixed, and take about as long
SHARES = {"steps": 75, "selection": 15, "loop": 20, "pixels": 25, "training": 40, "growth": 20}
CHEAP_SHARE = 45  # of the steps with cheap allocation
CLUSTER = "cluster"  # a measure of its own: that of the engine on several workers
FIXED = 40  # seconds that processes take to start, and the memory cases
PACKAGES = ("torch", "torchvision", "stylegan2-pytorch", "facenet-pytorch", "numpy", "adversarial-robustness-toolbox")


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Time the engine against the stock modules, published loops and its own floor.

    Example: --out=runs/speed
    """

    out: str = ""  # folder for table.md and benchmark.json; "": runs/speed
    minutes: float = 3.0  # to share out; every comparison has at least three rounds
    threads: int = 0  # of the CPU; 0: one a core
    device: str = "auto"  # auto | cpu | cuda
    only: str = ""  # some of steps,selection,loop,pixels,training,growth,memory; "": all; cluster: one worker beside two
    profile: bool = False  # tell where the engine's step spends its time, and print its top operators
    plan: bool = False  # measure instead what one worker needs, and simulate an attack on many users on many workers
    users: int = 10_000  # of the plan
    workers: str = "1,8,64"  # of the plan; each has one thread, or a GPU
    quick: bool = False  # the smallest sizes and one round: shows that it works, says nothing of speed


def run(config: Benchmark) -> None:
    """Measures in processes of their own, prints the table, and writes it."""
    from ganinv.engine.files import clear_errors, write_atomically
    from ganinv.studies.benchmark.table import format_profiles, format_table

    chosen = [] if config.only == CLUSTER else choose_measures(config)
    device, out = cli.choose_device(config.device), Path(config.out or "runs/speed")
    if config.plan:
        plan_attack(config, device, out)
        return
    if config.only == CLUSTER:
        compare_workers(config, out)
        return
    with clear_errors(out, ValueError):
        out.mkdir(parents=True, exist_ok=True)
    threads = config.threads or len(os.sched_getaffinity(0))
    began = time.perf_counter()
    found: dict = {
        "machine": describe_machine(config, device, threads),
        "rows": [],
        "growth": [],
        "memory": [],
        "profiles": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        request = {"device": str(device), "threads": threads, "folder": folder, "quick": config.quick}
        measure(request, chosen, config, found)
    found["seconds"] = time.perf_counter() - began
    print(format_table(found))
    if config.profile:
        print(format_profiles(found["profiles"]))
    with clear_errors(out, ValueError):
        for name, text in (("benchmark.json", json.dumps(found, indent=2) + "\n"), ("table.md", format_table(found))):
            write_atomically(out / name, text)


def plan_attack(config: Benchmark, device, out: Path) -> None:
    """Prints and writes plan.md: what an attack on many users would take. Raises: ValueError for what cannot be planned."""
    import torch

    from ganinv.engine.files import clear_errors, write_atomically
    from ganinv.engine.progress import open_bar
    from ganinv.studies.benchmark.plan import RESOLUTIONS, format_plans, make_plans
    from ganinv.worlds.world import load_world

    counts = [int(count) if count.strip().isdecimal() else 0 for count in config.workers.split(",")]
    if min(counts) < 1 or max(counts) > 10**6:
        raise ValueError(f"expected workers such as 1,8,64, got {config.workers!r}")
    torch.set_num_threads(1)
    plans = []
    with open_bar(desc="plan", total=len(RESOLUTIONS) * len(counts)) as bar:
        for plan in make_plans(load_world("synthetic", device=device), config.users, counts, device):
            plans.append(plan)
            bar.update()
    table = format_plans(plans)
    print(table)
    with clear_errors(out, ValueError):
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "plan.md", table)


def compare_workers(config: Benchmark, out: Path) -> None:
    """Prints and writes cluster.md: one attack by one process, one worker and two."""
    from ganinv.engine.cluster import import_ray
    from ganinv.engine.files import clear_errors, write_atomically
    from ganinv.studies.benchmark.spreading import format_cluster, measure_cluster

    import_ray()
    with tempfile.TemporaryDirectory() as folder:
        table = format_cluster(measure_cluster(Path(folder), quick=config.quick))
    print(table)
    with clear_errors(out, ValueError):
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "cluster.md", table)


def choose_measures(config: Benchmark) -> list[str]:
    """Returns the names of what is measured, in order. Raises: ValueError for a name that there is not."""
    known = [*SHARES, "memory"]
    chosen = [name.strip() for name in config.only.split(",")] if config.only else known
    if unknown := sorted(set(chosen) - set(known)):
        raise ValueError(f"expected --only among {','.join(known)}, got {','.join(unknown) or 'none'}")
    return [name for name in known if name in chosen]


def measure(request: dict, chosen: list[str], config: Benchmark, found: dict) -> None:
    """Adds to `found` what the processes find."""
    from ganinv.engine.progress import open_bar
    from ganinv.studies.benchmark.growth import MEMORY

    scale = max(0.0, config.minutes * 60 - FIXED) / (sum(SHARES.values()) + CHEAP_SHARE)
    shares = {name: SHARES[name] * scale for name in chosen if name in SHARES}
    if config.profile:
        shares["profile"] = 0.0
    requests = [("default", request | {"measures": shares})]
    if "steps" in shares and request["device"] == "cpu":
        requests.append(("cheap", request | {"measures": {"steps": CHEAP_SHARE * scale}}))
    cases = (MEMORY[:2] if config.quick else MEMORY) if "memory" in chosen else ()
    requests += [("default", request | {"memory": case}) for case in cases]
    with open_bar(total=sum(len(one.get("measures", "1")) for _, one in requests), desc="benchmark") as bar:
        for allocator, one in requests:
            for answer in ask_child(one, allocator):
                if "begun" in answer:
                    bar.set_postfix_str(f"{answer['begun']}, {allocator} allocation")
                elif "ended" in answer:
                    bar.update()
                else:
                    file_answer(answer, allocator, found)


def file_answer(answer: Mapping, allocator: str, found: dict) -> None:
    """Puts what a process found in its place."""
    if "memory" in answer:
        found["memory"].append(answer["memory"])
        return
    one = answer["found"]
    place = next((place for key, place in (("along", "growth"), ("profile", "profiles")) if key in one), "rows")
    found[place].append(one | {"allocator": allocator} if place == "rows" else one)


def ask_child(request: Mapping, allocator: str) -> Iterator[dict]:
    """Yields the answers of a new process, as they come. Raises: FaultError with its last line when it fails."""
    from ganinv.interfaces import FaultError

    environment = {name: value for name, value in os.environ.items() if name not in CHEAP_ALLOCATION}
    environment |= CHEAP_ALLOCATION if allocator == "cheap" else {}
    environment |= {"OMP_NUM_THREADS": str(request["threads"]), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "ganinv.studies.benchmark.child"]
    with tempfile.TemporaryFile("w+") as asked, tempfile.TemporaryFile("w+") as errors:
        asked.write(json.dumps(request))
        asked.seek(0)
        child = subprocess.Popen(command, stdin=asked, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        try:
            for line in child.stdout:
                yield json.loads(line)
        except BaseException:
            child.kill()
            raise
        finally:
            code = child.wait()
        if code:
            errors.seek(0)
            last = next((line.strip() for line in reversed(errors.readlines()) if line.strip()), f"exit code {code}")
            raise FaultError(f"a process of the benchmark failed: {last}")


def describe_machine(config: Benchmark, device, threads: int) -> dict:
    """Returns what the figures hold for."""

    def version(name: str) -> str:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return "none"

    import torch

    return {
        "processor": read_processor() if device.type == "cpu" else torch.cuda.get_device_name(device),
        "cores": os.cpu_count(),
        "threads": threads,
        "device": str(device),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "cheap_allocation": CHEAP_ALLOCATION,
        "quick": config.quick,
        "config": dataclasses.asdict(config),
    }


def read_processor() -> str:
    """Returns the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def main() -> None:
    """Parses the command line and runs."""
    cli.main(Benchmark, run)
