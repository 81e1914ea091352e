"""The plan of a large attack: its arithmetic, and that it runs. Nothing is timed here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ganinv.attack.config import AttackConfig, Optim
from ganinv.commands import benchmark
from ganinv.errors import FaultError
from ganinv.studies.benchmark import plan, spreading
from ganinv.studies.benchmark.plan import Costs, format_plans, format_time, simulate, spread, time_part
from tests.tiny_world import run_main

COSTS = Costs(
    64, start=5.0, send=0.5, size=125_000_000, candidate=0.01, call=0.05, step=0.1, final=0.02, verdict=(10.0, 0.3, 0.4)
)
CONFIG = AttackConfig(
    steps=10, candidates=400, restarts=4, keep=1, final_transforms=5, together=2, optim=Optim(transforms=2, halve_at=(0.5,))
)


def test_the_time_of_users_counts_the_samples_that_are_left_and_each_step_once():
    # 5 steps with 4 samples and 5 with 2, two views each; 5 views of each of the 2 in the end
    assert time_part(COSTS, CONFIG, 1) == pytest.approx(0.05 * 10 + 0.1 * 2 * (5 * 4 + 5 * 2) + 0.02 * 5 * 2)
    assert time_part(COSTS, CONFIG, 3) == pytest.approx(3 * time_part(COSTS, CONFIG, 1) - 2 * 0.05 * 10)


def test_units_go_to_the_worker_that_is_free_first():
    assert spread([3.0, 1.0, 1.0, 1.0], 2) == 3.0
    assert spread([1.0, 1.0, 1.0], 2) == 2.0
    assert spread([1.0, 1.0, 1.0], 1) == 3.0


def test_a_plan_is_the_sum_of_its_phases():
    found = simulate(COSTS, 5, 2, config=CONFIG, bandwidth=1e9)
    search = time_part(COSTS, CONFIG, 2) + time_part(COSTS, CONFIG, 1)
    # parts of 2, 2 and 1 users on two workers; slices of 200 candidates; one gigabit for each worker
    expected = {"start": 5.0, "transfer": 1.0 + 2.0, "candidates": 2.0, "search": search, "verdict": 12.5}
    assert found.phases == pytest.approx(expected)
    assert found.seconds == pytest.approx(sum(expected.values())) and found.bottleneck == "search"
    assert found.worker_hours == pytest.approx(2 * found.seconds / 3600)
    assert "| 64 px | 5 | 2 |" in format_plans([found])


def test_more_workers_never_take_longer_but_for_what_is_sent():
    times = [simulate(replace(COSTS, size=0), 100, workers, config=CONFIG).seconds for workers in (1, 2, 8, 64)]
    assert times == sorted(times, reverse=True) and times[0] > times[-1]


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 s"), (720, "12 min"), (12_240, "3.4 h"), (181_440, "2.1 d")])
def test_durations_are_read_by_people(seconds, text):
    assert format_time(seconds) == text


def test_the_command_writes_a_plan(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(plan, "RESOLUTIONS", (32,))
    monkeypatch.setattr(plan, "measure_costs", lambda world, resolution, device: replace(COSTS, resolution=resolution))
    threads = torch.get_num_threads()
    try:
        assert run_main(monkeypatch, benchmark, "--plan", "--users=20", "--workers=1,4", f"--out={tmp_path}") == 0
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "plan.md").read_text() in capsys.readouterr().out
    assert "| 32 px | 20 | 4 |" in (tmp_path / "plan.md").read_text()


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("--users=0", "expected users in [1, 1e9], got 0"),
        *((f"--workers={text}", f"expected workers such as 1,8,64, got '{text}'") for text in ("0", "two", "1,,2")),
    ],
)
def test_a_plan_for_nobody_is_one_line(monkeypatch, tmp_path, capsys, option, line):
    assert run_main(monkeypatch, benchmark, "--plan", option, f"--out={tmp_path}/out") == 2
    assert line in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_workers_are_compared_by_their_search_and_by_what_they_found(monkeypatch, tmp_path, capsys):
    def pretend(options):
        out = next(Path(option.removeprefix("--out=")) for option in options if option.startswith("--out="))
        workers = 2 if "--workers=2" in options else 1
        cost = {"seconds": 9.0, "search_seconds": 8.0 / workers, "verdict_seconds": 1.0}
        out.mkdir()
        found = {"summary": {}, "per_identity": [], "files": {"a": workers}}
        (out / "report.json").write_text(json.dumps({"cost": cost, **found}))
        return 12.5

    monkeypatch.setattr(spreading, "time_attack", pretend)
    monkeypatch.setattr("ganinv.engine.cluster.import_ray", lambda: None)
    assert run_main(monkeypatch, benchmark, "--only=cluster", f"--out={tmp_path}/speed", "--quick") == 0
    one, two = [line.split(" | ") for line in (tmp_path / "speed" / "cluster.md").read_text().splitlines()[3:]]
    assert one == ["| one worker", "12.5 s", "9.0 s", "8.0 s", "1.0 s", "0.25", "1.00", "yes |"]
    assert two == ["| two workers", "12.5 s", "9.0 s", "4.0 s", "1.0 s", "0.50", "2.00", "no |"]


def test_an_attack_that_fails_ends_the_comparison_with_its_last_line():
    with pytest.raises(FaultError, match="an attack of the benchmark failed: .*expected"):
        spreading.time_attack(["--identities=nonsense"])
