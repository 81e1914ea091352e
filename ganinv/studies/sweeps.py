"""Sweeps without an account: the YAML that Weights & Biases reads, drawn, pruned and compared on this machine.

What is read of it: program, command, method (grid, random, bayes), metric, parameters (value, values, or min and max
with the distribution uniform, int_uniform, q_uniform or log_uniform_values) and early_terminate (hyperband).
Draws and pruning are optuna's; the service's own differ: its bayes is a Gaussian process, here it is TPE (Bergstra et
al. 2011). Hyperband stops at the service's iterations (min_iter * eta^k), a trial that is not among the best 1/eta of
those that came so far, which is asynchronous successive halving (Li et al. 2020) and what the service does with
`strict: true`. One iteration is one row of the run folder's steps.jsonl.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import random
import string
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ganinv.cli import parse_identities

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("grid", "random", "bayes")
DISTRIBUTIONS = ("uniform", "int_uniform", "q_uniform", "log_uniform_values")
COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")  # what the service's agent runs where there is none
REPORTED = frozenset(range(5))  # the users that results are reported on; a sweep must not be tuned on them
OURS = ("out", "wandb")  # options that a sweep on this machine sets itself


@dataclass(frozen=True)
class Sweep:
    """A sweep as its YAML tells it; parameters: option -> what the YAML says of it."""

    program: str
    command: tuple[str, ...]
    method: str
    metric: str
    maximize: bool
    parameters: dict[str, dict]
    early_terminate: dict | None

    @property
    def constant(self) -> dict[str, object]:
        """Option -> value of the parameters that do not vary."""
        return {name: one["value"] for name, one in self.parameters.items() if "value" in one}

    @property
    def varied(self) -> dict[str, dict]:
        """The parameters that vary."""
        return {name: one for name, one in self.parameters.items() if "value" not in one}


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


# ---- the YAML


def read_sweep(path: str | Path) -> Sweep:
    """Returns the sweep of a YAML file. Raises: ValueError for a file that is none, or asks for what is not done here."""
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"expected a sweep's YAML file, got {path} ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or not isinstance(content.get("program"), str):
        raise ValueError(f"expected a sweep with a program in {path}, got none")
    method, metric = content.get("method"), content.get("metric")
    if method not in METHODS:
        raise ValueError(f"expected a method among {', '.join(METHODS)} in {path}, got {method}")
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
        raise ValueError(f"expected a metric with a name in {path}, got {metric}")
    goal = metric.get("goal", "minimize")  # the service's default
    if goal not in ("minimize", "maximize"):
        raise ValueError(f"expected the goal minimize or maximize in {path}, got {goal}")
    split_metric(metric["name"])
    parameters = content.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise ValueError(f"expected parameters in {path}, got {parameters}")
    for name, parameter in parameters.items():
        check_parameter(name, parameter, method)
    command = tuple(str(word) for word in content.get("command", COMMAND))
    sweep = Sweep(content["program"], command, method, metric["name"], goal == "maximize", parameters,
                  check_early_terminate(content.get("early_terminate")))  # fmt: skip
    if not sweep.varied:
        raise ValueError(f"expected a parameter that varies in {path}, got values that are all constant")
    expand_command(sweep, sweep.program, sweep.constant, [])
    return sweep


def check_parameter(name: str, parameter: object, method: str) -> None:
    """Raises: ValueError for a parameter that cannot be drawn."""
    if not isinstance(parameter, dict):
        raise ValueError(f"expected value, values, or min and max for the parameter {name}, got {parameter}")
    if "value" in parameter:
        return
    if isinstance(parameter.get("values"), list) and parameter["values"]:
        if "probabilities" in parameter:
            raise ValueError(f"expected values of equal probability for {name}, got probabilities; leave them out")
        return
    low, high = parameter.get("min"), parameter.get("max")
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
    if not numbers or not low < high:
        raise ValueError(f"expected value, values, or numbers min < max for {name}, got {parameter}; write 1.0e-5, not 1e-5")
    kind = find_distribution(parameter)
    if kind not in DISTRIBUTIONS:
        raise ValueError(f"expected a distribution among {', '.join(DISTRIBUTIONS)} for {name}, got {kind}")
    if kind == "log_uniform_values" and low <= 0:
        raise ValueError(f"expected min above 0 for {name} with log_uniform_values, got {low}")
    if method == "grid" and kind != "int_uniform":
        raise ValueError(f"expected values for {name} in a grid, got the distribution {kind}")


def find_distribution(parameter: Mapping) -> str:
    """Returns a parameter's distribution, by its bounds where it names none."""
    whole = isinstance(parameter["min"], int) and isinstance(parameter["max"], int)
    return parameter.get("distribution", "int_uniform" if whole else "uniform")


