"""Sweeps on this machine, with a small program in the place of an attack: what is run, pruned, gone on with and told."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from PIL import Image

from ganinv.commands import run_sweep
from ganinv.studies.sweeps.results import read_metric, read_scores
from ganinv.studies.sweeps.search import Search
from ganinv.studies.sweeps.sweep_file import check_early_terminate, find_warnings, read_sweep
from tests.tiny_world import run_main

PROGRAM = """
import json, pathlib, signal, sys, time
options = dict(word[2:].split("=", 1) for word in sys.argv[1:])
out = pathlib.Path(options["out"])
out.mkdir()
(out / "argv.json").write_text(json.dumps([sys.executable, *sys.argv]))
x = float(options.get("x", 5))
(out / "config.json").write_text(json.dumps({"x": x, "kind": options.get("kind", "a")}))
if options.get("kind") == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if options.get("kind") == "bad":
    print("it begins")
    sys.exit("error: expected a kind among a, deaf, got bad")
score = -(x - 2) ** 2
for step in range(int(options.get("steps", 0))):
    with open(out / "steps.jsonl", "a") as file:
        file.write(json.dumps({"step": step, "target_score": score}) + "\\n")
    time.sleep(float(options.get("pause", 0)))
entry = {"mean": score, "ci95": [None, None], "n": 1}
cost = {"seconds": 1, "images_evaluated": 1, "gradient_queries": 1, "score_queries": 0}
report = {"method": "fake", "world": "fake", "identities": [7], "seed": 0, "summary": {"target_score": entry},
          "per_identity": [{"identity": 7, "target_score": score}], "cost": cost, "absent": {"lpips": "no photos"}}
