"""The benchmark: what its table holds, whether both sides compute the same, its arithmetic. Nothing is timed here."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import torch

from ganinv.attack.config import AttackConfig
from ganinv.attack.invert import invert
from ganinv.commands import benchmark
from ganinv.engine.precision import Choice, Form
from ganinv.interfaces import FaultError
from ganinv.studies.benchmark import child, networks, table, timing
from ganinv.studies.benchmark.bench import Bench, make_row
from ganinv.studies.benchmark.loops import measure_pixels
from ganinv.studies.benchmark.training import spread_penalty
from tests.tiny_world import run_main
from tests.toys import toy_world

CPU = torch.device("cpu")
ROWS = {
    "step, capacity 2, mobilenet_v3_small",
    "initial selection, capacity 2, mobilenet_v3_small",
    "final selection, capacity 2, mobilenet_v3_small",
    "whole loop, capacity 2, mobilenet_v3_small",
    "pixel step, mobilenet_v3_small",
    "training step, capacity 2, batch 2",
}


# ---- both sides


@pytest.mark.parametrize("capacity, target", [*[(8, name) for name in networks.TARGETS], (16, "mobilenet_v3_small")], ids=str)
def test_the_engine_and_the_stock_modules_agree_in_the_networks_that_are_timed(capacity, target, tmp_path):
    pair = networks.build_pair(capacity, target, tmp_path, CPU)
    found = networks.compare_sides(pair, CPU, batch=2)
    assert found["pictures"] < 1e-4 and found["logits"] < 1e-3
    # of the target more: in random weights a few ReLUs stand on their edge
    assert found["prior_gradients"] < 2e-3 and found["target_gradients"] < 1e-2
    again = networks.build_pair(capacity, target, tmp_path, CPU)  # from the files that the first left
    w = networks.draw_latents(pair.stock.generator, 2, CPU)
    assert torch.equal(again.stock.generator.synthesize(w), pair.stock.generator.synthesize(w))


def test_the_stock_side_runs_the_packages_grouped_convolution_and_the_engine_none(tmp_path):
    pair = networks.build_pair(2, "mobilenet_v3_small", tmp_path, CPU, side=32)
    grouped = {"stock": 0, "engine": 0}
    conv2d = torch.nn.functional.conv2d
    for name in grouped:
        route = getattr(pair, name)

        def count(*args, name=name, **options):
            grouped[name] += options.get("groups", 1) == 3  # the batch
            return conv2d(*args, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.functional, "conv2d", count)
            route.generator.synthesize(networks.draw_latents(route.generator, 3, CPU))
    assert grouped["stock"] >= 3 * pair.stock.generator.num_ws > grouped["engine"]


def test_no_picture_of_a_timed_network_is_out_of_the_way(tmp_path):
    pair = networks.build_pair(2, "mobilenet_v3_small", tmp_path, CPU, side=32)
    pictures = pair.stock.generator.synthesize(networks.draw_latents(pair.stock.generator, 8, CPU))
    logits = pair.stock.recognizer(pictures).logits
    assert 0.1 < pictures.std() < 2 and torch.isfinite(logits).all() and logits.std() > 1e-3


def test_a_step_gives_the_gradient_of_the_identities_logits(tmp_path):
    pair = networks.build_pair(2, "mobilenet_v3_small", tmp_path, CPU, side=32)
    with torch.no_grad():
        assert not pair.stock.generator.synthesize(networks.draw_latents(pair.stock.generator, 2, CPU)).requires_grad
    one, two = (networks.make_step(pair.engine, 2, CPU, transforms=count)() for count in (1, 2))
    assert one.shape == (2, pair.engine.generator.num_ws, 512) and one.abs().sum() > 0 and not torch.allclose(one, two)


def test_auto_is_what_the_attack_would_take(monkeypatch, tmp_path):
    pair = networks.build_pair(2, "mobilenet_v3_small", tmp_path, CPU, side=32)
    asked = []

    def choose(name, generator, recognizer, latents):
        asked.append((name, generator, recognizer, len(latents)))
        return Choice(prior=Form("bfloat16"), line="precision: prior bfloat16, target float32")

    monkeypatch.setattr(networks.precision, "choose_precision", choose)
    route, taken = networks.choose_precision(pair.engine, 2, CPU)
    assert asked == [("auto", pair.engine.generator, pair.engine.recognizer, 2)]
    assert taken == "prior bfloat16, target float32" and route.recognizer is pair.engine.recognizer
    w = networks.draw_latents(route.generator, 2, CPU)
    low, high = (side.generator.synthesize(w) for side in (route, pair.engine))
    assert low.dtype == torch.float32 and 0 < (low - high).abs().max() < 0.3


# ---- arithmetic


def test_spreads_and_ratios_of_invented_rounds():
    assert timing.summarise([3.0, 1.0, 2.0]) == timing.Spread(2.0, 1.5, 2.5, 3)
    assert timing.summarise([4.0]) == timing.Spread(4.0, 4.0, 4.0, 1)
    # a machine that slows down to a tenth hits both sides, and no ratio
    assert timing.ratio([6.0, 60.0, 6.0], [2.0, 20.0, 2.0]) == timing.Spread(3.0, 3.0, 3.0, 3)
    with pytest.raises(ValueError, match="at least one round"):
        timing.summarise([])


def test_slopes_of_invented_times():
    sizes = [1, 2, 4, 8]
    for slope in (0.0, 1.0, 2.0, -0.5):
        assert timing.fit_slope(sizes, [3 * size**slope for size in sizes]) == pytest.approx(slope, abs=1e-9)
    for bad in (([1], [1.0]), ([2, 2], [1.0, 1.0]), ([1, 2], [1.0, 0.0]), ([1, 2], [1.0])):
        with pytest.raises(ValueError, match="at least two sizes"):
            timing.fit_slope(*bad)


def test_rounds_take_turns_after_a_warm_up():
    calls = []
    functions = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = timing.interleave(functions, seconds=0.0, device=CPU, least=2)
    assert calls == ["a", "b"] * 3 and {name: len(values) for name, values in times.items()} == {"a": 2, "b": 2}
    assert len(timing.interleave(functions, seconds=60.0, device=CPU, most=4)["a"]) == 4


def test_a_row_counts_by_unit_of_work_and_by_the_turns_that_were_taken():
    times = {"theirs": [1.0, 3.0], "float32": [1.0, 1.0], "auto": [1.0, 1.0]}
    row = make_row("x", "ms", "theirs", times, units={"theirs": 1, "float32": 4, "auto": 2}, turns={"auto": [5.0, 5.0]})
    assert row["times"]["theirs"]["median"] == 2000 and row["times"]["float32"]["median"] == 250
    assert row["ratios"]["float32"] == {"median": 8.0, "low": 6.0, "high": 10.0, "rounds": 2}
    assert row["ratios"]["auto"]["median"] == 10.0 and "theirs" not in row["ratios"]


def test_a_penalty_is_spread_over_the_steps_between():
    assert spread_penalty([9.0, 1.0, 17.0, 1.0, 9.0], every=4) == [3.0, 5.0]
    assert spread_penalty([0.5, 1.0], every=4) == [1.0]  # noise: no penalty is less than nothing


def test_others_take_turns_with_the_loop_and_their_time_is_not_the_loops(monkeypatch):
    generator, recognizer, _ = toy_world()
    clock = iter(range(10**6))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    seen = []

    def other() -> None:
        seen.append(1)
        for _ in range(1000):
            next(clock)

    turns = timing.Turns({"other": other}, CPU)
    config = AttackConfig(space="z", steps=5, candidates=0, restarts=1, final_transforms=1)
    invert(generator, recognizer, (0, 1), config, on_state=turns)
    assert len(turns.times["loop"]) == len(turns.times["other"]) == 4 < len(seen)  # the first step is not counted
    assert min(turns.times["other"]) > 1000 > 100 > max(turns.times["loop"])


# ---- the command


@pytest.fixture
def in_process(monkeypatch):
    """Answers requests without a process of their own, except for memory; returns the requests."""
    asked = []

    def ask(request, allocator):
        asked.append((allocator, request))
        json.loads(json.dumps(request))
        threads = torch.get_num_threads()
        yield from json.loads(json.dumps(list(child.answer(request))))
        torch.set_num_threads(threads)

    monkeypatch.setattr(benchmark, "ask_child", ask)
    return asked


@pytest.mark.slow
def test_a_quick_run_writes_its_table_and_json(monkeypatch, tmp_path, capsys, in_process):
    assert run_main(monkeypatch, benchmark, "--quick", "--device=cpu", "--threads=1", "--profile", f"--out={tmp_path}") == 0
    found, shown = json.loads((tmp_path / "benchmark.json").read_text()), (tmp_path / "table.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"benchmark.json", "table.md"}
    by_allocator = {name: {row["what"] for row in found["rows"] if row["allocator"] == name} for name in ("default", "cheap")}
    assert by_allocator == {"default": ROWS, "cheap": {"step, capacity 2, mobilenet_v3_small"}}
    for row in found["rows"]:
        if "absent" in row:
            assert row["what"].startswith("pixel step") and "benchmark" in row["absent"]
            continue
        assert row["against"] in row["times"] and row["times"].keys() - {row["against"]} == row["ratios"].keys() != set()
        for spread in [*row["times"].values(), *row["ratios"].values()]:
            assert 0 < spread["low"] <= spread["median"] <= spread["high"] and spread["rounds"] >= 1
    assert {row["along"].split()[0].rstrip(",") for row in found["growth"]} == {
        "users", "restarts", "pool", "resolution", "batch",
    }  # fmt: skip
    assert all(len(row["sizes"]) == len(row["seconds"]) >= 2 for row in found["growth"])
    assert [row["case"].split(",")[0] for row in found["memory"]] == ["stock 16", "engine 16"]
    assert all(0 <= row["rise_mib"] < row["peak_mib"] for row in found["memory"])
    assert found["machine"]["threads"] == 1 and found["machine"]["packages"]["torch"] == torch.__version__.split("+")[0]
    assert [one for one, _ in in_process] == ["default", "cheap", "default", "default"]
    out = capsys.readouterr().out
    assert shown in out and "say nothing of speed" in shown and "MALLOC_MMAP_MAX_=0" in shown
    assert all(f"| {what} |" in shown for what in ROWS) and "aten::" in out
    assert len(found["profiles"]) == 2  # float32 and auto
    for one in found["profiles"]:
        assert sum(one["shares"].values()) == pytest.approx(1) and min(one["shares"].values()) > 0
        assert one["convolutions"] > 0 and one["best"] > 0 and f"| {one['profile'].partition(' (')[0]} | " in shown
    # of whatever precision, the same convolutions are computed: 2 images of 32 px through small networks
    flops = [one["convolutions"] * one["shares"]["convolutions"] * one["ms"] * 1e6 for one in found["profiles"]]
    assert flops[0] == pytest.approx(flops[1]) and 1e6 < flops[0] < 1e9
    lines = [line for line in shown.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines[: 2 + len(ROWS)]} == {12}


def test_a_process_of_its_own_has_the_allocator_and_threads_that_were_asked_for(monkeypatch, tmp_path):
    (tmp_path / "child.py").write_text(
        "import json, os, sys\n"
        "request = json.load(sys.stdin)\n"
        "print(json.dumps({name: os.environ.get(name) for name in request['show']}))\n"
        "print('the last word', file=sys.stderr)\n"
        "sys.exit(request['code'])\n"
    )
    popen = benchmark.subprocess.Popen
    monkeypatch.setattr(
        benchmark.subprocess, "Popen", lambda command, **options: popen([command[0], tmp_path / "child.py"], **options)
    )
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "7")
    request = {"show": ["MALLOC_MMAP_MAX_", "OMP_NUM_THREADS"], "threads": 3, "code": 0}
    assert list(benchmark.ask_child(request, "default")) == [{"MALLOC_MMAP_MAX_": None, "OMP_NUM_THREADS": "3"}]
    assert list(benchmark.ask_child(request, "cheap")) == [{"MALLOC_MMAP_MAX_": "0", "OMP_NUM_THREADS": "3"}]
    with pytest.raises(FaultError, match="the last word"):
        list(benchmark.ask_child(request | {"code": 1}, "default"))


def test_without_the_toolbox_its_rows_say_so(monkeypatch, tmp_path):
    def missing(*_):
        raise ImportError("No module named 'art'")

    monkeypatch.setattr("ganinv.studies.benchmark.loops.build_miface", missing)
    (row,) = measure_pixels(Bench(CPU, tmp_path, quick=True))
    assert row == {"what": "pixel step, mobilenet_v3_small", "absent": "needs pip install -e '.[benchmark]'"}
    machine = {"processor": "p", "threads": 1, "cores": 1, "device": "cpu", "python": "3", "packages": {}, "quick": False}
    found = {"machine": machine | {"cheap_allocation": {}}, "rows": [row | {"allocator": "default"}], "seconds": 1.0}
    assert "| absent: needs pip install" in table.format_table(found | {"growth": [], "memory": []})


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--only=steps,speed", "expected --only among steps,.*, got speed"),
        ("--threads=-1", r"expected threads in \[0, 1024\], got -1"),
        ("--minutes=0", r"expected minutes in \(0, 1440\], got 0"),
        ("--minutes=nan", r"expected minutes in \(0, 1440\], got nan"),
        ("--device=tpu", "expected a device among"),
        ("--out=taken", "taken"),
    ],
)
def test_bad_input_ends_with_one_line_and_measures_nothing(flag, message, monkeypatch, tmp_path, capsys, in_process):
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("a file")
    assert run_main(monkeypatch, benchmark, flag) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert re.search(message, error), error
    assert not in_process and [path.name for path in tmp_path.iterdir()] == ["taken"]
