"""world.json: what a world's folder holds, read with every value checked, and written.

    {"resolution": 64, "grey": true, "frame": [[x, y] * 5] or null, "users": "private", "public": "public",
     "photos_per_user": 0, "shows_references": false,
     "roles": {"prior": "prior.safetensors", "target": "target.safetensors", "references": "references.safetensors", ...},
     "targets": {"cnn": "cnn.safetensors"},
     "judges": [{"name": "verifier", "recognizer": "verifier.safetensors", "sees_users": false,
                 "thresholds": {"0.01": 0.41}, "impostor_pairs": 10000}, ...]}

All keys may be left out. targets are further recognizers of the same users, by the name that --target takes. A role, a target
or a judge's recognizer is a file of the folder, WORLD/FILE of a shipped world, or the name
of a published network, such as "sface"; never code, since a world is data.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ganinv.engine.files import write_atomically
from ganinv.weights.cards import read_json
from ganinv.weights.quoting import show

NAME = "world.json"
# networks that a world may name
PUBLISHED = ("dlib", "sface", "mobilefacenet", "facenet:vggface2", "facenet:casia-webface", "digiface")
FILE = re.compile(r"([a-z]\w{0,99}/)?[A-Za-z0-9_][\w.-]{0,99}\.(safetensors|png)", re.ASCII)
CARDLESS = ("references", "public_mean")  # roles whose files are no weights


@dataclass(frozen=True, kw_only=True)
class JudgeEntry:
    """A judge as world.json names it.

    thresholds: false-match rate -> similarity (cosine) or distance (Euclidean) at which it is reached, measured on
    impostor_pairs pairs of different public people.
    """

    name: str
    recognizer: str
    sees_users: bool
    thresholds: Mapping[float, float] = field(default_factory=dict)
    impostor_pairs: int = 0


def is_number(value: object) -> bool:
    """Says whether a JSON value is a finite number."""
    return type(value) in (int, float) and math.isfinite(value)


def is_frame(value: object) -> bool:
    """Says whether a JSON value is null or five points (x, y)."""
    points = value if isinstance(value, list) else ()
    return value is None or (
        len(points) == 5
        and all(isinstance(point, list) and len(point) == 2 and all(map(is_number, point)) for point in points)
    )


def is_place(value: object) -> bool:
    """Says whether a JSON value is the name of a file in the folder or a shipped world, or of a published network."""
    return isinstance(value, str) and (value in PUBLISHED or FILE.fullmatch(value) is not None)


def is_folder_name(value: object) -> bool:
    """Says whether a JSON value names a sub-folder."""
    return isinstance(value, str) and re.fullmatch(r"\w[\w.-]{0,99}", value, re.ASCII) is not None


def is_roles(value: object) -> bool:
    """Says whether a JSON value maps roles to places."""
    return isinstance(value, dict) and all(role.isidentifier() and is_place(place) for role, place in value.items())


def is_judges(value: object) -> bool:
    """Says whether a JSON value lists judges, each of another name."""
    entries = value if isinstance(value, list) else ()
    whole = isinstance(value, list) and all(isinstance(entry, dict) and is_judge(entry) for entry in entries)
    return whole and len({entry["name"] for entry in entries}) == len(entries)


def is_judge(entry: dict) -> bool:
    """Says whether a JSON object is a judge's entry."""
    thresholds = entry.get("thresholds", {})
    return (
        {"name", "recognizer", "sees_users"} <= entry.keys() <= {*JudgeEntry.__dataclass_fields__}
        and isinstance(entry["name"], str)
        and entry["name"].isidentifier()
        and is_place(entry["recognizer"])
        and type(entry["sees_users"]) is bool
        and isinstance(thresholds, dict)
        and all(re.fullmatch(r"0\.\d{1,9}|1e-0?\d", rate) and is_number(value) for rate, value in thresholds.items())
        and type(entry.get("impostor_pairs", 0)) is int
    )


KEYS: dict[str, tuple[Callable[[object], bool], str]] = {
    "resolution": (lambda value: type(value) is int and 4 <= value <= 4096, "a side in pixels from 4 to 4096"),
    "grey": (lambda value: type(value) is bool, "true or false"),
    "frame": (is_frame, "null or five points [x, y]: left eye, right eye, nose tip, left and right corner of the mouth"),
    "users": (is_folder_name, "the name of a sub-folder"),
    "public": (is_folder_name, "the name of a sub-folder"),
    "photos_per_user": (lambda value: type(value) is int and 0 <= value <= 10**6, "a whole number from 0"),
    "shows_references": (lambda value: type(value) is bool, "true or false"),
    "roles": (
        is_roles,
        f"roles, each NAME.safetensors in the folder, or a shipped world's WORLD/NAME.safetensors, or {', '.join(PUBLISHED)}",
    ),
    "targets": (is_roles, "names of further targets, each with a place as roles have"),
    "judges": (is_judges, "a list of judges, each with a name of its own, recognizer and sees_users"),
}


def read_world_file(folder: Path) -> dict:
    """Returns the values of a folder's world.json, ready for World.

    Raises: ValueError when there is none, or a key or a value is none that a world has.
    """
    path = folder / NAME
    if not path.is_file():
        raise ValueError(
            f"expected a world, a folder with a {NAME}, got {folder}, which has none; train_gan.py --world=FOLDER begins one"
        )
    said = read_json(path, beside=path)
    if odd := sorted(said.keys() - KEYS.keys()):
        raise ValueError(f"expected the keys {', '.join(KEYS)} in {path}, got {show(odd[0])}")
    for key, value in said.items():
        check, expected = KEYS[key]
        if not check(value):
            raise ValueError(f"expected {key} to be {expected} in {path}, got {show(json.dumps(value))}")
    judges = [
        entry | {"thresholds": {float(rate): float(value) for rate, value in entry.get("thresholds", {}).items()}}
        for entry in said.pop("judges", [])
    ]
    frame = said.pop("frame", None)
    points = frame and tuple((float(x), float(y)) for x, y in frame)
    return {**said, "frame": points, "judge_entries": tuple(JudgeEntry(**entry) for entry in judges)}


def write_world_file(folder: Path, values: Mapping) -> None:
    """Writes what read_world_file returns; atomic."""
    judges = []
    for entry in values["judge_entries"]:
        said = asdict(entry) | {"thresholds": {f"{rate:g}": value for rate, value in entry.thresholds.items()}}
        judges.append({key: value for key, value in said.items() if value or key == "sees_users"})
    content = {key: values[key] for key in KEYS if key != "judges"} | {"judges": judges}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / NAME, json.dumps(content, indent=2) + "\n")
