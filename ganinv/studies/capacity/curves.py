"""What the cells of the study of capacity say together: a table, and a curve an axis."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from ganinv.metrics.statistics import summarize
from ganinv.reports.comparison import BOOTSTRAP_SEED, METRICS
from ganinv.reports.comparison_table import ARROWS, format_entry
from ganinv.reports.markdown import format_rows
from ganinv.studies.capacity.cells import ATTACKED, AXES, CENTRE, Cell, Point

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# those of a judge that knows the users are absent in a world whose judges met none of them
SHOWN = (
    "target_score", "acc_at_1", "taken_for_user", "identity_similarity", "accepted_at_far_1e-3", "face_detected",
    "factor_recovery",
)  # fmt: skip
DRAWN = ("acc_at_1", "identity_similarity", "factor_recovery", "accepted_at_far_1e-3")
LABELS = {
    "depth": "depth: architecture",
    "parameters": "parameters: ResNet-18 at several widths",
    "photos": "training photos per user",
    "users": "registered users",
}


@dataclass(frozen=True)
class Row:
    """A method at a point: parameters of the target, its top-1 on unseen photos, seeds, and metric -> {"mean","ci95","n"}.

    Users are averaged over seeds first: an interval is over the attacked users. control: no search made its pictures.
    """

    point: Point
    method: str
    parameters: int
    top1: float
    seeds: int
    summary: dict[str, dict]
    control: bool


def gather(points: Sequence[Point], seeds: int, finished: Mapping[Cell, Mapping]) -> tuple[list[Row], list[Cell]]:
    """Returns the rows of the points of which every seed is finished, and the cells that are not.

    finished: cell -> its record, as study_capacity writes it.
    """
    rows, missing = [], {}
    for point in points:
        cells = [replace(point.cell, seed=seed) for seed in range(seeds)]
        lacking = [cell for cell in cells if cell not in finished]
        missing |= dict.fromkeys(lacking)
        if lacking:
            continue
        records = [finished[cell] for cell in cells]
        top1 = sum(record["top1"]["value"] for record in records) / seeds
        for method, first in records[0]["methods"].items():
            people = [record["methods"][method]["per_identity"] for record in records]  # seed -> user -> metrics
            known = [name for name in SHOWN if all(name in user for users in people for user in users)]
            values = {name: torch.tensor([[user[name] for user in users] for users in people]) for name in known}
            summary = {name: summarize(value.double().mean(0), BOOTSTRAP_SEED) for name, value in values.items()}
            rows.append(Row(point, method, records[0]["parameters"], top1, seeds, summary, first["control"]))
    return rows, list(missing)


def format_table(
    rows: Sequence[Row], missing: Sequence[Cell], command: str, told: Mapping[str, object], centre: Cell = CENTRE
) -> str:
    """Returns the table as Markdown, with what it takes to read it; told: what else is the same in all cells."""
    head = ["axis", "value", "parameters", "photos per user", "users", "target top-1", "method"]
    head += [f"{name} {ARROWS[METRICS[name]]}" for name in SHOWN]
    lines = []
    for row in rows:
        cell = row.point.cell
        lines.append(
            [row.point.axis, row.point.value, f"{row.parameters:,}", str(cell.photos), str(cell.users), f"{row.top1:.3f}"]
            + [row.method, *(format_entry(row.summary.get(name)) for name in SHOWN)]
        )
    seeds = rows[0].seeds if rows else 0
    text = "# Does capacity make a recognizer safe?\n\n" + format_rows(head, lines, words=7)
    text += f"\nUsers {', '.join(map(str, ATTACKED))}, seeds {seeds}. Mean over these users [95 % bootstrap interval over "
    text += "them]; each is first averaged over the seeds. Target top-1: on unseen photos of its users. One number is "
    text += f"changed at a time, from {centre.architecture}, {centre.photos} photos per user and {centre.users} users.\n\n"
    text += "".join(f"- {name}: {value}\n" for name, value in told.items())
    if missing:
        text += "\nNot finished, and not in the table:\n\n" + "".join(f"- {cell}\n" for cell in missing)
    return text + f"\n```sh\n{command}\n```\n"


def format_csv(rows: Sequence[Row]) -> str:
    """Returns the table as CSV in full precision; an absent value is an empty cell."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    columns = [f"{name}{suffix}" for name in SHOWN for suffix in ("", "_low", "_high")]
    head = ["axis", "value", "architecture", "parameters", "photos_per_user", "users", "top1", "method", "n", "seeds"]
    writer.writerow(head + columns)
    for row in rows:
        cell = row.point.cell
        absent = {"mean": None, "ci95": [None, None]}
        entries = [row.summary.get(name, absent) for name in SHOWN]
        writer.writerow(
            [row.point.axis, row.point.value, cell.architecture, row.parameters, cell.photos, cell.users, row.top1]
            + [row.method, len(ATTACKED), row.seeds]
            + [number for entry in entries for number in (entry["mean"], *entry["ci95"])]
        )
    return file.getvalue()


