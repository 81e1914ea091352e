"""Weights & Biases: an offline run is read back, and no failure of it reaches the caller."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from ganinv import images
from ganinv.reports import tracking
from ganinv.reports.run_folder import RunFolder
from ganinv.reports.tracking import Tracker, make_run_id, track_training
from tests.wandb_stub import KEY, WandbStub

REPORT = {
    "method": "latent", "world": "toy", "identities": [3, 7], "seed": 0,
    "summary": {
        "target_score": {"mean": 0.9, "ci95": [0.8, 1.0], "n": 2},
        "identity_similarity": {"mean": 0.375, "ci95": [None, None], "n": 2},
        "lpips": {"mean": 0.5, "ci95": [0.4, 0.6], "n": 2},
    },
    "per_identity": [
        {"identity": 3, "target_score": 0.8, "identity_similarity": 0.25, "lpips": 0.4},
        {"identity": 7, "target_score": 1.0, "identity_similarity": 0.5, "lpips": 0.6},
    ],
    "cost": {"seconds": 1.5, "images_evaluated": 10, "gradient_queries": 6, "score_queries": 4},
    "absent": {"fid": "too few pictures"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


def settings():
    """Returns the environment, but for the address of wandb's own process."""
    return {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}


def read_back(folder):
    """Returns the records of the one offline run in a run folder."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    return read_file(file)


def read_file(file):
    """Returns the records of a run's file, which wandb's process writes until a moment after the run's end."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    deadline = time.monotonic() + 30
    while True:
        lines = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()
        records = [json.loads(line) for line in lines]
        if any(record["type"] == "exit" for record in records) or time.monotonic() > deadline:
            return records


def collect(records, kind, field):
    return [record[kind][field] for record in records if record["type"] == kind and field in record[kind]]


def row(step):
    pictures = {"images": torch.stack([torch.full((3, 8, 8), -0.5), torch.full((3, 8, 8), 0.5)])} if step == 1 else {}
    return {"step": step, "objective": 3.0 - step, "target_score": 0.5, "identities": {3: 0.25, 7: 0.75}, **pictures}


def test_offline_run_reads_back(tmp_path, capsys):
    folder = tmp_path / "latent-toy-000"
    (folder / "images").mkdir(parents=True)
    images.save(torch.zeros(3, 8, 8), folder / "images" / "3_0.png")
    environment = settings()
    tracker = Tracker()
    config = {"steps": 3, "scale": (0.9, 1.1), "optim": {"lr": 0.05}}
    assert tracker.start("offline", config, folder) == {}  # a tuple that came back as a list is no override
    for step in range(3):
        tracker.log_step(row(step))
    tracker.finish(REPORT)
    assert capsys.readouterr() == ("", "")
    assert settings() == environment

    records = read_back(folder)
    (run,) = [record["run"] for record in records if record["type"] == "run"]
    assert run["project"] == "ganinv"
    kept = {name: value for name, value in run["config"]["update"].items() if name != "_wandb"}
    assert kept == {"steps": 3, "scale": [0.9, 1.1], "optim": {"lr": 0.05}}
    history = collect(records, "history", "item")
    steps = [item for item in history if "attack/step" in item]
    assert [item["attack/step"] for item in steps] == [0, 1, 2]
    assert [item["attack/objective"] for item in steps] == [3, 2, 1]
    assert [item["attack/identity/7"] for item in steps] == [0.75] * 3
    assert {"glob_name": "attack/*", "step_metric": "attack/step"}.items() <= next(
        record["metric"].items() for record in records if record["type"] == "metric" and "glob_name" in record["metric"]
    )
    summary = {}
    for update in collect(records, "summary", "update"):
        summary |= update
    assert summary["final/identity_similarity"] == 0.375
    assert (summary["final/lpips"], summary["final/lpips_low"], summary["final/lpips_high"]) == (0.5, 0.4, 0.6)
    assert "final/identity_similarity_low" not in summary
    assert summary["cost/images_evaluated"] == 10
    assert summary["absent/fid"] == "too few pictures"

    (files,) = folder.glob("wandb/offline-run-*/files")
    (table,) = (json.loads(file.read_text()) for file in files.glob("media/table/identities*.table.json"))
    assert table["columns"] == ["identity", "identity_similarity", "lpips", "target_score", "reconstruction"]
    assert [cells[:4] for cells in table["data"]] == [[3, 0.25, 0.4, 0.8], [7, 0.5, 0.6, 1.0]]
    assert table["data"][1][4] is None  # there is no 7_0.png
    staged = [file.read_bytes() for file in (folder / "wandb" / "data" / "artifacts" / "staging").iterdir()]
    pictures = [json.loads(content)["data"][0][4] for content in staged if content.startswith(b"{")]
    assert pictures and all(picture["_type"] == "image-file" for picture in pictures)
    assert any(content.startswith(b"\x89PNG") for content in staged)  # inside the folder: it goes where the folder goes


