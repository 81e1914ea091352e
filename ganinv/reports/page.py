"""report.html: a run's report as one page that opens anywhere, for readers who are no researchers.

It leads with the verdict in two questions, whose sentences answers.py writes. The page
holds reconstructions, and photographs only of people who do not exist. It runs no script and asks nothing of the network.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ganinv import images as image_convention
from ganinv.metrics.catalogue import BOTH, CATALOGUE, NEVER_MET, SURVIVES
from ganinv.reports.answers import name_control, write_heading
from ganinv.reports.assessment import describe_assessment
from ganinv.reports.attributes import describe_user, make_table, write_attributes
from ganinv.reports.provenance import flat_entries
from ganinv.reports.report_file import name_method
from ganinv.reports.run_files import read_config, read_provenance, read_steps

CHART = (640, 220)  # px, of the curve of the target's score
LONGEST_CURVE = 200  # points a curve; more are not seen at that width


def write_intro(report: Mapping) -> str:
    """Returns what was done, in one line."""
    users = "one user" if len(report["identities"]) == 1 else f"{len(report['identities'])} users"
    if report["method"] == "judged":
        return f"Pictures of {users} of a face recognizer, made by another program, were put before other recognizers."
    held = "that recognizer and their stored templates" if report.get("goal") == "template" else "that recognizer"
    return f"A program tried to picture {users} of a face recognizer from nothing but {held}."


def count_users(share: float, users: int, noun: str = " users") -> str:
    """Returns "4 of 5 users", with "on average" where it is no whole number."""
    number = share * users
    if abs(number - round(number)) < 1e-3:
        return f"{'all' if round(number) == users > 1 else round(number)} of {users}{noun}".replace("all of", "all")
    return f"on average {number:.1f} of {users}{noun}"


# ---- the page


def render_page(
    folder: Path,
    report: Mapping,
    photos: Mapping[int, torch.Tensor] | None = None,
    means: Mapping[int, torch.Tensor] | None = None,
) -> str:
    """Returns report.html of a run folder that has its pictures; what else it lacks (steps, provenance) is left out.

    photos: identity -> image [3,R,R] in [-1,1], only in a world where nobody is real; None shows none. means: likewise,
    of the mean of several pictures.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    shown = {"number": show_number, "count": show_count, "entry": show_entry, "percent": show_percent, "rate": show_rate}
    environment.filters |= shown
    template = environment.from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    config = read_config(folder) if (folder / "config.json").is_file() else {}
    provenance = read_provenance(folder) if (folder / "provenance.json").is_file() else {}
    return template.render(
        report=report,
        intro=write_intro(report),
        title=name_method(report, config),
        heading=write_heading(report),
        sentences=report.get("verdict", []),
        recovered=write_attributes(report),
        attributes=make_table(report),
        tiles=make_tiles(report),
        leak=make_leak(report),
        success=make_success(report),
        assessment=describe_assessment(report, config, provenance),
        users=make_users(folder, report, photos or {}, means or {}),
        shows_photos=bool(photos),
        groups=make_groups(report),
        opened=(BOTH, NEVER_MET, SURVIVES),  # groups that a reader sees without a click
        cards={name: metric.card for name, metric in CATALOGUE.items() if metric.card},
        controls={name: name_control(name) for name in report.get("controls", {})},
        chart=draw_curves(read_steps(folder)),
        provenance=provenance,
        settings=flat_entries(config),
    )


def make_tiles(report: Mapping) -> list[dict]:
    """Returns the numbers of the first screen: what, number, what to hold it against."""
    summary, ceiling = report["summary"], report.get("ceiling", {})
    tiles = []
    if "given_away" in (leak := report.get("leak", {})):
        beside = [f"{name_control(row['control'])}: {show_rate(row['given_away'])}" for row in leak["nulls"]]
        what = f"accepted and named right by {'two judges' if leak['needed'] > 1 else 'the one judge'}"
        tiles.append({"number": show_rate(leak["given_away"]), "what": what, "beside": beside})
    for metric, entry in CATALOGUE.items():
        if not entry.tile or metric not in summary:
            continue
        others = {name: control[metric]["mean"] for name, control in report.get("controls", {}).items() if metric in control}
        beside = []
        if others:
            strongest = max(others, key=others.get)
            beside.append(f"{name_control(strongest)}: {count_users(others[strongest], summary[metric]['n'], noun='')}")
        if metric in ceiling:
            beside.append(f"the users' own photos: {ceiling[metric]['mean']:.0%}")
        number = count_users(summary[metric]["mean"], summary[metric]["n"], noun="")
        tiles.append({"number": number, "what": entry.tile, "beside": beside})
    return tiles


def make_leak(report: Mapping) -> dict | None:
    """Returns the table of the first question: judges, and a row for the pictures and for each control; None without it."""
    leak = report.get("leak", {})
    if "given_away" not in leak:
        return None
    judges = [{"own": None, **one} for one in leak["judges"]]  # earlier reports have none
    pictures = {"accepted": {one["judge"]: one["accepted"] for one in judges}, "given_away": leak["given_away"]}
    pictures["named"] = {one["judge"]: one["named"] for one in judges}
    rows = [{"what": "the pictures", "kind": "ours", **pictures}]
    rows += [{"what": name_control(row["control"]), "kind": "null", **row} for row in leak["nulls"]]
    if leak["selection"] is not None:
        row = leak["selection"]
        rows.append({"what": f"{name_control(row['control'])}, by the target's own score", "kind": "selection", **row})
    return {"judges": judges, "rows": rows, "left_out": leak.get("left_out", [])}


