"""A sweep's YAML, as Weights & Biases reads it: read and checked."""

from __future__ import annotations

import json
import math
import os
import re
import string
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ganinv.cli import parse_identities

METHODS = ("grid", "random", "bayes")
BOUNDED = ("uniform", "int_uniform", "q_uniform", "log_uniform", "log_uniform_values")
NORMAL = ("normal", "log_normal", "q_normal", "q_log_normal")  # of mu and sigma, 0 and 1 where they are not given
DISTRIBUTIONS = (*BOUNDED, *NORMAL)
COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")  # what the service's agent runs where there is none
REPORTED = frozenset(range(5))  # the users that results are reported on; a sweep must not be tuned on them
OURS = ("out", "wandb")  # options that a sweep on this machine sets itself


@dataclass(frozen=True)
class Sweep:
    """A sweep as its YAML tells it; parameters: option -> what the YAML says of it."""

    program: str
    command: tuple[str, ...]
    method: str
    metric: str
    maximize: bool
    parameters: dict[str, dict]
    early_terminate: dict | None

    @property
    def constant(self) -> dict[str, object]:
        """Option -> value of the parameters that do not vary."""
        return {name: one["value"] for name, one in self.parameters.items() if "value" in one}

    @property
    def varied(self) -> dict[str, dict]:
        """The parameters that vary."""
        return {name: one for name, one in self.parameters.items() if "value" not in one}


def read_sweep(path: str | Path) -> Sweep:
    """Returns the sweep of a YAML file. Raises: ValueError for a file that is none, or asks for what is not done here."""
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"expected a sweep's YAML file, got {path} ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or not isinstance(content.get("program"), str):
        raise ValueError(f"expected a sweep with a program in {path}, got none")
    method, metric = content.get("method"), content.get("metric")
    if method not in METHODS:
        raise ValueError(f"expected a method among {', '.join(METHODS)} in {path}, got {method}")
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
        raise ValueError(f"expected a metric with a name in {path}, got {metric}")
    goal = metric.get("goal", "minimize")  # the service's default
    if goal not in ("minimize", "maximize"):
        raise ValueError(f"expected the goal minimize or maximize in {path}, got {goal}")
    split_metric(metric["name"])
    parameters = content.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise ValueError(f"expected parameters in {path}, got {parameters}")
    parameters = dict(flatten_parameters(parameters))
    for name, parameter in parameters.items():
        check_parameter(name, parameter, method)
    command = tuple(str(word) for word in content.get("command", COMMAND))
    sweep = Sweep(content["program"], command, method, metric["name"], goal == "maximize", parameters,
                  check_early_terminate(content.get("early_terminate")))  # fmt: skip
    if not sweep.varied:
        raise ValueError(f"expected a parameter that varies in {path}, got values that are all constant")
    expand_command(sweep, sweep.program, sweep.constant, [])
    return sweep


