"""report.html: a run's report as one page that opens anywhere, for readers who are no researchers.

Three sentences say what the numbers do and do not prove; they are chosen by the numbers and by nothing else. The page
holds reconstructions, and photographs only of people who do not exist. It runs no script and asks nothing of the network.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ganinv import images as image_convention
from ganinv.metrics.catalogue import BOTH, CATALOGUE, NEVER_MET, SURVIVES
from ganinv.reports.provenance import flat_entries

LEVEL = 0.05  # of p, at or below which chance is called no explanation
CHART = (640, 220)  # px, of the curve of the target's score
LONGEST_CURVE = 200  # points a curve; more are not seen at that width

CONTROLS = {  # a control's name -> what it is, in a sentence
    "best candidate": "the best of many random faces",
    "start picture": "the picture that the search began with",
    "random sample of the prior": "random faces",
    "another user's reconstruction": "pictures made of another user",
    "another user's photo": "photos of another user",
}


@dataclass(frozen=True)
class Evidence:
    """What a paired difference to the strongest control says: "shown", "suggested" (an interval above 0, but too few users
    to rule out chance), "not shown", or "unknown" where it could not be measured."""

    word: str
    line: Mapping | None


def weigh(report: Mapping, metric: str) -> Evidence:
    """Returns the evidence of a metric's headline."""
    line = next((line for line in report.get("headline", []) if line["metric"] == metric), None)
    if line is None:
        return Evidence("unknown", None)
    low = line["ci95"][0]
    if line["mean"] > 0 and line.get("p", 1.0) <= LEVEL:
        return Evidence("shown", line)
    return Evidence("suggested" if low is not None and low > 0 else "not shown", line)


def write_heading(report: Mapping) -> str:
    """Returns what the two judges' evidence comes to, in one line."""
    words = {weigh(report, metric).word for metric in ("acc_at_1", "identity_similarity")} - {"unknown"}
    if not words:
        return "Nobody could judge the pictures"
    if words == {"shown"}:
        return "The pictures carry something of the users"
    if words == {"not shown"}:
        return "The pictures show no more of the users than the controls do"
    if "not shown" in words:
        return "The judges differ on whether the pictures show the users"
    return "Some sign of the users, from too few of them to be sure"


def write_intro(report: Mapping) -> str:
    """Returns what was done, in one line."""
    users = "one user" if len(report["identities"]) == 1 else f"{len(report['identities'])} users"
    if report["method"] == "judged":
        return f"Pictures of {users} of a face recognizer, made by another program, were put before other recognizers."
    return f"A program tried to picture {users} of a face recognizer from nothing but that recognizer."


def write_sentences(report: Mapping) -> list[str]:
    """Returns three sentences: what the judge that knows the users found, what the other found, and what neither proves."""
    return [tell_names(report), tell_likeness(report), tell_limits(report)]


def tell_names(report: Mapping) -> str:
    """Returns the first sentence: whom the judge that knows the users sees, beside the strongest control."""
    entry, line = report["summary"].get("acc_at_1"), weigh(report, "acc_at_1").line
    if entry is None:
        reason = report["absent"].get("acc_at_1", "it is not in the report")
        return (
            f"No recognizer that knows the users could name them in these pictures ({reason}), and the attacked recognizer's "
            "own score proves nothing, since the attack maximised it."
        )
    crowd = next((judge.get("identities") for judge in report.get("judges", []) if judge["knows_users"]), None)
    text = "A recognizer of the same users, which took no part in the attack, "
    text += f"named the right one of {crowd} people" if crowd else "named the right person"
    text += f" from the pictures of {count_users(entry['mean'], entry['n'])}{tell_interval(entry, share=True)}"
    if line is not None:
        mean = report["controls"][line["control"]]["acc_at_1"]["mean"]
        text += f"; from {name_control(line['control'])} it did so for {count_users(mean, entry['n'], noun='')}"
    if ceiling := report.get("ceiling", {}).get("acc_at_1"):
        text += f", and from the users' own photos {ceiling['mean']:.0%} of the time"
    return f"{text}."


