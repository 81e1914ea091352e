"""Attacks that are killed, stopped, repeated, or begun twice at once: nothing is lost, and the results are the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from ganinv.commands import latent_attack, pixel_attack, verify
from ganinv.reports.report_file import read_report
from ganinv.reports.run_folder import RunFolder
from ganinv.studies import attack_run
from tests.tiny_world import BRIEF, NAME, make_tiny_world, register, run_main

ROOT = Path(__file__).resolve().parents[1]
COMMON = [f"--world={NAME}", "--identities=0-2", *BRIEF]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return make_tiny_world(folder), folder / "photos"


@pytest.fixture(autouse=True)
def world(made, monkeypatch, tmp_path):
    register(monkeypatch, made[0], tmp_path)
    return made[0]


def read_results(folder) -> dict:
    """Returns all that two runs of one seed must share."""
    report = read_report(folder)
    del report["cost"]["seconds"], report["cost"]["verdict_seconds"]
    rows = [json.loads(line) for line in Path(folder, "steps.jsonl").read_text().splitlines()]
    for row in rows:
        del row["seconds"]
    return {"report": report, "steps": rows}


# one process imports everything once and forks: a child attacks, the parent kills it after some seconds
KILLER = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)  # a process without threads of its own may fork
from pathlib import Path
from ganinv.commands import latent_attack
from ganinv.priors.stylegan2_pytorch import import_stylegan2_pytorch
import facenet_pytorch, ganinv.studies.attack_run, tqdm
import_stylegan2_pytorch()

def attack(arguments, seconds):
    began, child = time.monotonic(), os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.argv = ["latent_attack.py", *arguments]
        try:
            latent_attack.main()
            os._exit(0)
        except SystemExit as end:
            os._exit(end.code or 0)
        except BaseException:
            os._exit(99)
    while time.monotonic() - began < seconds:
        if os.waitpid(child, os.WNOHANG)[0]:
            return "ended"
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    return "killed" if os.WIFSIGNALED(os.waitpid(child, 0)[1]) else "ended"

common = {common!r}
attack([*common, "--out=warm"], 600)
began = time.monotonic()
assert attack([*common, "--out=whole"], 600) == "ended"
whole = time.monotonic() - began
for number in range(20):
    outcome = attack([*common, f"--out=run-{{number}}"], whole * (number + 0.5) / 20)
    begun = Path(f"run-{{number}}/config.json").exists()
    with_state = Path(f"run-{{number}}/state.safetensors").exists()
    print(number, outcome, begun, with_state)
    if outcome == "killed":
        again = [f"--resume=run-{{number}}"] if begun else [*common, f"--out=run-{{number}}"]
        assert attack(again, 600) == "ended"
"""


@pytest.mark.slow
def test_an_attack_killed_at_twenty_moments_ends_in_the_same_results(world, tmp_path):
    common = [*COMMON, "--space=w_plus", "--steps=40", "--batch=1", "--save-every=3"]  # two parts, the second half full
    script = KILLER.format(root=str(ROOT), common=common)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    outcomes = [line.split() for line in done.stdout.splitlines()]
    assert len(outcomes) == 20 and sum(row[1] == "killed" for row in outcomes) >= 15
    assert sum(row[1] == "killed" and row[3] == "True" for row in outcomes) >= 5, outcomes  # in the search itself
    whole = read_results("whole")
    for number in range(20):
        assert read_results(f"run-{number}") == whole, number
        assert not Path(f"run-{number}/state.safetensors").exists()
        latents = load_file(f"run-{number}/latents.safetensors")
        assert all((latents[name] == rows).all() for name, rows in load_file("whole/latents.safetensors").items())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("command", [latent_attack, pixel_attack])
def test_a_signal_ends_the_step_saves_and_says_how_to_go_on(command, number, code, monkeypatch, capsys):
    extra = ["--steps=8", "--optim.patience=0"] if command is pixel_attack else ["--steps=8"]
    assert run_main(monkeypatch, command, *COMMON, *extra, "--out=whole") == 0
    append, seen = RunFolder.append_step, []

    def interrupt(self, row):
        append(self, row)
        seen.append(row["step"])
        if len(seen) == 4:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "append_step", interrupt)
        assert run_main(patched, command, *COMMON, *extra, "--out=run") == code
    assert seen[-1] == 3 and not Path("run/report.json").exists()
    assert "go on with --resume=run" in capsys.readouterr().err
    assert run_main(monkeypatch, command, "--resume=run") == 0
    assert read_results("run") == read_results("whole")


