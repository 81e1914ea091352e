"""Runs side by side: which belong to one method, what each method reached, and that as a table and as figures."""

from __future__ import annotations

import csv
import io
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import torch

from ganinv.metrics.catalogue import CATALOGUE
from ganinv.metrics.statistics import holm, sign_flip_p, summarize, users_needed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {name: metric.direction for name, metric in CATALOGUE.items() if metric.compared}  # which direction is better
TESTED = tuple(name for name, metric in CATALOGUE.items() if metric.tested)
ARROWS = {"higher": "↑", "lower": "↓"}
# what may differ between runs of one method: it changes no reconstruction, or is the seed itself, or is compared apart
PASSED_OVER = (
    *("seed", "out", "wandb", "device", "photos", "label", "image_every", "world", "identities"),
    *("resume", "from_run", "save_every", "log_every", "memory", "wandb_artifacts"),
)
WEIGHTS = {"prior": "generator", "target": "target"}  # role of a weight file -> option that names it
JUDGING = ("judge", "verifier", "references", "lpips_face", "factors")  # roles whose weights give the numbers
BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class Run:
    """One finished run: its folder and its report.json, config.json and provenance.json."""

    folder: Path
    report: Mapping
    config: Mapping
    provenance: Mapping

    @property
    def seed(self) -> int:
        return self.report["seed"]


@dataclass(frozen=True)
class Method:
    """Runs that differ in the seed only, by rising seed, and what they reached.

    summary: metric -> {"mean","ci95","n"}; absent: metric -> reason; seconds: mean of a run, None where it is not known.
    """

    label: str
    runs: tuple[Run, ...]
    summary: dict[str, dict]
    absent: dict[str, str]
    seconds: float | None


# ---- which runs belong together


def group_runs(runs: Sequence[Run]) -> list[Method]:
    """Returns the methods of runs, in the order of their first runs; see Method.

    Methods of one label get what sets them apart behind it: "latent w (psi=0.5)".
    Raises: ValueError without runs, when two runs are of one method and seed, or when they cannot be compared: other
    worlds, identities, or weights of judges.
    """
    check_comparable(runs)
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        groups.setdefault((find_label(run), *sorted(find_settings(run).items())), []).append(run)
    methods = []
    for (label, *settings), members in groups.items():
        members.sort(key=lambda run: run.seed)
        for one, other in zip(members, members[1:], strict=False):
            if one.seed == other.seed:
                raise ValueError(
                    f"expected one run of {label} a seed, got {one.folder} and {other.folder} of seed {one.seed}; "
                    "leave one out"
                )
        namesakes = [dict(other[1:]) for other in groups if other[0] == label]
        apart = [f"{name}={value}" for name, value in settings if any(other.get(name) != value for other in namesakes)]
        methods.append(average_runs(f"{label} ({', '.join(apart)})" if apart else label, members))
    return methods


def check_comparable(runs: Sequence[Run]) -> None:
    """Raises: ValueError naming two runs that cannot stand in one table, or when there are none."""
    if not runs:
        raise ValueError("expected at least one finished run, got none")
    first = runs[0]
    for run in runs[1:]:
        for key in ("world", "identities"):
            if run.report[key] != first.report[key]:
                raise ValueError(
                    f"expected runs of the same {key}, got {first.report[key]} in {first.folder} and {run.report[key]} "
                    f"in {run.folder}; compare them apart"
                )
    for role in JUDGING:
        known = [(find_hash(run, role), run) for run in runs if find_hash(run, role)]
        for digest, run in known[1:]:
            if digest != known[0][0]:
                raise ValueError(
                    f"expected runs judged with the same weights, got another {role} in {run.folder} than in "
                    f"{known[0][1].folder}; run one of them again"
                )


def find_label(run: Run) -> str:
    """Returns the label that a run was given, else its method and its variant or space."""
    config = run.config
    return config.get("label") or " ".join(filter(None, (run.report["method"], config.get("variant") or config.get("space"))))


