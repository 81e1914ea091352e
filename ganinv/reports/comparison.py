"""Runs side by side: which belong to one method, what each method reached, and by how much methods differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from ganinv.metrics.catalogue import CATALOGUE
from ganinv.metrics.statistics import holm, sign_flip_p, summarize, users_needed
from ganinv.reports.report_file import name_method

METRICS = {name: metric.direction for name, metric in CATALOGUE.items() if metric.compared}  # which direction is better
TESTED = tuple(name for name, metric in CATALOGUE.items() if metric.tested)
# what may differ between runs of one method: it changes no reconstruction, or is the seed itself, or is compared apart
PASSED_OVER = (
    *("seed", "out", "wandb", "device", "photos", "label", "image_every", "world", "identities"),
    *("resume", "from_run", "save_every", "log_every", "memory", "wandb_artifacts"),
)
WEIGHTS = {"prior": "generator", "target": "target"}  # role of a weight file -> option that names it
JUDGING = ("judge", "verifier", "references", "lpips_face", "factors")  # roles whose weights give the numbers
BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class Run:
    """One finished run: its folder and its report.json, config.json and provenance.json."""

    folder: Path
    report: Mapping
    config: Mapping
    provenance: Mapping

    @property
    def seed(self) -> int:
        return self.report["seed"]


@dataclass(frozen=True)
class Method:
    """Runs that differ in the seed only, by rising seed, and what they reached.

    summary: metric -> {"mean","ci95","n"}; absent: metric -> reason; seconds: mean of a run, None where it is not known.
    """

    label: str
    runs: tuple[Run, ...]
    summary: dict[str, dict]
    absent: dict[str, str]
    seconds: float | None


def group_runs(runs: Sequence[Run]) -> list[Method]:
    """Returns the methods of runs, in the order of their first runs; see Method.

    Methods of one label get what sets them apart behind it: "latent w (psi=0.5)".
    Raises: ValueError without runs, when two runs are of one method and seed, or when they cannot be compared: other
    worlds, identities, judges, weights of judges or reference photos.
    """
    check_comparable(runs)
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        groups.setdefault((find_label(run), *sorted(find_settings(run).items())), []).append(run)
    methods = []
    for (label, *settings), members in groups.items():
        members.sort(key=lambda run: run.seed)
        for one, other in zip(members, members[1:], strict=False):
            if one.seed == other.seed:
                raise ValueError(
                    f"expected one run of {label} a seed, got {one.folder} and {other.folder} of seed {one.seed}; "
                    "leave one out"
                )
        namesakes = [dict(other[1:]) for other in groups if other[0] == label]
        apart = [f"{name}={value}" for name, value in settings if any(other.get(name) != value for other in namesakes)]
        methods.append(average_runs(f"{label} ({', '.join(apart)})" if apart else label, members))
    return methods


def check_comparable(runs: Sequence[Run]) -> None:
    """Raises: ValueError naming two runs that cannot stand in one table, or when there are none."""
    if not runs:
        raise ValueError("expected at least one finished run, got none; name a run folder")
    first = runs[0]
    for run in runs[1:]:
        for key in ("world", "identities"):
            if run.report[key] != first.report[key]:
                raise ValueError(
                    f"expected runs of the same {key}, got {first.report[key]} in {first.folder} and {run.report[key]} "
                    f"in {run.folder}; compare them apart"
                )
    for role in JUDGING:
        known = [(find_hash(run, role), run) for run in runs if find_hash(run, role)]
        for digest, run in known[1:]:
            if digest != known[0][0]:
                raise ValueError(
                    f"expected runs judged with the same weights, got another {role} in {run.folder} than in "
                    f"{known[0][1].folder}; run one of them again"
                )
    for what, find in JUDGED.items():
        known = [(found, run) for run in runs if (found := find(run))]
        for found, run in known[1:]:
            if found != known[0][0]:
                raise ValueError(
                    f"expected runs of the same {what}, got {known[0][0]} in {known[0][1].folder} and {found} in "
                    f"{run.folder}; compare them apart"
                )


def find_judge(run: Run, *, knows_users: bool) -> str:
    """Returns the name of the judge whose numbers a run reports, "" where there is none: the first of its kind."""
    return next((judge["name"] for judge in run.report.get("judges", ()) if judge["knows_users"] == knows_users), "")


def find_references(run: Run) -> str:
    """Returns the head of the SHA-256 of the photos that a run was judged by, the world's or one's own, "" without any."""
    return find_hash(run, "references") or (run.provenance.get("photos") or "")[:12]


JUDGED = {  # what gives the numbers, beside weights: words -> what finds it, "" where a run has none
    "judge": partial(find_judge, knows_users=False),
    "judge who knows the users": partial(find_judge, knows_users=True),
    "reference photos": find_references,
}


def find_label(run: Run) -> str:
    """Returns the name of a run's method, see name_method."""
    return name_method(run.report, run.config)