def check_early_terminate(rule: object) -> dict | None:
    """Returns {"min_resource", "reduction_factor"} of a hyperband rule, None without one.

    Raises: ValueError for another rule.
    """
    if rule is None:
        return None
    eta = rule.get("eta", 3) if isinstance(rule, dict) and rule.get("type") == "hyperband" else 0
    if not isinstance(eta, int | float) or eta < 2 or eta != int(eta):
        raise ValueError(f"expected early_terminate of type hyperband with a whole eta of at least 2, got {rule}")
    if isinstance(rule.get("min_iter"), int) and rule["min_iter"] > 0:
        first = rule["min_iter"]
    elif isinstance(rule.get("max_iter"), int) and rule.get("s", 0) >= 1:
        first = max(1, int(rule["max_iter"] / eta ** rule["s"]))
    else:
        raise ValueError(f"expected min_iter, or max_iter and s, in early_terminate, got {rule}")
    return {"min_resource": first, "reduction_factor": int(eta)}


def split_metric(name: str) -> tuple[str, str]:
    """Returns (prefix, key) of a metric, named as tracking.py names it. Raises: ValueError for another prefix."""
    prefix, _, key = name.rpartition("/")
    if prefix not in ("", "final", "cost", "attack", "train") or not key:
        raise ValueError(f"expected a metric such as final/target_score, cost/seconds or train/pixels, got {name}")
    return prefix or "final", key


def find_warnings(sweep: Sweep, options: Mapping[str, object]) -> list[str]:
    """Returns a line for a metric that must not choose settings, and one for users who must not be tuned on.

    options: the extra ones of every trial, which win over the sweep's.
    """
    lines = []
    prefix, key = split_metric(sweep.metric)
    if prefix == "final" and not key.startswith("target_score"):
        lines.append(f"the metric {sweep.metric} is a judge's: for diagnosis only, a judge that chose settings is none")
    users = sweep.parameters.get("identities", {})
    texts = [options["identities"]] if "identities" in options else users.get("values", [users.get("value")])
    if texts == [None] and not Path(sweep.program).name.endswith("_attack.py"):
        return lines
    if any(REPORTED & set(parse_identities(str(text or "0-4"))) for text in texts):
        lines.append("users 0-4 are those that results are reported on; tune on others, such as identities 5-14")
    return lines


def expand_command(sweep: Sweep, program: str | Path, values: Mapping[str, object], extra: Sequence[str]) -> list[str]:
    """Returns the words that the service's agent would run, then extra; the interpreter is this one.

    values: option -> value, in the Python form of every value as the agent writes it. Raises: ValueError for a ${macro}
    that is not known.
    """
    words: list[str] = []
    arguments = [f"--{name}={value}" for name, value in values.items()]
    macros = {"env": "/usr/bin/env", "interpreter": sys.executable, "program": str(program)}
    for word in sweep.command:
        if word == "${args}":
            words += arguments
        else:
            try:
                words.append(string.Template(word).substitute(macros))
            except (KeyError, ValueError) as error:
                raise ValueError(f"expected {' '.join(COMMAND)} or plain words in command, got {word}") from error
    return [*words, *extra]


# ---- draws


def list_points(sweep: Sweep) -> list[dict[str, object]]:
    """Returns every point of a grid, the last parameter changing fastest."""
    choices = [one["values"] if "values" in one else list(range(one["min"], one["max"] + 1)) for one in sweep.varied.values()]
    return [dict(zip(sweep.varied, point, strict=True)) for point in itertools.product(*choices)]


def running_key(metric: str) -> str:
    """Returns the key of steps.jsonl that tells a metric on its way: both final target scores are one there."""
    key = split_metric(metric)[1]
    return "target_score" if key.startswith("target_score") else key


