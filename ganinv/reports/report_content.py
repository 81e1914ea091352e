"""What report.json holds: the judgement of a run, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ganinv.errors import Absent
from ganinv.judging.controls import strongest_differences
from ganinv.reports.answers import write_remarks, write_verdict
from ganinv.reports.report_file import COST_KEYS

if TYPE_CHECKING:
    from ganinv.attack.result import AttackResult, Cost
    from ganinv.judging.judgement import Judgement
    from ganinv.worlds.photo_check import PhotoCheck


MOST_NAMES = 1000  # in a report
BESIDE = ("stuck", "steps", "names", "photo_check")  # entries that are no judgement


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
    beside: Mapping[str, object] = {},  # noqa: B006
) -> dict:
    """Returns a report, whose schema is check_report. cost: Absent where the pictures were made elsewhere; files: path in
    the run folder -> SHA-256; goal: of the search, "class" or "template", None without one; queries: see
    Queries.describe, None where nobody counted them; beside: what else there is to say, of describe_search and
    describe_target."""
    verdict, controls = judgement.verdict, judgement.controls
    unknown = {"cost": cost.reason} if isinstance(cost, Absent) else {}
    report = {
        "method": method,
        "world": world,
        "identities": [int(identity) for identity in identities],
        "seed": seed,
        "summary": verdict.summary,
        "per_identity": verdict.per_identity,
        "cost": {key: getattr(cost, key, None) for key in COST_KEYS}
        | {"search_seconds": getattr(cost, "search_seconds", None), "verdict_seconds": judgement.seconds},
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
        "queries": None if queries is None else dict(queries) | {"per_identity": name_counts(queries)},
        **beside,
    }
    return report | {"verdict": write_verdict(report), "remarks": write_remarks(report)}


def name_counts(queries: Mapping) -> dict[str, int]:
    """Returns str(identity) -> pictures asked for it, as JSON keeps it."""
    return {str(identity): count for identity, count in queries.get("per_identity", {}).items()}


def describe_search(result: AttackResult) -> dict:
    """Returns the entries "stuck", users whom the search did not move, and "steps", how many it could take."""
    steps = {} if result.config is None else {"steps": result.config.steps}
    return {"stuck": [int(identity) for identity in result.stuck]} | steps


def describe_target(names: Sequence[str], identities: Sequence[int], check: PhotoCheck | None) -> dict:
    """Returns the entries "names", number -> name of the target's users (of very many, those attacked), and "photo_check",
    as far as there are any."""
    shown = range(len(names)) if len(names) <= MOST_NAMES else identities
    named = {str(identity): names[identity] for identity in shown if identity < len(names)}
    return ({"names": named} if named else {}) | ({"photo_check": check.describe()} if check is not None else {})


def describe(found) -> dict:
    """Returns an entry of the report, {"absent": reason} of what is Absent."""
    return {"absent": found.reason} if isinstance(found, Absent) else found.describe()
