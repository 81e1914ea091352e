"""--dry-run loads what it is given, as the run would, writes nothing, and ends a bad one with one line and exit code 2."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import pytest
import torch
import yaml

from ganinv import images
from ganinv.commands import pixel_attack, run_sweep
from tests.tiny_world import BRIEF, NAME, make_tiny_world, register, run_main

ROOT = Path(__file__).resolve().parents[1]
WORLD = [f"--world={NAME}", "--device=cpu"]
ATTACK = [f"--world={NAME}", "--identities=0-1", *BRIEF]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return make_tiny_world(folder), folder / "photos"


@pytest.fixture(autouse=True)
def world(made, monkeypatch, tmp_path):
    register(monkeypatch, made[0], tmp_path)
    Path("broken.safetensors").write_bytes(b"no weights")
    Path("broken.onnx").write_bytes(b"no graph")
    Path("list.json").write_text("[1")
    Path("empty").mkdir()
    Path("half/p00").mkdir(parents=True)
    Path("half/p00/a.png").write_bytes(b"no picture")
    Path("raises.py").write_text("def build():\n    1 / 0\n")
    return made[0]


def call(monkeypatch, capsys, command: str, *words: str) -> tuple[int, str, str]:
    """Returns exit code, what was printed, and the errors, of a dry run."""
    capsys.readouterr()
    code = run_main(monkeypatch, importlib.import_module(f"ganinv.commands.{command}"), *words, "--dry-run")
    return code, *capsys.readouterr()


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("latent_attack", [*ATTACK, "--target=nowhere.safetensors"], "expected a recognizer: .* got nowhere.safetensors"),
        ("latent_attack", [*ATTACK, "--target=broken.safetensors"], "broken.safetensors"),
        ("latent_attack", [*ATTACK, "--target=raises.py:build"], "got ZeroDivisionError .* at .*raises.py:2"),
        ("latent_attack", [*ATTACK, "--generator=broken.safetensors"], "expected a whole safetensors file, got broken"),
        ("latent_attack", [*ATTACK, "--judge=broken.safetensors"], "broken.safetensors"),
        ("latent_attack", [*ATTACK, "--gallery=half"], "expected a readable picture, got half/p00/a.png"),
        ("latent_attack", [*ATTACK, "--templates=list.json", "--goal=template"], "list.json"),
        ("latent_attack", [*ATTACK, "--photos=empty"], "expected a folder with one sub-folder per person, got empty/private"),
        ("latent_attack", [*ATTACK, "--target=broken.safetensors", "--classes=list.json"], "list.json"),
        ("latent_attack", [*ATTACK, "--identities=0,77"], "expected identities from 0 to 5, got 77"),
        ("pixel_attack", [*ATTACK, "--start=nowhere.png"], "nowhere.png"),
        ("latent_attack", ["--resume=empty"], "expected a run folder with a config.json, got empty"),
        ("audit", [*WORLD, "--target=broken.safetensors"], "broken.safetensors"),
        ("audit", [*WORLD, "--ladder"], "expected a target with a gallery beside --ladder"),
        ("judge", [*WORLD, "--pictures=empty"], "expected pictures .* in empty, got none"),
        ("judge", [*WORLD, "--pictures=drawn", "--target=broken.safetensors"], "broken.safetensors"),
        ("verify", ["--run=empty"], "expected a finished run with a report.json, got empty"),
        ("compare", ["nowhere"], "expected a finished run, or a folder of them, at nowhere"),
        ("attributes", ["empty"], "expected a finished run, or a folder of them, at empty"),
        ("audit_judges", ["nowhere"], "nowhere"),
        ("panel", ["make", "nowhere"], "nowhere"),
        ("panel", ["score", "answers.json", "--key=nowhere.json"], "answers.json, which is missing"),
        ("measure_prior", [f"--world={NAME}", "--prior=broken.safetensors"], "broken.safetensors"),
        (
            "measure_prior",
            [f"--world={NAME}", "--photos=nowhere"],
            "expected a file or folder, got nowhere, which is missing",
        ),
        ("probe", [f"--world={NAME}", "--target=broken.onnx"], "broken.onnx"),
        ("study_access", [f"--world={NAME}", "--gallery=nowhere"], "nowhere"),
        ("study_access", [f"--world={NAME}", "--judge=broken.safetensors"], "broken.safetensors"),
        ("train_gan", ["--photos=empty"], "expected photos in empty, got an empty folder"),
        ("refine_prior", [f"--world={NAME}", "--prior=broken.safetensors"], "broken.safetensors"),
        ("train_recognizer", ["--world=nowhere"], "expected a world among"),
        ("train_factors", ["--photos=nowhere"], "nowhere"),
        ("embed_references", ["--world=nowhere"], "expected a world among"),
        ("enrol_users", ["--photos=nowhere"], "nowhere"),
        ("align_faces", ["--photos=nowhere"], "nowhere"),
        ("prepare_lfw", ["--source=nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_loaded_is_one_line_and_exit_code_2(command, words, message, monkeypatch, capsys):
    Path("drawn").mkdir()
    images.save(torch.linspace(-1, 1, 32).expand(3, 32, 32), "drawn/0_0.png")
    before = sorted(Path().rglob("*"))
    code, out, err = call(monkeypatch, capsys, command, *words)
    last = err.rstrip("\n").rpartition("\n")[2]
    assert code == 2 and not out, (code, out, err)
    assert last.startswith("error: ") and re.search(message, last), last
    assert sorted(path for path in Path().rglob("*") if "cache-home" not in str(path)) == before


@pytest.mark.parametrize(
    ("command", "words"),
    [("latent_attack", ATTACK), ("pixel_attack", [*ATTACK, "--start=public-mean"]), ("audit", [*WORLD, "--identities=0-2"])],
)
def test_what_can_be_run_is_shown_and_nothing_is_written(command, words, made, monkeypatch, capsys):
    before = sorted(Path().rglob("*"))
    code, out, _ = call(monkeypatch, capsys, command, *words, f"--photos={made[1]}")
    assert code == 0 and json.loads(out)["world"] == NAME
    assert sorted(path for path in Path().rglob("*") if "cache-home" not in str(path)) == before


def test_a_folder_that_holds_a_run_and_a_run_that_is_gone_on_with(monkeypatch, capsys):
    assert run_main(monkeypatch, pixel_attack, *ATTACK, "--out=run") == 0
    code, _, err = call(monkeypatch, capsys, "pixel_attack", *ATTACK, "--out=run")
    assert code == 2 and "expected a new folder, got run, which holds a config.json" in err
    assert call(monkeypatch, capsys, "pixel_attack", "--resume=run")[0] == 0
    assert call(monkeypatch, capsys, "verify", "--run=run")[0] == 0
    Path("run/report.json").unlink()
    provenance = json.loads(Path("run/provenance.json").read_text())
    provenance["weights"]["target"]["sha256"] = "0" * 64
    Path("run/provenance.json").write_text(json.dumps(provenance))
    code, _, err = call(monkeypatch, capsys, "pixel_attack", "--resume=run")
    assert code == 2 and "expected the weights, photos and code that run began with" in err


def write_sweep(**parameters) -> None:
    Path("sweep.yaml").write_text(
        yaml.safe_dump(
            {
                "program": str(ROOT / "scripts/latent_attack.py"), "method": "random",
                "metric": {"name": "final/target_score", "goal": "maximize"},
                "parameters": {"optim.lr": {"min": 0.01, "max": 0.1}, "world": {"value": NAME}} | parameters,
            }
        )
    )  # fmt: skip


def test_a_sweeps_first_trial_is_tried(monkeypatch, capsys):
    pytest.importorskip("optuna")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for parameters, message in (
        (
            {"target": {"value": "nowhere.safetensors"}},
            "got one that it refuses: expected a recognizer: .*nowhere.safetensors",
        ),
        ({"optim.lrr": {"value": 3}}, "got one that it refuses: .*--optim.lrr"),
    ):
        write_sweep(**parameters)
        assert run_main(monkeypatch, run_sweep, "sweep.yaml", "--dry-run") == 2
        assert re.search(message, capsys.readouterr().err)
    assert run_main(monkeypatch, run_sweep, "nowhere.yaml", "--dry-run") == 2
    write_sweep()
    assert run_main(monkeypatch, run_sweep, "sweep.yaml", "--dry-run", "--extra=--identities=2-3 --device=cpu") == 0
    assert json.loads(capsys.readouterr().out)["trials"] == 20 and not Path("runs").exists()


def test_another_program_than_ganinvs_is_not_run(monkeypatch, capsys, tmp_path):
    pytest.importorskip("optuna")
    Path("other.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    write_sweep()
    Path("sweep.yaml").write_text(Path("sweep.yaml").read_text().replace(str(ROOT / "scripts/latent_attack.py"), "other.py"))
    assert run_main(monkeypatch, run_sweep, "sweep.yaml", "--dry-run") == 0
    assert not Path("ran").exists()
