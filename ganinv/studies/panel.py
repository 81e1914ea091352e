"""A panel of human raters: whom does a picture resemble, of five? The questions, their page, and what the answers say.

The subjective evaluation of Khosravy et al. 2021, made blind, with controls and catch trials. A rater who learns nothing
from a picture is right in one of five.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import random
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ganinv.reports.report_file import is_number

CHOICES = 5  # people to choose from; panel.html has as many rows and keys
CHANCE = 1 / CHOICES
SWAPPED = "another user's reconstruction"  # as the report calls this control
CAUGHT = "held-out photo (catch trial)"
KINDS = ("method", "control", "catch")
KEY_FORMAT = "ganinv panel key 1"
ANSWERS_FORMAT = "ganinv panel answers 1"
PAGE = Path(__file__).with_name("panel.html")
NOTICES = {  # whether the page shows real people -> what it says first
    True: ("This page contains photographs of real people.", "Show it to nobody else, and do not copy or publish it."),
    False: ("Nobody here is real.", "All people on this page were made by a computer."),
}
RESAMPLES = 10000
BOOTSTRAP_SEED = 0


# ---- the questions


@dataclass(frozen=True)
class Trial:
    """One question: the picture in `file`, and who counts as the right answer.

    kind: one of KINDS; condition: what made the picture; user: the right answer, in a control that of a picture which
    was not made to show it; barred: the person whom it was made to show instead, who may not be among the five.
    """

    kind: str
    condition: str
    user: int
    file: Path
    barred: int | None = None


def plan_trials(
    pictures: Mapping[str, Sequence[Mapping[int, Path]]],
    controls: Iterable[str],
    held_out: Mapping[int, Sequence[Path]],
    *,
    num_pictures: int,
    num_catch: int,
    people: Sequence[int],
    rng: random.Random,
) -> tuple[list[Trial], dict[str, str]]:
    """Returns the questions, and why a control or the catch trials are absent.

    pictures: condition -> for each of its runs, user -> file; controls: the conditions that searched for nobody;
    held_out: person -> photos of them that are shown nowhere else; people: all who may stand among the five.
    num_pictures: of each condition and user, from different runs; num_catch: of different people, users or not, lest the
    photos tell whom the reconstructions are of.
    """
    controls, absent = set(controls), {}
    if taken := {SWAPPED, CAUGHT} & pictures.keys():
        raise ValueError(f"expected runs with labels of their own, got {taken.pop()!r}; run with another --label")
    trials = [
        Trial("control" if condition in controls else "method", condition, user, run[user])
        for condition, runs in pictures.items()
        for user in runs[0]
        for run in rng.sample(list(runs), min(num_pictures, len(runs)))
    ]
    users = sorted({trial.user for trial in trials})
    searched = [run for condition, runs in pictures.items() if condition not in controls for run in runs]
    if len(users) < 2 or len(people) <= CHOICES:  # the right answer, four others, and the one who is shown
        absent[SWAPPED] = f"needs 2 users and {CHOICES + 1} people, got {len(users)} and {len(people)}"
    else:
        trials += plan_swapped(searched, users, {trial.file for trial in trials}, rng)
    caught = sorted(person for person in people if held_out.get(person))
    if not caught:
        absent[CAUGHT] = "nobody has a photo beside the references"
    for person in rng.sample(caught, min(num_catch, len(caught))):
        trials.append(Trial("catch", CAUGHT, person, rng.choice(list(held_out[person]))))
    return trials, absent


def plan_swapped(
    runs: Sequence[Mapping[int, Path]], users: Sequence[int], used: set[Path], rng: random.Random
) -> list[Trial]:
    """Returns a control a user: another user's reconstruction, one that is asked nowhere else where there is one."""
    order = rng.sample(list(users), len(users))
    trials = []
    for user, shown in zip(order, order[1:] + order[:1], strict=True):
        files = [run[shown] for run in runs]
        file = rng.choice([file for file in files if file not in used] or files)
        trials.append(Trial("control", SWAPPED, user, file, barred=shown))
    return trials


