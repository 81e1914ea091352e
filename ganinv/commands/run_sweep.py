"""Run a sweep's YAML on this machine, without an account."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional

from ganinv import cli


@dataclass(frozen=True, kw_only=True)
class RunSweep:
    """Run a Weights & Biases sweep without an account: run_sweep.py FILE --count=20.

    Example: scripts/sweeps/latent_attack.yaml --count=10 --out=runs/sweep
    """

    file: Positional[str] = ""  # the sweep's YAML
    count: int = 0  # trials in all, the defaults apart; 0: 20, or the whole grid
    jobs: int = 1  # trials at a time, which share the CPU's cores
    out: str = ""  # folder of trials, trials.jsonl, trials.csv, parallel.png; "": runs/sweep-<file>
    defaults: bool = True  # also run the program's own defaults, as trial 0
    extra: str = ""  # options of every trial that win over the sweep's, such as "--steps=50 --device=cpu"
    seed: int = 0  # of the draws


def plan(config: RunSweep) -> dict:
    """Returns what --dry-run says beside the configuration: the sweep that the file holds."""
    from ganinv.studies.sweeps.running import describe_sweep

    return describe_sweep(config) if config.file else {}


def run(config: RunSweep) -> list:
    """Returns the trials, best first, after running what is missing and writing the tables and the picture."""
    from ganinv.studies.sweeps.running import run_sweep

    return run_sweep(config)


def main() -> None:
    """Parses the command line and runs."""
    cli.main(RunSweep, run, plan=plan)
