"""Several attacks on one target in one table, the worst first: does it leak, and to whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ganinv.judging.leak import NOT_SHOWN, SHOWN, SUGGESTED
from ganinv.reports.answers import ANSWERS, count_hits, describe_interval

LADDER = "access"  # folder of an audit in which the study of access lies, where it was asked for
ORDER = (SHOWN, SUGGESTED, NOT_SHOWN, "unknown")


@dataclass(frozen=True, kw_only=True)
class AttackRow:
    """One attack's answers.

    attack: its name; access: what it could see of the target; answer: of the first question, "unknown" where nobody could
    judge; given_away: {"hits", "n", "share", "ci95"}, None then; null: the share of the strongest null; selection: the
    second answer; images: pictures shown to the target, None where unknown; reason: why the answer is unknown.
    """

    attack: str
    access: str
    answer: str
    given_away: Mapping | None
    null: float | None
    p: float | None
    selection: str
    images: int | None
    seconds: float | None
    reason: str = ""


def combine_reports(reports: Mapping[str, Mapping], access: Mapping[str, str] | None = None) -> list[AttackRow]:
    """Returns one row an attack, the worst first: by answer, then by the share given away, then by the fewest pictures.

    reports: attack's name -> its report, all of the same users; access: name -> rung, "gradients" where it is not named.
    Raises: ValueError without reports, or where they are of other users.
    """
    if not reports:
        raise ValueError("expected at least one report, got none; run an attack first")
    users = {name: report["identities"] for name, report in reports.items()}
    first = next(iter(users))
    for name, theirs in users.items():
        if theirs != users[first]:
            raise ValueError(
                f"expected reports of the same users, got {users[first]} in {first} and {theirs} in {name}"
                "; audit the same users in all"
            )
    rows = [make_row(name, report, (access or {}).get(name, "gradients")) for name, report in reports.items()]
    return sorted(rows, key=rank_row)


def make_row(name: str, report: Mapping, access: str) -> AttackRow:
    """Returns one attack's row."""
    leak = report.get("leak", {"absent": "the report is of an earlier version"})
    known = "absent" not in leak
    return AttackRow(
        attack=name,
        access=access,
        answer=leak["answer"] if known else "unknown",
        given_away=leak["given_away"] if known else None,
        null=max((row["given_away"]["share"] for row in leak["nulls"]), default=None) if known else None,
        p=leak["p"] if known else None,
        selection=report.get("selection", {}).get("answer", "unknown"),
        images=report["cost"]["images_evaluated"],
        seconds=report["cost"]["seconds"],
        reason="" if known else leak["absent"],
    )


def rank_row(row: AttackRow) -> tuple:
    """Returns what rows are sorted by."""
    share = row.given_away["share"] if row.given_away is not None else 0.0
    return ORDER.index(row.answer), -share, row.images if row.images is not None else float("inf")


def write_combined(rows: Sequence[AttackRow]) -> list[str]:
    """Returns the verdict of several attacks: what the worst of them found, and to how many it did so."""
    worst = rows[0]
    if worst.given_away is None:
        return [f"Does it leak? Not answered: {worst.reason}."]
    shown = [row for row in rows if row.answer == SHOWN]
    answer = ANSWERS.get(worst.answer, f"Not shown with {worst.given_away['n']} users")
    found = f"{count_hits(worst.given_away)} ({describe_interval(worst.given_away)})"
    said = f"the worst of {len(rows)} attacks, {worst.attack}, gives away {found}"
    if len(rows) > 1 and not any(row.given_away is None or row.given_away["hits"] for row in rows):
        said = f"each of {len(rows)} attacks gives away {found}"
    sentences = [f"Does it leak? {answer}: {said}."]
    if shown:
        who = ", ".join(dict.fromkeys(row.access for row in shown))
        sentences.append(f"To whom? It is shown for attackers who hold {who}.")
    return [*sentences, "An attack that is not in this list may find more."]
