"""The end of a run on the terminal: the verdict, where the report is, and at most ten lines of numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

from ganinv.metrics.catalogue import CATALOGUE
from ganinv.reports.answers import list_given_away, name_users
from ganinv.reports.attributes import write_attributes

WIDTH = 100
MOST_LINES = 10


def print_report(report: Mapping, path: str | Path) -> None:
    """Prints the verdict's sentences, the path of report.html, and the numbers that say most; the report has the rest."""
    print(format_report(report, f"{path}/report.html"), flush=True)


def format_report(report: Mapping, place: str = "") -> str:
    """Returns the verdict's sentences, a place where there is more, and the numbers that say most, a line each."""
    given = name_users(report, list_given_away(report))
    said = [*report.get("remarks", []), *report.get("verdict", []), f"Given away: {given}." if given else ""]
    said = filter(None, [*said, write_attributes(report)])
    sentences = [textwrap.fill(sentence, WIDTH, subsequent_indent="  ") for sentence in said]
    return "\n".join([*sentences, "", *([place] if place else []), *list_numbers(report)])


def list_numbers(report: Mapping) -> list[str]:
    """Returns at most MOST_LINES lines: metrics, what is absent in one line, and what it cost."""
    cost, ends = report["cost"], []
    if report["absent"]:
        line = f"{len(report['absent'])} absent, why is in the report: {', '.join(report['absent'])}"
        ends.append(textwrap.shorten(line, WIDTH - 1, placeholder=" ..."))
    spent = ""
    if cost["seconds"] is not None:
        spent = f"{cost['seconds']:.0f} s of attack, "
        spent += f"{cost['images_evaluated']} pictures shown to the target{count_queries(report)}; then "
    ends.append(f"{spent}{cost.get('verdict_seconds') or 0:.0f} s for the verdict")
    names = [name for name, metric in CATALOGUE.items() if metric.printed and name in report["summary"]]
    return [describe_metric(name, report["summary"][name]) for name in names[: MOST_LINES - len(ends)]] + ends


def count_queries(report: Mapping) -> str:
    """Returns how many of the pictures were shown for one user alone; "" where the report does not say."""
    counts = list((report.get("queries") or {}).get("per_identity", {}).values())
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    return f" ({low if low == high else f'{low} to {high}'} for each user)"


def describe_metric(name: str, entry: Mapping) -> str:
    """Returns a metric, its interval and its number of users in one line."""
    low, high = entry["ci95"]
    interval = f"   95% interval {low:.3f} to {high:.3f}" if low is not None else ""
    return f"{name:30s} {entry['mean']:7.3f}{interval}   n {entry['n']}"
