"""Cards: the JSON beside a weight file, which carries its SHA-256 and says what the network was trained on.

"data": {"public": {"photos": 8056, "people": 4535, "hash_range": [0.0, 0.8], "words": "8056 photos of ..."},
         "users": {"photos": 824, "people": 40, "split": "train", "most": 60, "words": "824 photos of ..."}}
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ganinv import json_data
from ganinv.weights.files import sha256_file
from ganinv.weights.quoting import show


def read_card(path: str | Path) -> dict:
    """Returns the card beside a weight file, which must carry the file's SHA-256.

    Raises: ValueError when the card is missing or no JSON object, or the SHA-256 is another; see read_json.
    """
    card_path = Path(path).with_suffix(".json")
    if not os.path.lexists(card_path):
        raise ValueError(f"expected the card {card_path} beside {path}, got none; copy both files")
    card = read_json(card_path, beside=path)
    if not isinstance(card.get("sha256"), str):
        raise ValueError(f"expected a card with sha256 in {card_path}, got none; write it with save_recognizer or save_prior")
    if (digest := sha256_file(path)) != card["sha256"]:
        raise ValueError(
            f"expected SHA-256 {show(card['sha256'][:12])}... of {path}, got {digest[:12]}...; copy both files again"
        )
    return card


def find_card(file: Path | None) -> dict:
    """Returns the card beside a weight file; {} where there is no such file or card: code, an adapter's checkpoint."""
    if file is None or not Path(file).is_file():
        return {}
    try:
        return read_card(file)
    except ValueError:  # an adapter's card may lack what ours have
        return {}


def describe_photos(
    photos: int, people: int, *, hash_range: tuple[float, float] | None = None, split: str = "", most: int = 0
) -> dict:
    """Returns what a card says of photos that a network was trained on.

    hash_range: those people took part whose name hashes into [low,high); split: of each person's photos; most: of them.
    """
    words = f"{photos} photos of {people} people"
    if hash_range is not None:
        words += f", those whose name hashes into [{hash_range[0]},{hash_range[1]})"
    if split:
        words += f", split {split}" + (f", at most {most} each" if most else "")
    said = {"photos": photos, "people": people, "hash_range": hash_range and [*hash_range], "split": split, "most": most}
    return {name: value for name, value in said.items() if value not in (None, "", 0)} | {"words": words}


def read_photos(card: Mapping, who: str) -> dict:
    """Returns what a card says of the photos of "public" or "users" that a network was trained on; {} where it does not."""
    data = card.get("data")
    said = data.get(who) if isinstance(data, Mapping) else None
    return dict(said) if isinstance(said, Mapping) else {}


def read_hash_range(card: Mapping) -> tuple[float, float] | None:
    """Returns which public people a network was trained on, those whose name hashes into [low,high); None if unsaid."""
    ends = read_photos(card, "public").get("hash_range")
    if not isinstance(ends, list) or len(ends) != 2 or not all(type(end) in (int, float) for end in ends):
        return None
    return (float(ends[0]), float(ends[1])) if 0 <= ends[0] < ends[1] <= 1 else None


def read_json(path: Path, *, beside: str | Path) -> dict:
    """Returns the JSON object of the file that lies beside a weight file.

    Raises: ValueError when it is no regular file, lies by a link outside the folder of the weight file or of what that
    is a link to, is larger than json_data.MOST_BYTES, or holds something else.
    """
    beside = Path(beside)
    if not path.is_file() or path.resolve().parent not in (beside.parent.resolve(), beside.resolve().parent):
        what = "a link out of its folder" if path.is_symlink() else "something else"
        raise ValueError(f"expected a regular file {path} beside {beside}, got {what}; copy the file itself there")
    return json_data.read_json(path)
