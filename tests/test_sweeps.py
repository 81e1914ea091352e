"""The sweeps' files: every parameter is an option of its command, and every draw runs as wandb's agent would run it."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ganinv import worlds
from ganinv.commands import latent_attack, pixel_attack
from ganinv.report import read_report
from tests.tiny_world import BRIEF, NAME, make_tiny_world, register, run_main

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {
    "latent_attack": (latent_attack, latent_attack.LatentAttack),
    "pixel_attack": (pixel_attack, pixel_attack.Modern),
}
DRAWS = 6


def read_sweep(name: str) -> dict:
    return yaml.safe_load((ROOT / "scripts" / "sweeps" / f"{name}.yaml").read_text())


def draw(parameters: dict, chance: random.Random) -> dict:
    """Returns a value of each parameter, as a sweep's server would draw it."""
    values = {}
    for name, parameter in parameters.items():
        if "value" in parameter:
            values[name] = parameter["value"]
        elif "values" in parameter:
            values[name] = chance.choice(parameter["values"])
        elif parameter["distribution"] == "log_uniform_values":
            values[name] = math.exp(chance.uniform(math.log(parameter["min"]), math.log(parameter["max"])))
        else:
            assert parameter["distribution"] == "uniform", name
            values[name] = chance.uniform(parameter["min"], parameter["max"])
    return values


def as_agent(values: dict) -> list[str]:
    """Returns ${args} as wandb 0.31's agent writes it (sdk/launch/sweeps/utils.py): the Python form of every value."""
    return [f"--{name}={value}" for name, value in values.items()]


def read_option(config, name: str):
    """Returns the value of a dotted option of a configuration. Raises: AttributeError for one that it lacks."""
    for part in name.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize("name", COMMANDS)
def test_a_sweep_is_what_the_server_and_the_agent_read(name):
    sweep, (_, config_type) = read_sweep(name), COMMANDS[name]
    assert (ROOT / sweep["program"]).is_file() and sweep["program"] == f"scripts/{name}.py"
    assert sweep["command"] == ["${env}", "${interpreter}", "${program}", "${args}"]
    assert sweep["method"] == "bayes" and sweep["metric"] == {"name": "final/target_score", "goal": "maximize"}
    assert sweep["parameters"]["identities"] == {"value": "5-14"}  # not the users that results are reported on
    for option, parameter in sweep["parameters"].items():
        default = read_option(config_type(), option)
        assert not dataclasses.is_dataclass(default), option
        for value in parameter.get("values", [parameter.get("value", parameter.get("min"))]):
            kind = list if isinstance(default, tuple) else type(default)
            assert type(value) is kind, f"{option}: {value!r}"  # 1e-3 without a dot would be a string


@pytest.mark.parametrize("name", COMMANDS)
def test_draws_become_configurations(name, monkeypatch, capsys):
    parameters, (command, _) = read_sweep(name)["parameters"], COMMANDS[name]
    for number in range(DRAWS):
        values = draw(parameters, random.Random(number))
        assert run_main(monkeypatch, command, *as_agent(values), "--dry-run") == 0, capsys.readouterr().err
        config = json.loads(capsys.readouterr().out)
        for option, value in values.items():
            found = config
            for part in option.split("."):
                found = found[part]
            assert found == value, option


def test_the_agents_command_runs_as_a_process(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    sweep = read_sweep("latent_attack")
    arguments = as_agent(draw(sweep["parameters"], random.Random(0)))
    words = [sys.executable, str(ROOT / sweep["program"]), *arguments, "--dry-run"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=100, cwd=tmp_path)
    assert json.loads(done.stdout)["identities"] == "5-14"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_draw_attacks_for_real(name, monkeypatch, tmp_path):
    register(monkeypatch, make_tiny_world(tmp_path), tmp_path)
    monkeypatch.setitem(worlds.WORLDS, "lfw", worlds.WORLDS[NAME])
    values = draw(read_sweep(name)["parameters"], random.Random(1))
    values |= {"identities": "3-4", "wandb": "disabled"}  # six users; no server
    rest = [word for word in BRIEF if "wandb" not in word]
    assert run_main(monkeypatch, COMMANDS[name][0], *as_agent(values), *rest, "--out=run") == 0
    report, config = read_report("run"), json.loads(Path("run/config.json").read_text())
    assert report["identities"] == [3, 4] and config["optim"]["lr"] == values["optim.lr"]
    assert config["augment"]["degrees"] == values["augment.degrees"]
