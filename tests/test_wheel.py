"""The wheel: what it holds, and that it attacks from another folder with the weights that it carries.

The checkout is a stand-in whose shipped world is tiny: what is tested is which files are taken, and where to.
"""

from __future__ import annotations

import configparser
import fnmatch
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ganinv.reports.report_file import read_report
from tests.tiny_world import BRIEF, make_tiny_world

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of a checkout whose only shipped world is the tiny one, under the name of the default."""
    pytest.importorskip("setuptools", minversion="70.1", reason="the wheel is built by the environment's own setuptools")
    checkout = tmp_path_factory.mktemp("checkout")
    for name in ("setup.py", "setup.cfg", "MANIFEST.in", "LICENSE", "README.md"):
        shutil.copyfile(ROOT / name, checkout / name)
    shutil.copytree(ROOT / "ganinv", checkout / "ganinv", ignore=shutil.ignore_patterns("__pycache__"))
    world = make_tiny_world(tmp_path_factory.mktemp("tiny"))
    shutil.copytree(world.folder, checkout / "pretrained" / "synthetic")
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-w", "wheels"]
    done = subprocess.run([*command, "--disable-pip-version-check"], cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = (checkout / "wheels").glob("ganinv-*.whl")
    return file


def test_every_file_of_the_shipped_worlds_is_taken():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = setup["options.package_data"]["ganinv.pretrained"].split(", ")
    files = [path.relative_to(ROOT / "pretrained").as_posix() for path in (ROOT / "pretrained").rglob("*") if path.is_file()]
    assert files and all(any(fnmatch.fnmatch(file, pattern) for pattern in patterns) for file in files)


def test_the_wheel_holds_the_package_its_pages_and_its_worlds(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"ganinv/py.typed", "ganinv/reports/page.html", "ganinv/studies/panel/panel.html"} <= names
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "ganinv").rglob("*.py")}
    assert sources <= names
    lying = {f"ganinv/pretrained/synthetic/{path.name}" for path in (wheel.parents[1] / "pretrained/synthetic").iterdir()}
    assert {name for name in names if name.startswith("ganinv/pretrained/")} == lying
    assert "ganinv/pretrained/synthetic/world.json" in lying


def test_an_installed_wheel_runs_the_default_from_another_folder(wheel, tmp_path):
    place = tmp_path / "installed"
    zipfile.ZipFile(wheel).extractall(place)  # what pip does with a wheel of pure Python
    code = "import ganinv, sys; print(ganinv.__file__); from ganinv.commands.latent_attack import main; main()"
    environment = os.environ | {"PYTHONPATH": str(place), "GANINV_OFFLINE": "1", "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code, *BRIEF, "--steps=1", "--identities=0-1", "--out=run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert str(place) in done.stdout and read_report(tmp_path / "run")["world"] == "synthetic"
