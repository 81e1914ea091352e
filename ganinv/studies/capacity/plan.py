"""What the study of capacity is to do: points, cells, trainings, attacks, photos, and about how long it takes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ganinv import cli
from ganinv.attack import config as presets
from ganinv.attack.checks import check_config
from ganinv.attack.config import AttackConfig
from ganinv.interfaces import Recognizer
from ganinv.photos import unit_hash
from ganinv.ranges import check_ranges
from ganinv.rendered.factors import FIRST_PUBLIC
from ganinv.rendered.photos import name_person
from ganinv.studies.capacity.cells import ATTACKED, GRIDS, Cell, check_cell, deal, list_cells, list_points
from ganinv.studies.capacity.photos import (
    PUBLIC_PHOTOS,
    TEST_PHOTOS,
    PhotoCache,
    list_users,
    measuring_numbers,
    open_photos,
    training_numbers,
)
from ganinv.training.recipes import RECIPES
from ganinv.weights.files import sha256_file
from ganinv.worlds.world import find_world

LATENT = "latent"
CONTROL = "control: best candidate"
JUDGING = ("prior", "judge", "verifier", "references", "lpips_face", "factors")  # files of the world that give the numbers
# seconds on one core of a server's CPU, for the estimate alone
PHOTO_S = 0.04  # a rendered photo
STEP_S = {"linear": 0.03, "mlp": 0.06, "resnet18": 0.31, "resnet34": 0.55}  # a step of 64 photos; others: resnet18's
CANDIDATE_S, SEARCH_S = 0.04, 0.3  # a candidate; a picture in a step of the latent search
JUDGE_S = 4.0  # a method's pictures


def build_plan(config):
    """Returns the points, all cells, and those of this part. Raises: ValueError for anything that cannot be run."""
    if not find_world(config.world).photos_per_user:
        raise ValueError(f"expected a world of rendered people, such as synthetic, got {config.world}")
    if config.grid not in GRIDS:
        raise ValueError(f"expected a grid among {', '.join(GRIDS)}, got {config.grid}")
    given = {"depth": config.depth, "parameters": config.parameters, "photos": config.photos_per_user, "users": config.users}
    axes = list(dict.fromkeys(word.strip() for word in config.axes.split(",")))
    values = {}
    for axis in axes:
        words = [word.strip() for word in given.get(axis, "").split(",")] if given.get(axis) else None
        values[axis] = tuple(dict.fromkeys(words)) if words else GRIDS[config.grid].get(axis, ())
    centre = Cell(config.centre)
    check_cell(centre)  # also where no axis has it: the table names it
    points = list_points(values, centre)
    check_ranges(config)
    cli.check_training(make_training(config, centre))
    attacks = make_attacks(config)
    if not attacks:
        raise ValueError("expected at least one method, got none")
    cells = list_cells(points, config.seeds)
    return points, cells, deal(cells, config.part, partial(estimate_cell, config))


def make_training(config, cell):
    """Returns how a cell's target is trained: as the shipped one, but for what the cell and the options say."""
    more = max(1.0, cell.users / config.steps_per_users) if config.steps_per_users else 1.0
    return dataclasses.replace(
        RECIPES["target"].training, architecture=cell.architecture, seed=cell.seed, steps=round(config.steps * more),
        batch=config.batch,
        precision=config.precision, users_share=0.5, save_every_s=20.0,
    )  # fmt: skip


def make_attacks(config) -> dict:
    """Returns method -> its configuration. Raises: ValueError for an unknown method, or settings that cannot be run."""
    latent = dataclasses.replace(
        presets.LATENT, candidates=config.candidates, restarts=config.restarts, steps=config.attack_steps
    )
    known = {LATENT: latent} | {name: attack for name, (attack, _) in presets.PIXEL_VARIANTS.items()}
    attacks = {}
    for name in filter(None, (word.strip() for word in config.methods.split(","))):
        if name not in known:
            raise ValueError(f"expected methods among {', '.join(known)}, got {name}")
        attacks[name] = known[name]

    class Asked(Recognizer):  # check_config asks for no more of it
        num_identities = len(ATTACKED)

    for attack in attacks.values():
        check_config(attack, Asked(), ATTACKED, attack.space != "pixels")
    return attacks


