"""What raters answered, checked against the key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ganinv.json_data import find_mismatch
from ganinv.reports.report_file import is_number
from ganinv.studies.panel.page import KEY_FORMAT
from ganinv.studies.panel.trials import CHOICES

ANSWERS_FORMAT = "ganinv panel answers 1"


@dataclass(frozen=True)
class Answers:
    """What one rater said: item -> person, item -> seconds."""

    rater: str
    choices: dict[str, str]
    seconds: dict[str, float]


def check_key(key: object, file: str | Path) -> dict:
    """Returns a key unchanged. Raises: ValueError when it is none."""
    items = key.get("items") if isinstance(key, dict) and key.get("format") == KEY_FORMAT else None
    kinds = {"kind": str, "condition": str, "user": int, "answer": str, "people": list}
    if not isinstance(items, dict) or not items or not isinstance(key.get("panel"), str) or not all(
        isinstance(item, dict) and all(isinstance(item.get(name), kind) for name, kind in kinds.items())
        for item in items.values()
    ):  # fmt: skip
        raise ValueError(f"expected the key that panel.py make wrote, got something else in {file}; pass --key=NAME.key.json")
    return key


def check_answers(data: object, key: Mapping, file: str | Path) -> Answers:
    """Returns a rater's answers. Raises: ValueError unless they answer every item of the key once, with one of its five."""
    problem = find_problem(data, key)
    if problem:
        raise ValueError(f"expected the answers that a rater saved from panel {key['panel']} in {file}, got {problem}")
    rows = data["answers"]
    return Answers(
        data["rater"].strip(),
        {row["item"]: row["choice"] for row in rows},
        {row["item"]: float(row["seconds"]) for row in rows},
    )


def find_problem(data: object, key: Mapping) -> str | None:
    """Returns what is wrong with an answers file, None when nothing is."""
    if not isinstance(data, dict) or data.get("format") != ANSWERS_FORMAT:
        return "something else"
    if data.get("panel") != key["panel"]:
        return f"answers to panel {data.get('panel')}; score them with that panel's key"
    if not isinstance(data.get("rater"), str) or not data["rater"].strip():
        return "no rater's name"
    rows = data.get("answers")
    if find_mismatch(rows, [{"item": str}]):
        return "no list of answers"
    given = Counter(row["item"] for row in rows)
    for name, items in (
        ("unknown items", given.keys() - key["items"].keys()),
        ("no answer to items", key["items"].keys() - given.keys()),
        ("two answers to items", {item for item, count in given.items() if count > 1}),
    ):
        if items:
            more = f" and {len(items) - 3} more" if len(items) > 3 else ""
            return f"{name} {', '.join(sorted(items)[:3])}{more}"
    for row in rows:
        if row.get("choice") not in key["items"][row["item"]]["people"]:
            return f"for item {row['item']} a choice that is none of its {CHOICES} people"
        if not is_number(row.get("seconds")) or row["seconds"] < 0:
            return f"for item {row['item']} no time in seconds"
    return None


def check_raters(answers: Sequence[Answers], files: Sequence[str | Path]) -> None:
    """Raises: ValueError naming two files of one rater, or when there are none."""
    if not answers:
        raise ValueError("expected at least one file of answers, got none; panel.py score --key=KEY FILE ...")
    seen: dict[str, str | Path] = {}
    for one, file in zip(answers, files, strict=True):
        name = one.rater.casefold()
        if name in seen:
            raise ValueError(f"expected each rater once, got {one.rater} in {seen[name]} and {file}; leave one out")
        seen[name] = file