class Search:
    """Draws the values of trials and says which to prune. Everything it knows it was told, so it can be told again.

    Raises: ValueError where optuna is not installed.
    """

    def __init__(self, sweep: Sweep, seed: int):
        try:
            import optuna
        except ImportError as error:
            raise ValueError("expected the package optuna, got none; pip install 'ganinv[sweep]'") from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.optuna, self.sweep, self.seed = optuna, sweep, seed
        rule = sweep.early_terminate
        pruner = optuna.pruners.SuccessiveHalvingPruner(**rule) if rule else optuna.pruners.NopPruner()
        direction = "maximize" if sweep.maximize else "minimize"
        self.study = optuna.create_study(direction=direction, pruner=pruner)
        self.distributions = {name: self.build_distribution(one) for name, one in sweep.varied.items()}
        self.points = list_points(sweep) if sweep.method == "grid" else []
        self.trials: dict[int, object] = {}
        self.fed: dict[int, int] = {}

    def build_distribution(self, parameter: Mapping):
        """Returns optuna's distribution of a parameter that varies; a choice is the JSON text of its value."""
        distributions = self.optuna.distributions
        if "values" in parameter:
            return distributions.CategoricalDistribution([json.dumps(value) for value in parameter["values"]])
        low, high, kind = parameter["min"], parameter["max"], find_distribution(parameter)
        if kind == "int_uniform":
            return distributions.IntDistribution(low, high)
        if kind == "q_uniform":
            return distributions.FloatDistribution(low, high, step=parameter.get("q", 1))
        return distributions.FloatDistribution(low, high, log=kind == "log_uniform_values")

    def start(self, number: int, values: Mapping[str, object] | None = None) -> dict[str, object]:
        """Returns the values of a trial: those given, else drawn. A draw depends on seed, number and what was told.

        Raises: ValueError for values outside the sweep (a default may lie there).
        """
        if values is None and self.points:
            values = self.points[number - 1]
        if values is not None:
            encoded = {name: self.encode(name, values[name]) for name in self.distributions}
            self.study.enqueue_trial(encoded)
        chance = random.Random(f"{self.seed} {number}").randrange(2**31)  # of its own: going on draws what a whole sweep does
        samplers = self.optuna.samplers
        bayes = self.sweep.method == "bayes"
        self.study.sampler = samplers.TPESampler(seed=chance) if bayes else samplers.RandomSampler(seed=chance)
        trial = self.study.ask(self.distributions)
        self.trials[number], self.fed[number] = trial, 0
        decoded = {name: self.decode(name, value) for name, value in trial.params.items()}
        return dict(values) if values is not None else decoded

    def encode(self, name: str, value: object):
        """Returns a value as optuna keeps it. Raises: ValueError for one outside the sweep."""
        distribution = self.distributions[name]
        kept = json.dumps(value) if "values" in self.sweep.varied[name] else value
        if "values" in self.sweep.varied[name]:
            inside = kept in distribution.choices
        else:
            inside = isinstance(kept, int | float) and distribution.low <= kept <= distribution.high
        if not inside:
            raise ValueError(f"expected a value of the sweep for {name}, got {value}")
        return kept

    def decode(self, name: str, value):
        """Returns a value of optuna's as the program gets it."""
        return json.loads(value) if "values" in self.sweep.varied[name] else value

    def feed(self, number: int, scores: Sequence[float], *, ended: bool = False) -> bool:
        """Tells a trial's scores so far, one an iteration; returns whether to prune it, False for one that has ended."""
        trial = self.trials[number]
        for iteration in range(self.fed[number] + 1, len(scores) + 1):
            self.fed[number] = iteration
            trial.report(scores[iteration - 1], iteration)
            if trial.should_prune() and not ended:  # asked in any case: optuna keeps what it compares others with
                return True
        return False

    def end(self, number: int, state: str, metric: float | None) -> None:
        """Tells how a trial ended."""
        states = self.optuna.trial.TrialState
        pruned = state == "pruned" and self.fed[number] > 0  # optuna takes its last score
        if state == "complete":
            self.study.tell(self.trials[number], metric)
        else:
            self.study.tell(self.trials[number], state=states.PRUNED if pruned else states.FAIL)


# ---- run folders


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
            value = json.loads(line).get(key)
        except ValueError:  # the program's own file is data to us
            continue
        if isinstance(value, int | float) and math.isfinite(value):
            values.append(float(value))
    return values


def read_defaults(folder: Path, names: Sequence[str]) -> dict[str, object]:
    """Returns the options of names that a run folder's config.json tells; {} where it tells not all."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        values = {}
        for name in names:
            found = config
            for part in name.replace("-", "_").split("."):
                found = found[part]
            values[name] = found
        return values
    except (OSError, ValueError, KeyError, TypeError):
        return {}


# ---- results


def rank_trials(trials: Sequence[Trial], maximize: bool) -> list[Trial]:
    """Returns the trials, complete ones first and the best of them in front, then pruned, then failed ones."""
    order = {"complete": 0, "pruned": 1, "failed": 2, "running": 3}
    sign = -1 if maximize else 1
    return sorted(trials, key=lambda one: (order[one.state], sign * (one.metric or 0.0), one.number))


def format_csv(trials: Sequence[Trial], sweep: Sweep) -> str:
    """Returns the trials as CSV in full precision; a value that is not known is an empty cell."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["trial", "state", sweep.metric, *sweep.varied, "seconds", "line"])
    for one in trials:
        values = [one.values.get(name) for name in sweep.varied]
        writer.writerow([one.number, one.state, one.metric, *values, f"{one.seconds:.1f}", one.line])
    return file.getvalue()


