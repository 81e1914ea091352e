"""Crop Labeled Faces in the Wild into folders of people, for a world of your own.

    python scripts/prepare_lfw.py --source=DIR --out=data/lfw

reads the folder `lfw-deepfunneled` (aligned photos of 250x250, one sub-folder per person), as it stands in DIR or in
DIR/lfw-py, where torchvision.datasets.LFWPeople keeps it. About 2 minutes for 13 233 photos on one core.

What comes out holds numbers instead of names:
  private/p00 ...    of the people with at least min_photos photos, the `users` first by the SHA-256 of their name
  public/n0000 ...   all people with fewer, in the same order; the others with at least min_photos are left out
Every photo is the box (60,60,190,190), as 128x128 greyscale JPEG. An interrupted run goes on where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ganinv import cli
from ganinv.commands.opening import open_named


@dataclass(frozen=True, kw_only=True)
class Config:
    """Crop Labeled Faces in the Wild into folders of people, for a world of your own.

    Example: --out=data/lfw
    """

    source: Path = Path("data/lfw-source")  # where torchvision keeps LFWPeople, or the folder of people itself
    out: Path = Path("data/lfw")  # new, or of an interrupted run
    users: int = 40  # people who can register with a target
    min_photos: int = 20  # photos that a user has at least
    image_set: str = "deepfunneled"  # alignment: deepfunneled | funneled | original
    download: bool = False  # ask torchvision for the photos where source has none; new versions of it refuse


def run(config: Config) -> None:
    """Writes the folders. Raises: ValueError for a source or an output that is not what it should be."""
    from ganinv.worlds.lfw import prepare_lfw

    prepare_lfw(config)


def main() -> None:
    """Parses the command line and runs."""
    cli.main(Config, run, plan=open_named)
