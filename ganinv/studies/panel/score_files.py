"""A panel scored: the files of raters read, the score written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ganinv import json_data
from ganinv.engine.files import clear_errors, write_atomically
from ganinv.studies.panel.answers import check_answers, check_key, check_raters
from ganinv.studies.panel.score_table import format_score
from ganinv.studies.panel.scoring import score_panel

MOST_BYTES = 1 << 26  # a key lists every item


def write_files(contents: Mapping[Path, str]) -> None:
    """Writes text files, each under a temporary name first. Raises: ValueError or FaultError when one cannot be written."""
    for file, text in contents.items():
        with clear_errors(file, ValueError):
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, text)


def score_answers(config) -> None:
    """Prints the score and writes it as Markdown and JSON. Raises: ValueError when the key or an answer file is bad."""
    if not config.key:
        raise ValueError("expected --key=NAME.key.json, the file beside the page, got none")
    key_file = Path(config.key).expanduser()
    key = check_key(read_json(key_file), key_file)
    answers = [check_answers(read_json(file), key, file) for file in config.answers]
    check_raters(answers, config.answers)
    result = score_panel(key, answers, config.catch_threshold)
    text = format_score(result)
    stem = key_file.name.removesuffix(".json").removesuffix(".key")
    folder = Path(config.out or key_file.parent).expanduser()
    files = {folder / f"{stem}.score.md": text, folder / f"{stem}.score.json": json.dumps(result, indent=2) + "\n"}
    write_files(files)
    print(text)
    print(*files, sep="\n")


def read_json(file: str | Path) -> object:
    """Returns what a JSON file holds. Raises: ValueError naming it."""
    return json_data.read_json(file, object, most=MOST_BYTES)