def format_markdown(trials: Sequence[Trial], sweep: Sweep) -> str:
    """Returns the trials as a Markdown table, and a line that compares the best with the defaults."""
    columns = ["trial", "state", sweep.metric, *sweep.varied, "seconds"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for one in trials:
        label = f"{one.number} (defaults)" if one.number == 0 else str(one.number)
        metric = "" if one.metric is None else f"{one.metric:.4f}"
        state = f"{one.state}: {one.line}" if one.line and one.state in ("failed", "pruned") else one.state
        cells = [label, state, metric, *(show(one.values.get(name)) for name in sweep.varied), f"{one.seconds:.0f}"]
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return "\n".join([*lines, "", compare_with_defaults(trials, sweep)])


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
    """Returns parallel coordinates: an axis a parameter, the metric last, a line a trial.

    The defaults are dashed; a pruned trial is thin and grey, and has no metric.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    known = [one for one in trials if all(name in one.values for name in sweep.varied)]
    drawn, pruned = ([one for one in known if one.state == state] for state in ("complete", "pruned"))
    axes = [*sweep.varied, sweep.metric]
    figure = Figure(figsize=(1.8 * len(axes) + 1.5, 4.5), layout="constrained")
    plot = figure.add_subplot()
    metrics = [one.metric for one in drawn]
    low, high = min(metrics, default=0.0), max(metrics, default=1.0)
    heights = {name: scale_axis(name, drawn + pruned, sweep) for name in sweep.varied}
    heights[sweep.metric] = spread(low, high)
    for x, name in enumerate(axes):
        plot.axvline(x, color="0.6", linewidth=0.8)
        for value, text in heights[name].ticks:
            plot.annotate(text, (x, value), xytext=(3, 0), textcoords="offset points", fontsize=7, va="center")
    for one in pruned:
        plot.plot(range(len(sweep.varied)), [heights[name](one.values[name]) for name in sweep.varied], "0.7", linewidth=0.8)
    for one in reversed(rank_trials(drawn, sweep.maximize)):  # the best on top
        places = [heights[name](one.values[name]) for name in sweep.varied] + [heights[sweep.metric](one.metric)]
        share = heights[sweep.metric](one.metric)
        colour = colormaps["viridis"](share if sweep.maximize else 1 - share)
        style = {"color": "black", "linestyle": "--"} if one.number == 0 else {"color": colour}
        plot.plot(range(len(axes)), places, linewidth=1.4, label="defaults" if one.number == 0 else None, **style)
    plot.set_xticks(range(len(axes)), axes, rotation=20, ha="right", fontsize=8)
    plot.set_yticks([])
    plot.set_xlim(-0.2, len(axes) - 0.4)
    plot.set_ylim(-0.06, 1.06)
    for side in plot.spines.values():
        side.set_visible(False)
    if any(one.number == 0 for one in drawn):
        figure.legend(loc="outside upper right", fontsize=8, frameon=False)
    plot.set_title(f"complete trials: {len(drawn)}; lighter is better; pruned, grey: {len(pruned)}", fontsize=9)
    return figure


@dataclass(frozen=True)
class Axis:
    """From a parameter's value to a height in [0,1]; ticks: (height, text)."""

    ticks: tuple[tuple[float, str], ...]
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[str, ...] = ()

    def __call__(self, value) -> float:
        if self.choices:
            return self.choices.index(json.dumps(value)) / max(1, len(self.choices) - 1)
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return (value - low) / (high - low) if high > low else 0.5


def spread(low: float, high: float, log: bool = False) -> Axis:
    """Returns the axis of a range."""
    return Axis(((0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")), low, high, log)


def scale_axis(name: str, drawn: Sequence[Trial], sweep: Sweep) -> Axis:
    """Returns the axis of a parameter: its choices, or its range and what the defaults add to it."""
    parameter, seen = sweep.varied[name], [one.values[name] for one in drawn]
    if "values" in parameter:
        choices = tuple(dict.fromkeys(json.dumps(value) for value in [*parameter["values"], *seen]))
        ticks = tuple((k / max(1, len(choices) - 1), text.strip('"')) for k, text in enumerate(choices))
        return Axis(ticks, choices=choices)
    low, high = min([parameter["min"], *seen]), max([parameter["max"], *seen])
    return spread(low, high, find_distribution(parameter) == "log_uniform_values" and low > 0)
