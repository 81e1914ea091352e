"""Run folders that somebody sent: every JSON file of one is read in one place, and what is odd is one line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ganinv.commands import compare, latent_attack, pixel_attack, verify
from ganinv.reports.run_files import read_steps
from tests.tiny_world import BRIEF, NAME, make_tiny_world, register, run_main

DEEP = "[" * 100_000
HUGE = "1" + "0" * 400


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Returns the folder of a finished run, beside its world."""
    folder = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patched:
        register(patched, make_tiny_world(folder), folder)
        words = [f"--world={NAME}", *BRIEF, "--identities=0,1", "--out=run", "--space=w"]
        assert run_main(patched, latent_attack, *words) == 0
    return folder


@pytest.fixture
def run(made, tmp_path, monkeypatch):
    """Returns a copy of the run in the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))
    Path(NAME).symlink_to((made / NAME).resolve())
    for file in (made / "run").rglob("*"):
        if file.is_file() and file.name != ".lock":
            copy = Path("run") / file.relative_to(made / "run")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
    return Path("run")


def change(file: Path, changes: dict) -> None:
    """Changes values of a JSON file, given as JSON; "a.b" is a key within a key."""
    content = json.loads(file.read_text())
    for name, value in changes.items():
        *above, key = name.split(".")
        place = content
        for part in above:
            place = place[part]
        place[key] = f"<{value}>"
    text = json.dumps(content)
    file.write_text(re.sub(r'"<(.*?)>"', lambda match: match[1].replace('\\"', '"'), text))


ODD = {
    "report.json": ["files", '["a"]'], "report.json ": ["files", '{"a": 3}'], "report.json  ": ["cost.seconds", HUGE],
    "report.json   ": ["verdict", "[3]"], "report.json    ": ["identities", '["0"]'],
    "report.json     ": ["leak", '{"p": 1}'],
    "report.json      ": ["summary.target_score.mean", HUGE], "report.json       ": ["cost.verdict_seconds", '"long"'],
    "config.json": ["identities", "[0, 1]"], "config.json ": ["keep", "1000000000"], "config.json  ": ["keep", '"1"'],
    "config.json   ": ["optim", "[]"], "config.json    ": ["optim.lr", HUGE], "config.json     ": ["target", '["a.py:b"]'],
    "config.json      ": ["world", "{}"], "config.json       ": ["threshold", '"x"'],
    "provenance.json": ["weights", "[]"], "provenance.json ": ["weights", '{"target": "x"}'],
    "provenance.json  ": ["argv", '"latent"'], "provenance.json   ": ["precision", "3"],
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_an_odd_value_is_one_line_whoever_reads_it(name, run, monkeypatch, capsys):
    key, value = ODD[name]
    file = run / name.strip()
    change(file, {key: value})
    codes = {
        "compare": run_main(monkeypatch, compare, "run", "--out=table"),
        "verify": run_main(monkeypatch, verify, "--run=run"),
    }
    Path("run/report.json").unlink()
    codes["resume"] = run_main(monkeypatch, latent_attack, "--resume=run") if file.name != "report.json" else 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert 2 in codes.values() and set(codes.values()) <= {0, 1, 2} and len(lines) >= 1, codes
    assert all(len(line) < 700 and line.isprintable() for line in lines)


@pytest.mark.parametrize("name", ["report.json", "config.json", "provenance.json"])
@pytest.mark.parametrize("content", ["", "[]", DEEP, "{", '"a"'])
def test_a_file_that_is_no_json_object_is_one_line(name, content, run, monkeypatch, capsys):
    (run / name).write_text(content)
    assert run_main(monkeypatch, compare, "run", "--out=table") == 2
    assert run_main(monkeypatch, verify, "--run=run") == 2
    assert capsys.readouterr().err.count("error: expected ") == 2


@pytest.mark.parametrize(
    "row", ["[]", "3", '{"step": "x"}', '{"step": 1, "identities": []}', f'{{"step": {HUGE}}}', DEEP, "{"]
)
def test_odd_rows_are_one_line(row, run, monkeypatch, capsys):
    with open(run / "steps.jsonl", "a") as file:
        file.write(row + "\n")
    with pytest.raises(ValueError, match="in line 4 of .*steps.jsonl, got"):
        read_steps(run)
    assert run_main(monkeypatch, compare, "run", "--out=table") == 2
    assert "line 4 of run/steps.jsonl" in capsys.readouterr().err


def test_verify_compares_whole_hashes_of_files_that_are_there(run, monkeypatch, capsys):
    report = json.loads((run / "report.json").read_text())
    name = "images/0_0.png"
    for files in (
        {**report["files"], name: report["files"][name][:12] + "0" * 52},
        {**report["files"], "images/none.png": "no file, and none was ever there"},
        {**report["files"], "../secret": "0" * 64},
        {},
    ):
        (run / "report.json").write_text(json.dumps(report | {"files": files}))
        assert run_main(monkeypatch, verify, "--run=run") == 1
    assert "expected 3 files in report.json, got 0" in capsys.readouterr().out


def test_a_run_of_the_other_method_is_refused_before_anything_is_loaded(run, monkeypatch, capsys):
    (run / "report.json").unlink()
    assert run_main(monkeypatch, pixel_attack, "--resume=run") == 2
    assert "expected a run of this script and version" in capsys.readouterr().err
