"""Weights & Biases: an offline run is read back, and no failure of it reaches the caller."""

import json
import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from ganinv import images
from ganinv.tracking import Tracker, track_training

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
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()
    return [json.loads(line) for line in lines]


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
    assert table["columns"] == ["identity", "lpips", "identity_similarity", "target_score", "reconstruction"]
    assert [cells[:4] for cells in table["data"]] == [[3, 0.4, 0.25, 0.8], [7, 0.6, 0.5, 1.0]]
    assert table["data"][1][4] is None  # there is no 7_0.png
    staged = [file.read_bytes() for file in (folder / "wandb" / "data" / "artifacts" / "staging").iterdir()]
    pictures = [json.loads(content)["data"][0][4] for content in staged if content.startswith(b"{")]
    assert pictures and all(picture["_type"] == "image-file" for picture in pictures)
    assert any(content.startswith(b"\x89PNG") for content in staged)  # inside the folder: it goes where the folder goes


def test_pictures_are_logged_with_their_brightness(tmp_path):
    from PIL import Image

    tracker = Tracker()
    tracker.start("offline", {}, tmp_path)
    tracker.log_step(row(1))
    tracker.finish()
    for identity, grey in ((3, 64), (7, 191)):
        (file,) = tmp_path.glob(f"wandb/offline-run-*/files/media/images/attack/picture/{identity}_*.png")
        with Image.open(file) as picture:
            assert picture.convert("RGB").getextrema() == ((grey, grey),) * 3


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
    assert "no API key" in line and "going on offline" in line


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
        super().__init__(fails=fails, config=config or {}, rows=[], summary={}, closed=None)

    def define_metric(self, *arguments, **options):
        self.refuse("define_metric")

    def log(self, values):
        self.refuse("log")
        self.rows.append(values)

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
    assert logged["identities"].rows == [(3, None, 0.5, None)]
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
