"""Every number of every command has a range, in one table, and what lies outside is refused before anything is written."""

from __future__ import annotations

import dataclasses
import importlib
import math
import pkgutil
from dataclasses import replace

import pytest

import ganinv.commands
from ganinv import cli
from ganinv.attack.config import AttackConfig, Augment, Optim
from ganinv.attack.invert import invert
from ganinv.commands import latent_attack
from ganinv.commands.train_gan import TrainGan
from ganinv.ranges import RANGES, check_ranges, lies_in, list_numbers
from tests.tiny_world import run_main
from tests.toys import toy_world


def list_configs() -> list[type]:
    """Returns the configuration of every command."""
    names = [f"ganinv.commands.{found.name}" for found in pkgutil.iter_modules(ganinv.commands.__path__)]
    values = [value for name in names for value in vars(importlib.import_module(name)).values()]
    return list(dict.fromkeys(value for value in values if isinstance(value, type) and dataclasses.is_dataclass(value)))


def test_every_number_of_every_command_has_a_range_that_holds_its_default():
    configs = list_configs()
    assert len(configs) > 20
    lacking = {(kind.__name__, name) for kind in configs for name, _, interval in list_numbers(kind()) if not interval}
    assert lacking == set()
    for kind in configs:
        check_ranges(kind())


def test_no_range_is_left_over():
    names = {name for kind in [*list_configs(), AttackConfig] for name in list_fields(kind())}
    assert {name.partition(".")[2] if name[0].isupper() else name for name in RANGES} - names == set()


def list_fields(config, part: str = "") -> list[str]:
    """Returns the fields of a configuration, and those of its parts with and without the part's name."""
    names = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        names += list_fields(value, f"{field.name}.") if dataclasses.is_dataclass(value) else [field.name, part + field.name]
    return names


@pytest.mark.parametrize(
    ("value", "interval", "inside"),
    [(0, "(0, 1]", False), (1e-9, "(0, 1]", True), (1, "(0, 1]", True), (1.0, "[0, 1)", False), (0, "[0, 1)", True),
     (2**63 - 1, RANGES["seed"], True), (2**63, RANGES["seed"], False), (10**400, "[0, 1e7]", False)],
)  # fmt: skip
def test_an_interval_has_its_ends(value, interval, inside):
    assert lies_in(value, interval) is inside


@pytest.mark.parametrize(
    "changes",
    [{"augment": Augment(scale=(0.0, 0.0))}, {"augment": Augment(degrees=1e300)}, {"augment": Augment(shift=1e300)},
     {"augment": Augment(flip=math.nan)}, {"tv": math.inf}, {"l2": math.nan}, {"optim": Optim(lr=math.inf)},
     {"optim": Optim(betas=(0.9, 1.0))}, {"psi": -0.1}, {"candidates": 10**400}, {"keep": 10**9}],
)  # fmt: skip
def test_a_number_out_of_range_is_refused_from_python_too(changes):
    generator, recognizer, _ = toy_world()
    with pytest.raises(ValueError, match=r"^expected [a-z_.0-9]+ in [\[(].*[\])], got"):
        invert(generator, recognizer, (0,), replace(AttackConfig(steps=1), **changes))


@pytest.mark.parametrize(
    "word",
    ["--augment.scale=[0,0]", "--augment.degrees=1e300", "--augment.shift=1e300", "--tv=inf", "--l2=nan", "--optim.lr=1e400",
     "--optim.sigma=nan", "--seed=-1", f"--candidates={10**30}", "--save-every=0", "--threshold=nan"],
)  # fmt: skip
def test_a_number_out_of_range_is_refused_before_a_folder_exists(word, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_main(monkeypatch, latent_attack, word, "--out=run") == 2
    assert "expected " in (error := capsys.readouterr().err) and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("setting", [{"steps": 0}, {"lr": -1.0}, {"alone": 1.5}, {"alone": math.nan}, {"perceptual": -0.1}])
def test_a_training_refuses_what_is_out_of_range(setting):
    (name,) = setting
    with pytest.raises(ValueError, match=f"expected {name} in"):
        cli.check_training(TrainGan(precision="float32", **setting))
