"""What a cell of the study found, in a file of its own: numbers alone, and the key of all that they depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ganinv.engine.files import encode, plain, write_atomically
from ganinv.json_data import read_json
from ganinv.studies.access.plan import ATTACKERS, Cell

VERSION = 1  # of the methods: another one makes every cell a new one
FOLDER = "cells"  # in the folder of results


def describe_key(
    cell: Cell, weights: Mapping[str, Mapping], identities: Sequence[int], judges: Sequence[str], settings: Mapping
) -> dict:
    """Returns all that a cell's numbers depend on. weights: role -> {"file", "sha256"}, as provenance has them.

    judges: who judge, among the roles; a cell with another prior, target, gallery or judge is another cell.
    """
    roles = ("prior", "target", "gallery", "references", "surrogate", *judges)
    return {
        "version": VERSION, "attacker": plain(ATTACKERS[cell.attacker]), "seed": cell.seed, "identities": list(identities),
        "judges": list(judges), "settings": dict(settings),
        "weights": {role: weights[role]["sha256"] for role in roles if role in weights},
    }  # fmt: skip


def hash_key(key: Mapping) -> str:
    """Returns the SHA-256 of a key."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def read_record(out: Path, cell: Cell) -> dict | None:
    """Returns what a cell found; None where nothing is there. Raises: ValueError for a file that is none."""
    file = out / FOLDER / f"{cell.name}.json"
    if not file.is_file():
        return None
    return read_json(file, {"key": dict, "points": dict, "attacker": str, "seed": int, "target": str})


def open_record(out: Path, cell: Cell, key: Mapping) -> dict:
    """Returns a cell's record: the one that is there, or an empty one where that has another key."""
    record = read_record(out, cell)
    if record is not None and hash_key(record["key"]) == hash_key(key):
        return record
    return {
        "target": cell.target, "attacker": cell.attacker, "seed": cell.seed, "key": dict(key), "points": {}, "seconds": {}
    }  # fmt: skip


def write_record(out: Path, cell: Cell, record: Mapping) -> None:
    """Writes a cell's record; a reader finds the old one or the new one."""
    (out / FOLDER).mkdir(parents=True, exist_ok=True)
    write_atomically(out / FOLDER / f"{cell.name}.json", encode(record, cell.name, indent=None))


def list_records(out: Path) -> list[dict]:
    """Returns all records of attackers that there are, by target, then as the plan has them, then by seed."""
    files = sorted((out / FOLDER).glob("*.json"))
    kinds = {"key": dict, "points": dict, "attacker": str, "seed": int, "target": str}
    records = [record for file in files if (record := read_json(file, kinds))["attacker"] in ATTACKERS]
    order = list(ATTACKERS)
    return sorted(records, key=lambda record: (record["target"], order.index(record["attacker"]), record["seed"]))
