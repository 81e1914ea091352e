"""One attack by one process, one worker and two of one thread each: what they take, and whether they find the same."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ganinv.errors import FaultError
from ganinv.json_data import read_json

ENGINES = {
    "one process": (),
    "one worker": ("--engine=ray", "--workers=1"),
    "two workers": ("--engine=ray", "--workers=2"),
}
USERS, TOGETHER = 40, 5  # eight parts: four for each of two workers
QUICK = ("--steps=2", "--candidates=8", "--restarts=1", "--final-transforms=1")
MAIN = "from ganinv.commands.latent_attack import main; main()"
HEAD = "| by | in all | attack | search alone | verdict | users a second of search | times one worker | the same report |"


def measure_cluster(folder: Path, *, quick: bool) -> list[dict]:
    """Returns a row for each of ENGINES, which run one after the other in processes of their own with one thread each."""
    users = 2 if quick else USERS
    rows = []
    for name, engine in ENGINES.items():
        options = (f"--identities=0-{users - 1}", f"--together={1 if quick else TOGETHER}", "--wandb=disabled", *engine)
        out = folder / name.replace(" ", "-")
        whole = time_attack([*options, *(QUICK if quick else ()), f"--out={out}"])
        report = read_json(out / "report.json", {"cost": dict, "summary": dict, "per_identity": list, "files": dict})
        found = {key: report[key] for key in ("summary", "per_identity", "files")}
        cost = {key: report["cost"][f"{key}seconds"] for key in ("", "search_", "verdict_")}
        rows.append({"by": name, "whole": whole, "users": users, "cost": cost, "found": found})
    return rows


def time_attack(options: Sequence[str]) -> float:
    """Returns the seconds that an attack takes as a process. Raises: FaultError with its last line when it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    began = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-c", MAIN, *options], capture_output=True, text=True, check=False, env=environment
    )
    if ended.returncode:
        last = next((line for line in reversed(ended.stderr.splitlines()) if line.strip()), f"exit code {ended.returncode}")
        raise FaultError(f"an attack of the benchmark failed: {last}")
    return time.perf_counter() - began


def format_cluster(rows: Sequence[Mapping]) -> str:
    """Returns the table of measure_cluster in Markdown."""
    lines = [HEAD, "|---|" + "---:|" * 6 + "---|"]
    rates = {row["by"]: row["users"] / row["cost"]["search_"] for row in rows}
    for row in rows:
        cost, rate = row["cost"], rates[row["by"]]
        seconds = [row["whole"], cost[""], cost["search_"], cost["verdict_"]]
        same = "yes" if row["found"] == rows[0]["found"] else "no"
        cells = [row["by"], *(f"{one:.1f} s" for one in seconds), f"{rate:.2f}", f"{rate / rates['one worker']:.2f}", same]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