def flatten_parameters(parameters: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yields option -> what the YAML says of it, those of nested parameters as part.option."""
    for name, parameter in parameters.items():
        inner = parameter.get("parameters") if isinstance(parameter, dict) else None
        if isinstance(inner, dict):
            yield from flatten_parameters(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", parameter


def check_parameter(name: str, parameter: object, method: str) -> None:
    """Raises: ValueError for a parameter that cannot be drawn."""
    if not isinstance(parameter, dict):
        raise ValueError(f"expected value, values, or min and max for the parameter {name}, got {parameter}")
    if "value" in parameter:
        return
    if isinstance(parameter.get("values"), list) and parameter["values"]:
        if "probabilities" in parameter:
            raise ValueError(f"expected values of equal probability for {name}, got probabilities; leave them out")
        return
    if parameter.get("distribution") in NORMAL:
        check_normal(name, parameter)
    low, high = parameter.get("min"), parameter.get("max")
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
    if parameter.get("distribution") not in NORMAL and (not numbers or not low < high):
        raise ValueError(f"expected value, values, or numbers min < max for {name}, got {parameter}; write 1.0e-5, not 1e-5")
    kind = find_distribution(parameter)
    if kind not in DISTRIBUTIONS:
        raise ValueError(f"expected a distribution among {', '.join(DISTRIBUTIONS)} for {name}, got {kind}")
    if kind == "log_uniform_values" and low <= 0:
        raise ValueError(f"expected min above 0 for {name} with log_uniform_values, got {low}")
    if method == "grid" and kind != "int_uniform":
        raise ValueError(f"expected values for {name} in a grid, got the distribution {kind}")


def check_normal(name: str, parameter: Mapping) -> None:
    """Raises: ValueError for a normal distribution that cannot be drawn."""
    kind, numbers = parameter["distribution"], [parameter.get(key, 1) for key in ("mu", "sigma", "q")]
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers) or min(numbers[1:]) <= 0:
        raise ValueError(f"expected numbers mu, sigma above 0 and q above 0 for {name} with {kind}, got {parameter}")


def find_distribution(parameter: Mapping) -> str:
    """Returns a parameter's distribution, by its bounds where it names none."""
    if "distribution" in parameter:
        return parameter["distribution"]
    whole = isinstance(parameter["min"], int) and isinstance(parameter["max"], int)
    return "int_uniform" if whole else "uniform"


def check_early_terminate(rule: object) -> dict | None:
    """Returns {"min_resource", "reduction_factor"} of a hyperband rule, None without one.

    Raises: ValueError for another rule.
    """
    if rule is None:
        return None
    eta = rule.get("eta", 3) if isinstance(rule, dict) and rule.get("type") == "hyperband" else 0
    if not isinstance(eta, int | float) or eta < 2 or eta != int(eta):
        raise ValueError(f"expected early_terminate of type hyperband with a whole eta of at least 2, got {rule}")
    if isinstance(rule.get("min_iter"), int) and rule["min_iter"] > 0:
        first = rule["min_iter"]
    elif isinstance(rule.get("max_iter"), int) and rule.get("s", 0) >= 1:
        first = max(1, int(rule["max_iter"] / eta ** rule["s"]))
    else:
        raise ValueError(f"expected min_iter, or max_iter and s, in early_terminate, got {rule}")
    return {"min_resource": first, "reduction_factor": int(eta)}


def split_metric(name: str) -> tuple[str, str]:
    """Returns (prefix, key) of a metric, named as tracking.py names it. Raises: ValueError for another prefix."""
    prefix, _, key = name.rpartition("/")
    if prefix not in ("", "final", "cost", "attack", "train") or not key:
        raise ValueError(f"expected a metric such as final/target_score, cost/seconds or train/pixels, got {name}")
    return prefix or "final", key


def find_warnings(sweep: Sweep, options: Mapping[str, object]) -> list[str]:
    """Returns a line for a metric that must not choose settings, and one for users who must not be tuned on.

    options: the extra ones of every trial, which win over the sweep's.
    """
    lines = []
    prefix, key = split_metric(sweep.metric)
    if prefix == "final" and not key.startswith("target_score"):
        lines.append(f"the metric {sweep.metric} is a judge's: for diagnosis only, a judge that chose settings is none")
    users = sweep.parameters.get("identities", {})
    texts = [options["identities"]] if "identities" in options else users.get("values", [users.get("value")])
    if texts == [None] and not Path(sweep.program).name.endswith("_attack.py"):
        return lines
    if any(REPORTED & set(parse_identities(str(text or "0-4"))) for text in texts):
        lines.append("users 0-4 are those that results are reported on; tune on others, such as identities 5-14")
    return lines


def expand_command(sweep: Sweep, program: str | Path, values: Mapping[str, object], extra: Sequence[str]) -> list[str]:
    """Returns the words that the service's agent would run, then extra; the interpreter is this one.

    values: option -> value, in the Python form of every value as the agent writes it. Raises: ValueError for a ${macro}
    that is not known.
    """
    words: list[str] = []
    lists = {
        "${args}": [f"--{name}={value}" for name, value in values.items()],
        "${args_no_hyphens}": [f"{name}={value}" for name, value in values.items()],
        "${args_no_boolean_flags}": [
            f"--{name}" if value is True else f"--{name}={value}" for name, value in values.items() if value is not False
        ],
        "${args_json}": [json.dumps(values)],
    }
    macros = {"env": "/usr/bin/env", "interpreter": sys.executable, "program": str(program)}
    for word in sweep.command:
        if word in lists:
            words += lists[word]
        elif variable := re.fullmatch(r"\$\{envvar:(\w+)\}", word):
            words.append(os.environ.get(variable[1], ""))
        else:
            try:
                words.append(string.Template(word).substitute(macros))
            except (KeyError, ValueError) as error:
                raise ValueError(f"expected {' '.join(COMMAND)} or plain words in command, got {word}") from error
    return [*words, *extra]
