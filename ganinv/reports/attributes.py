"""What is known and given away of people's attributes, as tables and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tabulate import tabulate

from ganinv.attributes.probes import Probe
from ganinv.judging.attributes import MEAN, ONE, OWN, PICTURES
from ganinv.reports.answers import count, name_control

SHOWN_OF_A_USER = 5  # attributes, those that the target knows best


# ---- what networks know


def format_ceilings(probes: Mapping[str, Probe]) -> str:
    """Returns the table of what each network's embedding says of public people, in Markdown, the most telling first."""
    parts = []
    for name, probe in probes.items():
        order = sorted(probe.attributes, key=lambda one: -probe.ceilings[one.name]["explained"]["mean"])
        rows = [[mark(one.name, one.special), *describe_ceiling(probe.ceilings[one.name], one.unit)] for one in order]
        head = ["attribute", "variance explained", "read off a template", "guessing"]
        said = f"Read off {name}'s embeddings of {probe.people} people ({probe.photos} photos)"
        parts += [f"## {name}\n", f"{said}, each predicted by a fit that left the person out.\n"]
        parts.append(tabulate(rows, head, "pipe", disable_numparse=True) + "\n")
        parts += [f"- {attribute}: absent, it {reason}" for attribute, reason in probe.absent.items()]
    return "\n".join(parts).rstrip() + "\n"


def describe_ceiling(ceiling: Mapping, unit: str) -> list[str]:
    """Returns the cells of a ceiling: variance explained, what is read off, and what guessing gives."""
    explained = show_interval(ceiling["explained"])
    if "accuracy" in ceiling:
        return [explained, f"right in {percent(ceiling['accuracy'])}", f"right in {100 * ceiling['accuracy_guessing']:.1f} %"]
    unit = show_unit(unit)
    return [explained, f"off by {show_interval(ceiling['error'], 3)}{unit}", f"off by {ceiling['error_guessing']:.3g}{unit}"]


# ---- what a run gives away


def write_attributes(report: Mapping) -> str:
    """Returns in words what was recovered of what is knowable; "" where no run of this version wrote it."""
    found = report.get("attributes", {})
    if not found:
        return ""
    if "absent" in found:
        return f"What was recovered of the users' attributes? Nobody could say: {found['absent']}."
    if "share" not in found["overall"]:
        return f"What was recovered of the users' attributes? {write_unknown(found)}"
    knowable, share = found["overall"]["knowable"], found["overall"]["share"]
    pictures = found["overall"][PICTURES]
    low, high = share["ci95"]
    interval = "" if low is None else f" (95 % interval {100 * low:.0f} % to {100 * high:.0f} %)"
    basis = "" if knowable["of"] == "public people" else f", as read off {knowable['of']}"
    text = (
        f"What was recovered of what is knowable? {100 * share['mean']:.0f} %{interval}. The recognizer's own embedding "
        f"explains {100 * knowable['mean']:.0f} % of how people differ in the "
        f"{count(knowable['attributes'], 'attribute')} of which it knows anything{basis}; the pictures explain "
        f"{100 * pictures['mean']:.0f} %"
    )
    beside = [
        f"{name_control(source) if source != ONE else 'one picture as it is'} {100 * found['overall'][source]['mean']:.0f} %"
        for source in list_sources(found)
        if source != PICTURES
    ]
    text += "".join(f", {line}" for line in beside)
    how = "as calibrated on other people" if not found["calibrated"] else f"not calibrated, {found['calibrated']}"
    return f"{text} (0 % is guessing, less is worse than guessing; {how}; taken for true: {found['truth']})."


def write_unknown(found: Mapping) -> str:
    """Returns why there is no share."""
    if "ceiling" in found["unmeasured"]:
        return f"Nobody could say what is knowable: it {found['unmeasured']['ceiling']}."
    return "The recognizer's embedding tells none of them."


def list_sources(found: Mapping) -> list[str]:
    """Returns the sources of a report's attributes in the order in which they are shown."""
    present = [source for source in found["overall"] if source not in ("knowable", "share")] or [PICTURES]
    first = [source for source in (found["stored"], PICTURES, ONE, MEAN, OWN) if source in present]
    return first + [source for source in present if source not in first]


def make_table(report: Mapping) -> dict | None:
    """Returns the table of what is given away: "columns" (source -> words), and "rows", those that the target knows first,
    each with "name", "special", "known", "guessing", "ceiling" and "cells"; None without one."""
    found = report.get("attributes", {})
    if not found or "absent" in found:
        return None
    sources = list_sources(found)
    rows = [make_row(row, sources) for row in sort_rows(found["rows"])]
    return {
        "columns": {source: name_control(source) for source in sources}, "rows": rows, "reader": found["reader"],
        "truth": found["truth"], "samples": found["samples"], "calibrated": found["calibrated"],
        "coverage": found["coverage"] and f"{100 * found['coverage']['mean']:.0f} %", "unmeasured": found["unmeasured"],
    }  # fmt: skip


def sort_rows(rows: Sequence[Mapping]) -> list[Mapping]:
    """Returns rows by what the target knows of them, most first; those of which nobody says as they are."""
    return sorted(rows, key=lambda row: -row["ceiling"]["explained"]["mean"] if row["ceiling"] else 0.0)


