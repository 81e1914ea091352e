"""report.json: its schema, and reading one back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from ganinv.json_data import NUMBER, WHOLE, find_mismatch, read_json
from ganinv.reports.run_files import MOST_BYTES

COST_KEYS = ("seconds", "images_evaluated", "gradient_queries", "score_queries")


RATE = {"hits": NUMBER, "n": NUMBER, "share": NUMBER, "ci95": [NUMBER]}
SHOWN = {"answer": str, "given_away": RATE, "nulls": [{"control": str, "given_away": RATE}], "p": (NUMBER, None)}
SHAPE = {  # of what readers of a report look at beside the metrics; keys that came later may be missing
    "identities": [WHOLE],
    "cost": {"search_seconds?": (NUMBER, None), "verdict_seconds?": (NUMBER, None)},
    "absent": {"*": str},
    "verdict?": [str],
    "files?": {"*": str},
    "controls?": {"*": {"*": {"mean": NUMBER}}},
    "judges?": [dict],
    "leak?": ({"absent": str}, SHOWN),
    "selection?": {"answer?": str, "absent?": str},
    "goal?": (str, None),
    "remarks?": [str],
    "stuck?": [WHOLE],
    "steps?": WHOLE,
    "names?": {"*": str},
    "queries?": ({"per_identity?": {"*": WHOLE}}, None),
}


def name_method(report: Mapping, config: Mapping) -> str:
    """Returns the label that a run was given, else its method, its variant or space, and a goal other than a class."""
    goal = config.get("goal", "class")
    parts = (report["method"], config.get("variant") or config.get("space"), goal if goal != "class" else "")
    return config.get("label") or " ".join(filter(None, parts))


def read_report(path: str | Path) -> dict:
    """Returns the report of a run folder (or of a report.json itself).

    Raises: ValueError when there is no report.json, or it breaks the schema (see check_report).
    """
    path = Path(path)
    file = path / "report.json" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"expected a finished run with a report.json, got {path}; run it again or leave it out")
    return check_report(read_json(file, object, most=MOST_BYTES), file)


def check_report(report: object, file: str | Path) -> dict:
    """Returns a report unchanged if it keeps the schema.

    Keys: method, world, identities, seed, summary (metric -> mean, ci95 [low, high] or [null, null], n), per_identity
    (one dict each, in the order of identities), cost, absent (metric -> reason), files (path -> SHA-256),
    headline, controls and ceiling (see judging.controls), judges (see judging.independence), pictures (see Verdict),
    type_i, sets, factors, memory, leak and selection (see judging.leak), sar (see judging.success), attributes (see
    judging.attributes), verdict (sentences), goal (of the search: class, template or None), queries (see
    Queries.describe, or None), stuck and steps (see describe_search), names (number -> name of a user), photo_check (see
    PhotoCheck), remarks (sentences); those from files on may be missing.
    leak, selection, sar and attributes are {"absent": reason} where nobody can say.
    A metric is in summary and in all of per_identity, or in absent; the numbers of cost are all None where cost is absent.
    Raises: ValueError naming the file and the first key that breaks it.
    """
    problem = find_problem(report)
    if problem:
        raise ValueError(f"expected a ganinv report in {file}, got {problem}; write it with RunFolder.write_report")
    return report


def find_problem(report: object) -> str | None:
    """Returns what is wrong with a report, None when nothing is."""
    if not isinstance(report, dict):
        return f"a {type(report).__name__}"
    kinds = {
        "method": str, "world": str, "identities": list, "seed": int,
        "summary": dict, "per_identity": list, "cost": dict, "absent": dict,
    }  # fmt: skip
    for key, kind in kinds.items():
        if not isinstance(report.get(key), kind):
            return f"{key} of type {type(report[key]).__name__}" if key in report else f"no {key}"
    for metric, entry in report["summary"].items():
        if not isinstance(entry, dict) or not {"mean", "ci95", "n"} <= entry.keys():
            return f"summary.{metric} without mean, ci95 and n"
        if not is_number(entry["mean"]) or not is_interval(entry["ci95"]):
            return f"summary.{metric} with mean {entry['mean']} and ci95 {entry['ci95']}"
        if metric in report["absent"]:
            return f"{metric} both in summary and in absent"
    if any(not isinstance(row, dict) for row in report["per_identity"]):
        return "a per_identity entry that is no dict"
    if [row.get("identity") for row in report["per_identity"]] != report["identities"]:
        return "per_identity of other identities than identities"
    for row in report["per_identity"]:
        if row.keys() - {"identity"} != report["summary"].keys() or not all(map(is_number, row.values())):
            return f"per_identity {row['identity']} with other metrics than summary, or a value that is no number"
    unknown = "cost" in report["absent"] and all(report["cost"].get(key) is None for key in COST_KEYS)
    if missing := [key for key in COST_KEYS if not is_number(report["cost"].get(key)) and not unknown]:
        return f"no cost.{missing[0]}"
    if not all(isinstance(reason, str) and reason for reason in report["absent"].values()):
        return "a metric that is absent without a reason"
    return find_mismatch(report, SHAPE)


def is_number(value: object) -> bool:
    """Says whether a value is a finite number; Python's JSON reader also takes NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_interval(value: object) -> bool:
    """Says whether a value is [low, high] or [None, None]."""
    return isinstance(value, list) and len(value) == 2 and (value == [None, None] or all(map(is_number, value)))
