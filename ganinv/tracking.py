"""Weights & Biases behind a callback. The only module that imports wandb, and only when it is wanted.

The run folder is the source of truth; what is logged here is a copy, and no failure here stops a run. Keys:
  attack/step, attack/objective, attack/target_score, attack/identity/<i>   curves, over attack/step
  attack/picture/<i>                                                        reconstructions as they form
  identities                                                                table at the end, one row per identity
  final/<metric>, final/<metric>_low, final/<metric>_high, cost/<key>, absent/<metric>   summary
  train/step, train/<key>                                                   curves of a training
A sweep's metric is one of the summary, e.g. final/identity_similarity.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from PIL import Image

from ganinv import images as image_convention

MODES = ("offline", "online", "disabled")
INIT_TIMEOUT_S = 15.0  # without network wandb would try for 90 s
FINISH_TIMEOUT_S = 60.0  # without one, finish() waits for ever when wandb's own process has died
FIRST_COLUMNS = ("identity", "lpips", "identity_similarity")  # in every table; empty where the metric is absent


class Tracker:
    """One run's connection to Weights & Biases; with mode "disabled", or after a failure, every call does nothing.

    prefix: of the curves' keys, "attack" or "train".
    """

    def __init__(self, prefix: str = "attack"):
        self.prefix = prefix
        self.run = None
        self.wandb = None
        self.folder: Path | None = None
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
        by default; run_id: to go on with an earlier run.
        Raises: ValueError for another mode.
        """
        if mode not in MODES:
            raise ValueError(f"expected a wandb mode among {', '.join(MODES)}, got {mode}")
        if mode == "disabled":
            return {}
        self.folder = Path(folder)
        self.set_environment()
        given = json.loads(json.dumps(dict(config), default=str))  # what wandb keeps: tuples are lists there
        begin = partial(self.begin, given, project, name or self.folder.resolve().name, run_id)
        if mode == "online" and not self.guard(partial(begin, "online"), "online run failed, going on offline"):
            mode = "offline"
        if mode == "offline":
            self.guard(partial(begin, "offline"), "going on without")
        if self.run is None:
            self.restore_environment()
            return {}
        kept = dict(self.run.config)
        return {key: value for key, value in kept.items() if key not in given or given[key] != value}

    def begin(self, config: dict, project: str, name: str, run_id: str | None, mode: str) -> bool:
        """Returns True after starting a run. Raises: whatever wandb does."""
        import wandb

        self.wandb = wandb
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            raise wandb.errors.UsageError("no API key; set WANDB_API_KEY or run `wandb login`")
        settings = wandb.Settings(
            silent=True, console="off", init_timeout=INIT_TIMEOUT_S, finish_timeout=FINISH_TIMEOUT_S
        )
        run = wandb.init(
            mode=mode, project=project, name=name, id=run_id, resume="allow" if run_id else None, dir=str(self.folder),
            config=config, settings=settings,
        )  # fmt: skip
        run.define_metric(f"{self.prefix}/step")
        run.define_metric(f"{self.prefix}/*", step_metric=f"{self.prefix}/step")  # a lower `step=` would be dropped
        self.run = run
        if mode == "online":
            say(f"run at {run.url}")
        return True

    def log_step(self, row: Mapping) -> None:
        """Logs the row that on_step gets; `images` belong to `identities`, in order, and become PIL pictures."""
        if self.run is not None:
            self.guard(lambda: self.run.log(self.flatten(row)), "logging stops, the run goes on")

    def flatten(self, row: Mapping) -> dict:
        """Returns a step's row under the keys of this module."""
        scores = row.get("identities", {})
        values = {f"{self.prefix}/{key}": value for key, value in row.items() if isinstance(value, int | float)}
        values |= {f"{self.prefix}/identity/{identity}": score for identity, score in scores.items()}
        if "images" not in row:
            return values
        for identity, image in zip(scores, row["images"], strict=True):  # PIL: wandb shows tensors in [-1,1] as black
            values[f"{self.prefix}/picture/{identity}"] = self.wandb.Image(image_convention.to_pil(image))
        return values

    def finish(self, report: Mapping | None = None, *, failed: bool = False) -> None:
        """Logs the report (see report.check_report), if there is one, and closes the run; failed: marks it so."""
        if self.run is None:
            return
        if report is not None:
            self.guard(lambda: self.log_report(report), "the report is not logged", keep=True)
        run, self.run = self.run, None
        self.guard(lambda: run.finish(exit_code=int(failed)), "the run is not closed")
        self.restore_environment()

    def log_report(self, report: Mapping) -> None:
        """Logs the table of identities with their pictures, and the summary. Raises: whatever wandb does."""
        metrics = [name for name in report["summary"] if name not in FIRST_COLUMNS]
        columns = [*FIRST_COLUMNS, *metrics, "reconstruction"]
        table = self.wandb.Table(columns=columns)
        for row in report["per_identity"]:
            table.add_data(*(row.get(name) for name in columns[:-1]), self.read_picture(row["identity"]))
        self.run.log({"identities": table})
        values = {f"cost/{key}": value for key, value in report["cost"].items()}
        values |= {f"absent/{name}": reason for name, reason in report["absent"].items()}
        for name, entry in report["summary"].items():
            values[f"final/{name}"] = entry["mean"]
            for side, bound in zip(("low", "high"), entry["ci95"], strict=True):
                if bound is not None:  # one identity has no interval
                    values[f"final/{name}_{side}"] = bound
        self.run.summary.update(values)

    def read_picture(self, identity: int):
        """Returns the wandb picture of an identity's first reconstruction in the run folder, None without one."""
        path = self.folder / "images" / f"{identity}_0.png"
        if not path.is_file():
            return None
        with Image.open(path) as picture:
            return self.wandb.Image(picture.convert("RGB"))

    def guard(self, action: Callable[[], object], consequence: str, *, keep: bool = False) -> bool:
        """Returns whether an action of wandb succeeded; if not, says so in a line and drops the run unless keep."""
        try:
            action()
            return True
        # wandb raises its own errors, OSErrors of its process's socket, RuntimeError, TypeError, ImportError, ...:
        # none of them is a reason to lose hours of attack, and our own files hold everything
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            say(f"{type(error).__name__}: {lines[0]}; {consequence}")
            if not keep:
                self.run = None
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


def say(line: str) -> None:
    """Prints one line of this module on stderr."""
    print(f"wandb: {line}", file=sys.stderr)