(out / "report.json").write_text(json.dumps(report))
"""
GRID = {"x": {"values": [1.0, 2.5, 4.0]}, "fixed": {"value": 7}, "wandb": {"value": "online"}}
RANGE = {"x": {"min": 0.0, "max": 10.0}, "kind": {"values": ["a", "b"]}}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ganinv.studies.sweeps.running.POLL_S", 0.02)
    Path("fake.py").write_text(PROGRAM)
    return tmp_path


def write_sweep(parameters=GRID, method="grid", name="sweep.yaml", **others) -> str:
    metric = {"name": "final/target_score", "goal": "maximize"}
    content = {"program": "fake.py", "method": method, "metric": metric, "parameters": parameters, **others}
    Path(name).write_text(yaml.safe_dump(content, sort_keys=False))
    return name


def run(monkeypatch, *argv) -> int:
    return run_main(monkeypatch, run_sweep, *argv)


def read_records(out="runs/sweep-sweep") -> list[dict]:
    return [json.loads(line) for line in Path(out, "trials.jsonl").read_text().splitlines()]


def read_table(out="runs/sweep-sweep") -> list[dict]:
    with open(Path(out, "trials.csv"), newline="") as file:
        return list(csv.DictReader(file))


def read_values(out) -> dict[int, dict]:
    return {record["number"]: record["values"] for record in read_records(out) if record["state"] == "complete"}


def read_error(capsys) -> str:
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


# ---- the three methods


def test_a_grid_runs_every_point_and_the_defaults_and_tells_the_best(monkeypatch, capsys):
    assert run(monkeypatch, write_sweep(), "--jobs=2") == 0
    out = Path("runs/sweep-sweep")
    assert json.loads((out / "trial-001/argv.json").read_text()) == [
        sys.executable, "fake.py", "--x=1.0", "--fixed=7", f"--out={out}/trial-001", "--wandb=disabled",
    ]  # fmt: skip
    assert "--x" not in (out / "trial-000/argv.json").read_text()  # the program's own
    rows = read_table()
    assert [(row["trial"], row["x"], float(row["final/target_score"])) for row in rows] == [
        ("2", "2.5", -0.25), ("1", "1.0", -1.0), ("3", "4.0", -4.0), ("0", "5.0", -9.0),
    ]  # fmt: skip
    printed = re.sub(" +", " ", capsys.readouterr().out)  # without what pads the columns
    assert "| 0 (defaults) | complete | -9.0000 | 5 |" in printed
    assert "Best: trial 2, final/target_score -0.2500, of 3 complete; the defaults have -9.0000" in printed
    assert "it is better by 8.7500" in printed
    with Image.open(out / "parallel.png") as picture:
        assert picture.width > 300 and len(picture.convert("RGB").getcolors(2**24)) > 20


def test_what_is_done_is_not_done_again(monkeypatch):
    assert run(monkeypatch, write_sweep(), "--count=2", "--defaults=False") == 0
    made = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("report.json")}
    assert len(made) == 2
    assert run(monkeypatch, "sweep.yaml", "--count=3", "--defaults=False") == 0
    again = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("report.json")}
    assert len(again) == 3 and made.items() <= again.items()
    started = [record["number"] for record in read_records() if record["state"] == "running"]
    assert started == [1, 2, 3]


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_sweep_gone_on_with_is_the_whole_sweep(method, monkeypatch):
    file = write_sweep(RANGE, method)
    options = ["--defaults=False", "--seed=3"]
    assert run(monkeypatch, file, "--count=4", "--out=whole", *options) == 0
    assert run(monkeypatch, file, "--count=2", "--out=parts", *options) == 0
    assert run(monkeypatch, file, "--count=4", "--out=parts", *options) == 0
    whole = read_values("whole")
    assert whole == read_values("parts") and len({values["x"] for values in whole.values()}) == 4


def test_bayes_comes_nearer_than_chance():
    def draw(method):
        write_sweep(RANGE, method)
        search = Search(read_sweep("sweep.yaml"), seed=0)
        drawn = []
        for number in range(1, 41):
            drawn.append(search.start(number)["x"])
            search.end(number, "complete", -((drawn[-1] - 2) ** 2))
        return statistics.mean(abs(x - 2) for x in drawn[20:])

    assert draw("bayes") < 0.5 * draw("random")


def test_draws_keep_to_their_ranges():
    parameters = {
        "whole": {"min": 2, "max": 4},
        "rate": {"distribution": "log_uniform_values", "min": 1.0e-5, "max": 1.0e-1},
        "step": {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 0.25},
        "pair": {"values": [[1.0, 1.0], [0.9, 1.1]]},
    }
    write_sweep(parameters, "random")
    search = Search(read_sweep("sweep.yaml"), seed=1)
    drawn = [search.start(number) for number in range(1, 61)]
    assert {values["whole"] for values in drawn} == {2, 3, 4} and type(drawn[0]["whole"]) is int
    assert {values["step"] for values in drawn} == {0.0, 0.25, 0.5, 0.75, 1.0}
    assert {tuple(values["pair"]) for values in drawn} == {(1.0, 1.0), (0.9, 1.1)}
    small = sum(values["rate"] < 1e-3 for values in drawn)  # half the decades
    assert 15 < small < 45 and all(1e-5 <= values["rate"] <= 1e-1 for values in drawn)


# ---- early termination


def test_hyperband_ends_the_process_of_a_poor_trial(monkeypatch):
    parameters = {"x": {"values": [2.0, 9.0, 2.1]}, "steps": {"value": 40}, "pause": {"value": 0.02}}
    rule = {"type": "hyperband", "min_iter": 4, "eta": 2, "strict": True}
    assert run(monkeypatch, write_sweep(parameters, early_terminate=rule), "--defaults=False") == 0
    states = {record["number"]: record["state"] for record in read_records()}
    assert states == {1: "complete", 2: "pruned", 3: "pruned"}  # of three, the best half is one
    rows = {n: len(read_scores(Path(f"runs/sweep-sweep/trial-{n:03d}"), "target_score")) for n in (1, 2, 3)}
    assert rows[1] == 40 and 4 <= rows[2] < 40
    assert not Path("runs/sweep-sweep/trial-002/report.json").exists()
    assert [row["state"] for row in read_table()] == ["complete", "pruned", "pruned"]
    assert read_table()[1]["line"] == f"'{-(7.0**2):.4f} after {rows[2]}"  # where it stood, to no spreadsheet a formula
    assert f"pruned: -49.0000 after {rows[2]} |" in Path("runs/sweep-sweep/table.md").read_text()


@pytest.mark.parametrize(
    ("rule", "first"), [({"min_iter": 5}, 5), ({"max_iter": 27, "s": 2}, 3), ({"max_iter": 100, "s": 2, "eta": 2}, 25)]
)
def test_hyperbands_first_iteration_is_the_services(rule, first):
    eta = rule.get("eta", 3)
    expected = {"min_resource": first, "reduction_factor": eta}
    assert check_early_terminate({"type": "hyperband", **rule}) == expected


def test_the_best_third_goes_on():
    """At each of the service's iterations: 9 trials side by side, 3 stay after 2, 1 after 6."""
    write_sweep({"x": {"values": [float(k) for k in range(9)]}}, early_terminate={"type": "hyperband", "min_iter": 2})
    search = Search(read_sweep("sweep.yaml"), seed=0)
    for number in range(9, 0, -1):  # the best comes first, since those that come later are compared with it
        search.start(number)
    ended = {}
    for number in range(9, 0, -1):
        scores = [0.1 * number] * 10
        pruned_after = next((k for k in range(1, 11) if search.feed(number, scores[:k])), None)
        ended[number] = pruned_after
    assert ended[9] is None and ended[1] == 2 and set(ended.values()) <= {None, 2, 6}
    assert sum(when == 2 for when in ended.values()) >= 6