def find_hash(run: Run, role: str) -> str:
    """Returns the head of the SHA-256 of a run's weight file, "" where the role had none."""
    return run.provenance.get("weights", {}).get(role, {}).get("sha256", "")[:12]


def find_settings(run: Run) -> dict[str, str]:
    """Returns what makes a method: method, configuration (nested keys with dots), and weights of prior and target."""
    # a file is known by what it holds, however its name was written
    files = {role: find_hash(run, role) for role in WEIGHTS if find_hash(run, role)}
    named = [WEIGHTS[role] for role in files]
    settings = {"method": run.report["method"]} | files
    for name, value in run.config.items():
        if name not in (*PASSED_OVER, *named):
            nested = value if isinstance(value, Mapping) else {"": value}
            settings |= {f"{name}.{key}".rstrip("."): str(item) for key, item in nested.items()}
    return settings


def average_runs(label: str, runs: Sequence[Run]) -> Method:
    """Returns the method of runs of the same identities: each user is averaged over seeds, then users are resampled.

    Seeds are no further users: the interval is over people. A metric that one of the runs lacks is absent.
    """
    absent = {name: reason for run in runs for name, reason in run.report["absent"].items()}
    known = dict.fromkeys(name for run in runs for name in run.report["summary"] if name not in absent)
    # a run of an earlier version may lack a metric without a word
    absent |= {name: "some runs lack it" for name in known if any(name not in run.report["summary"] for run in runs)}
    shared = [name for name in known if name not in absent]
    summary = {name: summarize(average_users(runs, name), BOOTSTRAP_SEED) for name in shared}
    spent = [run.report["cost"]["seconds"] for run in runs]
    seconds = None if None in spent else sum(spent) / len(spent)
    return Method(label, tuple(runs), summary, absent, seconds)


# ---- differences


@dataclass(frozen=True)
class Difference:
    """By how much a method exceeds another in a metric, paired by user: mean, ci95 and n of the users' differences.

    p: of a sign-flip test; p_holm: corrected for all the differences that were tested together; users: how many it takes
    to see the difference that was asked for, None where none was, or where it cannot be told.
    """

    method: str
    other: str
    metric: str
    mean: float
    ci95: list
    n: int
    p: float
    p_holm: float
    users: int | None


def pair_methods(methods: Sequence[Method], against: str = "", power: float = 0.0) -> list[Difference]:
    """Returns the differences of all methods to one, `against` (a label; "": the first method), in TESTED's metrics.

    Each user is averaged over seeds first. power: a difference of a metric; 0: none. A metric that either lacks is
    passed over. Raises: ValueError for a label that no method has, or a power below 0.
    """
    labels = [method.label for method in methods]
    against = against or labels[0]
    if against not in labels:
        raise ValueError(f"expected a method among {', '.join(labels)} to compare with, got {against}")
    if power < 0:
        raise ValueError(f"expected a difference above 0 for --power, got {power}")
    base = methods[labels.index(against)]
    found: list[tuple[str, str, torch.Tensor]] = []
    for metric in TESTED:
        for method in methods:
            if method is not base and metric in method.summary and metric in base.summary:
                found.append((method.label, metric, average_users(method.runs, metric) - average_users(base.runs, metric)))
    p_values = [sign_flip_p(values, BOOTSTRAP_SEED) for _, _, values in found]
    return [
        Difference(
            label, against, metric, **summarize(values, BOOTSTRAP_SEED), p=p, p_holm=corrected,
            users=users_needed(values, power) if power and len(values) > 1 else None,
        )
        for (label, metric, values), p, corrected in zip(found, p_values, holm(p_values), strict=True)
    ]  # fmt: skip


def average_users(runs: Sequence[Run], metric: str) -> torch.Tensor:
    """Returns a metric [T], each user averaged over the runs' seeds."""
    rows = [[row[metric] for row in run.report["per_identity"]] for run in runs]
    return torch.tensor(rows, dtype=torch.float64).mean(0)


# ---- what a score costs

SPENT = ("seconds", "gradient_queries")  # columns of steps.jsonl: since the attack began, candidates included


