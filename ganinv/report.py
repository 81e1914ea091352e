"""The run folder: what a run was given, what it did and what the judges said, in files that outlive the program.

config.json  provenance.json  steps.jsonl  latents.safetensors  images/grid.png  images/<identity>_<k>.png
report.html  report.json
Every file is written under a temporary name and renamed; report.json comes last, so a folder that has it is complete.
While a run lasts there is also state.safetensors, from which a killed run goes on, and a lock.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import ganinv
from ganinv import images as image_convention
from ganinv.interfaces import FaultError
from ganinv.loading import sha256_file
from ganinv.state import load_state, save_state, truncate_jsonl

if TYPE_CHECKING:
    from ganinv.attack import AttackResult, Cost
    from ganinv.verdict import Verdict

PACKAGES = (
    *("torch", "torchvision", "numpy", "pillow", "safetensors", "stylegan2-pytorch"),
    *("facenet-pytorch", "lpips", "kornia", "einops", "tyro", "wandb"),
)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
COST_KEYS = ("seconds", "images_evaluated", "gradient_queries", "score_queries")


class RunFolder:
    """A folder that one run writes to, and one process at a time: close() or the process's end lets others in.

    path: the run folder itself (`--out DIR`); see new_folder for the default. resume: it holds a run that did not end.
    Raises: ValueError when it already holds a run (with resume: holds none), another process writes to it, or it cannot
    be created; FaultError when the disk is full.
    """

    def __init__(self, path: str | Path, *, resume: bool = False):
        from filelock import FileLock, Timeout

        self.path = Path(path)
        if resume and not (self.path / "config.json").is_file():
            raise ValueError(f"expected a run folder with a config.json, got {self.path}; start a run without --resume")
        with clear_errors(self.path, ValueError):
            (self.path / "images").mkdir(parents=True, exist_ok=True)
            self.lock = FileLock(self.path / ".lock")
            try:
                self.lock.acquire(timeout=0)
            except Timeout as error:
                raise ValueError(
                    f"expected a folder that no other process writes to, got {self.path}; wait for it or choose another --out"
                ) from error
        for name in () if resume else ("config.json", "report.json"):
            if (self.path / name).exists():
                self.close()
                hint = "choose another --out, or pass --resume alone to go on with it"
                raise ValueError(f"expected a new folder, got {self.path}, which holds a {name}; {hint}")

    def close(self) -> None:
        """Lets other processes write here."""
        self.lock.release()

    def load_state(self) -> dict | None:
        """Returns the state that a run left when it was killed; None when it had none yet. Cuts steps.jsonl to fit."""
        state = load_state(self.path / "state.safetensors") if (self.path / "state.safetensors").is_file() else None
        with clear_errors(self.path):
            truncate_jsonl(self.path / "steps.jsonl", state["steps"] - 1 if state else -1)
        return state

    def save_state(self, state: Mapping) -> None:
        """Writes state.safetensors: {"steps": rows that steps.jsonl should have, ...}."""
        with clear_errors(self.path):
            save_state(self.path / "state.safetensors", state)

    def drop_state(self) -> None:
        """Removes the state of a run that has ended."""
        with clear_errors(self.path):
            (self.path / "state.safetensors").unlink(missing_ok=True)

    def write_config(self, config: object) -> None:
        """Writes config.json: a dataclass or a mapping, nested as deep as it is."""
        self.write_json("config.json", plain(config))

    def append_step(self, row: Mapping) -> None:
        """Adds a row without its pictures to steps.jsonl; with the system on return, so a killed run keeps it."""
        line = encode({key: value for key, value in row.items() if key != "images"}, "steps.jsonl", indent=None)
        with clear_errors(self.path), open(self.path / "steps.jsonl", "a", encoding="utf-8") as file:
            file.write(line)

    def write_result(self, result: AttackResult) -> None:
        """Writes latents.safetensors, images/<identity>_<k>.png at native size and images/grid.png."""
        from safetensors.torch import save

        kept = result.images.shape[1]
        latents = {name: rows.detach().cpu().contiguous() for name, rows in result.latents.items()}
        # row t * kept + k; one key, since safetensors writes several in random order
        order = json.dumps({"identities": [int(identity) for identity in result.identities], "kept": kept})
        self.write_bytes("latents.safetensors", save(latents, metadata={"order": order}))
        self.write_pictures(result.identities, result.images)

    def write_pictures(self, identities: Sequence[int], images: torch.Tensor) -> None:
        """Writes images [T,K,3,R,R] as images/<identity>_<k>.png, at native size, and images/grid.png."""
        kept = images.shape[1]
        columns = kept if kept > 1 else min(8, len(images))  # one row an identity, or eight identities a row
        with clear_errors(self.path):
            for identity, pictures in zip(identities, images, strict=True):
                for k, picture in enumerate(pictures):
                    image_convention.save(picture, self.path / "images" / f"{int(identity)}_{k}.png")
            grid = image_convention.grid(images.flatten(0, 1), columns)
            image_convention.save(grid, self.path / "images" / "grid.png")

    def write_report(
        self,
        *,
        method: str,
        world: str,
        seed: int,
        identities: Sequence[int],
        verdict: Verdict,
        cost: Cost | None,
        controls: Mapping[str, Verdict] | None = None,
        ceiling: Mapping[str, Mapping] | None = None,
        judges: Sequence[Mapping] = (),
        type_i: Mapping | None = None,
        memory: Mapping | None = None,
        factors: Mapping[str, Mapping] | None = None,
        photos: Mapping[int, torch.Tensor] | None = None,
        seconds: float = 0.0,
    ) -> dict:
        """Returns the report after writing it as report.json, whose schema is check_report, and report.html.

        cost: None where the pictures were made elsewhere, which verdict.absent then says under "cost"; controls: name ->
        verdict on its pictures; ceiling: what the users' own photos reach, metric -> summary; judges: as
        declaration.declare_judges tells them; type_i: what the pictures were tested with; memory: as Memory.describe tells
        it; factors: of rendered people, factor -> {"recovery", "ceiling"}; photos: identity -> image to show,
        where nobody is real; seconds: that the verdict took.
        """
        from ganinv.controls import HEADLINES, strongest_difference
        from ganinv.page import render_page

        headline = [strongest_difference(verdict, controls or {}, metric, seed) for metric in HEADLINES]
        report = {
            "method": method,
            "world": world,
            "identities": [int(identity) for identity in identities],
            "seed": seed,
            "summary": verdict.summary,
            "per_identity": verdict.per_identity,
            "cost": {key: getattr(cost, key, None) for key in COST_KEYS} | {"verdict_seconds": seconds},
            "absent": verdict.absent,
            "headline": [line for line in headline if line],
            "controls": {name: control.summary for name, control in (controls or {}).items()},
            "ceiling": dict(ceiling or {}),
            "judges": list(judges),
            "factors": dict(factors or {}),
            "pictures": verdict.pictures,
            "type_i": dict(type_i or {}),
            "memory": dict(memory or {}),
            "sets": verdict.sets,
            "files": self.hash_files(),
        }
        text = encode(report, "report.json", indent=2)  # first, so that a value that is not finite is called that
        check_report(report, self.path / "report.json")
        with clear_errors(self.path, verb="read"):
            page = render_page(self.path, report, photos)
        self.write_bytes("report.html", page.encode())
        self.write_bytes("report.json", text.encode())
        return report

    def hash_files(self) -> dict[str, str]:
        """Returns the SHA-256 of the latents and of every picture, by their paths in the folder."""
        files = [self.path / "latents.safetensors", *sorted((self.path / "images").glob("*.png"))]
        with clear_errors(self.path, verb="read"):
            return {file.relative_to(self.path).as_posix(): sha256_file(file) for file in files if file.is_file()}

    def write_json(self, name: str, value: object) -> None:
        """Writes a JSON file. Raises: FaultError when a number in it is not finite."""
        self.write_bytes(name, encode(value, name, indent=2).encode())

    def write_bytes(self, name: str, content: bytes) -> None:
        """Writes a file under a temporary name, then renames. Raises: FaultError when the disk refuses."""
        temporary = self.path / f"{name}.tmp"
        with clear_errors(self.path):
            temporary.write_bytes(content)
            os.replace(temporary, self.path / name)


def new_folder(method: str, world: str, root: str | Path = "runs") -> Path:
    """Returns root/<method>-<world>-<NNN>, newly made, with the first number above all those there.

    Raises: ValueError when it cannot be created; FaultError when the disk is full.
    """
    root, stem = Path(root), f"{method}-{world}-"
    with clear_errors(root, ValueError):
        root.mkdir(parents=True, exist_ok=True)
        tails = (path.name.removeprefix(stem) for path in root.iterdir() if path.name.startswith(stem))
        number = 1 + max((int(tail) for tail in tails if tail.isdecimal()), default=-1)
        while True:
            folder = root / f"{stem}{number:03d}"
            try:
                folder.mkdir()
                return folder
            except FileExistsError:  # another run took the number meanwhile
                number += 1


def read_report(path: str | Path) -> dict:
    """Returns the report of a run folder (or of a report.json itself).

    Raises: ValueError when there is no report.json, or it breaks the schema (see check_report).
    """
    path = Path(path)
    file = path / "report.json" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"expected a finished run with a report.json, got {path}; run it again or leave it out")
    try:
        return check_report(json.loads(file.read_text(encoding="utf-8")), file)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"expected JSON in {file}, got {error}") from error


def check_report(report: object, file: str | Path) -> dict:
    """Returns a report unchanged if it keeps the schema.

    Keys: method, world, identities, seed, summary (metric -> mean, ci95 [low, high] or [null, null], n), per_identity
    (one dict each, in the order of identities), cost, absent (metric -> reason), files (path -> SHA-256),
    headline, controls and ceiling (see ganinv.controls), judges (see ganinv.declaration), pictures (see Verdict), type_i,
    sets, factors; those from files on may be missing.
    A metric is in summary and in all of per_identity, or in absent; the numbers of cost are all None where cost is absent.
    Raises: ValueError naming the file and the first key that breaks it.
    """
    problem = find_problem(report)
    if problem:
        raise ValueError(f"expected a ganinv report in {file}, got {problem}; write it with RunFolder.write_report")
    return report


def find_problem(report: object) -> str | None:
    """Returns what is wrong with a report, None when nothing is."""
    if not isinstance(report, dict):
        return f"a {type(report).__name__}"
    kinds = {
        "method": str, "world": str, "identities": list, "seed": int,
        "summary": dict, "per_identity": list, "cost": dict, "absent": dict,
    }  # fmt: skip
    for key, kind in kinds.items():
        if not isinstance(report.get(key), kind):
            return f"{key} of type {type(report[key]).__name__}" if key in report else f"no {key}"
    for metric, entry in report["summary"].items():
        if not isinstance(entry, dict) or not {"mean", "ci95", "n"} <= entry.keys():
            return f"summary.{metric} without mean, ci95 and n"
        if not is_number(entry["mean"]) or not is_interval(entry["ci95"]):
            return f"summary.{metric} with mean {entry['mean']} and ci95 {entry['ci95']}"
        if metric in report["absent"]:
            return f"{metric} both in summary and in absent"
    if any(not isinstance(row, dict) for row in report["per_identity"]):
        return "a per_identity entry that is no dict"
    if [row.get("identity") for row in report["per_identity"]] != report["identities"]:
        return "per_identity of other identities than identities"
    for row in report["per_identity"]:
        if row.keys() - {"identity"} != report["summary"].keys() or not all(map(is_number, row.values())):
            return f"per_identity {row['identity']} with other metrics than summary, or a value that is no number"
    unknown = "cost" in report["absent"] and all(report["cost"].get(key) is None for key in COST_KEYS)
    if missing := [key for key in COST_KEYS if not is_number(report["cost"].get(key)) and not unknown]:
        return f"no cost.{missing[0]}"
    if not all(isinstance(reason, str) and reason for reason in report["absent"].values()):
        return "a metric that is absent without a reason"
    return None


def is_number(value: object) -> bool:
    """Says whether a value is a finite number; Python's JSON reader also takes NaN."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_interval(value: object) -> bool:
    """Says whether a value is [low, high] or [None, None]."""
    return isinstance(value, list) and len(value) == 2 and (value == [None, None] or all(map(is_number, value)))


