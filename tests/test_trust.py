"""A run folder is data: code that it names is run only where it is typed again, and only as it was."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ganinv.commands import latent_attack, verify
from ganinv.recognizers.adapters import names_code
from ganinv.recognizers.loading import load_recognizer
from ganinv.reports.run_folder import RunFolder
from tests.tiny_world import BRIEF, NAME, make_tiny_world, register, run_main

CODE = """
from pathlib import Path
import torch
from neighbour import SHARPNESS
Path(__file__).with_name("canary").touch()
def build():
    weight = torch.linspace(-1, 1, 18).view(6, 3)
    return lambda images: images.mean((2, 3)) @ weight.T * SHARPNESS
"""


@pytest.fixture
def code(tmp_path, monkeypatch):
    """Returns the spec of a target of six users that leaves a canary where it is run, in a world of random weights."""
    register(monkeypatch, make_tiny_world(tmp_path / "made"), tmp_path)
    (tmp_path / "code").mkdir()
    (tmp_path / "code/mine.py").write_text(CODE)
    (tmp_path / "code/neighbour.py").write_text("SHARPNESS = 9\n")
    monkeypatch.delitem(sys.modules, "neighbour", raising=False)
    return f"{tmp_path}/code/mine.py:build"


def test_code_that_a_folder_names_is_run_only_where_it_is_typed_again(code, monkeypatch, capsys):
    folder = Path(code).parent
    assert (
        run_main(monkeypatch, latent_attack, f"--world={NAME}", f"--target={code}", *BRIEF, "--identities=0,1", "--out=run")
        == 0
    )
    assert json.loads(Path("run/provenance.json").read_text())["code"]["target"][0]["file"] == "mine.py"
    Path("run/report.json").rename("report.json")
    (folder / "canary").unlink()
    for command, option in (latent_attack, "--resume=run"), (latent_attack, "--from-run=run"), (verify, "--run=run"):
        Path("report.json").rename("run/report.json") if command is verify else None
        assert run_main(monkeypatch, command, option) == 2
        assert f"expected --target={code} typed beside run" in capsys.readouterr().err
        assert run_main(monkeypatch, command, option, "--target=other.py:build") == 2
    assert not (folder / "canary").exists()

    assert run_main(monkeypatch, verify, "--run=run", f"--target={code}") == 0
    assert (folder / "canary").exists()
    Path("run/report.json").unlink()
    (folder / "neighbour.py").write_text("SHARPNESS = 10  # changed\n")
    monkeypatch.delitem(sys.modules, "neighbour")
    assert run_main(monkeypatch, latent_attack, "--resume=run", f"--target={code}") == 2
    assert "expected the weights, photos and code that run began with" in capsys.readouterr().err
    (folder / "neighbour.py").write_text("SHARPNESS = 9\n")
    monkeypatch.delitem(sys.modules, "neighbour")
    assert run_main(monkeypatch, latent_attack, "--resume=run", f"--target={code}") == 0


def test_a_stop_names_the_code_to_type_again(code, monkeypatch, capsys):
    import os
    import signal

    def interrupt(self, row):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(RunFolder, "append_step", interrupt)
    arguments = [f"--world={NAME}", f"--target={code}", *BRIEF, "--identities=0,1", "--out=run"]
    assert run_main(monkeypatch, latent_attack, *arguments) == 130
    assert f"go on with --resume=run --target={code}\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spec", "is_code"),
    [("a.py:build", True), ("models:build", True), ("torchscript:a.pt", True), ("a.torchscript", True), ("a.PT2", True),
     ("a.onnx", False), ("sface", False), ("facenet:vggface2", False), ("torchvision:resnet18:a.pt", False),
     ("a.safetensors", False), ("", False)],
)  # fmt: skip
def test_what_is_code(spec, is_code):
    assert names_code(spec) is is_code


def test_the_folder_of_a_file_is_importable_and_its_module_registered(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["attack.py", "--steps=3"])
    (tmp_path / "torch_models.py").write_text(
        "from __future__ import annotations\nimport argparse\nfrom dataclasses import dataclass\n"
        "argparse.ArgumentParser().parse_args()\n"
        "@dataclass\nclass Scale:\n    by: float = 2.0\n"
        "def build():\n    from late_neighbour import add\n    return lambda images: add(images.mean((2, 3)) * Scale().by)\n"
    )
    (tmp_path / "late_neighbour.py").write_text("def add(x):\n    return x + 1\n")
    load_recognizer(f"{tmp_path}/torch_models.py:build", "cpu")
    assert sys.argv[1:] == ["--steps=3"] and str(tmp_path) == sys.path[-1] and sys.path[0] != str(tmp_path)

    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text("def make():\n    return lambda images: images.mean((2, 3))\n")
    (package / "whole.py").write_text("from .parts import make\nbuild = make\n")
    load_recognizer(f"{package}/whole.py:build", "cpu")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [place for place in sys.path if place not in (str(tmp_path), "")])
    load_recognizer("package.whole:build", "cpu")