# ---- what goes wrong


def test_a_failing_trial_is_told_and_the_sweep_goes_on(monkeypatch, capsys):
    assert run(monkeypatch, write_sweep({"kind": {"values": ["bad", "a"]}}), "--defaults=False") == 0
    failed = next(record for record in read_records() if record["state"] == "failed")
    assert failed["line"] == "error: expected a kind among a, deaf, got bad" and failed["number"] == 1
    captured = capsys.readouterr()
    assert "trial 1 failed: error: expected a kind" in captured.err and "failed: error: expected a kind" in captured.out
    assert run(monkeypatch, "sweep.yaml", "--defaults=False") == 0
    assert sum(record["state"] == "running" for record in read_records()) == 2  # nor is it run again


def test_a_sweep_of_failures_is_a_fault(monkeypatch, capsys):
    assert run(monkeypatch, write_sweep({"kind": {"values": ["bad"]}}), "--defaults=False") == 1
    assert "error: no trial is complete; the last line of trial 1: error: expected a kind" in capsys.readouterr().err


def test_a_metric_that_is_absent_fails_the_trial_with_its_reason(monkeypatch, capsys):
    file = write_sweep(metric={"name": "final/lpips", "goal": "minimize"})
    assert run(monkeypatch, file, "--count=1", "--defaults=False") == 1
    err = capsys.readouterr().err
    assert "none (no photos)" in err and "warning: the metric final/lpips is a judge's: for diagnosis only" in err


def interrupt_when_running(number: int, pids: list[int]) -> threading.Thread:
    """Sends this process a signal once trial 1 has made its folder; pids gets the trial's process."""

    def wait():
        while not Path("runs/sweep-sweep/trial-001/config.json").exists():
            time.sleep(0.02)
        pids.append(read_records()[-1]["pid"])
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, "a"), (signal.SIGTERM, "deaf")])
def test_an_interrupted_sweep_leaves_no_process_and_goes_on(number, kind, monkeypatch, capsys):
    monkeypatch.setattr("ganinv.studies.sweeps.trial.GRACE_S", 0.3)
    parameters = {"x": {"min": 0.0, "max": 1.0}, "kind": {"value": kind}, "steps": {"value": 2}, "pause": {"value": 30}}
    file, pids = write_sweep(parameters, "random"), []
    waiting = interrupt_when_running(number, pids)
    assert run(monkeypatch, file, "--count=2", "--defaults=False") == 130
    waiting.join()
    assert "error: interrupted" in capsys.readouterr().err
    assert not is_alive(pids[0])
    (cut,) = read_records()
    Path("fake.py").write_text(PROGRAM.replace('float(options.get("pause", 0))', "0"))
    assert run(monkeypatch, file, "--count=2", "--defaults=False") == 0
    assert read_values("runs/sweep-sweep")[1] == cut["values"]
    assert len(read_scores(Path("runs/sweep-sweep/trial-001"), "target_score")) == 2  # anew, not on top