def choose_candidates(trials: Sequence[Trial], people: Sequence[int], rng: random.Random) -> list[tuple[int, ...]]:
    """Returns the five people of each trial, so that all people are offered about equally often.

    A person who were offered more often than others would be the likelier answer. Sorted: the page draws the order.
    Raises: ValueError when there are too few people.
    """
    least = CHOICES + any(trial.barred is not None for trial in trials)
    if len(people) < least:
        raise ValueError(f"expected at least {least} people to choose from, got {len(people)}; add their photos")
    offered = Counter(trial.user for trial in trials)
    candidates: dict[int, tuple[int, ...]] = {}
    for index in rng.sample(range(len(trials)), len(trials)):
        trial = trials[index]
        others = [person for person in people if person not in (trial.user, trial.barred)]
        rarest = sorted(others, key=lambda person: (offered[person], rng.random()))[: CHOICES - 1]
        offered.update(rarest)
        candidates[index] = tuple(sorted([trial.user, *rarest]))
    return [candidates[index] for index in range(len(trials))]


# ---- the page and its key


def build_panel(
    trials: Sequence[Trial],
    candidates: Sequence[Sequence[int]],
    references: Mapping[int, Sequence[str]],
    encode: Callable[[Path], str],
    *,
    photographs: bool,
    rng: random.Random,
) -> tuple[dict, dict]:
    """Returns (what the page holds, what the key holds).

    references: person -> data: URIs; encode: the data: URI of a picture file. The page has opaque ids in their own order
    and nothing of what is what; the key has it all.
    """
    people = dict(zip(references, draw_ids(len(references), rng), strict=True))
    items, answers = [], {}
    for item, trial, offered in zip(draw_ids(len(trials), rng), trials, candidates, strict=True):
        ids = sorted(people[person] for person in offered)
        items.append({"id": item, "picture": encode(trial.file), "people": ids})
        answers[item] = {
            "kind": trial.kind, "condition": trial.condition, "user": trial.user, "answer": people[trial.user],
            "people": ids, "file": str(trial.file), "shows": trial.barred,
        }  # fmt: skip
    page = {
        "photographs": photographs,
        "notice": NOTICES[photographs],
        "items": sorted(items, key=lambda item: item["id"]),
        "people": {people[person]: list(uris) for person, uris in sorted(references.items(), key=lambda row: people[row[0]])},
    }
    name = hashlib.sha256(json.dumps(page).encode()).hexdigest()[:12]
    key = {
        "format": KEY_FORMAT, "panel": name, "people": {token: person for person, token in people.items()}, "items": answers
    }  # fmt: skip
    return {"panel": name} | page, key


def draw_ids(count: int, rng: random.Random) -> list[str]:
    """Returns different ids of 8 hexadecimal digits."""
    return [f"{number:08x}" for number in rng.sample(range(16**8), count)]


def data_uri(png: bytes) -> str:
    """Returns a PNG file as a data: URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def format_page(page: Mapping) -> str:
    """Returns the HTML of a panel, whose policy lets it run its own script and load nothing."""
    text = PAGE.read_text(encoding="utf-8")
    hashes = {}
    for tag in ("style", "script"):
        (source,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        hashes[tag] = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{hashes['script']}'; style-src 'sha256-{hashes['style']}'; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )
    data = json.dumps(page).replace("<", "\\u003c")  # no text in it can end the script element
    return text.replace("@POLICY@", policy).replace("@DATA@", data)


# ---- the answers


@dataclass(frozen=True)
class Answers:
    """What one rater said: item -> person, item -> seconds."""

    rater: str
    choices: dict[str, str]
    seconds: dict[str, float]


def check_key(key: object, file: str | Path) -> dict:
    """Returns a key unchanged. Raises: ValueError when it is none."""
    items = key.get("items") if isinstance(key, dict) and key.get("format") == KEY_FORMAT else None
    kinds = {"kind": str, "condition": str, "user": int, "answer": str, "people": list}
    if not isinstance(items, dict) or not items or not all(
        isinstance(item, dict) and all(isinstance(item.get(name), kind) for name, kind in kinds.items())
        for item in items.values()
    ):  # fmt: skip
        raise ValueError(f"expected the key that panel.py make wrote, got something else in {file}; pass --key=NAME.key.json")
    return key


def check_answers(data: object, key: Mapping, file: str | Path) -> Answers:
    """Returns a rater's answers. Raises: ValueError unless they answer every item of the key once, with one of its five."""
    problem = find_problem(data, key)
    if problem:
        raise ValueError(f"expected the answers that a rater saved from panel {key['panel']} in {file}, got {problem}")
    rows = data["answers"]
    return Answers(
        data["rater"].strip(),
        {row["item"]: row["choice"] for row in rows},
        {row["item"]: float(row["seconds"]) for row in rows},
    )


