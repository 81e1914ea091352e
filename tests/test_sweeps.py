"""The sweeps' files: every parameter is an option of its command, and every draw runs as wandb's agent would run it."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
import yaml

from ganinv import cli
from ganinv.cli import flatten
from ganinv.commands import latent_attack, pixel_attack, train_gan
from ganinv.engine.files import plain as to_json
from ganinv.reports.report_file import read_report
from ganinv.studies.sweeps.results import read_metric, read_scores
from ganinv.studies.sweeps.search import Search, running_key
from ganinv.studies.sweeps.sweep_file import expand_command, find_warnings, read_sweep
from ganinv.worlds import world
from tests.tiny_world import BRIEF, make_tiny_world, register, run_main

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "scripts" / "sweeps").glob("*.yaml"))
NAMES = [file.stem for file in FILES]
COMMANDS = {  # program -> command, and the configuration whose options its sweeps name
    "scripts/latent_attack.py": (latent_attack, latent_attack.LatentAttack()),
    "scripts/pixel_attack.py": (pixel_attack, pixel_attack.choose_defaults(pixel_attack.PixelAttack(variant="modern"))),
    "scripts/train_gan.py": (train_gan, train_gan.TrainGan()),
}
ATTACKS = [file.stem for file in FILES if "train" not in file.stem]
DRAWS = 6


def read_yaml(name: str) -> dict:
    return yaml.safe_load((ROOT / "scripts" / "sweeps" / f"{name}.yaml").read_text())


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft7Validator:
    """W&B's own schema. wandb 0.31 ships none; this is config/schema.json of its package sweeps 0.3.0, unchanged, with
    the two formats that config/schema.py there adds. The package itself cannot be a dependency: it wants numpy < 2."""
    formats = jsonschema.FormatChecker(formats=())
    formats.checks("float")(lambda value: isinstance(value, float))
    formats.checks("integer")(lambda value: isinstance(value, int))
    text = (Path(__file__).parent / "data" / "wandb_sweep_schema.json").read_text()
    return jsonschema.Draft7Validator(json.loads(text), format_checker=formats)


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


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_keeps_the_services_schema(name, schema):
    assert [error.message for error in schema.iter_errors(read_yaml(name))] == []


@pytest.mark.parametrize(
    "change",
    [
        {"method": "annealing"},
        {"early_terminate": {"type": "hyperband", "eta": 3}},
        {"parameters": {"optim.lr": {"distribution": "log_uniform_values", "min": "1e-3", "max": 0.1}}},
        {"parameters": {"psi": {"min": 0.5, "max": 1.0, "distribution": "uniforn"}}},
        {"metric": {"goal": "maximize"}},
        {"jobs": 3},
    ],
)
def test_the_schema_refuses(change, schema):
    assert not schema.is_valid({**read_yaml("latent_attack"), **change})


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_is_what_the_server_and_the_agent_read(name):
    sweep = read_yaml(name)
    _, defaults = COMMANDS[sweep["program"]]
    assert (ROOT / sweep["program"]).is_file() and sweep["name"] == name
    assert sweep["command"] == ["${env}", "${interpreter}", "${program}", "${args}"]
    assert sweep["parameters"]["wandb"] == {"value": "online"}
    assert sweep.get("early_terminate", {"strict": True})["strict"]  # what run_sweep.py does
    if name in ATTACKS:
        plain = any(option.startswith("augment") for option in sweep["parameters"])
        score = "final/target_score" if plain else "final/target_score_transformed"  # under the trial's own transforms
        assert sweep["metric"] == {"name": score, "goal": "maximize"}
        users = "5-14" if name == "pixel_attack" else "20-29"  # not those that results of the world are reported on
        assert sweep["parameters"]["identities"] == {"value": users}
    for option, parameter in sweep["parameters"].items():
        default = read_option(SimpleNamespace(**flatten(defaults)), option)
        assert not dataclasses.is_dataclass(default), option
        for value in parameter.get("values", [parameter.get("value", parameter.get("min"))]):
            kind = list if isinstance(default, tuple) else type(default)
            assert type(value) is kind, f"{option}: {value!r}"  # 1e-3 without a dot would be a string


def test_a_trial_is_never_compared_on_its_way_by_transforms_of_its_own():
    for name in NAMES:
        sweep = read_yaml(name)
        assert "early_terminate" not in sweep or not any(option.startswith("augment") for option in sweep["parameters"])


@pytest.mark.parametrize("name", NAMES)
def test_run_sweep_reads_it_without_a_warning(name):
    sweep = read_sweep(ROOT / "scripts" / "sweeps" / f"{name}.yaml")
    assert find_warnings(sweep, {}) == []
    search = Search(sweep, seed=0)
    values = search.start(1)
    assert values.keys() == sweep.varied.keys()


@pytest.mark.parametrize("name", NAMES)
def test_run_sweep_writes_and_draws_as_wandb_does(name):
    """Against wandb 0.31's own code: the agent's words, and the distributions of its optuna scheduler."""
    agent = pytest.importorskip("wandb.sdk.launch.sweeps.utils")
    scheduler = pytest.importorskip("wandb.sdk.sweeps.scheduler.optuna")
    sweep = read_sweep(ROOT / "scripts" / "sweeps" / f"{name}.yaml")
    values = draw(sweep.parameters, random.Random(0))
    theirs = agent.create_sweep_command_args({"args": {option: {"value": value} for option, value in values.items()}})
    assert expand_command(sweep, "p.py", values, [])[3:] == theirs["args"]
    ranges = {option: one for option, one in sweep.varied.items() if "min" in one}
    ours = Search(sweep, seed=0).distributions
    assert {option: ours[option] for option in ranges} == scheduler.search_space_from_sweep_config(ranges)


@pytest.mark.parametrize("name", NAMES)
def test_draws_become_configurations(name, monkeypatch, capsys):
    sweep = read_yaml(name)
    command, _ = COMMANDS[sweep["program"]]
    for number in range(DRAWS):
        values = draw(sweep["parameters"], random.Random(number))
        argv = as_agent(values)
        kind = next(kind for kind in vars(command).values() if getattr(kind, "__module__", "") == command.__name__)
        choose = getattr(command, "choose_defaults", None)
        parsed = cli.parse(kind, argv, choose(cli.parse(kind, argv)) if choose else None)
        cli.check_ranges(parsed)
        config = to_json(flatten(parsed))
        for option, value in values.items():
            found = config
            for part in option.split("."):
                found = found[part]
            assert found == value, option


def test_the_agents_command_runs_as_a_process(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    sweep = read_yaml("latent_attack")
    arguments = as_agent(draw(sweep["parameters"], random.Random(0)))
    words = [sys.executable, str(ROOT / sweep["program"]), *arguments, "--dry-run"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=900, cwd=tmp_path)
    assert json.loads(done.stdout)["identities"] == "20-29"


@pytest.mark.parametrize("name", ["latent_attack", "pixel_attack", "transforms"])  # one of each sort
def test_a_draw_attacks_for_real(name, monkeypatch, tmp_path):
    register(monkeypatch, make_tiny_world(tmp_path), tmp_path, "faces")
    (tmp_path / "synthetic").symlink_to("faces")  # every shipped world is the tiny one
    monkeypatch.setattr(world, "PRETRAINED", tmp_path)
    sweep = read_yaml(name)
    values = draw(sweep["parameters"], random.Random(1))
    values |= {"identities": "3-4", "wandb": "disabled"}  # six users; no server
    rest = [word for word in BRIEF if "wandb" not in word]
    assert run_main(monkeypatch, COMMANDS[sweep["program"]][0], *as_agent(values), *rest, "--out=run") == 0
    report, config = read_report("run"), json.loads(Path("run/config.json").read_text())
    assert report["identities"] == [3, 4]
    for option in values.keys() - {"steps"}:
        found = config
        for part in option.split("."):
            found = found[part]
        assert found == values[option], option
    metric = sweep["metric"]["name"]
    assert read_metric(Path("run"), metric) == report["summary"][metric.removeprefix("final/")]["mean"]
    assert len(read_scores(Path("run"), running_key(metric))) == 3  # what early termination reads


def test_nested_parameters_whole_steps_and_every_macro(tmp_path, monkeypatch):
    monkeypatch.setenv("PLACE", "here")
    (tmp_path / "sweep.yaml").write_text(
        "program: a.py\nmethod: random\nmetric: {name: final/target_score, goal: maximize}\n"
        "command: ['${program}', '${args_no_boolean_flags}', '${args_no_hyphens}', '${args_json}', '${envvar:PLACE}']\n"
        "parameters:\n  optim: {parameters: {lr: {min: -3.0, max: 0.0, distribution: log_uniform}}}\n"
        "  steps: {min: 2, max: 8, q: 2, distribution: q_uniform}\n  flip: {value: true}\n  grey: {value: false}\n"
    )
    sweep = read_sweep(tmp_path / "sweep.yaml")
    assert set(sweep.varied) == {"optim.lr", "steps"}
    drawn = Search(sweep, 0).start(1)
    assert type(drawn["steps"]) is int and drawn["steps"] in (2, 4, 6, 8) and 0.0497 < drawn["optim.lr"] < 1
    words = expand_command(sweep, "a.py", {"flip": True, "grey": False, "steps": 4}, [])
    assert words == ["a.py", "--flip", "--steps=4", "flip=True", "grey=False", "steps=4",
                     '{"flip": true, "grey": false, "steps": 4}', "here"]  # fmt: skip