def test_a_trial_that_outlived_the_sweep_is_neither_run_twice_nor_lost(monkeypatch, capsys):
    assert run(monkeypatch, write_sweep(), "--count=1", "--defaults=False") == 0
    record = read_records()[0]  # as if the sweep had been killed while its trial went on
    command = [sys.executable, "-c", "import time; time.sleep(60)", "--out=runs/sweep-sweep/trial-001"]
    with subprocess.Popen(command) as process:
        while not Path(f"/proc/{process.pid}/cmdline").read_bytes():  # empty for a moment after it has begun
            pass
        Path("runs/sweep-sweep/trials.jsonl").write_text(json.dumps(record | {"pid": process.pid}) + "\n")
        capsys.readouterr()
        assert run(monkeypatch, "sweep.yaml", "--count=1", "--defaults=False") == 2
        assert f"got trial 1 running as {process.pid}" in read_error(capsys)
        process.kill()
    assert run(monkeypatch, "sweep.yaml", "--count=1", "--defaults=False") == 0
    assert [record["state"] for record in read_records()] == ["running", "complete"]


def test_another_sweep_in_the_folder_is_refused(monkeypatch, capsys):
    assert run(monkeypatch, write_sweep(), "--count=1", "--out=out") == 0
    capsys.readouterr()
    assert run(monkeypatch, write_sweep(name="other.yaml", parameters=RANGE, method="random"), "--out=out") == 2
    assert "expected the sweep that out holds, got another sweep.yaml" in read_error(capsys)
    assert run(monkeypatch, "sweep.yaml", "--out=out", "--seed=1") == 2
    assert "got another sweep.json" in read_error(capsys)


BROKEN = {
    "method": ({"method": "annealing"}, "expected a method among grid, random, bayes"),
    "metric": ({"metric": {"goal": "maximize"}}, "expected a metric with a name"),
    "prefix": ({"metric": {"name": "best/score"}}, "expected a metric such as final/target_score"),
    "constant": ({"parameters": {"x": {"value": 1}}}, "expected a parameter that varies"),
    "text": ({"parameters": {"x": {"min": "1e-5", "max": 1.0}}}, "write 1.0e-5, not 1e-5"),
    "range": ({"method": "random", "parameters": {"x": {"min": 2, "max": 1}}}, "numbers min < max for x"),
    "normal": (
        {"method": "random", "parameters": {"x": {"distribution": "normal", "mu": 0, "sigma": 0}}},
        "expected numbers mu, sigma above 0 and q above 0 for x with normal",
    ),
    "beta": (
        {"method": "random", "parameters": {"x": {"distribution": "beta", "min": 0, "max": 1}}},
        "expected a distribution among uniform, int_uniform, q_uniform, log_uniform, log_uniform_values, normal, log_normal, "
        "q_normal, q_log_normal for x, got beta",
    ),
    "normal grid": ({"parameters": {"x": {"distribution": "normal"}}}, "expected values for x in a grid"),
    "grid": ({"parameters": {"x": {"min": 0.0, "max": 1.0}}}, "expected values for x in a grid"),
    "early": ({"early_terminate": {"type": "median"}}, "early_terminate of type hyperband"),
    "bands": ({"early_terminate": {"type": "hyperband"}}, "expected min_iter, or max_iter and s"),
    "macro": ({"command": ["${python}", "${program}"]}, "plain words in command, got ${python}"),
    "program": ({"program": "none.py"}, "expected the program none.py"),
}


