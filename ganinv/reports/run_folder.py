"""The run folder: what a run was given, what it did and what the judges said, in files that outlive the program.

config.json  provenance.json  steps.jsonl  latents.safetensors  images/grid.png  images/<identity>_<k>.png
report.html  report.json
Every file is written under a temporary name and renamed; report.json comes last, so a folder that has it is complete.
While a run lasts there is also state.safetensors, from which a killed run goes on, the state before it, and a lock.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ganinv import images as image_convention
from ganinv.engine.checkpoint import drop_state, load_state, save_state, truncate_jsonl
from ganinv.engine.files import clear_errors, encode, plain, write_atomically
from ganinv.errors import Absent
from ganinv.reports.page import render_page
from ganinv.reports.report_content import build_report
from ganinv.reports.report_file import check_report
from ganinv.weights.files import sha256_file

if TYPE_CHECKING:
    from ganinv.attack.result import AttackResult, Cost
    from ganinv.judging.judgement import Judgement


def check_new(path: Path | None) -> None:
    """Raises: ValueError when a folder holds a run."""
    for name in ("config.json", "report.json") if path is not None else ():
        if (path / name).exists():
            hint = "choose another --out, or pass --resume alone to go on with it"
            raise ValueError(f"expected a new folder, got {path}, which holds a {name}; {hint}")


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
            for left in self.path.rglob("*.tmp"):  # by a kill
                left.unlink(missing_ok=True)
        try:
            check_new(self.path if not resume else None)
        except ValueError:
            self.close()
            raise

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
            drop_state(self.path / "state.safetensors")

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
        judgement: Judgement,
        cost: Cost | Absent,
        goal: str | None = None,
        queries: Mapping | None = None,
        beside: Mapping[str, object] = {},  # noqa: B006
    ) -> dict:
        """Returns the report after writing it as report.json, whose schema is check_report, and report.html.

        cost: Absent where the pictures were made elsewhere. goal: of the search, queries: of Queries.describe, None without.
        beside: see build_report.
        """
        report = build_report(
            method=method, world=world, seed=seed, identities=identities, judgement=judgement, cost=cost,
            goal=goal, queries=queries, files=self.hash_files(), beside=beside,
        )  # fmt: skip
        text = encode(report, "report.json", indent=2)  # first, so that a value that is not finite is called that
        check_report(report, self.path / "report.json")
        with clear_errors(self.path, verb="read"):
            page = render_page(self.path, report, judgement.photos, judgement.means)
        self.write_bytes("report.html", page)
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

    def write_bytes(self, name: str, content: str | bytes) -> None:
        """Writes a file under a temporary name, then renames. Raises: FaultError when the disk refuses."""
        with clear_errors(self.path):
            write_atomically(self.path / name, content)


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
