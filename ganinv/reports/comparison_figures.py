"""A comparison of methods as figures."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

from ganinv.reports.comparison import METRICS, SPENT, Method
from ganinv.reports.comparison_table import ARROWS, shown_metrics


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


def encode_png(figure: Figure, dpi: int = 130) -> bytes:
    """Returns a figure of matplotlib as PNG; the same figure gives the same bytes."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi, metadata={"Software": None})
    return file.getvalue()
