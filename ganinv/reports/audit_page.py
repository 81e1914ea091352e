"""audit.json and audit.html: several attacks on one target as one report, the worst first."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from ganinv.engine.files import encode, write_atomically
from ganinv.json_data import read_json
from ganinv.judging.leak import SHOWN
from ganinv.reports.answers import name_users
from ganinv.reports.assessment import describe_assessment
from ganinv.reports.attributes import combine_tables
from ganinv.reports.combined import LADDER, AttackRow, combine_reports, write_combined
from ganinv.reports.page import embed
from ganinv.reports.provenance import flat_entries
from ganinv.reports.run_files import read_config, read_provenance

MOST_SHOWN = 10  # pictures in a strip
LIMITS = ("first_lost", "half_lost", "keeps_all")  # of a study of access


def write_audit(out: Path, folders: Mapping[str, Path], reports: Mapping[str, Mapping]) -> dict:
    """Returns what audit.json holds, after writing it and audit.html into a folder.

    folders: attack's name -> its run folder; reports: attack's name -> its report. Raises: ValueError, see combine_reports.
    """
    rows = combine_reports(
        reports, {name: read_config(folder).get("access", "gradients") for name, folder in folders.items()}
    )
    audit = {
        "verdict": write_combined(rows),
        "attacks": [dataclasses.asdict(row) | {"folder": folders[row.attack].name} for row in rows],
        "identities": reports[rows[0].attack]["identities"],
    }
    write_atomically(out / "audit.html", render_audit(rows, folders, reports, show_ladder(out / LADDER)))
    write_atomically(out / "audit.json", encode(audit, "audit.json", indent=2))
    return audit


def show_ladder(folder: Path) -> dict:
    """Returns what the page shows of a study of access: its rows, rate limits and figure; {} where there is none."""
    if not (folder / "curves.json").is_file():
        return {}
    study = read_json(folder / "curves.json")
    lines = [
        {
            "words": attacker["words"],
            **{name: "none tried" if attacker[name] is None else attacker[name] for name in LIMITS},
            "points": [
                f"{row['queries']}: {row['given_away'][0]} of {row['users']}" for row in attacker["rows"] if row["judged"]
            ],
        }
        for attacker in study["attackers"].values()
    ]  # fmt: skip
    return {"rows": lines, "figure": embed((folder / "curves.png").read_bytes())}


def render_audit(
    rows: list[AttackRow], folders: Mapping[str, Path], reports: Mapping[str, Mapping], ladder: Mapping = MappingProxyType({})
) -> str:
    """Returns audit.html. ladder: see show_ladder."""
    from jinja2 import Environment, StrictUndefined

    worst = rows[0].attack
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(Path(__file__).with_name("audit.html").read_text(encoding="utf-8"))
    config, place = read_config(folders[worst]), folders[worst] / "provenance.json"
    provenance = read_provenance(folders[worst]) if place.is_file() else {}  # one saved from Python has none
    tried = [f"{row.attack}: see {folders[row.attack].name}/report.html" for row in rows]
    assessment = describe_assessment(reports[worst], flat_entries(config), provenance) | {"What was tried": tried}
    return template.render(
        sentences=write_combined(rows),
        users=len(reports[worst]["identities"]),
        rows=[show_row(row, folders[row.attack], reports[row.attack]) for row in rows],
        assessment=assessment,
        attributes=combine_tables({row.attack: reports[row.attack] for row in rows}),
        ladder=ladder,
        style=read_style(),
    )


def show_row(row: AttackRow, folder: Path, report: Mapping) -> dict:
    """Returns what the page shows of an attack: words, and its first pictures."""
    given = row.given_away
    files = [folder / "images" / f"{identity}_0.png" for identity in report["identities"][:MOST_SHOWN]]
    return {
        "attack": row.attack,
        "access": row.access,
        "answer": "yes" if row.answer == SHOWN else row.answer,
        "given": f"{given['hits']} of {given['n']}" if given else row.reason,
        "null": "-" if row.null is None else f"{100 * row.null:.0f} %",
        "p": "-" if row.p is None else f"{row.p:.2g}",
        "images": "-" if row.images is None else row.images,
        "seconds": "-" if row.seconds is None else f"{row.seconds:.0f} s",
        "strip": [embed(file.read_bytes()) for file in files if file.is_file()],
        "users": [name_users(report, [identity]) for identity in report["identities"]],
        "verdict": report["verdict"],
        "remarks": report.get("remarks", []),
        "folder": folder.name,
    }


def read_style() -> str:
    """Returns the style of report.html, print style included."""
    page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
