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
    del report["cost"]["seconds"], report["cost"]["search_seconds"], report["cost"]["verdict_seconds"]
    rows = [json.loads(line) for line in Path(folder, "steps.jsonl").read_text().splitlines()]
    for row in rows:
        del row["seconds"]
    return {"report": report, "steps": rows}


# one process imports everything once and forks: a child attacks, and kills itself at a counted moment, before it opens a
# file of the run for writing, renames or links one, or begins with search, controls or verdict
KILLER = """
import json, os, signal, sys
sys.path.insert(0, {root!r})
import torch
torch.set_num_threads(1)  # a process without threads of its own may fork
from pathlib import Path
from ganinv.commands import latent_attack
from ganinv.priors.stylegan2_pytorch import import_stylegan2_pytorch
from ganinv.studies import attack_run
import facenet_pytorch, tqdm
import_stylegan2_pytorch()

def attack(arguments, out, moment=0):
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        count = 0
        def tick(name):
            nonlocal count
            count += 1
            os.write(writer, f"{{name}} ".encode())
            if count == moment:
                os.kill(os.getpid(), signal.SIGKILL)
        def watch(event, args):
            writes = event in ("os.rename", "os.link") or (event == "open" and set(str(args[1] or "")) & set("wax+"))
            if writes and f"{{out}}/" in str(args[0]) and not str(args[0]).endswith(".lock"):
                tick(event)
        sys.addaudithook(watch)
        for name in ("search", "draw_controls", "judge_pictures"):
            def begin(*args, name=name, function=getattr(attack_run, name), **options):
                tick(name)
                return function(*args, **options)
            setattr(attack_run, name, begin)
        sys.argv = ["latent_attack.py", *arguments]
        code = 99
        try:
            latent_attack.main()
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with open(reader) as told:
        moments = told.read().split()
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, (out, moment, status)
    return "killed" if os.WIFSIGNALED(status) else "ended", moments

common = {common!r}
attack([*common, "--out=warm"], "warm")
outcome, moments = attack([*common, "--out=whole"], "whole")
assert outcome == "ended" and len(moments) > 60, moments
rows = []
for number in range({runs}):
    out = f"run-{{number}}"
    moment = 1 + number * (len(moments) - 1) // ({runs} - 1)  # from the first to the last
    killed = [attack([*common, f"--out={{out}}"], out, moment)[0]]
    state = (Path(out) / "state.safetensors").exists()
    while killed[-1] == "killed":
        begun = (Path(out) / "config.json").exists()
        again = [f"--resume={{out}}"] if begun else [*common, f"--out={{out}}"]
        # every third is killed once more, while it is resumed, at other moments each time
        killed.append(attack(again, out, 1 + number // 3 if number % 3 == 0 and len(killed) == 1 else 0)[0])
    rows.append([moments[moment - 1], state, killed])
print(json.dumps(rows))
"""


@pytest.mark.slow
@pytest.mark.parametrize("runs", [12, pytest.param(31, marks=pytest.mark.nightly)])
def test_an_attack_killed_at_any_moment_ends_in_the_same_results(runs, world, tmp_path):
    common = [*COMMON, "--space=w_plus", "--steps=12", "--batch=1", "--save-every=3"]  # two parts, the second half full
    script = KILLER.format(root=str(ROOT), common=common, runs=runs)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=7200)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert sum(row[2].count("killed") for row in rows) >= 4 * runs // 3 - 2  # the last resumes have little left to do
    assert {"os.rename", "open"} <= {row[0] for row in rows} and any(row[1] for row in rows)
    whole = read_results("whole")
    for number in range(runs):
        assert read_results(f"run-{number}") == whole, (number, rows[number])
        latents = load_file(f"run-{number}/latents.safetensors")
        assert all((latents[name] == rows).all() for name, rows in load_file("whole/latents.safetensors").items())
        assert sorted(path.name for path in Path(f"run-{number}").iterdir()) == sorted(
            path.name for path in Path("whole").iterdir()
        )


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
        (latent_attack, ["--resume=broken"], "expected JSON in broken/config.json, got something else"),
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