def tell_likeness(report: Mapping) -> str:
    """Returns the second sentence: what the judge that never met the users finds, and whether chance explains it."""
    evidence = weigh(report, "identity_similarity")
    line = evidence.line
    if line is None:
        reason = report["absent"].get("identity_similarity", "there is no control to compare with")
        return f"No recognizer that has never met the users could compare them with the pictures ({reason})."
    control = name_control(line["control"])
    if evidence.word == "not shown":
        text = "A second recognizer, which has never met the users, does not find the pictures more like their photos than "
        text += f"{control}: the difference is {line['mean']:+.2f}{tell_interval(line)}"
    else:
        text = "A second recognizer, which has never met the users, finds the pictures more like their photos than "
        text += f"{control}, by {line['mean']:.2f} on a scale from -1 to 1{tell_interval(line)}"
    if line["n"] < 2:
        return f"{text}, and one user tells nothing of chance."
    p = f"p = {line['p']:.2g}" if "p" in line else "it was not tested"
    ending = {
        "shown": f", more than chance explains ({p})",
        "suggested": f", but {line['n']} users are too few to rule out chance ({p})",
        "not shown": f", which chance may explain ({p})" if line["mean"] > 0 else ", which is no leak beyond that control",
    }
    return f"{text}{ending[evidence.word]}."


def tell_limits(report: Mapping) -> str:
    """Returns the third sentence: what the numbers do not prove."""
    users = len(report["identities"])
    whose = "one user speaks for no other" if users == 1 else f"{users} users speak for few others"
    words = {weigh(report, metric).word for metric in ("acc_at_1", "identity_similarity")}
    if words <= {"not shown", "unknown"}:
        return (
            "This does not prove the attacked recognizer safe, since another attack, prior or setting may find what this one "
            f"did not; {whose}, and no picture here is a photograph or evidence of anything about anybody."
        )
    return (
        "This does not prove that a human being would know anybody in these pictures, which are no photographs and no "
        f"evidence of anything about anybody; much of them is the prior's work, and {whose}."
    )


def count_users(share: float, users: int, noun: str = " users") -> str:
    """Returns "4 of 5 users", with "on average" where it is no whole number."""
    count = share * users
    if abs(count - round(count)) < 1e-3:
        return f"{'all' if round(count) == users > 1 else round(count)} of {users}{noun}".replace("all of", "all")
    return f"on average {count:.1f} of {users}{noun}"


def tell_interval(entry: Mapping, *, share: bool = False) -> str:
    """Returns " (95 % interval 0.10 to 0.38)", "" where there is none."""
    low, high = entry["ci95"]
    if low is None:
        return ""
    if low == high:
        return " (no spread, so no interval)"
    return f" (95 % interval {low:.0%} to {high:.0%})" if share else f" (95 % interval {low:.2f} to {high:.2f})"


def name_control(name: str) -> str:
    """Returns a control in words."""
    return CONTROLS.get(name, name)


# ---- the page


def render_page(folder: Path, report: Mapping, photos: Mapping[int, torch.Tensor] | None = None) -> str:
    """Returns report.html of a run folder that has its pictures; what else it lacks (steps, provenance) is left out.

    photos: identity -> image [3,R,R] in [-1,1], only in a world where nobody is real; None shows none.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": show_number, "count": show_count, "entry": show_entry, "percent": show_percent}
    template = environment.from_string(Path(__file__).with_suffix(".html").read_text(encoding="utf-8"))
    config, provenance = (read_json(folder / name) for name in ("config.json", "provenance.json"))
    return template.render(
        report=report,
        intro=write_intro(report),
        title=config.get("label") or " ".join(filter(None, [report["method"], config.get("variant") or config.get("space")])),
        heading=write_heading(report),
        sentences=write_sentences(report),
        tiles=make_tiles(report),
        users=make_users(folder, report, photos or {}),
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


def make_users(folder: Path, report: Mapping, photos: Mapping[int, torch.Tensor]) -> list[dict]:
    """Returns what the page shows of each user: pictures, what the judges say of them, and the numbers."""
    rows = []
    for row in report["per_identity"]:
        identity = row["identity"]
        files = sorted((folder / "images").glob(f"{identity}_*.png"), key=lambda file: int(file.stem.split("_")[1]))
        told = [picture for picture in report.get("pictures", []) if picture["identity"] == identity]
        rows.append(
            {
                "identity": identity,
                "pictures": [embed(file.read_bytes()) for file in files],
                "photo": embed(encode_image(photos[identity])) if identity in photos else None,
                "said": say_taken(told),
                "disagreement": any(picture["disagreement"] for picture in told),
                "numbers": row,
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


def read_json(file: Path) -> dict:
    """Returns a JSON file of the run; {} where it is not there."""
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def read_steps(folder: Path) -> list[dict]:
    """Returns the rows of steps.jsonl; none where it is not there."""
    file = folder / "steps.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []
