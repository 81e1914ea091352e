"""What report.json holds: the judgement of a run, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ganinv.errors import Absent
from ganinv.judging.controls import strongest_differences
from ganinv.reports.answers import write_verdict
from ganinv.reports.report_file import COST_KEYS

if TYPE_CHECKING:
    from ganinv.attack.invert import Cost
    from ganinv.judging.judgement import Judgement


def build_report(
    *,
    method: str,
    world: str,
    seed: int,
    identities: Sequence[int],
    judgement: Judgement,
    cost: Cost | Absent,
    goal: str | None = None,
    queries: Mapping | None = None,
    files: Mapping[str, str],
) -> dict:
    """Returns a report, whose schema is check_report. cost: Absent where the pictures were made elsewhere; files: path in
    the run folder -> SHA-256; goal: of the search, "class" or "template", None without one; queries: see
    Queries.describe, None where nobody counted them."""
    verdict, controls = judgement.verdict, judgement.controls
    unknown = {"cost": cost.reason} if isinstance(cost, Absent) else {}
    report = {
        "method": method,
        "world": world,
        "identities": [int(identity) for identity in identities],
        "seed": seed,
        "summary": verdict.summary,
        "per_identity": verdict.per_identity,
        "cost": {key: getattr(cost, key, None) for key in COST_KEYS} | {"verdict_seconds": judgement.seconds},
        "absent": verdict.absent | unknown,
        "headline": strongest_differences(verdict, controls, seed),
        "controls": {name: control.summary for name, control in controls.items()},
        "ceiling": judgement.ceiling,
        "judges": judgement.judges,
        "factors": judgement.factors,
        "pictures": verdict.pictures,
        "type_i": judgement.type_i,
        "memory": judgement.memorisation,
        "sets": verdict.sets,
        "files": dict(files),
        "leak": describe(judgement.leak),
        "selection": describe(judgement.selection),
        "sar": describe(judgement.success),
        "attributes": describe(judgement.attributes),
        "goal": goal,
        "queries": None if queries is None else dict(queries),
    }
    return report | {"verdict": write_verdict(report)}


def describe(found) -> dict:
    """Returns an entry of the report, {"absent": reason} of what is Absent."""
    return {"absent": found.reason} if isinstance(found, Absent) else found.describe()