def make_success(report: Mapping) -> dict:
    """Returns the table of success attack rates, {"columns", "rows"}; {"absent": reason} where there is none."""
    sar = report.get("sar", {"absent": "it is not in the report"})
    if "absent" in sar:
        return sar
    columns = list(dict.fromkeys(row["pictures"] for row in sar["rows"]))
    rows: dict[tuple, dict] = {}
    for row in sar["rows"]:
        rows.setdefault((row["system"], row["type"], row["at"]), {})[row["pictures"]] = row
    words = {name: name_control(name) for name in columns}
    return {"columns": words, "rows": rows, "unmeasured": sar.get("unmeasured", {})}


def make_users(
    folder: Path, report: Mapping, photos: Mapping[int, torch.Tensor], means: Mapping[int, torch.Tensor]
) -> list[dict]:
    """Returns what the page shows of each user: pictures, what the judges say of them, and the numbers."""
    rows = []
    for row in report["per_identity"]:
        identity = row["identity"]
        files = sorted((folder / "images").glob(f"{identity}_*.png"), key=lambda file: int(file.stem.split("_")[1]))
        decisions = [picture for picture in report.get("pictures", []) if picture["identity"] == identity]
        rows.append(
            {
                "identity": identity,
                "name": report.get("names", {}).get(str(identity), ""),
                "queries": (report.get("queries") or {}).get("per_identity", {}).get(str(identity)),
                "pictures": [embed(file.read_bytes()) for file in files],
                "mean": embed(encode_image(means[identity])) if identity in means else None,
                "photo": embed(encode_image(photos[identity])) if identity in photos else None,
                "said": say_taken(decisions),
                "disagreement": any(picture["disagreement"] for picture in decisions),
                "numbers": row,
                "attributes": describe_user(report, identity),
            }
        )
    return rows


def say_taken(pictures: Sequence[Mapping]) -> str:
    """Returns who takes a user's pictures for the user, in words; "" where the judges could not decide."""
    if not pictures:
        return ""
    votes = [sum(picture["taken_by"].values()) for picture in pictures]
    most = len(pictures[0]["taken_by"])
    if len(pictures) > 1:
        return f"both judges take {sum(vote == most for vote in votes)} of {len(votes)} pictures for the user"
    if votes[0] in (0, most):
        return "both judges take it for the user" if votes[0] else "no judge takes it for the user"
    sayers = ", ".join(name for name, yes in pictures[0]["taken_by"].items() if yes)
    return f"the judges disagree: the {sayers} takes it for the user"


def make_groups(report: Mapping) -> dict[str, list[dict]]:
    """Returns group -> rows of the table: a metric, its words, and its entries; what is absent is said apart."""
    made: dict[str, list[dict]] = {}
    for name in [*CATALOGUE, *(name for name in report["summary"] if name not in CATALOGUE)]:
        if name in report["summary"]:
            metric = CATALOGUE.get(name)  # a report of another version may have metrics of its own
            row = {
                "metric": name,
                "words": metric.words if metric else "",
                "ours": report["summary"][name],
                "controls": [control.get(name) for control in report.get("controls", {}).values()],
                "ceiling": report.get("ceiling", {}).get(name),
            }
            made.setdefault(metric.group if metric else "Other", []).append(row)
    return made


def draw_curves(steps: Sequence[Mapping]) -> dict | None:
    """Returns the target's score of each user over the steps as points of an SVG; None without steps."""
    rows = [row for row in steps if isinstance(row.get("identities"), Mapping)]
    if len(rows) < 2:
        return None
    width, height = CHART
    stride = max(1, len(rows) // LONGEST_CURVE)
    kept = sorted({*range(0, len(rows), stride), len(rows) - 1})
    users = list(rows[0]["identities"])
    curves = {}
    for user in users:
        places = [(index, rows[index]["identities"].get(user)) for index in kept]
        points = [
            f"{index / (len(rows) - 1) * width:.1f},{(1 - score) * height:.1f}"
            for index, score in places
            if score is not None
        ]
        curves[user] = " ".join(points)
    return {"curves": curves, "width": width, "height": height, "last": rows[-1].get("step", len(rows) - 1)}


# ---- values


def show_number(value: object) -> str:
    """Returns a number with two decimals, fewer where it is large."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return "-" if value is None else str(value)
    text = f"{value:.2f}" if abs(value) < 1000 else f"{value:.0f}"
    return text.replace("-0.00", "0.00")


def show_count(value: float) -> str:
    """Returns a rank: "1", "2.5" as the mean of several."""
    return f"{value:.3g}"


def show_entry(entry: Mapping | None) -> str:
    """Returns "0.98", a dash without an entry."""
    return "-" if entry is None else show_number(entry["mean"])


def show_rate(rate: Mapping) -> str:
    """Returns "4 of 5"."""
    return f"{rate['hits']} of {rate['n']}"


def show_percent(share: float | None) -> str:
    """Returns a share in per cent; "unknown" for None."""
    return "unknown" if share is None else f"{share:.0%}"


def embed(png: bytes) -> str:
    """Returns a PNG as a data URL."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def encode_image(image: torch.Tensor) -> bytes:
    """Returns an image [3,R,R] in [-1,1] as PNG."""
    file = io.BytesIO()
    image_convention.to_pil(image).save(file, format="PNG")
    return file.getvalue()
