"""The JSON files of a run folder, which somebody may have sent: read here, bounded, and every value of its kind."""

from __future__ import annotations

from pathlib import Path

from ganinv.json_data import NUMBER, WHOLE, find_mismatch, parse_json, read_json

MOST_BYTES = 1 << 26  # a report of a thousand users has some megabytes
MOST_ROWS = 1_000_000  # of steps.jsonl
PROVENANCE = {
    "weights?": {"*": {"file": str, "sha256": str}},
    "code?": {"*": list},
    "argv?": [str],
    "packages?": {"*": str},
    "photos?": str,
    "precision?": (str, dict),
}
CONFIG = {
    **{f"{name}?": str for name in ("world", "identities", "space", "target", "generator", "gallery", "classes", "judge")},
    **{f"{name}?": str for name in ("photos", "label", "goal", "access", "variant", "start", "templates")},
    "threshold?": (NUMBER, None),
    "keep?": WHOLE,
    "psi?": NUMBER,
    "steps?": WHOLE,
    "candidates?": WHOLE,
    "seed?": WHOLE,
    "optim?": dict,
    "augment?": dict,
}
STEP = {"step": WHOLE, "identities?": {"*": NUMBER}}
STEP |= {f"{name}?": NUMBER for name in ("seconds", "gradient_queries", "objective", "target_score")}


def read_config(folder: str | Path, kind: object = CONFIG) -> dict:
    """Returns config.json of a run folder. Raises: ValueError, see read_json."""
    return read_json(Path(folder) / "config.json", kind)


def read_provenance(folder: str | Path) -> dict:
    """Returns provenance.json of a run folder. Raises: ValueError, see read_json."""
    return read_json(Path(folder) / "provenance.json", PROVENANCE)


def read_steps(folder: str | Path) -> list[dict]:
    """Returns the rows of steps.jsonl; none where it is not there. Raises: ValueError naming a row that is none."""
    file = Path(folder) / "steps.jsonl"
    if not file.is_file():
        return []
    rows: list[dict] = []
    with open(file, encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = parse_json(line)
            except ValueError as error:
                raise ValueError(f"expected JSON in line {number} of {file}, got something else ({error})") from error
            problem = find_mismatch(row, STEP) or (f"more than {MOST_ROWS} rows" if number > MOST_ROWS else None)
            if problem:
                raise ValueError(f"expected a row of a run in line {number} of {file}, got {problem}")
            rows.append(row)
    return rows
