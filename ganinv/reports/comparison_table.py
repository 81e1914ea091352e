"""A comparison of methods as text: Markdown, CSV, and the commands behind it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from ganinv.reports.comparison import METRICS, SPENT, Difference, Method
from ganinv.reports.markdown import escape, format_csv_rows, format_rows

ARROWS = {"higher": "↑", "lower": "↓"}


def format_economy(traces: Mapping[str, Mapping[int, Sequence]]) -> str:
    """Returns trace_methods as CSV: a line a row of steps.jsonl."""
    rows: list[list] = [["method", "seed", "step", *SPENT, "target_score"]]
    for label, seeds in traces.items():
        rows += [[label, seed, *point] for seed, points in seeds.items() for point in points]
    return format_csv_rows(rows)


def shown_metrics(methods: Sequence[Method]) -> list[str]:
    """Returns the metrics that at least one method has."""
    return [name for name in METRICS if any(name in method.summary for method in methods)]


def format_table(methods: Sequence[Method]) -> str:
    """Returns a Markdown table: a row a method, mean [95 % interval]; below it, what is absent and why."""
    metrics = shown_metrics(methods)
    head = ["method", *(f"{name} {ARROWS[METRICS[name]]}" for name in metrics), "users", "seeds", "seconds a run"]
    lines = []
    for method in methods:
        cells = [format_entry(method.summary.get(name)) for name in metrics]
        users = len(method.runs[0].report["identities"])
        seconds = "-" if method.seconds is None else f"{method.seconds:.0f}"
        lines.append([method.label, *cells, str(users), str(len(method.runs)), seconds])
    first = methods[0].runs[0].report
    text = format_rows(head, lines)
    text += f"\nWorld {first['world']}, users {', '.join(map(str, first['identities']))}. "
    text += "Mean over users [95 % bootstrap interval over users]; each user is first averaged over the seeds. "
    text += "↑ higher is better, ↓ lower is better.\n"
    reasons = format_absent(methods)
    return text + ("\nAbsent:\n\n" + "".join(f"- {line}\n" for line in reasons) if reasons else "")


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
        reason = lacking[0].absent[name].replace(os.path.expanduser("~"), "~")
        whose = "" if len(lacking) == len(methods) else f" ({', '.join(method.label for method in lacking)})"
        lines.append(escape(f"{name}{whose}: {reason}"))
    return lines


def format_differences(differences: Sequence[Difference], power: float = 0.0) -> str:
    """Returns the differences as a Markdown table, with what it takes to read it; "" without any."""
    if not differences:
        return ""
    head = ["method", "metric", "difference", "n", "p", "p (Holm)"] + ([f"users to see {power:g}"] if power else [])
    lines = []
    for one in differences:
        cells = [one.method, one.metric, format_entry({"mean": one.mean, "ci95": one.ci95}), str(one.n)]
        cells += [format_p(one.p), format_p(one.p_holm)]
        lines.append(cells + (["-" if one.users is None else str(one.users)] if power else []))
    least = 2.0 ** (1 - differences[0].n)
    text = f"\nDifferences to {escape(differences[0].other)}, paired by user, each user first averaged over the seeds:\n\n"
    text += format_rows(head, lines, words=2)
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
    names = ["method", "other", "metric", "mean", "low", "high", "n", "p", "p_holm", "users"]
    rows = [
        [one.method, one.other, one.metric, one.mean, *one.ci95, one.n, one.p, one.p_holm, one.users] for one in differences
    ]
    return format_csv_rows([names, *rows])


def format_csv(methods: Sequence[Method]) -> str:
    """Returns the table as CSV in full precision; an absent value is an empty cell."""
    metrics = shown_metrics(methods)
    columns = [f"{name}{suffix}" for name in metrics for suffix in ("", "_low", "_high")]
    rows: list[list] = [["method", *columns, "users", "seeds", "seconds"]]
    for method in methods:
        cells: list = []
        for name in metrics:
            entry = method.summary.get(name, {"mean": None, "ci95": [None, None]})
            cells += [entry["mean"], *entry["ci95"]]
        users = len(method.runs[0].report["identities"])
        rows.append([method.label, *cells, users, len(method.runs), method.seconds])
    return format_csv_rows(rows)


def format_commands(methods: Sequence[Method]) -> str:
    """Returns Markdown with the command of every run."""
    parts = ["# The commands behind the table\n\nFrom the repository's root; `/path/to` stands for your own folders.\n"]
    for method in methods:
        lines = [format_command(run.provenance.get("argv", []), run.report["world"]) for run in method.runs]
        parts.append(f"\n## {escape(method.label)}\n\n```bash\n" + "".join(f"{line}\n" for line in lines) + "```\n")
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