def make_row(row: Mapping, sources: Sequence[str]) -> dict:
    """Returns a row of the table in words."""
    unit, first = show_unit(row["unit"]), next(iter(row["beside_guessing"].values()))
    if row["values"]:
        guessing = f"{100 * first['accuracy_guessing']:.0f} % right"
    else:
        guessing = f"off by {first['error_guessing']:.2g}{unit}"
    cells = {}
    for source in sources:
        if source not in row["explained"]:
            continue
        beside = row["beside_guessing"][source]
        if row["values"]:
            said = f"{100 * beside['accuracy']['mean']:.0f} % right"
        else:
            said = f"off by {beside['error']['mean']:.2g}{unit}"
        cells[source] = {"explained": show_interval(row["explained"][source]), "said": said}
    ceiling = row["ceiling"] and {
        "explained": show_interval(row["ceiling"]["explained"]), "said": describe_ceiling(row["ceiling"], row["unit"])[1],
    }  # fmt: skip
    return {
        "name": row["name"].replace("_", " "), "special": row["special"], "known": row["known"], "guessing": guessing,
        "ceiling": ceiling, "cells": cells,
    }  # fmt: skip


def combine_tables(reports: Mapping[str, Mapping]) -> dict | None:
    """Returns one table of several attacks on a target, as make_table has it: what is stored, and each attack's pictures.

    "said": attack -> write_attributes of it. None where no attack has a table.
    """
    tables = {name: table for name, report in reports.items() if (table := make_table(report))}
    if not tables:
        return None
    table = next(iter(tables.values()))
    stored = reports[next(iter(tables))]["attributes"]["stored"]
    shown = {stored: stored} if stored in table["columns"] else {}
    rows = []
    for row in table["rows"]:
        cells = {name: cell for name, cell in row["cells"].items() if name in shown}
        for attack, other in tables.items():
            theirs = {one["name"]: one["cells"] for one in other["rows"]}.get(row["name"], {})
            cells |= {attack: theirs[PICTURES]} if PICTURES in theirs else {}
        rows.append({**row, "cells": cells})
    said = {name: write_attributes(reports[name]) for name in tables}
    return {**table, "columns": shown | {name: f"pictures: {name}" for name in tables}, "rows": rows, "said": said}


def describe_user(report: Mapping, identity: int) -> list[dict]:
    """Returns what is given away of one user, of the attributes that the target knows best: "name", "said", "true"."""
    found = report.get("attributes", {})
    users = {user["identity"]: user["attributes"] for user in found.get("users", [])}
    units = {row["name"]: row["unit"] for row in found.get("rows", [])}
    order = [row["name"] for row in sort_rows(found.get("rows", [])) if row["name"] in users.get(identity, {})]
    lines = []
    for name in order[:SHOWN_OF_A_USER]:
        entry, unit = users[identity][name], show_unit(units[name])
        if "agree" in entry:
            said = (
                f"{entry['estimate']} ({100 * entry['agree']:.0f} % of the pictures)"
                if len(entry["samples"]) > 1
                else entry["estimate"]
            )
            true = entry["truth"]
        else:
            said = f"{entry['estimate']:.3g}{unit}"
            if "interval" in entry:
                low, high = entry["interval"]
                said = f"{said} ({low:.2g} to {high:.2g})"
            true = f"{entry['truth']:.3g}"
        lines.append({"name": name.replace("_", " "), "said": said, "true": true})
    return lines


def format_run(report: Mapping) -> str:
    """Returns the table of a run's attributes in Markdown, and what it says in words."""
    table = make_table(report)
    if table is None:
        return write_attributes(report) + "\n"
    head = ["attribute", "guessing", "the target knows", *table["columns"].values()]
    rows = [
        [
            mark(row["name"], row["special"]), row["guessing"], row["ceiling"]["explained"] if row["ceiling"] else "-",
            *(", ".join(row["cells"][s].values()) if s in row["cells"] else "-" for s in table["columns"]),
        ]
        for row in table["rows"]
        if row["known"] is not False
    ]  # fmt: skip
    unknown = ", ".join(row["name"] for row in table["rows"] if row["known"] is False)
    unknown = f"\nThe target does not know, so that no attack on it can tell: {unknown}.\n" if unknown else ""
    covered = f"90 % intervals hold {table['coverage']} of the values.\n\n" if table["coverage"] else ""
    return f"{write_attributes(report)}\n\n{covered}{tabulate(rows, head, 'pipe', disable_numparse=True)}\n{unknown}"


# ---- words


def mark(name: str, special: bool) -> str:
    """Returns an attribute's name, marked where it is of a special category."""
    return f"{name} (GDPR Art. 9)" if special else name


def show_unit(unit: str) -> str:
    """Returns " cm", "" of what has no unit."""
    return "" if unit in ("1", "ratio", "") else f" {unit}"


def percent(entry: Mapping) -> str:
    """Returns "92.7 % [91.5, 93.8]"."""
    low, high = entry["ci95"]
    return f"{100 * entry['mean']:.1f} %" + ("" if low is None else f" [{100 * low:.1f}, {100 * high:.1f}]")


def show_interval(entry: Mapping, digits: int = 2) -> str:
    """Returns "0.12 [0.10, 0.14]"; digits: behind the point, or significant ones from 3 on."""

    def show(value: float) -> str:
        return f"{value:.{digits}g}" if digits > 2 else f"{value:.{digits}f}"

    low, high = entry["ci95"]
    return show(entry["mean"]) + ("" if low is None else f" [{show(low)}, {show(high)}]")
