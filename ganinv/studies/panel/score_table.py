"""The score of a panel as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ganinv.reports.markdown import format_rows as format_table
from ganinv.studies.panel.trials import CHANCE, CHOICES


def format_score(score: Mapping) -> str:
    """Returns the score as Markdown."""
    raters = score["raters"]
    flagged = [rater for rater in raters if rater["flagged"]]
    parts = [f"# Human raters, panel {score['panel']}\n"]
    parts.append(
        f"{count_of(len(raters), 'rater')}, {len(flagged)} flagged. Each picture was shown with {CHOICES} people, one of "
        f"whom counts as right: chance is {CHANCE:.2f}.\n"
    )
    if score["rows"]:
        parts.append(format_rows(score["rows"]))
        parts.append(
            "Share of right answers [95 % interval, raters and users resampled; where all answers are alike, exact binomial "
            "over users]. p: one-sided, exact, of so many right answers if the pictures told nothing of their users, "
            "whatever raters agree on; not corrected for the number of rows. Over control: the difference to the strongest "
            "control, paired by rater and user.\n"
        )
    parts += [f"Absent: {name}: {reason}.\n" for name, reason in score["absent"].items()]
    if agreement := score["agreement"]:
        fleiss = agreement["fleiss_kappa"]
        parts.append(
            f"Agreement of {agreement['raters']} raters on {agreement['items']} pictures (catch trials apart): "
            f"{agreement['observed']:.2f} of pairs chose the same person; kappa {agreement['kappa']:.2f} with chance at "
            f"{CHANCE:.2f}; Fleiss' kappa {'undefined' if fleiss is None else f'{fleiss:.2f}'}.\n"
        )
    parts.append(
        f"## Raters\n\nFlagged: right in fewer than {score['catch_threshold']:.0%} of the catch trials; in no row above.\n"
    )
    cells = [["rater", "catch trials right", "median seconds a picture", ""]]
    for rater in raters:
        caught = f"{rater['catch_correct']}/{rater['catch_n']}"
        cells.append([rater["rater"], caught, f"{rater['median_seconds']:.1f}", "flagged" if rater["flagged"] else ""])
    parts.append(format_table(cells[0], cells[1:], words=len(cells[0])))
    if "rows_all" in score:
        parts.append("## With the flagged raters\n")
        parts.append(format_rows(score["rows_all"]))
    return "\n".join(parts)


def format_rows(rows: Sequence[Mapping]) -> str:
    """Returns a Markdown table of conditions."""
    compared = any("over_control" in row for row in rows)
    head = ["pictures", "accuracy [95 %]", "over chance", "p", "right", "raters", "users", "median seconds"]
    cells = [[*head, "over control [95 %]"] if compared else head]
    for row in rows:
        name = f"control: {row['condition']}" if row["kind"] == "control" else row["condition"]
        line = [name, format_interval(row["accuracy"], row["ci95"], ".2f"), f"{row['over_chance']:+.2f}"]
        line.append("<0.001" if row["p_over_chance"] < 0.001 else f"{row['p_over_chance']:.3f}")
        line += [f"{row['correct']}/{row['n']}", str(row["raters"]), str(row["users"]), f"{row['median_seconds']:.1f}"]
        if compared:
            over = row.get("over_control")
            line.append(format_interval(over["mean"], over["ci95"], "+.2f") if over else "-")
        cells.append(line)
    return format_table(cells[0], cells[1:], words=len(cells[0]))


def format_interval(mean: float, interval: Sequence[float | None], digits: str) -> str:
    """Returns "0.80 [0.60, 0.95]", without the brackets where there is no interval."""
    low, high = interval
    return f"{mean:{digits}}" + ("" if low is None else f" [{low:{digits}}, {high:{digits}}]")


def count_of(count: int, noun: str) -> str:
    """Returns "1 rater" or "2 raters"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