def find_hash(run: Run, role: str) -> str:
    """Returns the head of the SHA-256 of a run's weight file, "" where the role had none."""
    return run.provenance.get("weights", {}).get(role, {}).get("sha256", "")[:12]


def find_settings(run: Run) -> dict[str, str]:
    """Returns what makes a method: method, configuration (nested keys with dots), and weights of prior and target."""
    # a file is known by what it holds, however its name was written
    files = {role: find_hash(run, role) for role in WEIGHTS if find_hash(run, role)}
    named = [WEIGHTS[role] for role in files]
    settings = {"method": run.report["method"]} | files
    for name, value in run.config.items():
        if name not in (*PASSED_OVER, *named):
            nested = value if isinstance(value, Mapping) else {"": value}
            settings |= {f"{name}.{key}".rstrip("."): str(item) for key, item in nested.items()}
    return settings


def average_runs(label: str, runs: Sequence[Run]) -> Method:
    """Returns the method of runs of the same identities: each user is averaged over seeds, then users are resampled.

    Seeds are no further users: the interval is over people. A metric that one of the runs lacks is absent.
    """
    absent = {name: reason for run in runs for name, reason in run.report["absent"].items()}
    known = dict.fromkeys(name for run in runs for name in run.report["summary"] if name not in absent)
    # a run of an earlier version may lack a metric without a word
    absent |= {name: "some runs lack it" for name in known if any(name not in run.report["summary"] for run in runs)}
    shared = [name for name in known if name not in absent]
    summary = {name: summarize(average_users(runs, name), BOOTSTRAP_SEED) for name in shared}
    spent = [run.report["cost"]["seconds"] for run in runs]
    seconds = None if None in spent else sum(spent) / len(spent)
    return Method(label, tuple(runs), summary, absent, seconds)


@dataclass(frozen=True)
class Difference:
    """By how much a method exceeds another in a metric, paired by user: mean, ci95 and n of the users' differences.

    p: of a sign-flip test; p_holm: corrected for all the differences that were tested together; users: how many it takes
    to see the difference that was asked for, None where none was, or where it cannot be told.
    """

    method: str
    other: str
    metric: str
    mean: float
    ci95: list
    n: int
    p: float
    p_holm: float
    users: int | None


def pair_methods(methods: Sequence[Method], against: str = "", power: float = 0.0) -> list[Difference]:
    """Returns the differences of all methods to one, `against` (a label; "": the first method), in TESTED's metrics.

    Each user is averaged over seeds first. power: a difference of a metric; 0: none. A metric that either lacks is
    passed over. Raises: ValueError for a label that no method has.
    """
    labels = [method.label for method in methods]
    against = against or labels[0]
    if against not in labels:
        raise ValueError(f"expected a method among {', '.join(labels)} to compare with, got {against}")
    base = methods[labels.index(against)]
    found: list[tuple[str, str, torch.Tensor]] = []
    for metric in TESTED:
        for method in methods:
            if method is not base and metric in method.summary and metric in base.summary:
                found.append((method.label, metric, average_users(method.runs, metric) - average_users(base.runs, metric)))
    p_values = [sign_flip_p(values, BOOTSTRAP_SEED) for _, _, values in found]
    return [
        Difference(
            label, against, metric, **summarize(values, BOOTSTRAP_SEED), p=p, p_holm=corrected,
            users=users_needed(values, power) if power and len(values) > 1 else None,
        )
        for (label, metric, values), p, corrected in zip(found, p_values, holm(p_values), strict=True)
    ]  # fmt: skip


def average_users(runs: Sequence[Run], metric: str) -> torch.Tensor:
    """Returns a metric [T], each user averaged over the runs' seeds."""
    rows = [[row[metric] for row in run.report["per_identity"]] for run in runs]
    return torch.tensor(rows, dtype=torch.float64).mean(0)


SPENT = ("seconds", "gradient_queries")  # columns of steps.jsonl: since the attack began, candidates included


def trace_scores(rows: Sequence[Mapping]) -> list[tuple[int, float, int, float]]:
    """Returns (step, seconds, gradient queries, score) of rows of steps.jsonl that tell them.

    The score is the mean over all users of the run of what their best sample was scored last: 0 for a user of whom no row
    has told yet.
    """
    last, points = dict.fromkeys((user for row in rows for user in row["identities"]), 0.0), []
    for row in rows:
        last |= row["identities"]
        points.append((row["step"], *(row[name] for name in SPENT), sum(last.values()) / len(last)))
    return points


def trace_methods(methods: Sequence[Method], rows: Mapping[Path, Sequence[Mapping]]) -> dict[str, dict[int, list]]:
    """Returns label -> seed -> trace_scores of the runs' rows, by folder; {} where a row lacks what it takes.

    Runs of no step are passed over.
    """
    if any(not {"identities", *SPENT} <= row.keys() for of_run in rows.values() for row in of_run):
        return {}
    found = {m.label: {run.seed: trace_scores(rows[run.folder]) for run in m.runs if rows[run.folder]} for m in methods}
    return {label: traces for label, traces in found.items() if traces}
