"""Labeled Faces in the Wild as folders of people; see commands/prepare_lfw.py."""

from __future__ import annotations

import hashlib
import io
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from ganinv import images
from ganinv.engine.files import write_atomically
from ganinv.engine.progress import open_bar
from ganinv.errors import FaultError
from ganinv.photos import claim_folder, list_people, unit_hash

BOX = (60, 60, 190, 190)  # of the aligned photo: the face, without most of the background
SOURCE_SIDE = 250
SIDE = 128
QUALITY = 90
FOLDERS = {"deepfunneled": "lfw-deepfunneled", "funneled": "lfw_funneled", "original": "lfw"}  # torchvision's names


def prepare_lfw(config) -> None:
    """Writes the folders; config: the options of the command.

    Raises: ValueError for a source or an output that is not what it should be.
    """
    if config.image_set not in FOLDERS:
        raise ValueError(f"expected --image-set among {', '.join(FOLDERS)}, got {config.image_set}")
    people = list_people(find_source(config))
    folders = assign_folders(people, config.users, config.min_photos)
    claim_output(config.out, config, people)
    work = [
        (path, config.out / folder / f"{index:03d}.jpg")
        for name, folder in folders.items()
        for index, path in enumerate(people[name])
    ]
    for path, target in open_bar(work, "photos"):
        if not target.exists():
            write_crop(path, target)
    private = sum(folder.startswith("private/") for folder in folders.values())
    print(f"{config.out}: {len(work)} photos of {private} users and {len(folders) - private} public people")


def find_source(config) -> Path:
    """Returns the folder that holds one sub-folder per person, downloaded first if asked for and absent."""
    folder = FOLDERS[config.image_set]
    places = [config.source / "lfw-py" / folder, config.source / folder]
    if config.download and not any(place.is_dir() for place in places):
        from torchvision.datasets import LFWPeople

        try:
            LFWPeople(str(config.source), image_set=config.image_set, download=True)
        except (RuntimeError, OSError) as error:  # no network, or a file with another checksum
            raise FaultError(f"LFWPeople could not be downloaded ({' '.join(str(error).split())})") from error
    for place in places:
        if place.is_dir():
            return place
    if any(config.source.glob("*/*_0001.jpg")):  # the folder of people itself
        return config.source
    raise ValueError(f"expected the aligned photos of LFW in {places[0]} or {places[1]}, got neither; see --source")


def assign_folders(people: dict[str, list[Path]], users: int, min_photos: int) -> dict[str, str]:
    """Returns each used person's folder: private/pNN or public/nNNNN, numbered by the hash of the name.

    Raises: ValueError when fewer than `users` people have min_photos photos.
    """
    ordered = sorted(people, key=unit_hash)
    known = [name for name in ordered if len(people[name]) >= min_photos]
    others = [name for name in ordered if len(people[name]) < min_photos]
    if not 0 < users <= len(known):
        raise ValueError(f"expected --users of 1 to {len(known)}, who have {min_photos} photos or more, got {users}")
    private = {name: f"private/p{number:02d}" for number, name in enumerate(known[:users])}
    return private | {name: f"public/n{number:04d}" for number, name in enumerate(others)}


def claim_output(out: Path, config, people: dict[str, list[Path]]) -> None:
    """Makes the output folder, or checks that it is that of an interrupted run with the same source and settings.

    Raises: ValueError when it holds something else.
    """
    listing = "\n".join(f"{path.parent.name}/{path.name}" for files in people.values() for path in files)
    settings = {name: value for name, value in asdict(config).items() if name in ("users", "min_photos", "image_set")}
    settings |= {"box": list(BOX), "side": SIDE, "source_files_sha256": hashlib.sha256(listing.encode()).hexdigest()}
    claim_folder(out, settings)


def write_crop(path: Path, target: Path) -> None:
    """Writes the crop of a photo, atomically. Raises: ValueError naming a photo that is broken or not 250x250."""
    grey = images.open_picture(path).convert("L")
    if grey.size != (SOURCE_SIDE, SOURCE_SIDE):
        raise ValueError(f"expected photos of {SOURCE_SIDE}x{SOURCE_SIDE}, got {grey.width}x{grey.height} in {path}")
    target.parent.mkdir(parents=True, exist_ok=True)
    grey.crop(BOX).resize((SIDE, SIDE), Image.Resampling.LANCZOS).save(jpeg := io.BytesIO(), format="JPEG", quality=QUALITY)
    write_atomically(target, jpeg.getvalue())