def test_pictures_arrive_pixel_for_pixel(tmp_path):
    from PIL import Image

    ramp = torch.linspace(-1, 1, 64).view(8, 8)
    pictures = torch.stack([torch.stack([ramp, ramp.T, -ramp]), torch.full((3, 8, 8), 0.5)])
    tracker = Tracker()
    tracker.start("offline", {}, tmp_path)
    tracker.log_step(row(1) | {"images": pictures})
    tracker.finish()
    for identity, expected in zip((3, 7), images.to_uint8(pictures), strict=True):
        (file,) = tmp_path.glob(f"wandb/offline-run-*/files/media/images/attack/picture/{identity}_*.png")
        with Image.open(file) as picture:
            found = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
        assert torch.equal(found, expected)


def test_training_is_tracked_under_its_own_keys(tmp_path):
    with track_training("offline", {"steps": 2}, tmp_path) as log:
        log({"step": 4, "loss": 0.5})
    (item,) = [item for item in collect(read_back(tmp_path), "history", "item") if "train/step" in item]
    assert (item["train/step"], item["train/loss"]) == (4, 0.5)


def test_online_without_a_key_goes_on_offline_with_one_line(tmp_path, capsys):
    tracker = Tracker()
    tracker.start("online", {}, tmp_path)
    tracker.log_step({"step": 0, "objective": 1.0})
    tracker.finish()
    assert list(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    (line,) = capsys.readouterr().err.splitlines()
    assert "no API key" in line and line.endswith(f"going on offline; later: wandb sync {tmp_path}/wandb/offline-run-*")


def test_unknown_mode_is_the_callers_mistake(tmp_path):
    with pytest.raises(ValueError, match="expected a wandb mode among offline, online, disabled, got dryrun"):
        Tracker().start("dryrun", {}, tmp_path)


def test_disabled_imports_nothing_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would raise
    tracker = Tracker()
    assert tracker.start("disabled", {}, tmp_path / "run") == {}
    tracker.log_step(row(1))
    tracker.finish(REPORT)
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    environment = settings()
    tracker = Tracker()
    assert tracker.start("offline", {}, tmp_path) == {}
    tracker.log_step(row(1))
    tracker.finish(REPORT)
    (line,) = capsys.readouterr().err.splitlines()
    assert "going on without" in line
    assert settings() == environment


class FakeRun(SimpleNamespace):
    """A wandb run that keeps what it gets and fails where it is told to."""

    def __init__(self, fails=(), config=None):
        state = {"id": "abc", "sweep_id": None, "resumed": False, "step": 0, "steps": [], "rows": [], "summary": {}}
        super().__init__(fails=fails, config=config or {}, closed=None, **state)

    def define_metric(self, *arguments, **options):
        self.refuse("define_metric")

    def log(self, values, step=None, commit=True):
        self.refuse("log")
        self.rows.append(values)
        self.steps.append(step)

    def finish(self, exit_code):
        self.closed = exit_code
        self.refuse("finish")

    def refuse(self, name):
        if name in self.fails:
            raise BrokenPipeError(f"{name} broke\nwith a long story")


@pytest.fixture
def fake(monkeypatch):
    """Puts a fake wandb in place; gives a function that sets the run which its init returns."""

    def install(run):
        module = ModuleType("wandb")
        module.Settings, module.init = (lambda **options: options), (lambda **options: run)
        module.Image, module.Table = (lambda picture: picture), FakeTable
        monkeypatch.setitem(sys.modules, "wandb", module)
        return run

    return install


class FakeTable:
    def __init__(self, **options):
        self.rows = []

    def add_data(self, *cells):
        self.rows.append(cells)


@pytest.mark.parametrize("fails", ["define_metric", "log", "finish"])
def test_a_failure_of_wandb_never_stops_the_run(tmp_path, capsys, fake, fails):
    fake(FakeRun(fails=(fails,)))
    tracker = Tracker()
    tracker.start("offline", {}, tmp_path)
    for step in range(3):
        tracker.log_step(row(step))
    tracker.finish(REPORT)
    (line,) = capsys.readouterr().err.splitlines()  # said once, not at every step
    assert line.startswith(f"wandb: BrokenPipeError: {fails} broke; ")
    assert fails == "define_metric" or line.endswith(f"; later: wandb sync {tmp_path}/wandb/offline-run-*")


def test_a_report_that_cannot_be_logged_still_closes_the_run(tmp_path, capsys, fake):
    run = fake(FakeRun())
    tracker = Tracker()
    tracker.start("offline", {}, tmp_path)
    run.fails = ("log",)
    tracker.finish(REPORT)
    assert run.closed == 0
    assert "the report is not logged" in capsys.readouterr().err


def test_absent_metrics_leave_their_columns_empty(tmp_path, fake):
    run = fake(FakeRun())
    tracker = Tracker()
    tracker.start("offline", {}, tmp_path)
    rows = [{"identity": 3, "identity_similarity": 0.5}]
    summary = {"identity_similarity": {"mean": 0.5, "ci95": [None, None], "n": 1}}
    absent = {"lpips": "needs reference photos: pass --photos DIR"}
    tracker.finish({**REPORT, "summary": summary, "per_identity": rows, "absent": absent})
    (logged,) = run.rows
    assert logged["identities"].rows == [(3, 0.5, None, None)]
    assert run.summary["absent/lpips"].startswith("needs reference photos")
    assert "final/lpips" not in run.summary


def test_a_sweeps_values_come_back(tmp_path, fake):
    fake(FakeRun(config={"steps": 50, "optim": {"lr": 0.1}, "seed": 0, "psi": 0.7}))
    overrides = Tracker().start("offline", {"steps": 100, "optim": {"lr": 0.05}, "seed": 0}, tmp_path)
    assert overrides == {"steps": 50, "optim": {"lr": 0.1}, "psi": 0.7}


def test_a_failed_training_is_marked_and_its_error_passes_through(tmp_path, fake):
    run = fake(FakeRun())
    with pytest.raises(KeyError), track_training("offline", {}, tmp_path):
        raise KeyError("a bug")
    assert run.closed == 1


# ---- which run, which step


def test_the_run_id_is_of_the_configuration():
    config = {"seed": 0, "optim": {"lr": 0.1}, "device": "cpu", "resume": False}
    same = {"optim": {"lr": 0.1}, "seed": 0, "device": "cuda", "resume": True, "wandb_artifacts": True}
    assert make_run_id(config, "a") == make_run_id(same, "a") and len(make_run_id(config, "a")) == 16
    assert len({make_run_id(config, "a"), make_run_id(config, "b"), make_run_id(config | {"seed": 1}, "a")}) == 3


def test_a_run_gone_on_with_logs_no_step_twice(tmp_path):
    for steps in (range(0, 50, 10), range(30, 80, 10)):  # killed at 40, gone on with from the state of step 30
        tracker = Tracker("train")
        tracker.start("offline", {"seed": 0, "resume": steps[0] > 0}, tmp_path)
        for step in steps:
            tracker.log_step({"step": step, "loss": 0.5})
        tracker.finish(failed=steps[0] == 0)
    first, second = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"), key=lambda file: file.stat().st_mtime_ns)
    assert first.name == second.name  # one id
    found = [item for file in (first, second) for item in collect(read_file(file), "history", "item")]
    assert [item["train/step"] for item in found] == [0, 10, 20, 30, 40, 50, 60, 70]
    assert [item["_step"] for item in found] == [0, 10, 20, 30, 40, 50, 60, 70]


def test_a_sweeps_running_score_is_logged_under_its_metric(tmp_path, fake):
    run = fake(FakeRun())
    run.sweep_id = "s"
    tracker = Tracker()
    tracker.start("offline", {}, tmp_path)
    tracker.log_step(row(0))
    assert run.rows[0]["final/target_score_transformed"] == 0.5
    run.sweep_id = None
    tracker.log_step(row(2))
    assert "final/target_score_transformed" not in run.rows[1] and run.steps == [0, 2]


# ---- online, against a stand-in on loopback


@pytest.fixture
def service(monkeypatch):
    """Gives a function that starts the stand-in and makes it wandb's service."""
    stubs = []

    def start(**options) -> WandbStub:
        stubs.append(WandbStub(**options))
        monkeypatch.setenv("WANDB_BASE_URL", stubs[-1].url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        Tracker().cut_off()  # wandb's process of an earlier test knows another address
        return stubs[-1]

    yield start
    import wandb

    for stub in stubs:
        stub.stop()
    Tracker().cut_off()
    wandb.teardown()  # it forgets the key


def attack(folder, stop_at=None, stop=None, **finish) -> float:
    """Returns the seconds that the end of a run of 20 steps took, as run_attack does it; stop() is called on its way."""
    kept = RunFolder(folder)
    tracker = Tracker()
    tracker.start("online", {"seed": 0}, folder)
    for step in range(20):
        kept.append_step(row(step))
        tracker.log_step(row(step))
        if step == stop_at:
            stop()
    began = time.monotonic()
    tracker.finish(REPORT, **finish)
    return time.monotonic() - began


def own_steps(folder) -> list[int]:
    return [json.loads(line)["step"] for line in (Path(folder) / "steps.jsonl").read_text().splitlines()]


def logged_steps(file) -> list[int]:
    return [item["attack/step"] for item in collect(read_file(file), "history", "item") if "attack/step" in item]


def test_online_all_arrives(tmp_path, service, capsys):
    stub = service()
    for name in ("report.json", "config.json", "latents.safetensors"):
        (tmp_path / name).write_text(name)
    tracker = Tracker()
    tracker.start("online", {"seed": 0}, tmp_path)
    for step in range(20):
        tracker.log_step(row(step))
    tracker.finish(REPORT, artifacts=True)
    assert [one["attack/step"] for one in stub.rows if "attack/step" in one] == list(range(20))
    assert stub.complete and stub.runs[0]["name"] == make_run_id({"seed": 0}, tmp_path.name)
    summary = json.loads(stub.uploads["wandb-summary.json"])
    assert summary["final/identity_similarity"] == 0.375
    assert any("media/table/identities" in name for name in stub.uploads)
    assert {"artifact/report.json", "artifact/config.json", "artifact/latents.safetensors"} <= stub.uploads.keys()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"wandb: run at {stub.url}/somebody/ganinv/runs/")


def test_online_a_known_run_goes_on_after_its_last_step(tmp_path, service):
    tail = json.dumps([json.dumps({"_step": 9, "attack/step": 9})])
    stub = service(resumed={"historyLineCount": 10, "historyTail": tail, "summaryMetrics": '{"_step": 9}'})
    attack(tmp_path)
    assert [one["attack/step"] for one in stub.rows if "attack/step" in one] == list(range(10, 20))


def test_a_bad_key_goes_on_offline(tmp_path, service, capsys):
    service(refuse=True)
    attack(tmp_path)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"going on offline; later: wandb sync {tmp_path}/wandb/offline-run-*")
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert logged_steps(file) == own_steps(tmp_path) == list(range(20))


