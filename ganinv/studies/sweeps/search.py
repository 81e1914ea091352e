"""What a sweep tries next, and which trials it stops."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Mapping, Sequence
from statistics import NormalDist

from ganinv.studies.sweeps.sweep_file import NORMAL, Sweep, find_distribution, split_metric

LEAST = 1e-6  # of the values of a normal parameter: beyond it none is drawn
MOST_EXPONENT = 700.0  # of e in a float


def list_points(sweep: Sweep) -> list[dict[str, object]]:
    """Returns every point of a grid, the last parameter changing fastest."""
    choices = [one["values"] if "values" in one else list(range(one["min"], one["max"] + 1)) for one in sweep.varied.values()]
    return [dict(zip(sweep.varied, point, strict=True)) for point in itertools.product(*choices)]


def running_key(metric: str) -> str:
    """Returns the key of steps.jsonl that tells a metric on its way: both final target scores are one there."""
    key = split_metric(metric)[1]
    return "target_score" if key.startswith("target_score") else key


def is_normal(parameter: Mapping) -> bool:
    """Says whether a parameter that varies is normal, or its logarithm. optuna keeps the share of values below it."""
    return "values" not in parameter and find_distribution(parameter) in NORMAL


def find_normal(parameter: Mapping, share: float) -> float:
    """Returns the value of a normal parameter below which a share of its values lies, rounded where it is quantised."""
    kind = parameter["distribution"]
    value = NormalDist(parameter.get("mu", 0), parameter.get("sigma", 1)).inv_cdf(share)
    value = math.exp(min(value, MOST_EXPONENT)) if "log" in kind else value
    step = parameter.get("q", 1)
    return round(value / step) * step if kind.startswith("q_") else value


def find_share(parameter: Mapping, value: float) -> float:
    """Returns the share of a normal parameter's values below one."""
    if "log" in parameter["distribution"]:
        value = math.log(value) if value > 0 else -math.inf
    share = NormalDist(parameter.get("mu", 0), parameter.get("sigma", 1)).cdf(value)
    return min(max(share, LEAST), 1 - LEAST)


class Search:
    """Draws the values of trials and says which to prune. Everything it knows it was told, so it can be told again.

    Raises: ValueError where optuna is not installed.
    """

    def __init__(self, sweep: Sweep, seed: int):
        try:
            import optuna
        except ImportError as error:
            raise ValueError("expected the package optuna, got none; pip install 'ganinv[sweep]'") from error
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.optuna, self.sweep, self.seed = optuna, sweep, seed
        rule = sweep.early_terminate
        pruner = optuna.pruners.SuccessiveHalvingPruner(**rule) if rule else optuna.pruners.NopPruner()
        direction = "maximize" if sweep.maximize else "minimize"
        self.study = optuna.create_study(direction=direction, pruner=pruner)
        self.distributions = {name: self.build_distribution(one) for name, one in sweep.varied.items()}
        self.points = list_points(sweep) if sweep.method == "grid" else []
        self.trials: dict[int, object] = {}
        self.fed: dict[int, int] = {}

    def build_distribution(self, parameter: Mapping):
        """Returns optuna's distribution of a parameter that varies; a choice is the JSON text of its value."""
        distributions = self.optuna.distributions
        if "values" in parameter:
            return distributions.CategoricalDistribution([json.dumps(value) for value in parameter["values"]])
        kind = find_distribution(parameter)
        if kind in NORMAL:
            return distributions.FloatDistribution(LEAST, 1 - LEAST)
        low, high = parameter["min"], parameter["max"]
        if kind == "int_uniform":
            return distributions.IntDistribution(low, high)
        step = parameter.get("q", 1)
        if kind == "q_uniform" and all(isinstance(number, int) for number in (low, high, step)):
            return distributions.IntDistribution(low, high, step=step)
        if kind == "q_uniform":
            return distributions.FloatDistribution(low, high, step=step)
        if kind == "log_uniform":  # the service's ends are exponents
            low, high = math.exp(low), math.exp(high)
        return distributions.FloatDistribution(low, high, log=kind.startswith("log_uniform"))

    def start(self, number: int, values: Mapping[str, object] | None = None) -> dict[str, object]:
        """Returns the values of a trial: those given, else drawn. A draw depends on seed, number and what was told.

        Raises: ValueError for values outside the sweep (a default may lie there).
        """
        if values is None and self.points:
            values = self.points[number - 1]
        if values is not None:
            encoded = {name: self.encode(name, values[name]) for name in self.distributions}
            self.study.enqueue_trial(encoded)
        chance = random.Random(f"{self.seed} {number}").randrange(2**31)  # of its own: going on draws what a whole sweep does
        samplers = self.optuna.samplers
        bayes = self.sweep.method == "bayes"
        self.study.sampler = samplers.TPESampler(seed=chance) if bayes else samplers.RandomSampler(seed=chance)
        trial = self.study.ask(self.distributions)
        self.trials[number], self.fed[number] = trial, 0
        decoded = {name: self.decode(name, value) for name, value in trial.params.items()}
        return dict(values) if values is not None else decoded

    def encode(self, name: str, value: object):
        """Returns a value as optuna keeps it. Raises: ValueError for one outside the sweep."""
        distribution = self.distributions[name]
        kept = json.dumps(value) if "values" in self.sweep.varied[name] else value
        if is_normal(self.sweep.varied[name]) and isinstance(value, int | float):
            kept = find_share(self.sweep.varied[name], value)
        if "values" in self.sweep.varied[name]:
            inside = kept in distribution.choices
        else:
            inside = isinstance(kept, int | float) and distribution.low <= kept <= distribution.high
        if not inside:
            raise ValueError(f"expected a value of the sweep for {name}, got {value}")
        return kept

    def decode(self, name: str, value):
        """Returns a value of optuna's as the program gets it."""
        parameter = self.sweep.varied[name]
        if is_normal(parameter):
            return find_normal(parameter, value)
        return json.loads(value) if "values" in parameter else value

    def feed(self, number: int, scores: Sequence[float], *, ended: bool = False) -> bool:
        """Tells a trial's scores so far, one an iteration; returns whether to prune it, False for one that has ended."""
        trial = self.trials[number]
        for iteration in range(self.fed[number] + 1, len(scores) + 1):
            self.fed[number] = iteration
            trial.report(scores[iteration - 1], iteration)
            if trial.should_prune() and not ended:  # asked in any case: optuna keeps what it compares others with
                return True
        return False

    def end(self, number: int, state: str, metric: float | None) -> None:
        """Tells how a trial ended."""
        states = self.optuna.trial.TrialState
        pruned = state == "pruned" and self.fed[number] > 0  # optuna takes its last score
        if state == "complete":
            self.study.tell(self.trials[number], metric)
        else:
            self.study.tell(self.trials[number], state=states.PRUNED if pruned else states.FAIL)