def test_resuming_a_finished_run_shows_it_and_changes_nothing(monkeypatch, capsys):
    assert run_main(monkeypatch, pixel_attack, *COMMON, "--out=run") == 0
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run_main(monkeypatch, pixel_attack, "--resume=run") == 0
    assert "target_score" in capsys.readouterr().out
    assert before == {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}


def test_a_folder_in_use_is_refused_and_left_alone(monkeypatch, capsys):
    folder = RunFolder("run")
    assert run_main(monkeypatch, pixel_attack, *COMMON, "--out=run") == 2
    assert "expected a folder that no other process writes to, got run" in capsys.readouterr().err
    assert not Path("run/config.json").exists()
    folder.close()
    assert run_main(monkeypatch, pixel_attack, *COMMON, "--out=run") == 0


@pytest.mark.parametrize(
    ("command", "argv", "message"),
    [
        (latent_attack, ["--resume=nowhere"], "expected a run folder with a config.json, got nowhere"),
        (latent_attack, ["--resume=run", "--seed=3"], "expected no other options beside --resume"),
        (latent_attack, ["--from-run=run", "--steps=3"], "expected no other options beside --from-run"),
        (pixel_attack, ["--resume=run"], "expected a run of this script and version in run"),
        (latent_attack, ["--resume=broken"], "expected a run folder with a config.json, got broken"),
    ],
)
def test_a_resume_that_cannot_be_is_refused(command, argv, message, monkeypatch, capsys):
    monkeypatch.setattr(attack_run, "print_report", lambda *args: None)
    assert run_main(monkeypatch, latent_attack, *COMMON, "--out=run") == 0
    Path("run/report.json").unlink()
    Path("broken").mkdir()
    Path("broken/config.json").write_text("{")
    capsys.readouterr()
    assert run_main(monkeypatch, command, *argv) == 2
    assert message in capsys.readouterr().err


def test_a_resume_with_other_weights_is_refused(monkeypatch, capsys):
    assert run_main(monkeypatch, latent_attack, *COMMON, "--out=run") == 0
    Path("run/report.json").unlink()
    provenance = json.loads(Path("run/provenance.json").read_text())
    provenance["weights"]["target"]["sha256"] = "0" * 64
    Path("run/provenance.json").write_text(json.dumps(provenance))
    assert run_main(monkeypatch, latent_attack, "--resume=run") == 2
    assert "expected the weights, photos and code that run began with" in capsys.readouterr().err


def test_a_run_is_repeated_and_what_differs_is_told(monkeypatch, capsys):
    assert run_main(monkeypatch, pixel_attack, *COMMON, "--variant=modern", "--seed=4", "--out=run") == 0
    provenance = json.loads(Path("run/provenance.json").read_text())
    Path("run/provenance.json").write_text(json.dumps(provenance | {"python": "3.0"}))
    capsys.readouterr()
    assert run_main(monkeypatch, pixel_attack, "--from-run=run", "--out=again") == 0
    out, err = capsys.readouterr()
    assert "python: 3.0 then" in err and "run: the same results" in out
    assert read_results("again") == read_results("run")


# ---- verify


def test_a_run_is_verified(monkeypatch, capsys, made):
    assert run_main(monkeypatch, latent_attack, *COMMON, f"--photos={made[1]}", "--out=run") == 0
    assert run_main(monkeypatch, verify, "--run=run") == 0
    assert "as reported" in capsys.readouterr().out


def change_latents(folder: Path) -> None:
    content = bytearray((folder / "latents.safetensors").read_bytes())
    content[-2] ^= 1
    (folder / "latents.safetensors").write_bytes(content)


def change_report(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    report["summary"]["target_score"]["mean"] += 0.01
    (folder / "report.json").write_text(json.dumps(report))


def change_picture(folder: Path) -> None:
    (folder / "images" / "0_0.png").write_bytes((folder / "images" / "1_0.png").read_bytes())


def change_weights(folder: Path) -> None:
    provenance = json.loads((folder / "provenance.json").read_text())
    provenance["weights"]["judge"]["sha256"] = "0" * 64
    (folder / "provenance.json").write_text(json.dumps(provenance))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (change_latents, "latents.safetensors"),
        (change_picture, "images/0_0.png"),
        (change_report, "target_score"),
        (change_weights, "weights.judge.sha256"),
    ],
)
def test_a_run_that_was_changed_is_found_out(change, told, monkeypatch, capsys):
    assert run_main(monkeypatch, latent_attack, *COMMON, "--out=run") == 0
    capsys.readouterr()
    change(Path("run"))
    assert run_main(monkeypatch, verify, "--run=run") == 1
    captured = capsys.readouterr()
    assert told in captured.out and "does not hold" in captured.err