def test_no_network_goes_on_offline(tmp_path, service, capsys, monkeypatch):
    monkeypatch.setattr(tracking, "INIT_TIMEOUT_S", 2.0)
    service().stop()
    began = time.monotonic()
    attack(tmp_path)
    assert time.monotonic() - began < 30
    (line,) = capsys.readouterr().err.splitlines()
    assert "going on offline" in line
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert logged_steps(file) == list(range(20))


def test_a_service_that_falls_silent_is_left_in_time(tmp_path, service, capsys, monkeypatch):
    monkeypatch.setattr(tracking, "REPORT_S", 1.0)
    monkeypatch.setattr(tracking, "FINISH_TIMEOUT_S", 1.0)
    stub = service()
    assert attack(tmp_path, 9, stub.mute.set) < 7
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "run at" in lines[0]
    assert lines[1].endswith(f"later: wandb sync --include-online {tmp_path}/wandb/run-*")
    (file,) = tmp_path.glob("wandb/run-*/run-*.wandb")
    assert logged_steps(file) == own_steps(tmp_path) == list(range(20))


# ---- whole processes, with the times that users have


CHILD = """
import json, sys
from tests.test_tracking import REPORT, row
from ganinv.reports.run_folder import RunFolder
from ganinv.reports.tracking import Tracker
folder, tracker = RunFolder(sys.argv[1]), Tracker()
tracker.start("online", {"seed": 0}, folder.path)
for step in range(20):
    folder.append_step(row(step))
    tracker.log_step(row(step))
    if step == 9:
        print("half", flush=True)
        sys.stdin.readline()
print("attack is over", flush=True)
tracker.finish(REPORT)
"""