def test_normal_parameters_are_drawn_and_told_again():
    def read(method: str):
        of = {"plain": {"mu": 3, "sigma": 2}, "log": {"mu": -1}, "q": {"mu": 0, "sigma": 9, "q": 3}, "q_log": {"q": 2}}
        kinds = {"plain": "normal", "log": "log_normal", "q": "q_normal", "q_log": "q_log_normal"}
        parameters = {name: {"distribution": kinds[name], **numbers} for name, numbers in of.items()}
        content = {"program": "fake.py", "method": method, "metric": {"name": "final/target_score"}, "parameters": parameters}
        Path("sweep.yaml").write_text(yaml.safe_dump(content))
        return read_sweep("sweep.yaml")

    sweep = read("random")
    drawn = [Search(sweep, 0).start(number) for number in range(1, 301)]
    plain = [values["plain"] for values in drawn]
    assert abs(statistics.mean(plain) - 3) < 0.5 and abs(statistics.stdev(plain) - 2) < 0.3
    logs = [math.log(values["log"]) for values in drawn]
    assert abs(statistics.mean(logs) + 1) < 0.25 and abs(statistics.stdev(logs) - 1) < 0.15
    assert all(values["q"] % 3 == 0 and values["q_log"] % 2 == 0 for values in drawn)
    search = Search(read("bayes"), 0)
    for number, values in enumerate(drawn[:3], 1):  # of an earlier call, told again
        assert search.start(number, values) == values
        search.end(number, "complete", values["plain"])
    assert search.start(4).keys() == sweep.varied.keys()


@pytest.mark.parametrize("name", BROKEN)
def test_a_sweep_that_cannot_be_run_is_refused_in_a_line(name, monkeypatch, capsys):
    change, message = BROKEN[name]
    content = {"program": "fake.py", "method": "grid", "metric": {"name": "final/target_score"}, "parameters": GRID} | change
    Path("sweep.yaml").write_text(yaml.safe_dump(content))
    assert run(monkeypatch, "sweep.yaml") == 2
    assert message in read_error(capsys)
    assert not Path("runs").exists()


def test_options_that_make_no_sense_are_refused(monkeypatch, capsys):
    for options, message in (
        ([], "expected a sweep's YAML first"),
        (["none.yaml"], "expected a sweep's YAML file, got none.yaml"),
        ([write_sweep(), "--jobs=0"], "expected jobs in [1, 1000], got 0"),
        (["sweep.yaml", "--extra=--out=elsewhere"], "none of them --out or --wandb"),
    ):
        assert run(monkeypatch, *options) == 2
        assert message in read_error(capsys)


# ---- options


def test_extra_options_win_over_the_sweeps(monkeypatch):
    assert run(monkeypatch, write_sweep(), "--count=1", "--defaults=False", "--extra=--fixed=8 --kind='b c'") == 0
    argv = json.loads(Path("runs/sweep-sweep/trial-001/argv.json").read_text())
    assert argv[2:5] == ["--x=1.0", "--fixed=8", "--kind=b c"]


@pytest.mark.parametrize(
    ("identities", "extra", "warned"),
    [({"value": "5-14"}, {}, False), ({"value": "4-9"}, {}, True), (None, {}, True),
     ({"value": "5"}, {"identities": "0"}, True), ({"values": ["5", "0"]}, {}, True)],
)  # fmt: skip
def test_reported_users_are_not_tuned_on_in_silence(identities, extra, warned):
    parameters = GRID | ({"identities": identities} if identities else {})
    write_sweep(parameters, program="scripts/latent_attack.py")
    lines = find_warnings(read_sweep("sweep.yaml"), extra)
    assert ["users 0-4" in line for line in lines] == [True] * warned


@pytest.mark.parametrize(
    ("metric", "judge"),
    [("final/acc_at_1", True), ("final/identity_similarity", True), ("lpips", True), ("final/judge_score", True),
     ("final/target_score", False), ("attack/target_score", False), ("cost/seconds", False), ("train/pixels", False)],
)  # fmt: skip
def test_a_judge_is_not_made_the_goal_in_silence(metric, judge):
    write_sweep(metric={"name": metric, "goal": "maximize"})
    assert bool(find_warnings(read_sweep("sweep.yaml"), {})) == judge


def test_a_trainings_metric_is_its_last_row(tmp_path):
    (tmp_path / "steps.jsonl").write_text('{"step": 0, "pixels": 0.5}\n{"step": 25, "pixels": 0.25}\n{"step": 50, "pix')
    assert read_metric(tmp_path, "train/pixels") == 0.25  # the half row is not read
    with pytest.raises(ValueError, match="expected the metric critic in .*steps.jsonl, got none"):
        read_metric(tmp_path, "train/critic")