def describe_provenance(
    seed: int, device: str | torch.device, weights: Mapping[str, str | Path], argv: Sequence[str]
) -> dict:
    """Returns what is needed to run this again: code, packages, machine, arguments and the SHA-256 of each weight file.

    Raises: ValueError when a weight file cannot be read.
    """
    device = torch.device(device)
    hashes = {}
    for role, path in weights.items():
        with clear_errors(path, ValueError, "read"):
            # the name alone: a folder tells of the machine, and the SHA-256 says which file it is
            hashes[role] = {"file": Path(path).name, "sha256": sha256_file(path)}
    return {
        "version": ganinv.__version__,
        "git": describe_checkout(Path(ganinv.__file__).resolve().parent),
        "python": platform.python_version(),
        "packages": find_versions(PACKAGES),
        "platform": platform.platform(),
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "precision": "float32",  # of every network; an attack replaces it by what its search took
        "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
        "seed": seed,
        "device": str(device),
        "argv": list(argv),
        "weights": hashes,
    }


def tell_differences(folder: str | Path, provenance: Mapping) -> list[str]:
    """Returns one line for each entry in which a run's provenance.json and this one differ, arguments apart.

    Raises: ValueError when the folder holds no readable provenance.json.
    """
    file = Path(folder) / "provenance.json"
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"expected a provenance.json in {folder}, got none that can be read ({error})") from error
    then, now = flat_entries(before), flat_entries(plain(provenance))
    names = [name for name in {**then, **now} if not name.startswith("argv")]
    return [
        f"{name}: {then.get(name, 'nothing')} then, {now.get(name, 'nothing')} now"
        for name in names
        if then.get(name) != now.get(name)
    ]


