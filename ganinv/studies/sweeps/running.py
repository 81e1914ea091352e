"""A sweep run on this machine: trials as processes of their own, pruned, compared and gone on with."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from ganinv import cli
from ganinv.engine.files import clear_errors, write_atomically
from ganinv.engine.progress import open_bar
from ganinv.interfaces import FaultError
from ganinv.json_data import NUMBER, WHOLE, find_mismatch, parse_json
from ganinv.reports.comparison_figures import encode_png
from ganinv.studies.sweeps.results import (
    Trial,
    draw_parallel,
    format_csv,
    format_markdown,
    rank_trials,
    read_defaults,
    read_metric,
    read_scores,
)
from ganinv.studies.sweeps.search import Search, running_key
from ganinv.studies.sweeps.sweep_file import OURS, Sweep, expand_command, find_warnings, read_sweep
from ganinv.studies.sweeps.trial import Child, find_last_line, find_program, read_extra, read_last_line, runs_still

POLL_S = 0.2  # between two looks at the processes

TRIAL = {
    "number": WHOLE,
    "state": str,
    "values": dict,
    "metric": (NUMBER, None),
    "seconds": NUMBER,
    "line": str,
    "pid": WHOLE,
}


def run_sweep(config) -> list[Trial]:
    """Returns the trials, best first, after running what is missing and writing the tables and the picture.

    A second call with the same out goes on: trials that ended are not run again, those that were cut off are.
    Raises: ValueError for a sweep that cannot be run, or an out of another one; FaultError when no trial completes.
    """
    if not config.file:
        raise ValueError("expected a sweep's YAML first, such as scripts/sweeps/latent_attack.yaml, got none")
    sweep = read_sweep(config.file)
    program = find_program(sweep.program, Path(config.file))
    extra = read_extra(config.extra)
    for line in find_warnings(sweep, extra):
        print(f"warning: {line}", file=sys.stderr)
    search = Search(sweep, config.seed)
    out = Path(config.out or f"runs/sweep-{Path(config.file).stem}")
    open_folder(out, config)
    runner = Runner(sweep, search, program, extra, out)
    runner.read_account()
    count = count_trials(config, search)
    numbers = range(0 if config.defaults else 1, count + 1)
    todo = [number for number in numbers if number not in runner.ended]
    with (
        sigterm_as_interrupt(),
        contextlib.closing(runner.run(todo, config.jobs)) as ends,  # closed: no process may outlive an interruption
        open_bar(total=len(numbers), initial=len(numbers) - len(todo), desc=Path(config.file).stem) as bar,
    ):
        for trial in ends:
            bar.update()
            bar.set_postfix_str(f"trial {trial.number} {trial.state}")
            if trial.state == "failed":
                bar.write(f"trial {trial.number} failed: {trial.line}", file=sys.stderr)
    trials = rank_trials(runner.ended.values(), sweep.maximize)
    write_results(out, trials, sweep)
    if not any(trial.state == "complete" for trial in trials):
        raise FaultError(f"no trial is complete; the last line of trial {trials[-1].number}: {trials[-1].line}")
    return trials


def describe_sweep(config) -> dict:
    """Returns what a sweep's file asks for. Raises: ValueError for one that cannot be run, or whose first trial cannot."""
    sweep = read_sweep(config.file)
    program = find_program(sweep.program, Path(config.file))
    check_trial(sweep, program, read_extra(config.extra), config.seed)
    return {
        "program": str(program),
        "method": sweep.method,
        "metric": sweep.metric,
        "trials": count_trials(config, Search(sweep, config.seed)),
        "constant": sweep.constant | read_extra(config.extra),
        "varied": sweep.varied,
        "warnings": find_warnings(sweep, read_extra(config.extra)),
    }


def check_trial(sweep: Sweep, program: Path, extra: dict[str, str], seed: int) -> None:
    """Raises: ValueError where a command of ganinv refuses the first trial; other programs know no --dry-run."""
    if f"ganinv.commands.{program.stem} import main" not in program.read_text(encoding="utf-8", errors="replace"):
        return
    values = choose_values(sweep, Search(sweep, seed).start(1), extra)
    given = [f"--{name}={value}" for name, value in extra.items()]
    command = expand_command(sweep, program, values, [*given, "--wandb=disabled", "--dry-run"])
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    if done.returncode:
        line = find_last_line(done.stderr).removeprefix("error: ") or f"exit code {done.returncode}"
        raise ValueError(f"expected a first trial that {program.name} takes, got one that it refuses: {line}")


