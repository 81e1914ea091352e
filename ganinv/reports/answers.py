"""The verdict in words: does it leak, does the search add to mere selection, and what neither says.

The words follow from the numbers of report.json and from nothing else. "Not shown" is never "no".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ganinv.judging.leak import LEVEL, NOT_SHOWN, SHOWN, SUGGESTED
from ganinv.metrics.statistics import users_to_show
from ganinv.weights.quoting import show

CONTROLS = {  # a control's name -> what it is, in a sentence
    "best candidate": "the best of many random faces",
    "start picture": "the picture that the search began with",
    "random sample of the prior": "random faces",
    "another user's reconstruction": "pictures made of another user",
    "another user's photo": "photos of another user",
}
ANSWERS = {SHOWN: "Yes", SUGGESTED: "Perhaps"}
SHORT = (10, 100)  # steps: with fewer than the first a search can go nowhere; no attack's own number is below the second
HEADINGS = {  # the first answer -> the report's heading
    "shown": "The recognizer gives its users away",
    "suggested": "Signs that the recognizer gives its users away, from too few users to be sure",
    "not shown": "No leak was shown, which does not mean that there is none",
}


def write_heading(report: Mapping) -> str:
    """Returns the first answer, in one line."""
    return HEADINGS.get(report.get("leak", {}).get("answer"), "Nobody could judge the pictures")


def write_verdict(report: Mapping) -> list[str]:
    """Returns the verdict: three answers, of a few short sentences each."""
    return [write_leak(report["leak"]), write_selection(report["selection"]), write_limits(report)]


def write_remarks(report: Mapping) -> list[str]:
    """Returns what a reader must know before the verdict is believed: a search that did not move, a target fed wrongly."""
    remarks = []
    if problem := report.get("photo_check", {}).get("problem"):
        remarks.append(
            f"{problem[0].upper()}{problem[1:]}. The attack was made all the same, by --force: what follows says little "
            "of the recognizer as it is used."
        )
    if stuck := report.get("stuck"):
        who = name_users(report, stuck)
        who = "any of the users" if len(stuck) == len(report["identities"]) else who
        remarks.append(
            f"The search did not move for {who}: the picture is the one that it began with, but for traces that nobody "
            f"sees, {explain_stuck(report.get('steps'))}"
        )
    return remarks


def explain_stuck(steps: int | None) -> str:
    """Returns why a search of so many steps did not move, and what to do. steps: None where an earlier version kept none."""
    why, cure = "since the target gave no direction there or was content at once", "try another attack or objective"
    if steps is not None and steps < SHORT[1]:
        few = f"because it had only {count(steps, 'step')}"
        why = f"most likely {few}" if steps < SHORT[0] else f"perhaps {few}, or {why}"
        cure = "let it search for longer (--steps)" + ("" if steps < SHORT[0] else f", or {cure}")
    return f"{why}. This says nothing of the recognizer; {cure}."


def name_users(report: Mapping, identities: Sequence[int], word: str = "user ") -> str:
    """Returns "user 3 (Ada), user 5", with names as far as the report has them."""
    names = report.get("names", {})
    return ", ".join(f"{word}{one}" + (f" ({show(names[str(one)])})" if str(one) in names else "") for one in identities)


def list_given_away(report: Mapping) -> list[int]:
    """Returns the users who were given away, by number."""
    return [user["identity"] for user in report.get("leak", {}).get("users", []) if user["given_away"]]


def write_leak(leak: Mapping) -> str:
    """Returns the first answer in words, of an entry "leak" of a report."""
    if "absent" in leak:
        return f"Does it leak? Not answered: {leak['absent']}."
    given, users = leak["given_away"], leak["given_away"]["n"]
    answer = ANSWERS.get(leak["answer"], f"Not shown with {count(users, 'user')}")
    text = f"Does it leak? {answer}. {name_judges(leak)} for {count_hits(given)} ({describe_interval(given)})"
    text += f", at {describe_rates(leak)}"
    if leak["nulls"]:
        text += ". The same holds of " + ", of ".join(
            f"{name_control(row['control'])} for {row['given_away']['hits']}" for row in leak["nulls"]
        )
        text += f" (p = {leak['p']:.2g} against the strongest of these)"
    else:
        text += ". There was nothing to compare with"
    return f"{text}{describe_power(leak)}{describe_left_out(leak)}."


def describe_left_out(leak: Mapping) -> str:
    """Returns which judges took no part, and why; "" where all did."""
    return "".join(f". Left out: {one['judge']} ({one['reason']})" for one in leak.get("left_out", ()))


def name_judges(leak: Mapping) -> str:
    """Returns who decides, and what they do, up to "for 4 of 5 users"."""
    names = [judge["judge"] for judge in leak["judges"]]
    if leak["needed"] < 2:
        return f"The one recognizer that could judge ({names[0]}) accepts the picture and names the right person"
    who = "Two" if len(names) == 2 else f"At least two of {len(names)}"
    return f"{who} recognizers that took no part ({', '.join(names)}) accept the picture and name the right person"


def describe_rates(leak: Mapping) -> str:
    """Returns the false-match rates at which the judges accept."""
    rates = {judge["judge"]: judge["far"] for judge in leak["judges"]}
    if len(set(rates.values())) == 1:
        far = next(iter(rates.values()))
        return f"a false-match rate of 1 in {1 / far:.0f}" + (", the strictest that the photos allow" if far > 1e-3 else "")
    each = ", ".join(f"1 in {1 / far:.0f} ({name})" for name, far in rates.items())
    return f"false-match rates of {each}, each the strictest that the photos allow"


def describe_power(leak: Mapping) -> str:
    """Returns what so few users cannot show, and how many would; "" where the leak is shown."""
    given = leak["given_away"]
    if leak["answer"] == SHOWN:
        return ""
    text = ""
    if leak["least_p"] > LEVEL:
        text += f". With {count(given['n'], 'user')} no p can be below {leak['least_p']:.2g}"
    if not given["hits"]:
        return f"{text}. One that gives away up to {100 * given['ci95'][1]:.0f} % of its users could look like this"
    needed = [users_to_show(row["only_pictures"], row["only_control"], given["n"], LEVEL) for row in leak["nulls"]]
    if needed and None not in needed:
        chance = "Chance alone may give as many" if leak["answer"] == NOT_SHOWN else ""
        text += f". {chance}; at" if chance else ". At"
        text += f" this share {max(needed)} users would show it"
    return text


def write_selection(selection: Mapping) -> str:
    """Returns the second answer in words, of an entry "selection" of a report."""
    if "absent" in selection:
        return f"Does the search add to mere selection? Nobody could say: {selection['absent']}."
    found = selection["difference"]
    answer = ANSWERS.get(selection["answer"], f"Not shown with {count(found['n'], 'user')}")
    more = "are more like" if selection["answer"] in ANSWERS else "are not shown to be more like"
    text = f"Does the search add to mere selection? {answer}. The pictures {more} the users' photos than "
    text += f"{name_control(selection['control'])} by the target's own score, by {found['mean']:+.2f} on a scale of -1 to 1"
    text += describe_spread(found)
    users = selection["users"]
    if users is not None:
        text += f". Of these {users['given_away']['hits']} of {users['given_away']['n']} give their user away"
    return f"{text}."


def describe_spread(entry: Mapping) -> str:
    """Returns " (95 % interval 0.10 to 0.38, p = 0.06)", as far as there is any."""
    low, high = entry["ci95"]
    interval = "" if low is None else f"95 % interval {low:.2f} to {high:.2f}, "
    return f" ({interval}p = {entry['p']:.2g})"


def write_limits(report: Mapping) -> str:
    """Returns what the two answers do not say."""
    if report.get("leak", {}).get("answer") in (SHOWN, SUGGESTED):
        return (
            "This does not say that a human being would know anybody in these pictures, which are no photographs and no "
            "evidence of anything about anybody."
        )
    return (
        "This does not say that the recognizer is safe: another attack, prior or setting may find what this one did not, and "
        "no picture here is a photograph or evidence of anything about anybody."
    )


# ---- words


def count(number: int, noun: str) -> str:
    """Returns "1 user", "5 users"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def count_hits(rate: Mapping) -> str:
    """Returns "4 of 5 users", "all 5 users"."""
    if rate["hits"] == rate["n"] > 1:
        return f"all {rate['n']} users"
    return f"{rate['hits']} of {count(rate['n'], 'user')}"


def describe_interval(rate: Mapping) -> str:
    """Returns "95 % interval 28 % to 99 %"."""
    low, high = rate["ci95"]
    return f"95 % interval {100 * low:.0f} % to {100 * high:.0f} %"


def name_control(name: str) -> str:
    """Returns a control in words."""
    return CONTROLS.get(name, name)