def flat_entries(value: object, name: str = "") -> dict[str, object]:
    """Returns the leaves of nested dicts by their keys, with dots between."""
    if not isinstance(value, Mapping):
        return {name: value}
    return {
        key: leaf for head, item in value.items() for key, leaf in flat_entries(item, f"{name}.{head}".lstrip(".")).items()
    }


def find_versions(packages: Sequence[str]) -> dict[str, str]:
    """Returns the version of each package that is installed."""
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # optional ones may be missing
            continue
    return versions


def describe_checkout(package: Path) -> dict | None:
    """Returns {"hash", "dirty"} of the git checkout that a package folder lies in; None when it lies in none.

    dirty: a file of the package or of scripts/ differs from the commit, or is new. A package installed below somebody
    else's checkout (a .venv in it) is in none: the checkout must hold the package at its top.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != package.parent.resolve():
            return None
        status = git("status", "--porcelain", "--", package.name, "scripts")
        return {"hash": git("rev-parse", "HEAD"), "dirty": bool(status)}
    except (OSError, subprocess.SubprocessError):  # no git, no checkout, or no commit yet
        return None


def plain(value: object) -> object:
    """Returns a configuration as what JSON can hold: dataclasses as dicts, paths as strings, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def encode(value: object, name: str, indent: int | None) -> str:
    """Returns a line or block of JSON. Raises: FaultError when a number is not finite, which JSON cannot hold."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False) + "\n"
    except ValueError as error:
        raise FaultError(f"cannot write {name}: a value in it is not finite ({error})") from error


@contextmanager
def clear_errors(path: str | Path, kind: type[Exception] = FaultError, verb: str = "write to") -> Iterator[None]:
    """Turns an OSError into one line that names the path: FaultError for a full disk, else `kind`."""
    try:
        yield
    except OSError as error:
        full = error.errno in DISK_FULL
        cure = "free some space" if full else "choose a folder that you may use"
        message = f"cannot {verb} {error.filename or path}: {error.strerror or error}; {cure}"
        raise (FaultError if full else kind)(message) from error
