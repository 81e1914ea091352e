"""The findings of a benchmark as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

HEAD = "| what | unit | against | theirs | float32 | auto | float32, times | auto, times |"
CHEAP = " theirs, cheap allocation | float32, times | auto, times |"


def show(spread: Mapping | None) -> str:
    """Returns a median and its quartiles."""
    return "-" if spread is None else f"{number(spread['median'])} [{number(spread['low'])}, {number(spread['high'])}]"


def number(value: float) -> str:
    """Returns a number with three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def pick(by_side: Mapping, side: str) -> Mapping | None:
    """Returns what a column shows; a measure with one precision of its own stands under auto."""
    return by_side.get(side) or (by_side.get("default") if side == "auto" else None)


def format_row(row: Mapping, cheap: Mapping | None) -> str:
    """Returns one line: a row under the default allocation and, where it was measured, under the cheap one."""
    if "absent" in row:
        return f"| {row['what']} | absent: {row['absent']} |" + " |" * 9
    times = [row["times"][row["against"]], *(pick(row["times"], side) for side in ("float32", "auto"))]
    cells = [row["what"], row["unit"], row["against"], *map(show_median, times)]
    cells += [show(pick(row["ratios"], side)) for side in ("float32", "auto")]
    cells += [show_median(cheap["times"][cheap["against"]] if cheap else None)]
    cells += [show(pick(cheap["ratios"], side) if cheap else None) for side in ("float32", "auto")]
    return f"| {' | '.join(cells)} |"


def show_median(spread: Mapping | None) -> str:
    """Returns a median."""
    return "-" if spread is None else number(spread["median"])


def format_table(found: Mapping) -> str:
    """Returns all findings: speed, growth, memory, and on what machine."""
    machine, rows = found["machine"], found["rows"]
    cheap = {row["what"]: row for row in rows if row["allocator"] == "cheap"}
    shown = [row for row in rows if row["allocator"] == "default"]
    lines = [f"{HEAD}{CHEAP}", "|---|---|---|" + "---:|" * 8, *(format_row(row, cheap.get(row["what"])) for row in shown)]
    if found["growth"]:
        lines += ["", "| time grows along | sizes | seconds | log-log slope |", "|---|---|---|---:|"]
    lines += [
        f"| {row['along']} | {join(row['sizes'])} | {join(map(number, row['seconds']))} | {row['slope']:.2f} |"
        for row in found["growth"]
    ]
    if found["memory"]:
        lines += ["", "| peak memory of a process | MiB | of these, by what was run |", "|---|---:|---:|"]
    lines += [f"| {row['case']} | {row['peak_mib']:.0f} | {row['rise_mib']:.0f} |" for row in found["memory"]]
    if found.get("profiles"):
        lines += ["", "| profiled | ms | convolutions | matrix products | all else | their GFLOP/s | the best one's |"]
        lines += ["|---|" + "---:|" * 6, *map(format_profile, found["profiles"])]
    lines += ["", describe_machine(machine, found["seconds"])]
    lines += [f"- {row['what']}, auto: {note}" for row in shown if (note := row.get("notes", {}).get("auto"))]
    return "\n".join(lines) + "\n"


def join(values: Sequence) -> str:
    """Returns values with commas."""
    return ", ".join(map(str, values))


def describe_machine(machine: Mapping, seconds: float) -> str:
    """Returns what the figures hold for, and how to read them."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return (
        f"{machine['processor']}, {machine['threads']} threads of {machine['cores']} cores, device {machine['device']}; "
        f"Python {machine['python']}, {packages}; measured in {seconds:.0f} s"
        + (", with the smallest sizes and one round, which say nothing of speed" if machine["quick"] else "")
        + ". Times are medians of rounds in which the sides take turns; a ratio is the median of how many times faster than "
        "`theirs` the engine was in a round, with its quartiles. Cheap allocation: "
        + " ".join(f"{name}={value}" for name, value in machine["cheap_allocation"].items())
        + ".\n"
    )


def format_profile(one: Mapping) -> str:
    """Returns one line: where a step spends its time, and how fast its convolutions are beside the fastest there is."""
    shares = (f"{share:.0%}" for share in one["shares"].values())
    cells = (one["profile"].partition(" (")[0], number(one["ms"]), *shares, number(one["convolutions"]), number(one["best"]))
    return f"| {' | '.join(cells)} |"


def format_profiles(profiles: Sequence[Mapping]) -> str:
    """Returns the top operators of each profiled step."""
    lines = []
    for one in profiles:
        lines += [f"\n{one['profile']}", "share      ms  calls  operator"]
        lines += [f"{op['share']:5.1%} {op['ms']:7.1f} {op['calls']:6d}  {op['name']}" for op in one["operators"]]
    return "\n".join(lines)