def find_problem(data: object, key: Mapping) -> str | None:
    """Returns what is wrong with an answers file, None when nothing is."""
    if not isinstance(data, dict) or data.get("format") != ANSWERS_FORMAT:
        return "something else"
    if data.get("panel") != key["panel"]:
        return f"answers to panel {data.get('panel')}; score them with that panel's key"
    if not isinstance(data.get("rater"), str) or not data["rater"].strip():
        return "no rater's name"
    rows = data.get("answers")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        return "no list of answers"
    given = Counter(str(row.get("item")) for row in rows)
    for name, items in (
        ("unknown items", given.keys() - key["items"].keys()),
        ("no answer to items", key["items"].keys() - given.keys()),
        ("two answers to items", {item for item, count in given.items() if count > 1}),
    ):
        if items:
            more = f" and {len(items) - 3} more" if len(items) > 3 else ""
            return f"{name} {', '.join(sorted(items)[:3])}{more}"
    for row in rows:
        if row.get("choice") not in key["items"][row["item"]]["people"]:
            return f"for item {row['item']} a choice that is none of its {CHOICES} people"
        if not is_number(row.get("seconds")) or row["seconds"] < 0:
            return f"for item {row['item']} no time in seconds"
    return None


def check_raters(answers: Sequence[Answers], files: Sequence[str | Path]) -> None:
    """Raises: ValueError naming two files of one rater, or when there are none."""
    if not answers:
        raise ValueError("expected at least one file of answers, got none; panel.py score --key=KEY FILE ...")
    seen: dict[str, str | Path] = {}
    for one, file in zip(answers, files, strict=True):
        name = one.rater.casefold()
        if name in seen:
            raise ValueError(f"expected each rater once, got {one.rater} in {seen[name]} and {file}; leave one out")
        seen[name] = file


# ---- what they say


def score_panel(key: Mapping, answers: Sequence[Answers], catch_threshold: float) -> dict:
    """Returns the score of a panel.

    rows: one a condition, over the raters who were right in at least catch_threshold of the catch trials (over all where
    there are none); rows_all: over all raters, where somebody failed; raters, agreement and absent: see below.
    """
    absent = {}
    raters = [describe_rater(key, one, catch_threshold) for one in answers]
    reliable = [one for one, rater in zip(answers, raters, strict=True) if not rater["flagged"]]
    rows = [score_condition(key, reliable, name) for name in list_conditions(key)] if reliable else []
    if not reliable:
        absent["rows"] = f"no rater was right in at least {catch_threshold:.0%} of the catch trials"
    if not any(item["kind"] == "catch" for item in key["items"].values()):
        absent["catch trials"] = "the panel has none, so no rater could be checked"
    compare_with_control(key, reliable, rows)
    agreement = measure_agreement(key, reliable)
    if agreement is None:
        absent["agreement"] = f"needs 2 raters who pass the catch trials, got {len(reliable)}"
    score = {"panel": key["panel"], "chance": CHANCE, "catch_threshold": catch_threshold, "raters": raters, "rows": rows}
    if len(reliable) < len(answers):
        score["rows_all"] = [score_condition(key, answers, name) for name in list_conditions(key)]
    return score | {"agreement": agreement, "absent": absent}


def list_conditions(key: Mapping) -> list[str]:
    """Returns the conditions: methods, then controls, then catch trials."""
    kinds = {item["condition"]: item["kind"] for item in key["items"].values()}
    return sorted(kinds, key=lambda name: (KINDS.index(kinds[name]), name))


def describe_rater(key: Mapping, answers: Answers, catch_threshold: float) -> dict:
    """Returns a rater's catch trials, whether they are flagged for them, and their median time an item."""
    caught = [answers.choices[name] == item["answer"] for name, item in key["items"].items() if item["kind"] == "catch"]
    return {
        "rater": answers.rater,
        "catch_correct": sum(caught),
        "catch_n": len(caught),
        "flagged": bool(caught) and sum(caught) / len(caught) < catch_threshold,
        "median_seconds": round(statistics.median(answers.seconds.values()), 1),
    }


