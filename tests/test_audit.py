"""Several attacks on one target: what the report says, what it shows, and how an audit that was stopped goes on."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import ganinv
from ganinv.attack.invert import Attack
from ganinv.cli.composed import list_options
from ganinv.cli.help import format_help
from ganinv.commands import audit as command
from ganinv.studies import attack_run, audit
from ganinv.studies.attack_options import RunOptions
from tests.tiny_world import NAME, make_tiny_world, register, run_main

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_tiny_world(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def world(made, monkeypatch, tmp_path):
    register(monkeypatch, made, tmp_path)
    return made


def test_an_audit_writes_one_report_of_all_attacks_and_goes_on_where_it_was_stopped(monkeypatch, capsys):
    words = [f"--world={NAME}", "--identities=0-2", "--steps=1", "--wandb=disabled", "--device=cpu", "--out=runs/all"]
    assert run_main(monkeypatch, command, *words) == 0
    printed = capsys.readouterr().out
    found = json.loads(Path("runs/all/audit.json").read_text())
    assert {row["attack"] for row in found["attacks"]} == {"pixel search", "class score"}
    assert found["identities"] == [0, 1, 2] and found["verdict"][0] in " ".join(printed.split())
    page = Path("runs/all/audit.html").read_text()
    assert page.count("<img") == 6 and "OWASP AISVS" in page and "<script" not in page
    Path("runs/all/audit.json").unlink()

    def never(*_):
        raise AssertionError("an attack that had ended was repeated")

    monkeypatch.setattr(audit, "run_attack", never)
    monkeypatch.setattr(audit.run_audit, "__defaults__", (never,))
    assert run_main(monkeypatch, command, *words) == 0
    assert json.loads(Path("runs/all/audit.json").read_text()) == found


def test_a_stopped_audit_says_that_the_same_command_goes_on_and_it_does(monkeypatch, capsys):
    words = [f"--world={NAME}", "--identities=0-2", "--steps=2", "--wandb=disabled", "--device=cpu", "--out=runs/all"]
    judge, calls = attack_run.judge_result, []

    def interrupt(*arguments):
        calls.append(1)
        if len(calls) == 2:  # in the second attack, whose search has saved its state
            raise KeyboardInterrupt
        return judge(*arguments)

    monkeypatch.setattr(attack_run, "judge_result", interrupt)
    assert run_main(monkeypatch, command, *words) == 130
    said = capsys.readouterr().err
    assert "the same command goes on" in said and "--resume" not in said
    assert Path("runs/all/class-score/state.safetensors").is_file()
    assert run_main(monkeypatch, command, *words) == 0 and len(calls) == 3
    assert Path("runs/all/class-score/report.json").is_file() and [path.name for path in Path("runs").iterdir()] == ["all"]
    assert run_main(monkeypatch, command, *words[:-2], "--seed=3", "--out=runs/all") == 2
    assert "expected the options that runs/all was begun with, got another seed; repeat" in capsys.readouterr().err


def test_an_audit_names_users_whose_search_did_not_move(monkeypatch, capsys):
    words = [f"--world={NAME}", "--identities=0-2", "--steps=1", "--wandb=disabled", "--device=cpu", "--out=runs/all"]
    monkeypatch.setattr(Attack, "collect", lambda self, *given: replace(_collect(self, *given), stuck=(0, 2)))
    assert run_main(monkeypatch, command, *words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "class score: The search did not move for user 0, user 2: the picture is the one that it began with" in said
    assert "The search did not move for user 0, user 2" in Path("runs/all/audit.html").read_text()
    report = json.loads(Path("runs/all/class-score/report.json").read_text())
    assert report["stuck"] == [0, 2] and len(report["remarks"]) == 1
    assert report["steps"] == 1 and "because it had only 1 step." in report["remarks"][0] and "it had only 1 step." in said
    shown = report["queries"]
    assert shown["per_identity"].keys() == {"0", "1", "2"}
    assert shown["shared"] + sum(shown["per_identity"].values()) == report["cost"]["images_evaluated"]
    page = Path("runs/all/class-score/report.html").read_text()
    assert page.count("The search did not move<") == 2 and "pictures shown for this user" in page


_collect = Attack.collect


def test_an_audit_from_python_is_printed_and_kept(world):
    loaded = ganinv.load_world(world.folder)
    attacks = {"search": ganinv.LatentAttack(steps=1, candidates=4, restarts=1), "pixels": ganinv.PixelAttack(steps=1)}
    found = ganinv.audit(loaded.target, loaded.prior, [0, 2], world=loaded, attacks=attacks)
    assert {row.attack for row in found.rows} == {"search", "pixels"}
    assert str(found).startswith("search: The search did not move for any of the users")  # in one step
    assert "\nDoes it leak?" in str(found)
    assert (found.save("runs/mine") / "search" / "report.html").is_file() and Path("runs/mine/audit.html").is_file()


def test_an_audit_says_the_same_as_an_attack_of_every_option_that_both_have():
    audits, attacks = ({row[0]: row[1:] for row in list_options(one)} for one in (command.Audit, RunOptions))
    assert {name for name in audits.keys() & attacks if audits[name] != attacks[name]} == {"--out"}
    forms = re.findall(r"^\| `([^`]+)`", (ROOT / "docs/recognizers.md").read_text(encoding="utf-8"), re.MULTILINE)
    shown = format_help(command.Audit)
    assert "torchvision:NAME:FILE" in forms and "torchvision:NAME:FILE, my_model.py:build, dlib, FILE.onnx" in shown


def test_a_gallery_is_attacked_by_its_templates_too():
    for config, templates, names in (
        (command.Audit(steps=7), False, ["pixel search", "class score"]),
        (command.Audit(steps=7, gallery="users", target="dlib"), True, ["pixel search", "class score", "template inversion"]),
    ):
        attacks = command.list_attacks(config, templates)
        assert list(attacks) == names
        assert all(made.attack.steps == 7 and made.run.gallery == config.gallery for _, made in attacks.values())
    assert attacks["template inversion"][1].attack.goal == "template" and attacks["class score"][1].attack.goal == "class"