def choose_values(sweep: Sweep, values: dict[str, object], extra: dict[str, str]) -> dict[str, object]:
    """Returns option -> value as a trial gets it, in the file's order: constants too, none that the caller gives."""
    known = sweep.constant | values
    return {name: known[name] for name in sweep.parameters if name in known.keys() - extra.keys() - set(OURS)}


def count_trials(config, search: Search) -> int:
    """Returns how many trials a sweep has, the defaults apart."""
    return min(config.count or len(search.points) or 20, len(search.points) or sys.maxsize)


class Runner:
    """Runs trials and keeps the account of them in out/trials.jsonl: a line when one starts and one when it ends."""

    def __init__(self, sweep: Sweep, search: Search, program: Path, extra: dict[str, str], out: Path):
        self.sweep, self.search, self.program, self.extra, self.out = sweep, search, program, extra, out
        self.ended: dict[int, Trial] = {}
        self.cut_off: dict[int, Trial] = {}
        self.lock = threading.Lock()  # of search and account: a thread runs a trial
        self.stopping = threading.Event()

    def folder(self, number: int) -> Path:
        return self.out / f"trial-{number:03d}"

    def read_account(self) -> None:
        """Reads what an earlier call did. Raises: ValueError when one of its trials is still running."""
        records: dict[int, Trial] = {}
        with contextlib.suppress(FileNotFoundError):
            for line in (self.out / "trials.jsonl").read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError, TypeError):  # a line that was cut off while it was written
                    trial = Trial(**parse_json(line))
                    if find_mismatch(dataclasses.asdict(trial), TRIAL):
                        continue
                    records[trial.number] = trial
        for trial in records.values():
            if trial.state == "running" and runs_still(trial.pid, self.folder(trial.number)):
                raise ValueError(f"expected a sweep at rest in {self.out}, got trial {trial.number} running as {trial.pid}")
        for trial in records.values():
            if trial.state != "running":
                self.remember(trial)
                continue
            self.cut_off[trial.number] = trial
            if (self.folder(trial.number) / "report.json").is_file():  # its process outlived the sweep's
                with contextlib.suppress(ValueError):
                    self.conclude(trial, 0, trial.seconds)

    def remember(self, trial: Trial) -> None:
        """Tells the search of a trial that ended earlier."""
        self.ended[trial.number] = trial
        try:
            self.search.start(trial.number, trial.values)
        except (ValueError, KeyError):  # the defaults may lie outside the sweep
            return
        self.tell(trial)

    def tell(self, trial: Trial) -> None:
        """Tells the search how a trial that it started went."""
        self.search.feed(trial.number, self.read_scores(trial.number), ended=True)
        self.search.end(trial.number, trial.state, trial.metric)

    def read_scores(self, number: int) -> list[float]:

        return read_scores(self.folder(number), running_key(self.sweep.metric))

    def run(self, todo: list[int], jobs: int) -> Iterator[Trial]:
        """Yields the trials of these numbers as they end, `jobs` at a time; on any error ends those that run."""
        pool = ThreadPoolExecutor(jobs)
        try:
            for future in as_completed([pool.submit(self.run_trial, number, jobs) for number in todo]):
                yield future.result()
        finally:
            self.stopping.set()
            pool.shutdown(cancel_futures=True)

    def run_trial(self, number: int, jobs: int) -> Trial:
        """Returns a trial after its process has ended; it is asked to end when it is pruned, or the sweep is stopped."""
        with self.lock:
            child = self.start(number, jobs)
        while child.process.poll() is None:
            if number and not child.pruned and self.sweep.early_terminate:
                with self.lock:
                    child.pruned = self.search.feed(number, self.read_scores(number))
            if child.pruned or self.stopping.is_set():
                child.stop()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.process.wait(POLL_S)
        if self.stopping.is_set():
            return child.trial  # cut off: the next call runs it again
        with self.lock:
            return self.finish(child)

    def start(self, number: int, jobs: int) -> Child:
        """Starts a trial; what a cut-off one of its number left is removed."""
        folder = self.folder(number)
        if number in self.cut_off:
            values = self.cut_off[number].values
            shutil.rmtree(folder, ignore_errors=True)
            if number:
                self.search.start(number, values)
        else:
            values = self.search.start(number) if number else {}
        given = choose_values(self.sweep, values, self.extra)
        extra = [*(f"--{name}={value}" for name, value in self.extra.items()), f"--out={folder}", "--wandb=disabled"]
        command = expand_command(self.sweep, self.program, given, extra)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = {"OMP_NUM_THREADS": str(max(1, cores // jobs))}
        with open(self.log(number), "wb") as log:
            # a session of its own: Ctrl-C reaches this process alone, which then ends them all
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=threads | os.environ
            )
        trial = Trial(number, "running", values, pid=process.pid)
        self.append(trial)
        return Child(trial, process)

    def log(self, number: int) -> Path:
        return self.out / f"trial-{number:03d}.log"

    def finish(self, child: Child) -> Trial:
        """Returns a trial whose process has ended, after telling the search and the account of it."""
        seconds = time.monotonic() - child.began
        try:
            return self.conclude(child.trial, child.process.returncode, seconds)
        except ValueError as error:
            state = "pruned" if child.pruned else "failed"
            line = self.describe_lag(child.trial.number) if child.pruned else cli.one_line(error)
            return self.record(dataclasses.replace(child.trial, state=state, seconds=seconds, line=line, pid=0))

    def describe_lag(self, number: int) -> str:
        """Returns where a pruned trial stood, and where the defaults stood then, if they had come so far."""
        scores = self.read_scores(number)
        if not scores:
            return ""
        defaults = self.read_scores(0)[: len(scores)]
        beside = f", defaults {defaults[-1]:.4f}" if len(defaults) == len(scores) else ""
        return f"{scores[-1]:.4f} after {len(scores)}{beside}"

    def conclude(self, trial: Trial, code: int, seconds: float) -> Trial:
        """Returns the complete trial. Raises: ValueError with its last line when it failed, or has no metric."""
        if code != 0:
            raise ValueError(read_last_line(self.log(trial.number)) or f"exit code {code}")
        metric = read_metric(self.folder(trial.number), self.sweep.metric)
        values = trial.values if trial.number else read_defaults(self.folder(0), list(self.sweep.varied))
        return self.record(dataclasses.replace(trial, state="complete", values=values, metric=metric, seconds=seconds, pid=0))

    def record(self, trial: Trial) -> Trial:
        """Returns a trial that ended, after telling the account and the search."""
        self.append(trial)
        if trial.number in self.search.trials:
            self.ended[trial.number] = trial
            self.tell(trial)
        else:  # the defaults, and what ended while nobody looked
            self.remember(trial)
        return trial

    def append(self, trial: Trial) -> None:

        with clear_errors(self.out), open(self.out / "trials.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(trial)) + "\n")


def open_folder(out: Path, config) -> None:
    """Makes the sweep's folder, which keeps its YAML, extra options and seed.

    Raises: ValueError when the folder holds a sweep of others, or cannot be made.
    """
    kept = {
        "sweep.yaml": Path(config.file).read_text(encoding="utf-8"),
        "sweep.json": json.dumps({"extra": config.extra, "seed": config.seed}) + "\n",
    }
    with clear_errors(out, ValueError):
        out.mkdir(parents=True, exist_ok=True)
        for name, text in kept.items():
            if not (out / name).exists():
                write_atomically(out / name, text)
            elif (out / name).read_text(encoding="utf-8") != text:
                raise ValueError(f"expected the sweep that {out} holds, got another {name}; choose another --out")


def write_results(out: Path, trials: list[Trial], sweep: Sweep) -> None:
    """Writes trials.csv, table.md and parallel.png, and prints the table."""
    table = format_markdown(trials, sweep)
    contents = {
        "trials.csv": format_csv(trials, sweep),
        "table.md": f"{table}\n",
        "parallel.png": encode_png(draw_parallel(trials, sweep)),
    }
    for name, content in contents.items():
        write_atomically(out / name, content)
    print(f"{table}\n{out}/trials.csv {out}/parallel.png", flush=True)


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Lets SIGTERM end a sweep as Ctrl-C does: with its processes."""

    def interrupt(*_):
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
