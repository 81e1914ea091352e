"""What the cells of the study of access say together: a table, the curves, and the rate limits."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import numpy as np

from ganinv.engine.files import clear_errors, write_atomically
from ganinv.metrics.statistics import exact_interval
from ganinv.reports.comparison_figures import encode_png
from ganinv.reports.markdown import format_rows
from ganinv.studies.access.plan import ATTACKERS
from ganinv.studies.access.records import FOLDER, list_records

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEAD = (
    *("target", "attacker sees", "queries a user", "seeds", "template off by (mean, largest)", "given away", "95 %"),
    *("accepted by", "named by"),
)  # fmt: skip
Curve = tuple[str, str]  # a target and an attacker


def gather(points: Mapping[str, Sequence[Mapping]]) -> list[dict]:
    """Returns a row for each number of queries: points of every seed, {"distance", "asked", "users"} each; a search for
    pictures gives no distance of a template.

    given_away: of the users, in the first seed that was judged, with the exact interval; seeds more are in "each".
    """
    rows = []
    for count, seeds in sorted(points.items(), key=lambda item: int(item[0])):
        distances = np.array([point["distance"] for point in seeds if "distance" in point])
        asked = [value for point in seeds for value in point["asked"].values()]
        row = {
            "queries": int(count), "asked": float(np.mean(asked)) if asked else 0.0, "most": max(asked, default=0),
            "seeds": len(seeds),
            "distance": float(distances.mean()) if distances.size else None,
            "largest": float(distances.max()) if distances.size else None,
            "failed": sum(len(point["failed"]) for point in seeds) / len(seeds), "judged": 0,
        }  # fmt: skip
        judged = [point["users"] for point in seeds if "users" in point]
        if judged:
            names = tuple(judged[0][0]["accepted"])
            row |= {
                "judged": len(judged), "users": len(judged[0]),
                "given_away": [sum(user["given_away"] for user in users) for users in judged],
                "accepted": {name: [sum(user["accepted"][name] for user in users) for users in judged] for name in names},
                "named": {name: [sum(user["named"][name] for user in users) for users in judged] for name in names},
            }  # fmt: skip
        rows.append(row)
    return rows


def find_limits(rows: Sequence[Mapping]) -> dict[str, int | None]:
    """Returns the fewest queries, of those that were judged, after which the first user and half of all users were lost,
    and the most that kept everybody and more than half; None where no such number was tried.

    The first seed decides: an attacker has one try. An attacker who stopped before counts as what was asked at most.
    """
    judged = [(row["most"], row["given_away"][0], row["users"]) for row in rows if row["judged"]]

    def before(lost: Sequence[int]) -> int | None:
        kept = [count for count, _, _ in judged if not lost or count < lost[0]]
        return max(kept, default=None)

    first = [count for count, hits, _ in judged if hits]
    half = [count for count, hits, users in judged if 2 * hits >= users]
    return {
        "first_lost": first[0] if first else None, "half_lost": half[0] if half else None,
        "keeps_all": before(first), "keeps_half": before(half),
    }  # fmt: skip


def read_points(records: Sequence[Mapping]) -> dict[Curve, dict[str, list[dict]]]:
    """Returns (target, attacker) -> queries -> what each seed found. records: see records.list_records."""
    found: dict[Curve, dict[str, list[dict]]] = {}
    for record in records:
        of = found.setdefault((record["target"], record["attacker"]), {})
        for count, point in record["points"].items():
            of.setdefault(count, []).append(point)
    return found


def write_results(out: Path) -> None:
    """Writes table.md, table.csv, curves.png and curves.json of the cells of a folder into it.

    Raises: ValueError where there are none.
    """
    records = list_records(out)
    if not records:
        raise ValueError(f"expected finished cells in {out / FOLDER}, got none; leave --table-only out")
    rows = {curve: gather(points) for curve, points in read_points(records).items()}
    limits = {curve: find_limits(of) for curve, of in rows.items()}
    priors = sorted({record["key"]["weights"].get("prior", "") for record in records})
    if len(priors) > 1:
        print(f"the cells are of {len(priors)} priors; run the older ones again", file=sys.stderr)
    summary = {
        "identities": records[0]["key"]["identities"], "priors": priors,
        "attackers": {
            f"{target}/{name}": {"words": say(rows, (target, name)), "rows": rows[target, name], **limits[target, name]}
            for target, name in rows
        },
    }  # fmt: skip
    for name, content in {
        "table.md": format_table(rows, limits), "table.csv": format_csv(rows),
        "curves.png": encode_png(draw_curves(rows)), "curves.json": json.dumps(summary, indent=1).encode(),
    }.items():  # fmt: skip
        with clear_errors(out, ValueError):
            write_atomically(out / name, content)
    print(f"{out}/table.md")


def say(rows: Mapping[Curve, Sequence], curve: Curve) -> str:
    """Returns an attacker in words, with the target where there are several."""
    words = ATTACKERS[curve[1]].words
    return f"{curve[0]}: {words}" if len({target for target, _ in rows}) > 1 else words


def format_table(rows: Mapping[Curve, Sequence[Mapping]], limits: Mapping[Curve, Mapping]) -> str:
    """Returns the Markdown: a row for each attacker and number of queries, then the rate limits."""
    lines = []
    for (target, name), of in rows.items():
        for row in of:
            given, interval = "not judged", ""
            if row["judged"]:
                given = f"{', '.join(map(str, row['given_away']))} of {row['users']}"
                low, high = exact_interval(row["given_away"][0], row["users"])
                interval = f"{100 * low:.0f} to {100 * high:.0f} %"
            said = [
                "; ".join(f"{judge} {', '.join(map(str, hits))}" for judge, hits in row.get(key, {}).items())
                for key in ("accepted", "named")
            ]
            asked = f"{row['queries']}" + (f" (took {row['asked']:.0f})" if row["asked"] < row["queries"] - 0.5 else "")
            distance = "" if row["distance"] is None else f"{row['distance']:.3f}, {row['largest']:.3f}"
            lines.append([target, ATTACKERS[name].words, asked, str(row["seeds"]), distance, given, interval, *said])
    text = format_rows(HEAD, lines)
    ends = [
        [target, ATTACKERS[name].words, *(("none tried" if value is None else str(value)) for value in limit.values())]
        for (target, name), limit in limits.items()
        if any(row["judged"] for row in rows[target, name])
    ]
    head = (
        "target",
        "attacker sees",
        "first user lost at",
        "half of users lost at",
        "a limit that kept all",
        "that kept more than half",
    )
    return f"{text}\n{format_rows(head, ends)}"


def format_csv(rows: Mapping[Curve, Sequence[Mapping]]) -> str:
    """Returns the same rows as CSV, a seed's counts in one field."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    keys = ("asked", "seeds", "distance", "largest", "failed")
    writer.writerow(("target", "attacker", "queries", *keys, "users", "given_away"))
    for curve, of in rows.items():
        for row in of:
            given = " ".join(map(str, row.get("given_away", ())))
            numbers = ("" if row[key] is None else f"{row[key]:.5g}" for key in keys)
            writer.writerow((*curve, row["queries"], *numbers, row.get("users", ""), given))
    return file.getvalue()