def score_condition(key: Mapping, answers: Sequence[Answers], condition: str) -> dict:
    """Returns one row: how often the raters were right in a condition, with its 95 % interval, and p over chance.

    p_over_chance: one-sided and exact, see chance_tail; p_binomial: the same if raters did not agree for other reasons
    than being right, which they do: too small with more than one rater, the same with one.
    """
    items = {name: item for name, item in key["items"].items() if item["condition"] == condition}
    rates = hit_rates(items, answers)
    correct = sum(one.choices[name] == item["answer"] for one in answers for name, item in items.items())
    count = len(items) * len(answers)
    seconds = [one.seconds[name] for one in answers for name in items]
    low, high, interval = accuracy_interval(rates)
    choices = [
        [sum(one.choices[name] == person for one in answers) for person in item["people"]] for name, item in items.items()
    ]
    return {
        "condition": condition, "kind": next(iter(items.values()))["kind"], "accuracy": correct / count, "ci95": [low, high],
        "interval": interval, "over_chance": correct / count - CHANCE, "p_over_chance": chance_tail(choices, correct),
        "p_binomial": binomial_tail(correct, count, CHANCE),
        "correct": correct, "n": count, "raters": rates.shape[0], "users": rates.shape[1],
        "median_seconds": round(statistics.median(seconds), 1),
    }  # fmt: skip


def hit_rates(items: Mapping[str, Mapping], answers: Sequence[Answers]) -> torch.Tensor:
    """Returns the share [raters,users] of each user's items in which each rater was right; users in order of number."""
    users = sorted({item["user"] for item in items.values()})
    rates = torch.zeros(len(answers), len(users), dtype=torch.float64)
    for column, user in enumerate(users):
        own = {name: item for name, item in items.items() if item["user"] == user}
        for row, one in enumerate(answers):
            rates[row, column] = sum(one.choices[name] == item["answer"] for name, item in own.items()) / len(own)
    return rates


def compare_with_control(key: Mapping, answers: Sequence[Answers], rows: Sequence[dict]) -> None:
    """Adds over_control {"control","mean","ci95"} to the rows of methods: the difference to the strongest control.

    Paired by rater and user, interval clustered by both. A row has none where there is no control of the same users.
    """
    controls = [row for row in rows if row["kind"] == "control"]
    if not controls:
        return
    strongest = max(controls, key=lambda row: row["accuracy"])["condition"]

    def of(condition: str) -> dict:
        return {name: item for name, item in key["items"].items() if item["condition"] == condition}

    base = of(strongest)
    for row in rows:
        items = of(row["condition"])
        if row["kind"] == "method" and {i["user"] for i in items.values()} == {i["user"] for i in base.values()}:
            difference = hit_rates(items, answers) - hit_rates(base, answers)
            low, high = cluster_interval(difference) if difference.numel() > 1 else (None, None)
            row["over_control"] = {"control": strongest, "mean": difference.mean().item(), "ci95": [low, high]}


def accuracy_interval(rates: torch.Tensor) -> tuple[float, float, str]:
    """Returns (low, high, how) of the mean of rates [raters,users].

    Clustered by rater and user. Where all are alike, resampling would say that nothing is uncertain: then the exact
    binomial interval of as many trials as there are users (raters, where there is one user).
    """
    if rates.min() < rates.max():
        return *cluster_interval(rates), "resampled raters and users"
    clusters = rates.shape[1] if rates.shape[1] > 1 else rates.shape[0]
    return *exact_interval(round(rates.mean().item() * clusters), clusters), f"exact binomial, n {clusters}"


def cluster_interval(rates: torch.Tensor) -> tuple[float, float]:
    """Returns the 95 % interval of the mean of rates [raters,users]: raters and users are resampled independently.

    Somewhat too wide, by design; with few raters or users too narrow all the same.
    Source: Owen 2007, The pigeonhole bootstrap, Annals of Applied Statistics 1(2), section 3.
    """
    generator = torch.Generator().manual_seed(BOOTSTRAP_SEED)

    def draw_counts(size: int) -> torch.Tensor:
        drawn = torch.randint(size, (RESAMPLES, size), generator=generator)
        return torch.zeros(RESAMPLES, size, dtype=torch.float64).scatter_add_(1, drawn, torch.ones_like(drawn).double())

    raters, users = map(draw_counts, rates.shape)
    means = ((raters @ rates) * users).sum(1) / rates.numel()
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def chance_tail(choices: Sequence[Sequence[int]], correct: int) -> float:
    """Returns the probability of `correct` or more right answers if pictures told nothing of their users.

    choices: of each picture, how many raters chose each of its people. The choices are taken as they are, and each of a
    picture's people as equally likely to be the right one, so that raters who agree on a wrong one count as one surprise.
    Exact, and binomial with one rater. Pictures are taken as independent. Of simulated panels that tell nothing (5 users,
    10 raters, of whom nine in ten agree) 3 % come below 0.05; by a binomial over all answers 26 % would.
    """
    totals = {0: 1.0}  # right answers -> probability
    for row in choices:
        after: Counter[int] = Counter()
        for total, share in totals.items():
            for raters in row:
                after[total + raters] += share / len(row)
        totals = after
    return min(1.0, math.fsum(share for total, share in totals.items() if total >= correct))


