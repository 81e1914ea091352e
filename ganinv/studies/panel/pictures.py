"""The pictures of a panel: read, reduced to one size, and as data."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from ganinv.engine.files import clear_errors
from ganinv.images import load_pixels, open_picture
from ganinv.photos import choose_photos, hash_photos, list_people, load_photos
from ganinv.recognizers.loading import load_recognizer
from ganinv.studies.panel.page import data_uri
from ganinv.worlds.references import Judge, References
from ganinv.worlds.world import add_photos, load_references

MOST_SIDE = 256  # px to which larger pictures are reduced: the page shows them at about 200 to 380
REFERENCE_SIDE = 160  # px of a reference photo, shown at about 50 to 110
MOST_REFERENCES = 4  # photos of a person; more do not fit a phone


def check_photos(photos: str, world, own_target: bool, runs: Sequence) -> None:
    """Raises: ValueError when the photos are not those of the runs' users: other pictures, or in another order."""
    if not own_target:  # runs without photos have no hash of them, but the world has embeddings
        judge = Judge("verifier", load_recognizer(str(world.file("verifier")), "cpu"), sees_users=False)
        add_photos(References.load(world.file("references")), load_references(world, photos), judge)
        return

    known = {run.provenance["photos"] for run in runs if "photos" in run.provenance}
    people = dict(number_people(photos, runs).values())
    if known and known != {hash_photos(load_photos(people, world.resolution))}:
        raise ValueError(f"expected the photos that the runs were given, got others in {photos}; pass theirs")


def number_people(photos: str, runs: Sequence) -> dict[int, tuple[str, list[Path]]]:
    """Returns number -> (name, photo files) of the users of a target of one's own: as the runs name them, or in order."""
    people, names = list_people(photos), runs[0].report.get("names", {})
    if not names:
        return dict(enumerate(people.items()))
    return {int(number): (name, people[name]) for number, name in names.items() if name in people}


def split_references(
    photos: str, world, own_target: bool, runs: Sequence
) -> tuple[dict[int, list[Path]], dict[int, list[Path]]]:
    """Returns (person -> photos to show, person -> photos for catch trials), each in the order of their hashes.

    No recognizer of the world was trained on either. Photos for a target of one's own are all new: a fifth is held out.
    """
    if own_target:
        people = {number: files for number, (_, files) in number_people(photos, runs).items()}
    else:
        people = dict(enumerate(list_people(Path(photos) / world.users).values()))
    held_out = {person: choose_photos(files, "test") for person, files in people.items()}
    shown = {person: choose_photos(files, "all" if own_target else "references") for person, files in people.items()}
    return {person: [file for file in files if file not in held_out[person]] for person, files in shown.items()}, held_out


def hash_files(files: Iterable[Path]) -> str:
    """Returns the SHA-256 over what files hold. Raises: ValueError when one cannot be read."""
    digest = hashlib.sha256()
    for file in files:
        with clear_errors(file, ValueError, "read"):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def shorter_side(file: Path) -> int:
    """Returns the shorter side of a picture in pixels. Raises: ValueError when it cannot be read."""
    return min(open_picture(file).size)


def encode(file: Path, side: int) -> str:
    """Returns a picture as a data: URI of a PNG of side x side without any metadata: all are alike but for what they show."""

    png = io.BytesIO()
    Image.fromarray(load_pixels(file, side)).save(png, format="PNG")
    return data_uri(png.getvalue())
