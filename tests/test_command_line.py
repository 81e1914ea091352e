from __future__ import annotations

import dataclasses
import errno
import importlib
import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import torch

from ganinv import cli
from ganinv.cli import format_help, parse, parse_identities
from ganinv.cli.help import find_examples
from ganinv.interfaces import FaultError

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Optim:
    """How steps are taken."""

    lr: float = 0.1  # step size
    betas: tuple[float, float] = (0.9, 0.99)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Does a thing.

    And this is noise.
    """

    world: str = "lfw"  # which world, told in a text that is so long that it cannot possibly stand on one line of help
    flip: bool = True  # mirror
    ids: tuple[int, ...] = (1, 2)
    x: float | None = 1.0
    out: Path | None = None
    mode: Literal["offline", "online"] = "offline"
    num_steps: int = 3
    label: str = ""
    resume: bool = False
    optim: Optim = field(default_factory=lambda: Optim(lr=0.2))

    def __post_init__(self):
        if self.num_steps < 0:
            raise ValueError(f"expected num_steps of at least 0, got {self.num_steps}")


def run_main(argv, run=lambda config: None) -> int:
    try:
        cli.main(Config, run, argv)
    except SystemExit as end:
        return end.code or 0
    return 0


def test_sweep_forms_parse():
    config = parse(Config, ["--optim.lr=0.01", "--flip=False", "--ids=[3, 4]", "--x=None", "--num_steps=7"])
    assert config == Config(optim=Optim(lr=0.01), flip=False, ids=(3, 4), x=None, num_steps=7)
    assert parse(Config, ["--ids", "(5,)", "--optim.betas=[0, 1.0e-3]", "--out", "a/b", "--flip", "True"]) == Config(
        ids=(5,), optim=Optim(lr=0.2, betas=(0.0, 1e-3)), out=Path("a/b")
    )
    assert parse(Config, ["--optim={'lr': 0.01, 'betas': [0.5, 0.9]}"]) == Config(optim=Optim(lr=0.01, betas=(0.5, 0.9)))
    assert parse(Config, []) == Config()


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--nope=3"], ["--nope"]),
        (["--ids=[a]"], ["--ids", "[a]"]),
        (["--ids=[1.5]"], ["--ids", "[1.5]"]),
        (["--optim.betas=[1]"], ["--optim.betas", "[1]"]),
        (["--flip=maybe"], ["maybe", "True", "False"]),
        (["--mode=x"], ["offline", "online"]),
        (["--num-steps"], ["--num-steps"]),
        (["--num-steps=٣"], ["--num-steps", "expected a number such as 3, got ٣"]),
        (["--num-steps=-1"], ["expected num_steps of at least 0, got -1"]),
        (["--dry-run=maybe"], ["--dry-run=maybe"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(argv, words, capsys):
    assert run_main(argv) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ") and err.count("\n") == 1 and not out
    assert all(word in err for word in words), err


@pytest.mark.parametrize("flag", ["--dry-run", "--dry-run=True", "--dry_run"])
def test_dry_run_prints_the_config_and_runs_nothing(flag, capsys):
    assert run_main([flag, "--num-steps=9", "--out=a"], lambda config: pytest.fail("ran")) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["num_steps"] == 9 and shown["optim"] == {"lr": 0.2, "betas": [0.9, 0.99]} and shown["out"] == "a"


@pytest.mark.parametrize("argv", [["--resume"], ["--resume", "--num-steps=3"], ["--num-steps", "3", "--resume", "True"]])
def test_a_bare_flag_stands_for_true(argv):
    seen = []
    assert run_main(argv, seen.append) == 0
    assert seen == [Config(resume=True)]


def test_no_options_run_the_defaults():
    seen = []
    assert run_main([], seen.append) == 0
    assert seen == [Config()]


def test_dry_run_false_runs():
    seen = []
    assert run_main(["--dry-run=False"], seen.append) == 0
    assert seen == [Config()]


@pytest.mark.parametrize(
    "error, code",
    [
        (ValueError("expected\n  this"), 2),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), 2),
        (FileExistsError("exists"), 2),
        (PermissionError("denied"), 2),
        (FaultError("diverged"), 1),
        (OSError(errno.ENOSPC, "No space left on device"), 1),
        (torch.OutOfMemoryError("CUDA out of memory"), 1),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_become_one_line_and_a_code(error, code, capsys):
    def run(config):
        raise error

    assert run_main([], run) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1


def test_freed_memory_is_kept_from_before_a_run(monkeypatch):
    done = []
    monkeypatch.setattr(cli, "keep_memory", lambda: done.append("kept"))
    cli.main(Config, lambda config: done.append("run"), [])
    assert done == ["kept", "run"]


def test_a_bug_keeps_its_traceback():
    def run(config):
        raise KeyError("bug")

    with pytest.raises(KeyError):
        cli.main(Config, run, [])


def test_help_has_one_line_an_option_with_its_default(capsys):
    assert run_main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 45 and max(map(len, lines)) <= 100
    assert "Does a thing." in lines and not any("noise" in line for line in lines)
    shown = {
        "--world": "(lfw)",
        "--optim.betas [float,float]": "([0.9, 0.99])",
        "--optim.lr": "step size (0.2)",
        "--ids": "([1, 2])",
        "--num-steps": "(3)",
    }
    for name, default in (shown | {"--mode {offline,online}": "(offline)", "--out": "(None)", "--label": '("")'}).items():
        assert [line for line in lines if line.startswith(f"  {name} ") and line.endswith(default)], name


def test_help_without_a_docstring_shows_no_signature():
    @dataclass
    class Bare:
        steps: int
        size: int = 4

    text = format_help(Bare)
    assert "Bare" not in text and "(required)" in text


def test_help_of_many_options_folds_groups_that_fit_and_stays_on_a_screen():
    many = dataclasses.make_dataclass(
        "Many", [(f"option{index}", int, index) for index in range(42)] + [("optim", Optim, field(default_factory=Optim))]
    )
    lines = format_help(many).splitlines()
    assert [line.split() for line in lines if "optim" in line] == [["--optim.lr/betas", "(0.1,", "[0.9,", "0.99])"]]
    assert len(lines) <= 45 and sum("--optim." in line for line in format_help(many, width=20).splitlines()) == 2


def test_help_shows_the_example_of_the_docstring(capsys):
    @dataclass(frozen=True, kw_only=True)
    class Given:
        """Does a thing.

        Example: --steps=3
        """

        steps: int = 1

    assert format_help(Given).splitlines()[2].endswith(" --steps=3") and format_help(Given).splitlines()[2][:9] == "example: "


@pytest.mark.parametrize("script", sorted(path.stem for path in (ROOT / "scripts").glob("*.py")))
def test_the_example_of_a_commands_help_can_be_run(script, monkeypatch):
    module = importlib.import_module(f"ganinv.commands.{script}")
    configs = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__]
    examples = [example for config in configs for example in find_examples(config)]
    assert examples, "the configuration's docstring has no line `Example: ARGUMENTS`"
    parsed = []
    monkeypatch.setattr(cli, "main", lambda kind, run, argv=None, **options: parsed.append(parse_words(kind, argv, options)))
    for example in examples:
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *shlex.split(example)])
        module.main()
    assert len(parsed) == len(examples)


def parse_words(kind: type, argv: list[str] | None, options: dict):
    """Returns a configuration as cli.main reads it; what it names need not be there."""
    argv, choose = sys.argv[1:] if argv is None else argv, options.get("choose_defaults")
    return cli.parse(kind, argv, choose(cli.parse(kind, argv)) if choose else None)


def test_how_threads_wait_is_set_before_torch_is_imported():
    spy = """