def describe_attack(attack) -> dict:
    """Returns the settings of an attack that change its pictures."""
    names = [field.name for field in dataclasses.fields(AttackConfig) if field.name not in ("batch", "image_every")]
    settings = dataclasses.asdict(attack)
    return {name: settings[name] for name in names}


def digest(settings: Mapping) -> str:
    """Returns eight digits that differ where settings do."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Places:
    """Where a cell's target and record are; their names tell settings apart, so that no other's are taken for them."""

    target: Path
    record: Path

    @classmethod
    def of(cls, config, cell, hashes: Mapping[str, str]) -> Places:
        settings = dataclasses.asdict(make_training(config, cell)) | {"save_every_s": None}
        settings |= {"cell": dataclasses.asdict(cell), "world": config.world, "public": config.public}
        target = f"{cell}-{digest(settings)}"
        attacks = {name: describe_attack(attack) for name, attack in make_attacks(config).items()}
        record = f"{cell}-{digest(settings | {'attacks': attacks, 'judging': hashes})}.json"
        return cls(config.work / "targets" / target, config.work / "cells" / record)


def hash_judging(config) -> dict[str, str]:
    """Returns role -> SHA-256 of each file of the world that gives the numbers."""
    world = find_world(config.world)
    files = {role: world.file(role) for role in JUDGING}
    return {role: sha256_file(file) for role, file in files.items() if file.is_file()}


def estimate_cell(config, cell) -> float:
    """Returns about how many seconds a cell takes on one core, its photos apart."""
    family, _, width = cell.architecture.partition("-")
    step = STEP_S.get(family, STEP_S["resnet18"]) * (max(0.03, float(width) ** 1.6) if width else 1.0)
    attacks = make_attacks(config)
    seconds = make_training(config, cell).steps * config.batch / 64 * step
    for name, attack in attacks.items():
        seconds += JUDGE_S
        if name == LATENT:
            seconds += attack.candidates * CANDIDATE_S + 5 * attack.restarts * attack.steps * SEARCH_S + JUDGE_S
        else:  # a step of five pictures; the gray-box search stops long before its last
            seconds += attack.steps * attack.restarts * attack.optim.transforms * step * 5 / 64 * (0.1, 1)[name == "modern"]
    return seconds


def list_public(config) -> list[int]:
    """Returns the public people that targets are trained on: those that judges may be, too."""
    low, high = RECIPES["target"].public
    people = range(FIRST_PUBLIC, FIRST_PUBLIC + config.public)
    return [person for person in people if low <= unit_hash(name_person(person)) < high]


def list_photos(config, cell) -> list[tuple[list[int], object]]:
    """Returns (people, their photo seeds) of a cell: users to train on, public people, and users to measure with."""
    users, each = list_users(cell.users), find_world(config.world).photos_per_user
    return [
        (users, lambda person: training_numbers(person, cell.photos, each)),
        (list_public(config), lambda person: list(range(PUBLIC_PHOTOS))),
        (users[:TEST_PHOTOS], measuring_numbers(cell.users, each)),
    ]


def open_cache(config):
    """Returns the photos of the study. Raises: ValueError where --photos is no such folder."""
    resolution = find_world(config.world).resolution
    stored = open_photos(config.photos, resolution)
    device = cli.choose_device(config.device)
    return PhotoCache(config.work / "photos", stored, resolution, device)


def describe_plan(config) -> dict:
    """Returns what --dry-run tells beside the configuration: this part's cells, and what is left to do."""
    _, _, mine = build_plan(config)
    hashes, cache = hash_judging(config), open_cache(config)
    left = [cell for cell in mine if not Places.of(config, cell, hashes).record.is_file()]
    missing = {
        (person, number)
        for cell in left
        for people, numbers in list_photos(config, cell)
        for person, lacking in cache.missing(people, numbers)
        for number in lacking
    }
    cells = {str(cell): "finished" if cell not in left else round(estimate_cell(config, cell)) for cell in mine}
    seconds = sum(estimate_cell(config, cell) for cell in left) + PHOTO_S * len(missing)
    return {"cells": cells, "photos_to_render": len(missing), "minutes_on_one_core": round(seconds / 60, 1)}