def trace_scores(rows: Sequence[Mapping]) -> list[tuple[int, float, int, float]]:
    """Returns (step, seconds, gradient queries, score) of rows of steps.jsonl that tell them.

    The score is the mean over all users of the run of what their best sample was scored last: 0 for a user of whom no row
    has told yet.
    """
    last, points = dict.fromkeys((user for row in rows for user in row["identities"]), 0.0), []
    for row in rows:
        last |= row["identities"]
        points.append((row["step"], *(row[name] for name in SPENT), sum(last.values()) / len(last)))
    return points


def trace_methods(methods: Sequence[Method], rows: Mapping[Path, Sequence[Mapping]]) -> dict[str, dict[int, list]]:
    """Returns label -> seed -> trace_scores of the runs' rows, by folder; {} where a row lacks what it takes.

    Runs of no step are passed over.
    """
    if any(not {"identities", *SPENT} <= row.keys() for of_run in rows.values() for row in of_run):
        return {}
    found = {m.label: {run.seed: trace_scores(rows[run.folder]) for run in m.runs if rows[run.folder]} for m in methods}
    return {label: traces for label, traces in found.items() if traces}


def format_economy(traces: Mapping[str, Mapping[int, Sequence]]) -> str:
    """Returns trace_methods as CSV: a line a row of steps.jsonl."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["method", "seed", "step", *SPENT, "target_score"])
    for label, seeds in traces.items():
        for seed, points in seeds.items():
            writer.writerows([label, seed, *point] for point in points)
    return file.getvalue()


# ---- as text


def shown_metrics(methods: Sequence[Method]) -> list[str]:
    """Returns the metrics that at least one method has."""
    return [name for name in METRICS if any(name in method.summary for method in methods)]


def format_table(methods: Sequence[Method]) -> str:
    """Returns a Markdown table: a row a method, mean [95 % interval]; below it, what is absent and why."""
    metrics = shown_metrics(methods)
    head = ["method", *(f"{name} {ARROWS[METRICS[name]]}" for name in metrics), "users", "seeds", "seconds a run"]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for method in methods:
        cells = [format_entry(method.summary.get(name)) for name in metrics]
        users = len(method.runs[0].report["identities"])
        seconds = "-" if method.seconds is None else f"{method.seconds:.0f}"
        lines.append([method.label, *cells, str(users), str(len(method.runs)), seconds])
    first = methods[0].runs[0].report
    text = format_rows(lines)
    text += f"\nWorld {first['world']}, users {', '.join(map(str, first['identities']))}. "
    text += "Mean over users [95 % bootstrap interval over users]; each user is first averaged over the seeds. "
    text += "↑ higher is better, ↓ lower is better.\n"
    reasons = format_absent(methods)
    return text + ("\nAbsent:\n\n" + "".join(f"- {line}\n" for line in reasons) if reasons else "")


def format_rows(lines: Sequence[Sequence[str]]) -> str:
    """Returns the rows of a Markdown table."""
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def format_entry(entry: Mapping | None) -> str:
    """Returns "0.98 [0.95, 1.00]", without an interval where there is none, a dash where there is no entry."""
    if entry is None:
        return "-"
    low, high = entry["ci95"]
    return f"{entry['mean']:.2f}" + ("" if low is None else f" [{low:.2f}, {high:.2f}]")


def format_absent(methods: Sequence[Method]) -> list[str]:
    """Returns a line for each absent metric: its reason, and the methods that lack it unless all do."""
    lines = []
    for name in dict.fromkeys(name for method in methods for name in method.absent):
        lacking = [method for method in methods if name in method.absent]
        # a home folder says where the table was made, and nothing of the metric
        reason = lacking[0].absent[name].replace(str(Path.home()), "~")
        whose = "" if len(lacking) == len(methods) else f" ({', '.join(method.label for method in lacking)})"
        lines.append(f"{name}{whose}: {reason}")
    return lines


def format_differences(differences: Sequence[Difference], power: float = 0.0) -> str:
    """Returns the differences as a Markdown table, with what it takes to read it; "" without any."""
    if not differences:
        return ""
    head = ["method", "metric", "difference", "n", "p", "p (Holm)"] + ([f"users to see {power:g}"] if power else [])
    lines = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    for one in differences:
        cells = [one.method, one.metric, format_entry({"mean": one.mean, "ci95": one.ci95}), str(one.n)]
        cells += [format_p(one.p), format_p(one.p_holm)]
        lines.append(cells + (["-" if one.users is None else str(one.users)] if power else []))
    least = 2.0 ** (1 - differences[0].n)
    text = f"\nDifferences to {differences[0].other}, paired by user, each user first averaged over the seeds:\n\n"
    text += format_rows(lines)
    text += "\nMean over users [95 % bootstrap interval over users]. p: two-sided sign-flip test over users, at least "
    text += f"{least:.2g} with {differences[0].n} users; Holm's correction is for all {len(differences)} tests here.\n"
    if power:
        text += "Users: for a difference seen at p 0.05 in four of five draws, from the spread of these users' differences.\n"
    return text


def format_p(p: float) -> str:
    """Returns a p with two digits, "< 0.0001" below that."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def format_differences_csv(differences: Sequence[Difference]) -> str:
    """Returns the differences as CSV in full precision; an absent value is an empty cell."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    names = ["method", "other", "metric", "mean", "low", "high", "n", "p", "p_holm", "users"]
    writer.writerow(names)
    for one in differences:
        writer.writerow([one.method, one.other, one.metric, one.mean, *one.ci95, one.n, one.p, one.p_holm, one.users])
    return file.getvalue()


def format_csv(methods: Sequence[Method]) -> str:
    """Returns the table as CSV in full precision; an absent value is an empty cell."""
    metrics = shown_metrics(methods)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns = [f"{name}{suffix}" for name in metrics for suffix in ("", "_low", "_high")]
    writer.writerow(["method", *columns, "users", "seeds", "seconds"])
    for method in methods:
        cells: list = []
        for name in metrics:
            entry = method.summary.get(name, {"mean": None, "ci95": [None, None]})
            cells += [entry["mean"], *entry["ci95"]]
        users = len(method.runs[0].report["identities"])
        writer.writerow([method.label, *cells, users, len(method.runs), method.seconds])
    return file.getvalue()


def format_commands(methods: Sequence[Method]) -> str:
    """Returns Markdown with the command of every run."""
    parts = ["# The commands behind the table\n\nFrom the repository's root; `/path/to` stands for your own folders.\n"]
    for method in methods:
        lines = [format_command(run.provenance.get("argv", []), run.report["world"]) for run in method.runs]
        parts.append(f"\n## {method.label}\n\n```bash\n" + "".join(f"{line}\n" for line in lines) + "```\n")
    return "".join(parts)


def format_command(argv: Sequence[str], world: str) -> str:
    """Returns `python scripts/<name>.py args` of a process's argv, without this machine's absolute paths.

    The world is named even where it was the default, which may change.
    """
    if not argv:
        return "# unknown: the run has no provenance"
    # `ganinv latent-attack` is scripts/latent_attack.py; earlier versions had a program ganinv-latent-attack
    script = re.sub("^ganinv[- ]", "", PurePath(argv[0]).stem).replace("-", "_")
    words = [shorten_path(word) for word in argv[1:]]
    if not any(word.partition("=")[0] in ("--world", "--resume", "--from-run", "--from_run") for word in words):
        words.insert(0, f"--world={world}")
    return shlex.join(["python", f"scripts/{script}.py", *words])


def shorten_path(word: str) -> str:
    """Returns a word of a command, an absolute path in it reduced to one below here or to /path/to/<name>."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    if not PurePath(value).is_absolute():
        return word
    path, here = PurePath(value), Path.cwd()
    short = path.relative_to(here) if path.is_relative_to(here) else f"/path/to/{path.name}"
    return f"{option}{equals}{short}"


