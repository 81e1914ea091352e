"""Folders of identities: one sub-folder per person, and photo splits that never move when people are added."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from ganinv import images
from ganinv.json_data import read_json

T = TypeVar("T")
MANIFEST = "prepared.json"
told: set[Path] = set()  # folders of which it was said what is passed over
SPLITS = {"train": 0.6, "references": 0.2, "test": 0.2}  # share of each person's photos


@dataclass(frozen=True)
class Photos:
    """Photos of people: pixels uint8 [N,3,R,R]; person int64 [N], an index into names; files, one per photo."""

    pixels: torch.Tensor
    person: torch.Tensor
    names: tuple[str, ...]
    files: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self, index: torch.Tensor | slice = slice(None), device: torch.device | str = "cpu") -> torch.Tensor:
        """Returns float32 images [n,3,R,R] in [-1,1] on a device, to which their bytes are copied."""
        return images.from_uint8(self.pixels[index].to(device))


def hash_photos(photos: Photos) -> str:
    """Returns the SHA-256 over the pixels of photos, in their order."""
    return hashlib.sha256(photos.pixels.contiguous().numpy().tobytes()).hexdigest()


def unit_hash(text: str) -> float:
    """Returns a number in [0,1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogateescape")).digest()[:8], "big") / 2**64


def list_people(root: str | Path) -> dict[str, list[Path]]:
    """Returns the photo files of each sub-folder of root, both sorted by name, people as sort_names does it.

    Raises: ValueError when root is no folder, holds no person, or a person's folder holds no photo.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(
            f"expected a folder with one sub-folder per person, got {root}, which is no folder; make FOLDER/PERSON/PHOTO"
        )
    people, others = {}, []
    for name in sort_names(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        folder = root / name
        inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        people[folder.name] = [path for path in inside if images.is_picture(path)]
        others += [path for path in inside if not images.is_picture(path)]
        if not people[folder.name]:
            deeper = any(path.is_dir() for path in inside)
            got = f"folders; is {folder} the folder to pass?" if deeper else "none; add photos, or take the folder out"
            raise ValueError(f"expected photos ({', '.join(images.SUFFIXES)}) in {folder}, got {got}")
    if not people:
        raise ValueError(
            f"expected a folder with one sub-folder per person, got {root}, which has none; make FOLDER/PERSON/PHOTO"
        )
    if others and root not in told:
        told.add(root)  # a run lists a folder several times
        got = repr(str(others[0].relative_to(root)))[1:-1]
        print(f"{root}: {len(others)} files are passed over, such as {got}: no {', '.join(images.SUFFIXES)}", file=sys.stderr)
    return people


def sort_names(names: Iterable[str]) -> list[str]:
    """Returns names in the order that numbers their people: as text, or as numbers where all are.

    Where the two orders differ, a line on stderr says which it is.
    """
    names = sorted(names)
    if not names or not all(name.isdecimal() and name.isascii() for name in names):
        return names
    numbered = sorted(names, key=lambda name: (int(name), name))
    if numbered != names:
        print(f"{len(names)} people are sorted as numbers: {', '.join(numbered[:3])}, ..., {numbered[-1]}", file=sys.stderr)
    return numbered


def order_people(people: Mapping[str, T], names: Sequence[str]) -> dict[str, T]:
    """Returns people in the order of names, which are all of theirs; as they are where no names are given.

    Raises: ValueError naming who is missing or unknown.
    """
    if not names:
        return dict(people)
    if missing := [name for name in names if name not in people]:
        raise ValueError(
            f"expected photos or a template of {missing[0][:80]!r}, whom the class map names, got none"
            "; add them, or take the name out"
        )
    if odd := sorted(people.keys() - set(names)):
        raise ValueError(
            f"expected nobody beside the {len(names)} names of the class map, got {odd[0][:80]!r}"
            "; add the name to the map, or leave its folder out"
        )
    return {name: people[name] for name in names}


def split_photos(files: list[Path], split: str) -> list[Path]:
    """Returns the files of one person that belong to a split ("train", "references", "test" or "all").

    A person's photos are ordered by a hash of person and file name and cut at fixed shares, so the split of a photo
    depends on nothing outside that person's folder. A person with three photos or more has one in every split.
    """
    if split == "all":
        return list(files)
    if split not in SPLITS:
        raise ValueError(f"expected a split among all, {', '.join(SPLITS)}, got {split}")
    ordered = sorted(files, key=lambda path: unit_hash(f"{path.parent.name}/{path.name}"))
    # "references" and "test" are rounded first, and are never empty while three photos exist
    sizes = {name: max(1, round(share * len(files))) for name, share in SPLITS.items() if name != "train"}
    sizes["train"] = max(0, len(files) - sum(sizes.values()))
    start = {"references": 0, "test": sizes["references"], "train": sizes["references"] + sizes["test"]}[split]
    return sorted(ordered[start : start + sizes[split]])


def choose_photos(files: list[Path], split: str) -> list[Path]:
    """Returns the files of one person that belong to a split, in the order of their hashes."""
    return sorted(split_photos(files, split), key=lambda path: unit_hash(f"{path.parent.name}/{path.name}"))


def select_people(people: dict[str, list[Path]], low: float, high: float) -> dict[str, list[Path]]:
    """Returns the people whose name hashes into [low,high): a fixed share of any population.

    Raises: ValueError when there are none.
    """
    found = {name: files for name, files in people.items() if low <= unit_hash(name) < high}
    if not found:
        raise ValueError(f"expected people whose name hashes into [{low},{high}), got none of {len(people)}; add people")
    return found


def load_photos(
    people: dict[str, list[Path]], size: int, *, split: str = "all", most: int | None = None, progress: bool = False
) -> Photos:
    """Returns photos [N,3,size,size] of people, at most `most` per person (the first by hash, not by name).

    Raises: ValueError for a broken file (naming it), or when no photo is left.
    """
    from tqdm import tqdm

    chosen = [(index, path) for index, files in enumerate(people.values()) for path in choose_photos(files, split)[:most]]
    if not chosen:
        raise ValueError(
            f"expected at least one photo in the split {split}, got none from {len(people)} people"
            "; add photos, or choose another split"
        )
    pixels = np.empty((len(chosen), 3, size, size), np.uint8)
    for row, (_, path) in enumerate(tqdm(chosen, "photos", disable=None if progress else True, leave=False)):
        pixels[row] = images.load_pixels(path, size).transpose(2, 0, 1)
    return Photos(
        torch.from_numpy(pixels),
        torch.tensor([index for index, _ in chosen]),
        tuple(people),
        tuple(f"{path.parent.name}/{path.name}" for _, path in chosen),
    )


def claim_folder(out: Path, settings: Mapping) -> None:
    """Makes a folder for photos, with the settings that they are made by; does nothing where these are there already.

    Raises: ValueError when it holds something else.
    """
    manifest = out / MANIFEST
    if manifest.is_file():
        if read_json(manifest) != settings:
            raise ValueError(f"expected the settings and photos of {manifest}, got others; choose another --out")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(
            f"expected --out to be new or of an interrupted run, got {out}, which holds something else; choose another --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    temporary = manifest.with_suffix(".tmp")
    temporary.write_text(json.dumps(settings, indent=2) + "\n")
    temporary.replace(manifest)
