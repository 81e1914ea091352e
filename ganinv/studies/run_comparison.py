"""Runs compared: found, read, grouped, and written as table, figures and the commands behind them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ganinv.engine.files import clear_errors, write_atomically
from ganinv.images import open_picture
from ganinv.reports.comparison import Run, group_runs, pair_methods, trace_methods
from ganinv.reports.comparison_figures import draw_bars, draw_economy, draw_reconstructions, encode_png
from ganinv.reports.comparison_table import (
    format_commands,
    format_csv,
    format_differences,
    format_differences_csv,
    format_economy,
    format_table,
)
from ganinv.reports.report_file import read_report
from ganinv.reports.run_files import read_config, read_provenance, read_steps
from ganinv.worlds.world import find_world, render_references


def compare_runs(config) -> None:
    """Reads, groups and writes; config: the options of the command `compare`.

    Raises: ValueError when runs are missing, broken or cannot be compared.
    """
    if not (config.runs or config.world or config.out):
        raise ValueError("expected run folders, --world or --out, got none; try compare.py RUN RUN")
    places = config.runs or [str(Path(config.out or f"results/{Path(config.world).name}") / "runs")]
    runs = [read_run(folder) for folder in find_runs(places)]
    world = config.world or runs[0].report["world"]
    out = Path(config.out or f"results/{Path(world).name}")
    for one in runs:
        if one.report["world"] != world:
            raise ValueError(f"expected runs of the world {world}, got {one.folder} of {one.report['world']}; see --world")
    methods = group_runs(runs)
    users = methods[0].runs[0].report["identities"]
    pictures = [[read_picture(method.runs[0].folder, user) for user in users] for method in methods]
    labels = [method.label for method in methods]
    if (photos := show_users(world, users, runs)) is not None:
        labels, pictures = ["a photo of the user", *labels], [photos, *pictures]
    differences = pair_methods(methods, config.against, config.power)
    told = format_differences(differences, config.power)
    contents: dict[str, str | bytes] = {
        "table.md": format_table(methods) + told,
        "table.csv": format_csv(methods),
        "differences.csv": format_differences_csv(differences),
        "commands.md": format_commands(methods),
        "comparison.png": encode_png(draw_bars(methods)),
        "reconstructions.png": encode_png(draw_reconstructions(labels, users, pictures)),
    }
    traces = trace_methods(methods, {run.folder: read_steps(run.folder) for run in runs})
    if traces:
        contents |= {
            "economy.csv": format_economy(traces),
            "economy.png": encode_png(draw_economy(traces)),
        }
    with clear_errors(out, ValueError):
        out.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_atomically(out / name, content)
    if config.power:
        print(told)
    print(f"{out}: {len(methods)} methods, {len(runs)} runs; {', '.join(contents)}")


def find_runs(places: Iterable[str]) -> list[Path]:
    """Returns the run folders that places are, or hold at any depth, each once; unfinished ones are named and left.

    Raises: ValueError when a place is missing or has no finished run.
    """
    found: dict[Path, Path] = {}
    for place in map(Path, places):
        inside = sorted({file.parent for name in ("config.json", "report.json") for file in place.rglob(name)})
        finished = [folder for folder in inside if (folder / "report.json").is_file()]
        if not finished:
            what = "nothing of that name" if not place.exists() else "none that has a report.json"
            raise ValueError(f"expected a finished run, or a folder of them, at {place}, got {what}; check the path")
        for folder in inside:
            if folder in finished:
                found.setdefault(folder.resolve(), folder)
            else:
                print(f"{folder}: not finished, left out", file=sys.stderr)
    return list(found.values())


def read_run(folder: Path):
    """Returns a Run. Raises: ValueError when one of its three JSON files is missing or broken."""
    return Run(folder, read_report(folder), read_config(folder), read_provenance(folder))


def read_picture(folder: Path, user: int):
    """Returns the best reconstruction of a user, uint8 [R,R,3]. Raises: ValueError when it is missing or broken."""
    return np.asarray(open_picture(folder / "images" / f"{user}_0.png"))


def show_users(world: str, users: list[int], runs: Sequence[Run]) -> list | None:
    """Returns a reference photo of each user, uint8 [R,R,3], in a world where nobody is real; None in any other.

    Runs of a target of one's own, whose users are others under the same numbers, are not judged by the world's references.
    """
    if not all("references" in run.provenance.get("weights", {}) for run in runs):
        return None
    try:
        found = find_world(world)
    except ValueError:  # the runs may come from a machine with other worlds
        return None
    if not found.shows_references:
        return None
    photos = render_references(found, users)
    return [photos.pixels[photos.person == user][0].permute(1, 2, 0).numpy() for user in users]