# ---- as figures


def draw_economy(traces: Mapping[str, Mapping[int, Sequence]]) -> Figure:
    """Returns the target's score over seconds and over gradient queries: a line a run, a colour a method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    panels = figure.subplots(1, len(SPENT), sharey=True)
    for column, (panel, name) in enumerate(zip(panels, SPENT, strict=True), start=1):
        for colour, (label, seeds) in enumerate(traces.items()):
            for number, points in enumerate(seeds.values()):
                shown = textwrap.fill(label, 28) if number == 0 else None
                spent, scores = [point[column] for point in points], [point[3] for point in points]
                panel.plot(spent, scores, color=f"C{colour % 10}", label=shown, linewidth=1.2, alpha=0.8)
        panel.set_xscale("log")
        panel.set_xlabel(name.replace("_", " "))
        panel.set_ylim(0, 1.02)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("target score, best sample of each user")
    panels[-1].legend(fontsize=8)
    return figure


def draw_bars(methods: Sequence[Method]) -> Figure:
    """Returns a bar chart: a panel a metric, a bar a method, with its 95 % interval."""
    from matplotlib.figure import Figure

    metrics = shown_metrics(methods)
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    labels = [textwrap.fill(method.label, 28) for method in methods]
    figure = Figure(figsize=(3.2 * columns + 2, rows * (0.9 + 0.34 * len(methods))), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    colours = [f"C{index % 10}" for index in range(len(methods))]
    for index, panel in enumerate(panels.flat):
        if index >= len(metrics):
            panel.set_visible(False)
            continue
        name = metrics[index]
        panel.set_title(f"{name}\n{ARROWS[METRICS[name]]} {METRICS[name]} is better", fontsize=10)
        panel.set_yticks(range(len(methods)), labels, fontsize=9)
        panel.axvline(0, color="black", linewidth=0.8)
        panel.grid(axis="x", alpha=0.3)
        panel.set_axisbelow(True)
        for place, (method, colour) in enumerate(zip(methods, colours, strict=True)):
            draw_bar(panel, place, method.summary.get(name), colour)
        low, high = panel.get_xlim()
        low, high = min(low, 0.0), max(high, 1.0)  # what is better when higher ends at 1
        panel.set_xlim(low, high + 0.16 * (high - low))  # room for the numbers
    panels[0, 0].invert_yaxis()  # the first method on top; shared by all panels
    first = methods[0].runs[0].report
    figure.suptitle(f"World {first['world']}, {len(first['identities'])} users: mean and 95 % interval", fontsize=11)
    return figure


def draw_bar(panel, place: int, entry: Mapping | None, colour: str) -> None:
    """Draws one bar, its interval and its number; the word "absent" without an entry."""
    if entry is None:
        panel.text(0, place, " absent", va="center", fontsize=8, color="grey")
        return
    low, high = entry["ci95"] if entry["ci95"][0] is not None else (entry["mean"], entry["mean"])
    panel.barh(place, entry["mean"], color=colour, height=0.7)
    panel.plot([low, high], [place, place], color="black", linewidth=1.2, marker="|", markersize=6)
    end = max(high, entry["mean"], 0)
    panel.annotate(
        f"{entry['mean']:.2f}", (end, place), (4, 0), textcoords="offset points", va="center", fontsize=8, clip_on=False
    )


def draw_reconstructions(labels: Sequence[str], users: Sequence[int], pictures: Sequence[Sequence]) -> Figure:
    """Returns a sheet: a row a user, a column a method. pictures[column][user]: uint8 [R,R,3].

    Photos are among them only where nobody is real.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.3 * len(labels) + 0.7, 1.3 * len(users) + 0.7), layout="constrained")
    panels = figure.subplots(len(users), len(labels), squeeze=False)
    for column, label in enumerate(labels):
        panels[0, column].set_title(textwrap.fill(label, 15), fontsize=8)
        for row, user in enumerate(users):
            panel = panels[row, column]
            panel.imshow(pictures[column][row], interpolation="nearest")
            panel.set_xticks([])
            panel.set_yticks([])
            for edge in panel.spines.values():
                edge.set_visible(False)
            if column == 0:
                panel.set_ylabel(f"user {user}", fontsize=9)
    return figure
