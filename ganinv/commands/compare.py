"""Read run folders and write what they reached: table, figures, and the commands behind them."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional

from ganinv import cli
from ganinv.commands.opening import open_named


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Compare runs: compare.py [RUN ...] writes a table and figures.

    Example: runs/latent-synthetic-000 runs/pixel-synthetic-000
    """

    runs: Positional[tuple[str, ...]] = ()  # run folders, or folders of them; []: all below <out>/runs
    world: str = ""  # of the runs; "": that of the first
    out: str = ""  # folder for table.md, table.csv, ...; "": results/<world>
    against: str = ""  # label of the method that the others are tested against; "": the first
    power: float = 0.0  # a difference of a metric: say how many users it takes to see it; 0: not


def run(config: Compare) -> None:
    """Reads, groups and writes. Raises: ValueError when runs are missing, broken or cannot be compared."""
    from ganinv.studies.run_comparison import compare_runs

    compare_runs(config)


def main() -> None:
    """Parses the command line and runs."""
    cli.main(Compare, run, plan=open_named)
