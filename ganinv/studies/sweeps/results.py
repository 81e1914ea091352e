"""What the trials of a sweep reached: read from their run folders, as a table and as a figure."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

from ganinv.json_data import NUMBER, find_mismatch, parse_json, read_json
from ganinv.reports.markdown import format_csv_rows, format_rows
from ganinv.studies.sweeps.sweep_file import Sweep, find_distribution, split_metric


@dataclass(frozen=True)
class Trial:
    """One run of a sweep. number 0: the program's own defaults. values: option -> value of the parameters that vary.

    state: running, complete, pruned or failed; metric: None unless complete; line: why it failed, or where it
    stood when it was pruned; pid: its process, while it runs.
    """

    number: int
    state: str
    values: dict[str, object]
    metric: float | None = None
    seconds: float = 0.0
    line: str = ""
    pid: int = 0


def read_metric(folder: Path, name: str) -> float:
    """Returns a finished trial's metric: of report.json's summary or cost, or of the last row of steps.jsonl.

    Raises: ValueError when it is not there.
    """
    from ganinv.reports.report_file import read_report

    prefix, key = split_metric(name)
    if prefix in ("attack", "train"):
        scores = read_scores(folder, key)
        if not scores:
            raise ValueError(f"expected the metric {key} in {folder / 'steps.jsonl'}, got none")
        return scores[-1]
    report = read_report(folder)
    found = {metric: entry["mean"] for metric, entry in report["summary"].items()} if prefix == "final" else report["cost"]
    if key not in found:
        why = report["absent"].get(key, f"only {', '.join(found)}")
        raise ValueError(f"expected the metric {key} in {folder / 'report.json'}, got none ({why})")
    return float(found[key])


def read_scores(folder: Path, key: str) -> list[float]:
    """Returns the finite values of a key in a run folder's steps.jsonl, in order; [] while there are none."""
    try:
        lines = (folder / "steps.jsonl").read_text(encoding="utf-8").split("\n")[:-1]  # the last may be half a row
    except OSError:
        return []
    values = []
    for line in lines:
        try:
            row = parse_json(line)
        except ValueError:  # the program's own file is data to us
            continue
        value = row.get(key) if isinstance(row, dict) else None
        if find_mismatch(value, NUMBER) is None:
            values.append(float(value))
    return values


def read_defaults(folder: Path, names: Sequence[str]) -> dict[str, object]:
    """Returns the options of names that a run folder's config.json tells; {} where it tells not all."""
    try:
        config = read_json(folder / "config.json")
        values = {}
        for name in names:
            found = config
            for part in name.replace("-", "_").split("."):
                found = found[part]
            values[name] = found
        return values
    except (ValueError, KeyError, TypeError):
        return {}


def rank_trials(trials: Sequence[Trial], maximize: bool) -> list[Trial]:
    """Returns the trials, complete ones first and the best of them in front, then pruned, then failed ones."""
    order = {"complete": 0, "pruned": 1, "failed": 2, "running": 3}
    sign = -1 if maximize else 1
    return sorted(trials, key=lambda one: (order[one.state], sign * (one.metric or 0.0), one.number))


def format_csv(trials: Sequence[Trial], sweep: Sweep) -> str:
    """Returns the trials as CSV in full precision; a value that is not known is an empty cell."""
    rows: list[list] = [["trial", "state", sweep.metric, *sweep.varied, "seconds", "line"]]
    for one in trials:
        values = [one.values.get(name) for name in sweep.varied]
        rows.append([one.number, one.state, one.metric, *values, f"{one.seconds:.1f}", one.line])
    return format_csv_rows(rows)


def format_markdown(trials: Sequence[Trial], sweep: Sweep) -> str:
    """Returns the trials as a Markdown table, and a line that compares the best with the defaults."""
    rows = []
    for one in trials:
        label = f"{one.number} (defaults)" if one.number == 0 else str(one.number)
        metric = "" if one.metric is None else f"{one.metric:.4f}"
        state = f"{one.state}: {one.line}" if one.line and one.state in ("failed", "pruned") else one.state
        rows.append([label, state, metric, *(show(one.values.get(name)) for name in sweep.varied), f"{one.seconds:.0f}"])
    table = format_rows(["trial", "state", sweep.metric, *sweep.varied, "seconds"], rows, words=2)
    return f"{table}\n{compare_with_defaults(trials, sweep)}"


def show(value: object) -> str:
    """Returns a value as a table shows it."""
    return "default" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def compare_with_defaults(trials: Sequence[Trial], sweep: Sweep) -> str:
    """Returns whether the best trial is better than the program's defaults, in a sentence."""
    complete = [one for one in trials if one.state == "complete" and one.number]
    defaults = [one.metric for one in trials if one.state == "complete" and not one.number]
    if not complete:
        return (
            "No trial is complete."
            if not defaults
            else f"No trial but the defaults is complete; they have {defaults[0]:.4f}; the others were pruned or failed."
        )
    best = rank_trials(complete, sweep.maximize)[0]
    text = f"Best: trial {best.number}, {sweep.metric} {best.metric:.4f}, of {len(complete)} complete"
    if not defaults:
        return f"{text}; the defaults were not evaluated."
    gain = (best.metric - defaults[0]) * (1 if sweep.maximize else -1)
    word = "better" if gain > 0 else "worse" if gain < 0 else "no better"
    # the best of many noisy numbers flatters itself
    return f"{text}; the defaults have {defaults[0]:.4f}, so it is {word} by {abs(gain):.4f}; confirm it with new seeds."


def draw_parallel(trials: Sequence[Trial], sweep: Sweep) -> Figure:
    """Returns parallel coordinates of the complete trials, by optuna: an axis a parameter, a line a trial."""
    import optuna
    from matplotlib import pyplot

    drawn = [one for one in trials if one.state == "complete" and all(name in one.values for name in sweep.varied)]
    distributions = {name: widen_distribution(name, drawn, sweep) for name in sweep.varied}
    study = optuna.create_study(direction="maximize" if sweep.maximize else "minimize")
    for one in drawn:
        params = {name: encode_value(one.values[name], sweep.varied[name]) for name in sweep.varied}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=one.metric))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is called experimental, and an axis of one value is widened aloud
        axes = optuna.visualization.matplotlib.plot_parallel_coordinate(study, target_name=sweep.metric)
    pruned = sum(one.state == "pruned" for one in trials)
    axes.set_title(f"complete trials: {len(drawn)}; pruned, not shown: {pruned}", fontsize=9)
    pyplot.close(axes.figure)
    return axes.figure


def widen_distribution(name: str, drawn: Sequence[Trial], sweep: Sweep):
    """Returns optuna's distribution of a parameter, widened to what the drawn trials have: defaults may lie outside."""
    import optuna

    parameter, seen = sweep.varied[name], [one.values[name] for one in drawn]
    if "values" in parameter:
        choices = [encode_value(value, parameter) for value in [*parameter["values"], *seen]]
        return optuna.distributions.CategoricalDistribution(list(dict.fromkeys(choices)))
    ends = [parameter[end] for end in ("min", "max") if end in parameter]  # a normal one has none
    low, high = min([*ends, *seen], default=0.0), max([*ends, *seen], default=1.0)
    log = find_distribution(parameter) in ("log_uniform_values", "log_normal", "q_log_normal") and low > 0
    return optuna.distributions.FloatDistribution(low, high, log=log)


def encode_value(value: object, parameter: Mapping) -> object:
    """Returns a value as optuna keeps it: a choice as JSON."""
    return json.dumps(value) if "values" in parameter else value
