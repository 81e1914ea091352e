"""The pictures that a prior is trained on: folders of people, a flat folder, or a zip of either."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from ganinv import images
from ganinv.engine.progress import open_bar
from ganinv.photos import Photos, list_people, load_photos, select_people, unit_hash

MOST_BYTES = 2**28  # of one file in a zip, unpacked: what is larger is no photo of a face


def load_pictures(source: str | Path, size: int, share: tuple[float, float], *, progress: bool = True) -> Photos:
    """Returns the pictures [N,3,size,size] of a share [low,high) of the people, by a hash of their names.

    source: a folder with one sub-folder per person; a folder of pictures, each of a person of its own, named by its file;
    or a zip of one of them. A picture falls into the same share from a folder and from a zip.
    Raises: ValueError when there is no picture, both pictures and folders, folders of people in several places, or a broken
    file (naming it).
    """
    source = Path(source)
    if source.is_file():
        return read_zip(source, size, share, progress=progress)
    flat = sorted(path for path in source.iterdir() if is_picture(path)) if source.is_dir() else []
    if flat and any(path.is_dir() and not path.name.startswith(".") for path in source.iterdir()):
        raise ValueError(f"expected pictures, or one sub-folder per person, in {source}, got both; move one of them away")
    people = {path.name: [path] for path in flat} or list_people(source)
    return load_photos(select_people(people, *share), size, progress=progress)


def draw_photos(photos: Photos, count: int, generator: torch.Generator, device: torch.device) -> torch.Tensor:
    """Returns so many photos [count,3,R,R] in [-1,1], each of them mirrored or not."""
    index = torch.randint(len(photos), (count,), generator=generator)
    real = photos.images(index, device)
    mirrored = (torch.rand(count, generator=generator) < 0.5).to(device)
    return torch.where(mirrored[:, None, None, None], real.flip(3), real)


def is_picture(path: Path | PurePosixPath) -> bool:
    """Returns whether a file is a picture, by its name; hidden files and those that macOS puts into zips are none."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return images.is_picture(path) and not hidden


def read_zip(file: Path, size: int, share: tuple[float, float], *, progress: bool = True) -> Photos:
    """Returns the pictures of a share of the people in a zip. Raises: ValueError, see load_pictures."""

    try:
        with zipfile.ZipFile(file) as archive:
            people = group_members(archive, share)
            if not people:
                raise ValueError(f"expected pictures ({', '.join(images.SUFFIXES)}) in {file}, got none in the share {share}")
            members = [(index, info) for index, infos in enumerate(people.values()) for info in infos]
            pixels = np.empty((len(members), 3, size, size), np.uint8)
            for row, (_, info) in enumerate(open_bar(members, "pictures", disable=not progress, leave=False)):
                pixels[row] = read_member(archive, info, size).transpose(2, 0, 1)
    except (zipfile.BadZipFile, RuntimeError, OSError) as error:  # RuntimeError: it is encrypted
        raise ValueError(f"expected a zip of pictures, got {file} ({error})") from error
    return Photos(
        torch.from_numpy(pixels), torch.tensor([index for index, _ in members]), tuple(people),
        tuple(info.filename for _, info in members),
    )  # fmt: skip


def group_members(archive: zipfile.ZipFile, share: tuple[float, float]) -> dict[str, list[zipfile.ZipInfo]]:
    """Returns person -> pictures of a share of the people in a zip, both sorted by name.

    A person is a folder; where all pictures lie in one, each is a person of its own. Raises: ValueError where folders with
    pictures do not lie side by side: two may be of one name, and one place may be that of the users.
    """
    found = [(path, info) for info in archive.infolist() if is_picture(path := PurePosixPath(info.filename))]
    folders = sorted({path.parent for path, _ in found})
    flat = len(folders) == 1
    one = folders[0] if folders else PurePosixPath()
    if apart := [other for other in folders[1:] if other.parent != one.parent or not one.parts]:
        raise ValueError(
            f"expected pictures, or one folder per person, side by side in {archive.filename}, got some in {one} and in "
            f"{apart[0]}; zip one folder of people, or of pictures"
        )
    people: dict[str, list[zipfile.ZipInfo]] = {}
    for path, info in sorted(found, key=lambda one: one[0]):
        person = path.name if flat else path.parent.name
        if share[0] <= unit_hash(person) < share[1]:
            people.setdefault(person, []).append(info)
    return dict(sorted(people.items()))


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, size: int) -> np.ndarray:
    """Returns one picture of a zip, uint8 [size,size,3]. Raises: ValueError naming it when it cannot be decoded."""
    if info.file_size > MOST_BYTES:
        raise ValueError(f"expected pictures below {MOST_BYTES >> 20} MiB, got {info.filename} of {info.file_size >> 20} MiB")
    try:
        content = archive.read(info)
    except (zlib.error, EOFError) as error:
        raise ValueError(
            f"expected a zip of pictures, got {archive.filename}, whose {info.filename} is broken ({error}); make it anew"
        ) from error
    return images.load_pixels(NamedBytes(content, info.filename), size)


class NamedBytes(io.BytesIO):
    """The content of a file that is known by a name, which messages give."""

    def __init__(self, content: bytes, name: str):
        super().__init__(content)
        self.name = name

    def __str__(self) -> str:
        return self.name