def draw_curves(rows: Sequence[Row]) -> Figure:
    """Returns a panel an axis: a colour a metric, a line style a method, and the target's top-1; controls are left out."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 9), layout="constrained")
    panels = figure.subplots(2, 2, sharey=True)
    methods = list(dict.fromkeys(row.method for row in rows if not row.control))
    for axis, panel in zip(AXES, panels.flat, strict=True):
        draw_panel(panel, axis, [row for row in rows if row.point.axis == axis and not row.control], methods)
    handles: dict = {}
    for panel in panels.flat:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=9)
    figure.suptitle(f"Inversion of {len(ATTACKED)} users against capacity: mean and 95 % interval over users", fontsize=12)
    return figure


def draw_panel(panel, axis: str, rows: Sequence[Row], methods: Sequence[str]) -> None:
    """Draws one axis; its values are placed by their size where they are counts, else in their order."""
    panel.set_title(LABELS[axis], fontsize=11)
    panel.axhline(0, color="black", linewidth=0.6)
    panel.grid(alpha=0.3)
    if not rows:
        panel.text(0.5, 0.5, "not finished", transform=panel.transAxes, ha="center", color="grey")
        return
    named = list(dict.fromkeys(row.point.value for row in rows))
    places = {
        "depth": lambda row: float(named.index(row.point.value)),
        "parameters": lambda row: row.parameters,
        "photos": lambda row: row.point.cell.photos,
        "users": lambda row: row.point.cell.users,
    }
    rows = sorted(rows, key=places[axis])
    place = {row.point.value: places[axis](row) for row in rows}
    low, high = min(place.values()), max(place.values())
    panel.set_xlim(low - 0.3, high + 0.3)
    if axis != "depth":
        panel.set_xscale("log")
        panel.set_xlim(low / 1.3, high * 1.3)
        panel.minorticks_off()
    words = {value: f"{x:,}" for value, x in place.items()} if axis != "depth" else {value: value for value in place}
    panel.set_xticks(list(place.values()), [words[value] for value in place], fontsize=9)
    for metric, colour in zip(DRAWN, ("C0", "C1", "C2", "C4"), strict=True):
        for number, method in enumerate(methods):
            curve = [row for row in rows if row.method == method and metric in row.summary]
            x, y = [place[row.point.value] for row in curve], [row.summary[metric] for row in curve]
            means = [entry["mean"] for entry in y]
            style = ("-", "--", ":", "-.")[number % 4]
            panel.plot(x, means, style, color=colour, marker="os^v"[number % 4], markersize=4, label=f"{metric}, {method}")
            if y:
                low, high = zip(*(entry["ci95"] for entry in y), strict=True)
                panel.fill_between(x, low, high, color=colour, alpha=0.1, linewidth=0)
                panel.vlines(x, low, high, color=colour, linewidth=0.8, linestyle=style)
    top1 = {row.point.value: row.top1 for row in rows}
    x = [place[value] for value in top1]
    panel.plot(x, list(top1.values()), color="black", linewidth=0.8, marker=".", label="target top-1")
