"""The page that raters answer, and its key."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ganinv.studies.panel.trials import Trial

KEY_FORMAT = "ganinv panel key 1"
PAGE = Path(__file__).with_name("panel.html")
NOTICES = {  # whether the page shows real people -> what it says first
    True: ("This page contains photographs of real people.", "Show it to nobody else, and do not copy or publish it."),
    False: ("Nobody here is real.", "All people on this page were made by a computer."),
}


def build_panel(
    trials: Sequence[Trial],
    candidates: Sequence[Sequence[int]],
    references: Mapping[int, Sequence[str]],
    encode: Callable[[Path], str],
    *,
    photographs: bool,
    rng: random.Random,
) -> tuple[dict, dict]:
    """Returns (what the page holds, what the key holds).

    references: person -> data: URIs; encode: the data: URI of a picture file. The page has opaque ids in their own order
    and nothing of what is what; the key has it all.
    """
    people = dict(zip(references, draw_ids(len(references), rng), strict=True))
    items, answers = [], {}
    for item, trial, offered in zip(draw_ids(len(trials), rng), trials, candidates, strict=True):
        ids = sorted(people[person] for person in offered)
        items.append({"id": item, "picture": encode(trial.file), "people": ids})
        answers[item] = {
            "kind": trial.kind, "condition": trial.condition, "user": trial.user, "answer": people[trial.user],
            "people": ids, "file": str(trial.file), "shows": trial.barred,
        }  # fmt: skip
    page = {
        "photographs": photographs,
        "notice": NOTICES[photographs],
        "items": sorted(items, key=lambda item: item["id"]),
        "people": {people[person]: list(uris) for person, uris in sorted(references.items(), key=lambda row: people[row[0]])},
    }
    name = hashlib.sha256(json.dumps(page).encode()).hexdigest()[:12]
    key = {
        "format": KEY_FORMAT, "panel": name, "people": {token: person for person, token in people.items()}, "items": answers
    }  # fmt: skip
    return {"panel": name} | page, key


def draw_ids(count: int, rng: random.Random) -> list[str]:
    """Returns different ids of 8 hexadecimal digits."""
    return [f"{number:08x}" for number in rng.sample(range(16**8), count)]


def data_uri(png: bytes) -> str:
    """Returns a PNG file as a data: URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def format_page(page: Mapping) -> str:
    """Returns the HTML of a panel, whose policy lets it run its own script and load nothing."""
    text = PAGE.read_text(encoding="utf-8")
    hashes = {}
    for tag in ("style", "script"):
        (source,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        hashes[tag] = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{hashes['script']}'; style-src 'sha256-{hashes['style']}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    data = json.dumps(page).replace("<", "\\u003c")  # no text in it can end the script element
    return text.replace("@POLICY@", policy).replace("@DATA@", data)