def run_process(folder, stop) -> tuple[float, str]:
    """Returns the seconds from the attack's end to the process's, and its stderr; stop(pid) is called at half time."""
    command = [sys.executable, "-c", CHILD, str(folder)]
    root = Path(__file__).resolve().parents[1]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=root, **pipes) as process:
        assert process.stdout.readline() == "half\n", process.stderr.read()
        stop(process.pid)
        process.stdin.write("go on\n")
        process.stdin.flush()
        assert process.stdout.readline() == "attack is over\n", process.stderr.read()
        began = time.monotonic()
        err = process.stderr.read()
        assert process.wait(60) == 0
        return time.monotonic() - began, err


def kill_core(pid: int) -> None:
    """Kills wandb's own process, a child of this one."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    cores = [int(child) for child in children if b"wandb-core" in Path(f"/proc/{child}/cmdline").read_bytes()]
    assert len(cores) == 1
    os.kill(cores[0], signal.SIGKILL)
    time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_the_death_of_wandbs_process_costs_nothing(tmp_path, service):
    service()
    seconds, err = run_process(tmp_path, kill_core)
    assert seconds < 15 and own_steps(tmp_path) == list(range(20))
    lines = err.splitlines()
    assert len(lines) == 2 and "run at" in lines[0]
    assert lines[1].endswith(f"logging goes on offline; later: wandb sync {tmp_path}/wandb/offline-run-*")
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert logged_steps(file) == list(range(20))  # those before its death too


@pytest.mark.slow
def test_the_death_of_the_service_costs_nothing(tmp_path, service):
    stub = service()
    seconds, err = run_process(tmp_path, lambda pid: stub.stop())
    assert seconds < 15 and own_steps(tmp_path) == list(range(20))
    lines = err.splitlines()
    assert len(lines) == 2 and lines[1].endswith(f"later: wandb sync --include-online {tmp_path}/wandb/run-*")
    (file,) = tmp_path.glob("wandb/run-*/run-*.wandb")
    assert logged_steps(file) == list(range(20))
    summaries = collect(read_file(file), "summary", "update")
    assert any(update.get("final/identity_similarity") == 0.375 for update in summaries)
    later = service()  # the line is right
    command = [sys.executable, "-m", "wandb", "sync", "--include-online", str(file.parent)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100)
    assert [one["attack/step"] for one in later.rows if "attack/step" in one] == list(range(20)), done.stderr