def draw_curves(rows: Mapping[Curve, Sequence[Mapping]]) -> Figure:
    """Returns a row of three panels for each target, over queries a user.

    How far recovered templates are off, the share of users given away with its interval, and that of users whom judges
    name, their mean; the first seed.
    """
    from matplotlib.figure import Figure

    targets = list(dict.fromkeys(target for target, _ in rows))
    figure = Figure(figsize=(13, 3 * len(targets)), layout="constrained")
    for panels, target in zip(figure.subplots(len(targets), 3, squeeze=False, sharex=True), targets, strict=True):
        curves = {curve: of for curve, of in rows.items() if curve[0] == target}
        for number, (curve, of) in enumerate(curves.items()):
            style = {"color": f"C{number % 10}", "ls": ("-", "--", ":", "-.")[number // 10 % 4], "label": say(rows, curve)}
            draw_curve(panels, of, style)
        ylabels = ("distance of the recovered template", "share of users given away", "share of users named")
        for axes, ylabel in zip(panels, ylabels, strict=True):
            axes.set(xscale="log", ylabel=ylabel)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(alpha=0.3)
            axes.tick_params(labelbottom=True)
        for axes in panels[1:]:
            axes.set_ylim(-0.03, 1.03)
        panels[0].set_yscale("log")
        panels[0].set_visible(bool(panels[0].lines))  # class scores recover no template
        panels[2].legend(*panels[1].get_legend_handles_labels(), fontsize=7, loc="upper left", bbox_to_anchor=(1.02, 1))
    for axes in panels:
        axes.set_xlabel("queries a user")
    return figure


def draw_curve(panels: Sequence[Axes], rows: Sequence[Mapping], style: Mapping) -> None:
    """Draws one attacker into the three panels of its target."""
    distance, given_away, named = panels
    measured = [row for row in rows if row["queries"] and row["distance"] is not None]
    if measured:
        off = [max(row["distance"], 1e-3) for row in measured]
        distance.plot([row["queries"] for row in measured], off, marker="o", ms=3, **style)
    judged = [row for row in rows if row["judged"]]
    shares = [row["given_away"][0] / row["users"] for row in judged]
    names = [mean(counts[0] for counts in row["named"].values()) / row["users"] for row in judged]
    counts = [row["queries"] for row in judged]
    if counts == [0]:
        given_away.axhline(shares[0], **style | {"ls": ":"})
        named.axhline(names[0], **style | {"ls": ":"})
        return
    ends = [exact_interval(row["given_away"][0], row["users"]) for row in judged]
    bars = [[max(0.0, abs(share - end[side])) for share, end in zip(shares, ends, strict=True)] for side in (0, 1)]
    given_away.errorbar(counts, shares, bars if counts else None, marker="o", ms=3, capsize=2, **style)
    named.plot(counts, names, marker="o", ms=3, **style)
