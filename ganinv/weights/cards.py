"""Cards: the JSON beside a weight file, which carries its SHA-256."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ganinv.weights.files import sha256_file
from ganinv.weights.quoting import first_line, show

MOST_JSON_BYTES = 1 << 20  # a card has a few thousand


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


def read_json(path: Path, *, beside: str | Path) -> dict:
    """Returns the JSON object of the file that lies beside a weight file.

    Raises: ValueError when it is no regular file, lies by a link outside the folder of the weight file or of what that
    is a link to, is larger than a mebibyte, or holds something else.
    """
    beside = Path(beside)
    if not path.is_file() or path.resolve().parent not in (beside.parent.resolve(), beside.resolve().parent):
        what = "a link out of its folder" if path.is_symlink() else "something else"
        raise ValueError(f"expected a regular file {path} beside {beside}, got {what}; copy the file itself there")
    with open(path, "rb") as file:
        text = file.read(MOST_JSON_BYTES + 1)
    if len(text) > MOST_JSON_BYTES:
        raise ValueError(f"expected at most {MOST_JSON_BYTES} bytes of JSON in {path}, got more; copy it again")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:  # no JSON, no text, a number of thousands of digits, nested too deeply
        raise ValueError(
            f"expected JSON in {path}, got something other than a JSON object ({first_line(error)}); copy it again"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"expected JSON in {path}, got something other than a JSON object; copy it again")
    return found
