"""What --dry-run opens of the files and folders that a command names: enough to refuse a wrong one, within seconds.

The attacks, the audit and judge.py check more: all that they would load.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path


def open_named(config) -> dict:
    """Returns nothing, once whatever a configuration names is opened: world, folders, runs, recognizers, priors.

    What stands at its default is passed over, for a command may make it. Raises: ValueError for what cannot be opened.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in OPENERS and value and value != field.default:
            OPENERS[field.name](config, value)
    return {}


def open_place(config, place: str | Path) -> None:
    """Raises: ValueError when there is nothing at a place."""
    if not Path(place).exists():
        raise ValueError(f"expected a file or folder, got {place}, which is missing; check the path")


def open_photos(config, photos: str | Path) -> None:
    """Raises: ValueError unless a place is a folder that holds something, or a zip."""
    open_place(config, photos)
    if Path(photos).is_dir() and not any(Path(photos).iterdir()):
        raise ValueError(f"expected photos in {photos}, got an empty folder; make FOLDER/PERSON/PHOTO")


def open_world(config, name: str) -> None:
    """Raises: ValueError unless a world is shipped, lies in a folder, or may be made in one."""
    from ganinv.worlds import world

    world.open_world(name)


def open_runs(config, runs: str | Sequence[str]) -> None:
    """Raises: ValueError when a place holds no finished run, or one that cannot be read."""
    from ganinv.studies.run_comparison import find_runs, read_run

    for folder in find_runs([runs] if isinstance(runs, str) else runs):
        read_run(folder)


def open_files(config, files: str | Sequence[str]) -> None:
    """Raises: ValueError when a file is missing."""
    for file in [files] if isinstance(files, str) else files:
        open_place(config, file)


def open_recognizers(config, specs: str) -> None:
    """Raises: ValueError when a recognizer cannot be loaded; several stand with commas between."""
    for spec, world in list_specs(config, specs):
        world.load(world.find_target(spec))


def open_judges(config, specs: str) -> None:
    """Raises: ValueError when a judge cannot be loaded."""
    for spec, world in list_specs(config, specs):
        world.find_judge(spec)


def list_specs(config, specs: str) -> list:
    """Returns (spec, world) of specs with commas between."""
    from ganinv.worlds.world import open_world

    world = open_world(getattr(config, "world", "") or "synthetic")
    return [(spec, world) for spec in specs.split(",") if spec]


def open_prior(config, spec: str) -> None:
    """Raises: ValueError when a prior cannot be loaded."""
    from ganinv.priors.loading import load_generator

    load_generator(spec)


def open_users(config, gallery: str) -> None:
    """Raises: ValueError when users cannot be read: a folder of photos, or a file of templates."""
    from ganinv.photos import list_people

    if Path(gallery).is_dir():
        list_people(gallery)
    else:
        open_place(config, gallery)


OPENERS: dict[str, Callable] = {
    "world": open_world,
    **dict.fromkeys(("photos", "held_out", "source"), open_photos),
    **dict.fromkeys(("runs", "tune"), open_runs),
    **dict.fromkeys(("labels", "probes", "key", "answers", "start"), open_files),
    **dict.fromkeys(("target", "network", "features"), open_recognizers),
    "judge": open_judges,
    **dict.fromkeys(("generator", "prior"), open_prior),
    "gallery": open_users,
}
