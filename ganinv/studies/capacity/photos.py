"""Whose photos the targets of the study of capacity are trained and measured on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ganinv import images
from ganinv.engine.progress import open_bar
from ganinv.json_data import NUMBER, WHOLE, read_json
from ganinv.photos import MANIFEST, Photos, choose_photos
from ganinv.rendered.photos import make_photos, name_person

KNOWN_USERS = 100  # of the world: the classes of its judge
FIRST_FURTHER = 200_000  # further users, from this seed on: above all whom a judge, verifier or prior was trained on
FIRST_EXTRA = 50  # further training photos, from this photo seed on: above the world's own, which are split
PUBLIC_PHOTOS = 3  # of each public person
TEST_PHOTOS = 200  # about so many unseen photos of users measure a target


def list_users(count: int) -> list[int]:
    """Returns the person seeds of a target's users: the world's own first, of whom the judges know all."""
    return [*range(min(count, KNOWN_USERS)), *range(FIRST_FURTHER, FIRST_FURTHER + max(0, count - KNOWN_USERS))]


def split_numbers(person: int, split: str, photos_per_user: int) -> list[int]:
    """Returns the photo seeds of a person that belong to a split of the world, in the order of their hashes."""
    files = [Path(name_person(person)) / f"{number:03d}.png" for number in range(photos_per_user)]
    return [int(path.stem) for path in choose_photos(files, split)]


def training_numbers(person: int, count: int, photos_per_user: int = FIRST_EXTRA) -> list[int]:
    """Returns `count` photo seeds of a user to train on: of the world's split first, then further ones.

    A reference or test photo is never among them, and fewer photos are the first of more.
    """
    own = split_numbers(person, "train", photos_per_user)[:count]
    return own + list(range(FIRST_EXTRA, FIRST_EXTRA + count - len(own)))


def measuring_numbers(users: int, photos_per_user: int = FIRST_EXTRA) -> Callable[[int], list[int]]:
    """Returns the photo seeds on which a target of so many users is measured, for a person: of the world's test split."""
    count = max(1, TEST_PHOTOS // users)
    return lambda person: split_numbers(person, "test", photos_per_user)[:count]


@dataclass(frozen=True)
class PhotoCache:
    """Photos of rendered people, each kept as a file: in `stored`, a folder of prepare_people.py (None: there is none),
    or in `folder`, where what is missing is rendered once. Several processes may share it."""

    folder: Path
    stored: Path | None
    resolution: int
    device: torch.device | str = "cpu"

    def file(self, person: int, number: int) -> Path:
        """Returns where a photo is, or will be."""
        place = Path(name_person(person)) / f"{number:03d}.png"
        if self.stored is not None:
            for group in ("private", "public"):
                if (self.stored / group / place).is_file():
                    return self.stored / group / place
        return self.folder / place

    def missing(self, people: Sequence[int], numbers: Callable[[int], list[int]]) -> Iterator[tuple[int, list[int]]]:
        """Yields each person that lacks photos, and the photo seeds."""
        for person in people:
            lacking = [number for number in numbers(person) if not self.file(person, number).is_file()]
            if lacking:
                yield person, lacking

    def load(self, people: Sequence[int], numbers: Callable[[int], list[int]]) -> Photos:
        """Returns the photos numbers(person) of people, person after person, after rendering what is missing."""
        for person, lacking in open_bar(list(self.missing(people, numbers)), "render people", leave=False):
            self.render(person, lacking)
        wanted = [(row, self.file(person, number)) for row, person in enumerate(people) for number in numbers(person)]
        pixels = np.empty((len(wanted), 3, self.resolution, self.resolution), np.uint8)
        for index, (_, file) in enumerate(wanted):
            pixels[index] = images.load_pixels(file, self.resolution).transpose(2, 0, 1)
        return Photos(
            torch.from_numpy(pixels),
            torch.tensor([row for row, _ in wanted]),
            tuple(name_person(person) for person in people),
            tuple(f"{file.parent.name}/{file.name}" for _, file in wanted),
        )

    def render(self, person: int, numbers: list[int]) -> None:
        """Writes photos of a person; a reader finds a whole file or none."""
        photos = make_photos([person], numbers, self.resolution, device=self.device)
        folder = self.folder / name_person(person)
        folder.mkdir(parents=True, exist_ok=True)
        for row, number in enumerate(numbers):
            temporary = folder / f".{os.getpid()}.png"
            images.save(photos.images(row), temporary)
            os.replace(temporary, folder / f"{number:03d}.png")


def open_photos(folder: str | Path, resolution: int) -> Path | None:
    """Returns a folder of prepare_people.py, None for "".

    Raises: ValueError where it is none, or its photos are of another size or population than the seeds alone give.
    """
    if not folder:
        return None
    file = Path(folder) / MANIFEST
    try:
        settings = read_json(file, {"shift": NUMBER, "resolution": WHOLE})
        got = settings["shift"], settings["resolution"]
    except ValueError as error:
        raise ValueError(f"expected a folder made by prepare_people.py, got {folder} ({error})") from error
    if got != (0, resolution):
        raise ValueError(
            f"expected photos of {resolution} px of people without a shift in {folder}, got {got[1]} px and a shift of "
            f"{got[0]}; leave --photos out, and they are rendered"
        )
    return Path(folder)