def binomial_tail(correct: int, count: int, share: float) -> float:
    """Returns the probability of `correct` or more of `count` independent answers being right, each with `share`."""
    if correct <= 0 or share >= 1:
        return 1.0
    if share <= 0:
        return 0.0
    logs = (
        math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
        + k * math.log(share) + (count - k) * math.log1p(-share)
        for k in range(correct, count + 1)
    )  # fmt: skip
    return min(1.0, math.fsum(map(math.exp, logs)))


def exact_interval(correct: int, count: int) -> tuple[float, float]:
    """Returns the exact 95 % interval of a binomial share. Source: Clopper and Pearson 1934."""

    def solve(tail: Callable[[float], float]) -> float:  # of a rising function, where it is 0.025
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if tail(middle) < 0.025 else (low, middle)
        return (low + high) / 2

    low = solve(lambda share: binomial_tail(correct, count, share)) if correct else 0.0
    high = 1 - solve(lambda miss: binomial_tail(count - correct, count, miss)) if correct < count else 1.0
    return low, high


def measure_agreement(key: Mapping, answers: Sequence[Answers]) -> dict | None:
    """Returns how far raters agree on whom a picture resembles, right or wrong, catch trials apart; None with one rater.

    observed: share of pairs of raters that chose the same person; fleiss_kappa: chance from how often each person was
    chosen in the whole panel; kappa: chance at one in five, the better one where items offer different people.
    """
    items = [name for name, item in key["items"].items() if item["kind"] != "catch"]
    if len(answers) < 2 or not items:
        return None
    people = sorted({person for name in items for person in key["items"][name]["people"]})
    counts = torch.zeros(len(items), len(people))
    for row, name in enumerate(items):
        for one in answers:
            counts[row, people.index(one.choices[name])] += 1
    observed, kappa = fleiss_kappa(counts, CHANCE)
    return {
        "observed": observed, "kappa": kappa, "fleiss_kappa": fleiss_kappa(counts)[1],
        "items": len(items), "raters": len(answers),
    }  # fmt: skip


def fleiss_kappa(counts: torch.Tensor, chance: float | None = None) -> tuple[float, float | None]:
    """Returns (observed agreement, kappa) of counts [items,categories] by the same number of raters an item.

    chance: the agreement of raters who guess; None: from how often each category was chosen. kappa is None where that
    is 1, as when all chose one category throughout.
    Raises: ValueError unless each item has the same number of raters, at least two.
    Source: Fleiss 1971; with a fixed chance Randolph 2005, Free-marginal multirater kappa.
    """
    counts = counts.double()
    raters = counts.sum(1)
    if counts.ndim != 2 or not len(counts) or raters.min() < 2 or raters.min() < raters.max():
        raise ValueError(f"expected counts [items,categories] of 2 or more raters an item, got {raters.tolist()}")
    pairs = raters * (raters - 1)
    observed = ((counts.square().sum(1) - raters) / pairs).mean().item()
    if chance is None:
        chance = (counts.sum(0) / counts.sum()).square().sum().item()
    return observed, None if chance >= 1 else (observed - chance) / (1 - chance)


# ---- as text


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
    parts.append(format_cells(cells))
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
    return format_cells(cells)


def format_interval(mean: float, interval: Sequence[float | None], digits: str) -> str:
    """Returns "0.80 [0.60, 0.95]", without the brackets where there is no interval."""
    low, high = interval
    return f"{mean:{digits}}" + ("" if low is None else f" [{low:{digits}}, {high:{digits}}]")


def format_cells(cells: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table whose first row is its head, in columns that also line up as plain text."""
    cells = [[cell.replace("|", "/") for cell in line] for line in cells]
    widths = [max(3, *(len(line[column]) for line in cells)) for column in range(len(cells[0]))]
    rule = [["-" * width for width in widths]]
    lines = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in cells[:1] + rule + cells[1:]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def count_of(count: int, noun: str) -> str:
    """Returns "1 rater" or "2 raters"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
