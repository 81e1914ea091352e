"""Weights & Biases behind a callback. The only module that imports wandb, and only when it is wanted.

The run folder is the source of truth; what is logged here is a copy, and no failure here stops a run, or keeps its
process for more than END_S at the end. Keys:
  attack/step, attack/objective, attack/target_score, attack/identity/<i>   curves, over attack/step
  attack/picture/<i>                                                        reconstructions as they form
  identities                                                                table at the end, one row per identity
  final/<metric>, final/<metric>_low, final/<metric>_high, cost/<key>, absent/<metric>   summary
  train/step, train/<key>                                                   curves of a training
A sweep's metric is one of the summary, e.g. final/target_score_transformed; in a sweep its running value is
logged too, since the service's early termination reads a metric's history.

What becomes of a run (wandb 0.31, a stand-in for its service on loopback, Linux; seconds from the attack's end to the
process's): all is well 1.4; the service dies, or falls silent, half-way 9.0 and 9.1; wandb's own process is killed 1.0.
Without cut_off the process was still there after 100. In the first two cases all steps are in wandb's file, and
`wandb sync` sends them; in the last, wandb had written nothing yet, so all rows are logged again into an offline run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from ganinv import images as image_convention
from ganinv.engine.standins import stand_in
from ganinv.metrics.catalogue import CATALOGUE

MODES = ("offline", "online", "disabled")
INIT_TIMEOUT_S = 15.0  # without network wandb would try for 90 s
REPORT_S = 3.0  # for the report's table, which waits for the service's answer, and the artifact
FINISH_TIMEOUT_S = 5.0  # for what was not sent yet; wandb then writes all of it to its file
END_S = 9.0  # for both; then what is left is cut off
WRITE_S = 3.0  # for wandb's process to write its file, before it is cut off
NOT_IN_ID = (
    "resume",
    "wandb",
    "wandb_artifacts",
    "device",
    "out",
    "force",
    "private_photos",
)  # options that make no other run
LATER = {"online": "--include-online {folder}/wandb/run-*", "offline": "{folder}/wandb/offline-run-*"}
# in every table; empty where the metric is absent
FIRST_COLUMNS = ("identity", *(name for name, metric in CATALOGUE.items() if metric.tracked))


class Tracker:
    """One run's connection to Weights & Biases; with mode "disabled", or after a failure, every call does nothing.

    prefix: of the curves' keys, "attack" or "train".
    """

    def __init__(self, prefix: str = "attack"):
        self.prefix = prefix
        self.run = None
        self.wandb = None
        self.folder: Path | None = None
        self.mode = "disabled"
        self.silent = False  # nothing more is said
        self.revived = False  # logging went on offline
        self.rows: list[Mapping] = []  # all that was logged, without pictures
        self.lost = False  # the run was dropped, or not all of it was sent
        self.next_step = 0  # the first step that this W&B run does not have
        self.mark: Path | None = None  # file that keeps next_step
        self.saved_environment: dict[str, str | None] = {}

    def start(
        self,
        mode: str,
        config: Mapping,
        folder: str | Path,
        *,
        project: str = "ganinv",
        name: str | None = None,
        run_id: str | None = None,
    ) -> dict:
        """Returns a sweep's overrides, the entries of the run's config that differ from config (nested keys as dicts).

        mode: "offline" (files in folder/wandb, no account), "online" or "disabled" (wandb is not imported); online
        without key or network becomes offline with a line on stderr. config: what JSON can hold; name: folder's name
        by default; run_id: a hash of config and name by default, so that a run that goes on is one run there. Its steps
        never go backwards: those that it has are not logged again.
        Raises: ValueError for another mode.
        """
        if mode not in MODES:
            raise ValueError(f"expected a wandb mode among {', '.join(MODES)}, got {mode}")
        wanted = os.environ.get("WANDB_MODE")
        if mode == "offline" and wanted in MODES:  # nobody asked for another by an option
            mode = wanted
        if mode == "disabled":
            return {}
        project = os.environ.get("WANDB_PROJECT") or project
        self.folder = Path(folder)
        self.set_environment()
        given = json.loads(json.dumps(dict(config), default=str))  # what wandb keeps: tuples are lists there
        name = name or self.folder.resolve().name
        run_id = run_id or make_run_id(given, name)
        self.mark = self.folder / "wandb" / f"next-step-{run_id}"
        self.begin_as = begin = partial(self.begin, given, project, name, run_id)
        self.mode = mode
        if mode == "online" and not self.guard(
            partial(begin, "online"), "online run failed, going on offline", self.later("offline")
        ):
            self.mode = "offline"
            self.cut_off()  # else: "run ID ... is in use"
        if self.mode == "offline":
            self.lost = not self.guard(partial(begin, "offline"), "going on without")
        if self.run is None:
            self.cut_off()
            self.restore_environment()
            return {}
        kept = dict(self.run.config)
        return {key: value for key, value in kept.items() if key not in given or given[key] != value}

    def begin(self, config: dict, project: str, name: str, run_id: str, mode: str) -> None:
        """Starts a run. Raises: whatever wandb does."""
        import wandb

        self.wandb = wandb
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            raise wandb.errors.UsageError("no API key; set WANDB_API_KEY or run `wandb login`")
        timeouts = {"init_timeout": INIT_TIMEOUT_S, "finish_timeout": FINISH_TIMEOUT_S, "finish_timeout_raises": True}
        settings = wandb.Settings(silent=True, console="off", **timeouts)
        # a sweep's agent has named the run
        identity = {} if is_sweep() else {"id": run_id, "resume": "allow"}
        # it asks whether wandb.launch, which nobody imported, was handed inputs for this run
        no_inputs = SimpleNamespace(apply=lambda run: None)
        with stand_in("wandb.sdk.launch.inputs.internal", StagedLaunchInputs=lambda: no_inputs):
            run = wandb.init(
                mode=mode, project=project, name=name, dir=str(self.folder), config=config, settings=settings, **identity
            )
        run.define_metric(f"{self.prefix}/step")
        run.define_metric(f"{self.prefix}/*", step_metric=f"{self.prefix}/step")  # a lower `step=` would be dropped
        with contextlib.suppress(OSError, ValueError):  # no earlier run here
            self.next_step = int(self.mark.read_text())
        if run.resumed:  # the service knows a run of this id
            self.next_step = max(self.next_step, run.step)
        self.run = run
        if mode == "online":
            say(f"run at {run.url}")

    def log_step(self, row: Mapping) -> None:
        """Logs the row that on_step gets; `images` belong to `identities`, in order, and become PIL pictures."""
        if self.run is not None and row["step"] >= self.next_step:
            self.rows.append({key: value for key, value in row.items() if key != "images"})
            self.guard(partial(self.log, row), self.log_offline)

    def log_offline(self) -> str:
        """Returns what is to be said of a failed log, after an offline run has all rows so far, where it can be made.

        wandb writes to its file late: what it held of the rows has died with its process.
        """
        if self.revived:
            return f"logging stops, the run goes on; {self.later()}"
        self.revived = True
        try:
            self.cut_off()
            self.mode = "offline"
            self.begin_as("offline")
            for row in self.rows:
                self.run.log(self.flatten(row), step=row["step"], commit=True)
            self.lost = False
            return f"logging goes on offline; {self.later()}"
        except Exception:  # see guard
            self.run = None
            return f"logging stops, the run goes on; {self.later()}"

    def log(self, row: Mapping) -> None:
        """Logs a row at its own step. Raises: whatever wandb does."""
        self.run.log(self.flatten(row), step=row["step"], commit=True)  # else it waits for the next, and a kill loses it
        self.mark.write_text(str(row["step"] + 1))

    def flatten(self, row: Mapping) -> dict:
        """Returns a step's row under the keys of this module."""
        scores = row.get("identities", {})
        values = {f"{self.prefix}/{key}": value for key, value in row.items() if isinstance(value, int | float)}
        values |= {f"{self.prefix}/identity/{identity}": score for identity, score in scores.items()}
        if self.run.sweep_id and "target_score" in row:
            values["final/target_score_transformed"] = row["target_score"]
        if "images" not in row:
            return values
        for identity, image in zip(scores, row["images"], strict=True):  # PIL: wandb shows tensors in [-1,1] as black
            values[f"{self.prefix}/picture/{identity}"] = self.wandb.Image(image_convention.to_pil(image))
        return values

    def finish(self, report: Mapping | None = None, *, failed: bool = False, artifacts: bool = False) -> None:
        """Logs the report (see report.check_report), if there is one, and closes the run, within END_S.

        failed: marks it so; artifacts: also uploads report, configuration and latents as an artifact.
        """
        run, ended, written = self.run, True, self.measure_file()
        try:
            if run is not None:
                ended = finish_within(END_S, partial(self.close, run, report, failed, artifacts))
                if not ended:
                    say(f"TimeoutError: not all was sent in {END_S:.0f} s; {self.later()}")
        finally:  # an interruption too
            self.run, self.silent = None, True  # what still waits for wandb's process fails now
            if self.lost or not ended:
                self.await_file(written)
                self.cut_off()
            self.restore_environment()

    def measure_file(self) -> int:
        """Returns the bytes of the newest file that wandb writes for this run, 0 without one."""
        files = [file.stat() for file in self.folder.glob("wandb/*run-*/*.wandb")] if self.folder else []
        return max(files, key=lambda file: file.st_mtime_ns).st_size if files else 0

    def await_file(self, written: int) -> None:
        """Waits until wandb's file has grown past `written` bytes and stands still, or for WRITE_S.

        wandb's process holds what was logged back until the run ends; on a busy machine it writes it a moment later.
        """
        deadline, size, still = time.monotonic() + WRITE_S, 0, 0
        while time.monotonic() < deadline and still < 3:
            time.sleep(0.1)
            before, size = size, self.measure_file()
            still = still + 1 if written < size == before else 0

    def close(self, run, report: Mapping | None, failed: bool, artifacts: bool) -> None:
        """Does what finish tells."""

        def log_end() -> None:
            self.guard(lambda: self.log_report(run, report), "the report is not logged", keep=True)
            if artifacts:
                self.guard(lambda: self.log_artifact(run), "the artifact is not logged", keep=True)

        if report is not None and not finish_within(REPORT_S, log_end):
            self.lost = self.silent = True
            say(f"TimeoutError: no answer for {REPORT_S:.0f} s; the table is not logged; {self.later()}")
        self.guard(lambda: run.finish(exit_code=int(failed)), "the run is not closed", self.later())

    def log_artifact(self, run) -> None:
        """Logs the artifact reconstructions-<id>: report.json, config.json, latents.safetensors. Raises: as wandb does."""
        artifact = self.wandb.Artifact(f"reconstructions-{run.id}", type="reconstructions")
        for name in ("report.json", "config.json", "latents.safetensors"):
            if (self.folder / name).is_file():
                artifact.add_file(str(self.folder / name))
        run.log_artifact(artifact)

    def cut_off(self) -> None:
        """Ends wandb's own process if it runs: at the interpreter's end wandb would wait for it, for minutes or ever.

        What was logged is in the run's file, which `wandb sync` sends later.
        """
        try:
            from wandb.sdk import wandb_setup

            # private: the public wandb.teardown() is what waits
            connection = wandb_setup._singleton and wandb_setup._singleton._connection
            if connection and connection._proc:
                connection._cleanup()
                connection._finalizer._queue.put(None)  # its thread would fail aloud
                connection._proc._process.kill()  # SIGTERM is no kinder: it flushes nothing
                connection._proc._process.wait()
                wandb_setup._singleton = None  # a later run starts its own
                os.environ.pop("WANDB_SERVICE", None)  # the address of the one that is gone
        except (ImportError, AttributeError) as error:  # another version of wandb
            say(f"{type(error).__name__}: {error}; the end may take long")

    def later(self, mode: str = "") -> str:
        """Returns the words that say how to upload later what is in the run folder."""
        return "later: wandb sync " + LATER[mode or self.mode].format(folder=self.folder)

    def log_report(self, run, report: Mapping) -> None:
        """Logs the summary, then the table of identities with their pictures. Raises: whatever wandb does."""
        values = {f"cost/{key}": value for key, value in report["cost"].items()}
        values |= {f"absent/{name}": reason for name, reason in report["absent"].items()}
        for name, entry in report["summary"].items():
            values[f"final/{name}"] = entry["mean"]
            for side, bound in zip(("low", "high"), entry["ci95"], strict=True):
                if bound is not None:  # one identity has no interval
                    values[f"final/{name}_{side}"] = bound
        run.summary.update(values)
        metrics = [name for name in report["summary"] if name not in FIRST_COLUMNS]
        columns = [*FIRST_COLUMNS, *metrics, "reconstruction"]
        table = self.wandb.Table(columns=columns)
        for row in report["per_identity"]:
            table.add_data(*(row.get(name) for name in columns[:-1]), self.read_picture(row["identity"]))
        run.log({"identities": table})  # last: it waits for the service

    def read_picture(self, identity: int):
        """Returns the wandb picture of an identity's first reconstruction in the run folder, None without one."""
        path = self.folder / "images" / f"{identity}_0.png"
        if not path.is_file():
            return None
        return self.wandb.Image(image_convention.open_picture(path))

    def guard(
        self, action: Callable[[], object], consequence: str | Callable[[], str], cure: str = "", *, keep: bool = False
    ) -> bool:
        """Returns whether an action of wandb succeeded; if not, says so in a line and drops the run unless keep.

        consequence: what is said of it, or what is done about it and returns that.
        """
        try:
            action()
            return True
        # wandb raises its own errors, OSErrors of its process's socket, RuntimeError, TypeError, ImportError, ...:
        # none of them is a reason to lose hours of attack, and our own files hold everything
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            if not keep:
                self.run, self.lost = None, True
            said = consequence() if callable(consequence) else consequence
            if not self.silent:
                say("; ".join(filter(None, [f"{type(error).__name__}: {lines[0]}", said, cure])))
            return False

    def set_environment(self) -> None:
        """Keeps wandb's files inside the run folder and its error reports at home, until finish."""
        data = self.folder / "wandb"
        wanted = {
            "WANDB_DATA_DIR": str(data / "data"),
            "WANDB_CACHE_DIR": str(data / "cache"),
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_SILENT": "true",
        }
        self.saved_environment = {name: os.environ.get(name) for name in wanted}
        os.environ.update(wanted)
        with contextlib.suppress(OSError):  # then init fails, and says so
            data.mkdir(parents=True, exist_ok=True)  # without it wandb falls back to a temporary folder

    def restore_environment(self) -> None:
        """Puts back what set_environment changed."""
        for name, value in self.saved_environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def track_training(mode: str, config: Mapping, folder: str | Path) -> Iterator[Callable[[Mapping], None]]:
    """Gives a training's callback, which logs rows {"step": ..., key: number} under train/; closes the run at the end.

    Raises: ValueError for an unknown mode.
    """
    tracker = Tracker("train")
    tracker.start(mode, config, folder)
    failed = True
    try:
        yield tracker.log_step
        failed = False
    finally:
        tracker.finish(failed=failed)


def is_sweep() -> bool:
    """Says whether a sweep's agent of Weights & Biases started this process: the run's settings are then the sweep's."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def make_run_id(config: Mapping, name: str) -> str:
    """Returns the id of a run: 16 hexadecimal digits of a SHA-256 of its name and configuration."""
    kept = {key: value for key, value in config.items() if key not in NOT_IN_ID}
    return hashlib.sha256(json.dumps([name, kept], sort_keys=True).encode()).hexdigest()[:16]


def finish_within(seconds: float, action: Callable[[], object]) -> bool:
    """Returns whether an action ended within this time; if not, it is left to its thread, which keeps no process alive."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def say(line: str) -> None:
    """Prints one line of this module on stderr."""
    print(f"wandb: {line}", file=sys.stderr)