import os, sys
class Spy:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"))
            sys.exit()
sys.meta_path.insert(0, Spy())
import ganinv.commands.latent_attack, ganinv.studies.attack_run
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    for given, found in ({}, "passive"), ({"OMP_WAIT_POLICY": "active"}, "active"):
        done = subprocess.run(
            [sys.executable, "-c", spy], capture_output=True, text=True, env={**environment, **given}, timeout=60, cwd=ROOT
        )
        assert done.stdout.strip() == found, done.stderr


def test_verbose_help_is_tyro_s(capsys):
    assert run_main(["--help-verbose"]) == 0
    assert "one line of help" in " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_parse_identities():
    assert parse_identities("0-4,9") == (0, 1, 2, 3, 4, 9)
    assert parse_identities("[3, 4]") == (3, 4)
    assert parse_identities(" 7 ") == (7,)


@pytest.mark.parametrize(
    "text", ["", "a", "4-0", "1,1", "0-2,1", "-1", "1.5", "1,,2", "0-99999999999", "[]", "٣", "[0,1", "0,1]"]
)
def test_parse_identities_names_what_it_refuses(text):
    with pytest.raises(ValueError, match="^expected"):
        parse_identities(text)


@pytest.mark.parametrize("computes", [True, False])
def test_a_training_is_in_bfloat16_where_the_device_computes_in_it(monkeypatch, computes):
    monkeypatch.setattr("ganinv.engine.precision.computes_bfloat16", lambda device: computes)
    assert cli.choose_training_precision("auto", "cpu") == ("bfloat16" if computes else "float32")
    for asked in ("float32", "bfloat16", "float16"):
        assert cli.choose_training_precision(asked, "cpu") == asked


def test_a_leading_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    seen = []
    assert run_main(["--out=~/runs", "--label=~/a", "--world=a~/b"], seen.append) == 0
    assert (seen[0].out, seen[0].label, seen[0].world) == (Path("/home/me/runs"), "/home/me/a", "a~/b")


def test_a_reader_that_leaves_ends_the_command_without_a_word():
    script = "from ganinv import cli\nfrom tests.test_command_line import Config\n"
    script += "cli.main(Config, lambda config: [print('x' * 100) for _ in range(2000)], [])"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode == 141 and not error


@pytest.mark.parametrize("name", ["ENAMETOOLONG", "ELOOP"])
def test_a_path_that_cannot_be_is_a_mistake(name, capsys):
    def run(config):
        raise OSError(getattr(errno, name), "no such path", "x")

    assert run_main([], run) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_a_terminal_would_obey_is_not_printed(capsys):
    def run(config):
        raise ValueError("expected a, got \x1b[2J\u202e\x07b")

    assert run_main([], run) == 2
    assert capsys.readouterr().err == "error: expected a, got ?[2J??b\n"
