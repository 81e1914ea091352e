"""Train recognizers of rising capacity, invert each for the same users, and draw what that gives."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ganinv import cli

LATENT = "latent"
CONTROL = "control: best candidate"
JUDGING = ("prior", "judge", "verifier", "references", "lpips_face", "factors")  # files of the world that give the numbers
# seconds on one core of a server's CPU, for the estimate alone
PHOTO_S = 0.04  # a rendered photo
STEP_S = {"linear": 0.03, "mlp": 0.06, "resnet18": 0.31, "resnet34": 0.55}  # a step of 64 photos; others: resnet18's
CANDIDATE_S, SEARCH_S = 0.04, 0.3  # a candidate; a picture in a step of the latent search
JUDGE_S = 4.0  # a method's pictures


@dataclass(frozen=True, kw_only=True)
class StudyCapacity:
    """Invert recognizers of rising depth, size, data and users: does capacity make one safe?"""

    world: str = "synthetic"  # of rendered people: its prior, judges and truth
    axes: str = "depth,parameters,photos,users"  # which are swept, one at a time
    grid: str = "small"  # small | full: the values of the axes
    depth: str = ""  # architectures such as linear,resnet34; "": the grid's
    parameters: str = ""  # widths of a ResNet-18, such as 0.25,1; "": the grid's
    photos_per_user: str = ""  # such as 2,50; "": the grid's
    users: str = ""  # such as 10,3000; "": the grid's
    centre: str = "resnet18"  # architecture of the axes photos_per_user and users
    seeds: int = 1  # trainings and attacks of each cell
    steps: int = 300  # of each training
    steps_per_users: int = 0  # a target of more users than this takes more steps in proportion; 0: all take the same
    batch: int = 64  # photos a step, half of them of users
    precision: str = "float32"  # float32 | bfloat16, of the trainings: faster where the processor computes in it
    public: int = 1000  # public people, of whom the targets are trained on four fifths, with 3 photos each
    methods: str = "latent,gray-box"  # latent, gray-box, white-box, modern
    candidates: int = 400  # of the latent search
    restarts: int = 1  # of the latent search
    attack_steps: int = 60  # of the latent search
    part: str = "1/1"  # 2/3: the second of three parts, for several machines
    photos: str = ""  # a folder of prepare_people.py with such photos; "": all are rendered
    work: Path = Path("runs/capacity")  # cells, targets and rendered photos; what is there is not made again
    out: Path = Path("results/capacity")  # table.md, table.csv, curves.png
    table_only: bool = False  # write these from what is finished
    device: str = "auto"  # auto | cpu | cuda


# ---- what is to be done


def build_plan(config: StudyCapacity):
    """Returns the points, all cells, and those of this part. Raises: ValueError for anything that cannot be run."""
    from ganinv.studies import capacity
    from ganinv.worlds.world import find_world

    if not find_world(config.world).photos_per_user:
        raise ValueError(f"expected a world of rendered people, such as synthetic, got {config.world}")
    if config.grid not in capacity.GRIDS:
        raise ValueError(f"expected a grid among {', '.join(capacity.GRIDS)}, got {config.grid}")
    given = {"depth": config.depth, "parameters": config.parameters, "photos": config.photos_per_user, "users": config.users}
    axes = list(dict.fromkeys(word.strip() for word in config.axes.split(",")))
    values = {}
    for axis in axes:
        words = [word.strip() for word in given.get(axis, "").split(",")] if given.get(axis) else None
        values[axis] = tuple(dict.fromkeys(words)) if words else capacity.GRIDS[config.grid].get(axis, ())
    centre = capacity.Cell(config.centre)
    capacity.check_cell(centre)  # also where no axis has it: the table names it
    points = capacity.list_points(values, centre)
    for name, least in (("seeds", 1), ("public", 10), ("batch", 8), ("steps_per_users", 0)):
        if getattr(config, name) < least:
            raise ValueError(f"expected {name} of at least {least}, got {getattr(config, name)}")
    cli.check_training(make_training(config, centre))
    attacks = make_attacks(config)
    if not attacks:
        raise ValueError("expected at least one method, got none")
    cells = capacity.list_cells(points, config.seeds)
    return points, cells, capacity.deal(cells, config.part, partial(estimate_cell, config))


def make_training(config: StudyCapacity, cell):
    """Returns how a cell's target is trained: as the shipped one, but for what the cell and the options say."""
    from ganinv.training.recipes import RECIPES

    more = max(1.0, cell.users / config.steps_per_users) if config.steps_per_users else 1.0
    return dataclasses.replace(
        RECIPES["target"].training, architecture=cell.architecture, seed=cell.seed, steps=round(config.steps * more),
        batch=config.batch,
        precision=config.precision, users_share=0.5, save_every_s=20.0,
    )  # fmt: skip


def make_attacks(config: StudyCapacity) -> dict:
    """Returns method -> its configuration. Raises: ValueError for an unknown method, or settings that cannot be run."""
    from ganinv.attack import config as presets
    from ganinv.attack.checks import check_config
    from ganinv.interfaces import Recognizer
    from ganinv.studies.capacity import ATTACKED

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
    from ganinv.attack.config import AttackConfig

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
    def of(cls, config: StudyCapacity, cell, hashes: Mapping[str, str]) -> Places:
        settings = dataclasses.asdict(make_training(config, cell)) | {"save_every_s": None}
        settings |= {"cell": dataclasses.asdict(cell), "world": config.world, "public": config.public}
        target = f"{cell}-{digest(settings)}"
        attacks = {name: describe_attack(attack) for name, attack in make_attacks(config).items()}
        record = f"{cell}-{digest(settings | {'attacks': attacks, 'judging': hashes})}.json"
        return cls(config.work / "targets" / target, config.work / "cells" / record)


def hash_judging(config: StudyCapacity) -> dict[str, str]:
    """Returns role -> SHA-256 of each file of the world that gives the numbers."""
    from ganinv.weights.files import sha256_file
    from ganinv.worlds.world import find_world

    world = find_world(config.world)
    files = {role: world.file(role) for role in JUDGING}
    return {role: sha256_file(file) for role, file in files.items() if file.is_file()}


def estimate_cell(config: StudyCapacity, cell) -> float:
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


def list_public(config: StudyCapacity) -> list[int]:
    """Returns the public people that targets are trained on: those that judges may be, too."""
    from ganinv.photos import unit_hash
    from ganinv.rendered.factors import FIRST_PUBLIC
    from ganinv.rendered.photos import name_person
    from ganinv.training.recipes import RECIPES

    low, high = RECIPES["target"].public
    people = range(FIRST_PUBLIC, FIRST_PUBLIC + config.public)
    return [person for person in people if low <= unit_hash(name_person(person)) < high]


def list_photos(config: StudyCapacity, cell) -> list[tuple[list[int], object]]:
    """Returns (people, their photo seeds) of a cell: users to train on, public people, and users to measure with."""
    from ganinv.studies import capacity
    from ganinv.worlds.world import find_world

    users, each = capacity.list_users(cell.users), find_world(config.world).photos_per_user
    return [
        (users, lambda person: capacity.training_numbers(person, cell.photos, each)),
        (list_public(config), lambda person: list(range(capacity.PUBLIC_PHOTOS))),
        (users[: capacity.TEST_PHOTOS], capacity.measuring_numbers(cell.users, each)),
    ]


def open_cache(config: StudyCapacity):
    """Returns the photos of the study. Raises: ValueError where --photos is no such folder."""
    from ganinv.studies import capacity
    from ganinv.worlds.world import find_world

    resolution = find_world(config.world).resolution
    stored = capacity.open_photos(config.photos, resolution)
    device = cli.choose_device(config.device)
    return capacity.PhotoCache(config.work / "photos", stored, resolution, device)


def plan(config: StudyCapacity) -> dict:
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


# ---- doing it


def run(config: StudyCapacity) -> None:
    """Makes the cells of this part that are not there yet, and writes table and curves of all that are."""
    from filelock import FileLock, Timeout
    from tqdm import tqdm

    from ganinv.engine.files import clear_errors
    from ganinv.worlds.world import load_assets

    points, cells, mine = build_plan(config)
    hashes, cache = hash_judging(config), open_cache(config)
    places = {cell: Places.of(config, cell, hashes) for cell in cells}
    left = [cell for cell in mine if not places[cell].record.is_file()]
    if left and not config.table_only:
        told = plan(config)
        minutes = f"about {told['minutes_on_one_core']:.0f} minutes on one core"
        print(f"{len(left)} of {len(mine)} cells to do, {told['photos_to_render']} photos to render: {minutes}", flush=True)
        from ganinv.studies.capacity import ATTACKED

        assets = load_assets(config.world, device=cache.device, identities=ATTACKED)
        for folder in (config.work / "cells", config.work / "targets"):
            with clear_errors(folder, ValueError):
                folder.mkdir(parents=True, exist_ok=True)
        for cell in tqdm(left, "cells"):
            try:
                with FileLock(f"{places[cell].target}.lock", timeout=0):
                    if not places[cell].record.is_file():  # another process may just have made it
                        write_json(places[cell].record, make_cell(config, cell, places[cell].target, assets, cache))
            except Timeout:
                print(f"{cell}: another process is at it", file=sys.stderr)
    finished = {cell: read_record(place.record) for cell, place in places.items() if place.record.is_file()}
    write_results(config, points, finished)


def read_record(path: Path) -> dict:
    """Returns a cell's record. Raises: ValueError for a broken file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"expected the record of a cell in {path}, got {error}; remove it, and it is made again") from error


def write_json(path: Path, content: Mapping) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, path)


def make_cell(config: StudyCapacity, cell, folder: Path, assets, cache) -> dict:
    """Returns the record of a cell: its target is trained, or goes on, in folder; then attacked and judged."""
    from ganinv.reports.provenance import describe_provenance
    from ganinv.studies.capacity import ATTACKED

    seconds = {"render": 0.0, "train": 0.0, "attack": 0.0, "judge": 0.0}
    target, card = make_target(config, cell, folder, cache, seconds)
    weights = folder / "target.safetensors"
    files = {role: path for role, path in assets.weight_files().items() if role != "target"} | {"target": weights}
    provenance = describe_provenance(cell.seed, cache.device, files, sys.argv)
    return {
        "cell": dataclasses.asdict(cell),
        "attacked": list(ATTACKED),
        "parameters": card["parameters"],
        "training": card["training"],
        "top1": {"value": card["metrics"]["users_top1"], "photos": card["metrics"]["users_test_photos"]},
        "methods": attack_target(config, cell, target, assets, cache.device, seconds),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "provenance": provenance,
    }


def make_target(config: StudyCapacity, cell, folder: Path, cache, seconds: dict):
    """Returns a cell's target as its file holds it, rounded, and its card; adds to seconds what this call took."""
    from tqdm import tqdm

    from ganinv.recognizers.loading import load_recognizer, save_recognizer
    from ganinv.training import recognizer as training
    from ganinv.weights.cards import describe_photos, read_card

    weights = folder / "target.safetensors"
    if weights.is_file():
        return load_recognizer(str(weights), cache.device), read_card(weights)
    folder.mkdir(exist_ok=True)
    began = time.perf_counter()
    users, public, test = (cache.load(people, numbers) for people, numbers in list_photos(config, cell))
    seconds["render"] += time.perf_counter() - began
    began, settings = time.perf_counter(), make_training(config, cell)
    with tqdm(total=settings.steps, desc=str(cell), leave=False) as bar:

        def on_step(row: dict) -> None:
            bar.update(row["step"] + 1 - bar.n)
            bar.set_postfix(top1=f"{row['top1']:.2f}")

        model = training.train_recognizer(
            settings, users, public, folder, device=cache.device, resume=(folder / "state.safetensors").is_file(),
            on_step=on_step,
        )  # fmt: skip
    card = {
        "role": "target",
        "command": cli.name_command("study_capacity"),
        "data": {
            "users": describe_photos(len(users), len(users.names)),
            "public": describe_photos(len(public), len(public.names)),
        },
        "identities": list(users.names),
        "training": dataclasses.asdict(settings),
        "seed": cell.seed,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "metrics": {"users_top1": training.top1(model, test), "users_test_photos": len(test)},
    }
    rounded = folder / "rounded.safetensors"  # top-1 is of the weights that are attacked
    save_recognizer(model, rounded, card)
    card["metrics"]["users_top1"] = training.top1(load_recognizer(str(rounded), cache.device), test)
    save_recognizer(model, weights, card)
    for file in (rounded, rounded.with_suffix(".json"), folder / "state.safetensors"):
        file.unlink()
    seconds["train"] += time.perf_counter() - began
    return load_recognizer(str(weights), cache.device), read_card(weights)


def attack_target(config: StudyCapacity, cell, target, assets, device, seconds: dict) -> dict[str, dict]:
    """Returns method -> {"summary", "per_identity", "absent", "cost", "control"}; adds to seconds."""
    from tqdm import tqdm

    from ganinv.attack.config import PIXEL_VARIANTS
    from ganinv.attack.invert import invert
    from ganinv.judging.verdict import evaluate
    from ganinv.studies.attack_run import load_start
    from ganinv.studies.capacity import ATTACKED

    def judge(pictures, cost: dict | None) -> dict:
        began = time.perf_counter()
        verdict = evaluate(
            pictures.to(device), ATTACKED, target, assets.judges, assets.references, seed=cell.seed,
            face_trunk=assets.world.file("lpips_face"), truth=assets.truth,
        )  # fmt: skip
        seconds["judge"] += time.perf_counter() - began
        told = {"summary": verdict.summary, "per_identity": verdict.per_identity, "absent": verdict.absent}
        return told | {"cost": cost, "control": cost is None}

    methods = {}
    for name, attack in make_attacks(config).items():
        pixels = attack.space == "pixels"
        with tqdm(total=attack.steps, desc=f"{cell} {name}", leave=False) as bar:
            result = invert(
                None if pixels else assets.generator, target, ATTACKED, attack, seed=cell.seed, device=device,
                start=load_start(PIXEL_VARIANTS[name][1], ATTACKED, assets.world) if pixels else None,
                on_step=lambda row, bar=bar: bar.update(row["step"] + 1 - bar.n),
            )  # fmt: skip
        seconds["attack"] += result.cost.seconds
        methods[name] = judge(result.images, dataclasses.asdict(result.cost))
        if not pixels and attack.candidates:
            methods[CONTROL] = judge(result.first[:, None], None)
    return methods


def write_results(config: StudyCapacity, points: Sequence, finished: Mapping) -> None:
    """Writes table.md, table.csv and curves.png of what is finished, and prints the table."""
    from ganinv.engine.files import clear_errors
    from ganinv.reports.comparison import format_command
    from ganinv.studies.capacity import Cell
    from ganinv.studies.capacity_curves import draw_curves, format_csv, format_table, gather

    rows, missing = gather(points, config.seeds, finished)
    told = {
        "training": f"{config.steps} steps of {config.batch} photos in {config.precision}, half of them of users, the others "
        f"of four fifths of {config.public} public people"
        + (f"; above {config.steps_per_users} users more steps in proportion" if config.steps_per_users else ""),
        "methods": f"{config.methods}; latent: {config.candidates} candidates, {config.restarts} restarts, "
        f"{config.attack_steps} steps; {CONTROL}: the best of these candidates for the target, before any search",
    }
    # which part and whether only a table was asked for changes nothing that stands in it
    argv = [word for word in sys.argv if not word.startswith(("--part", "--table"))]
    table = format_table(rows, missing, format_command(argv, config.world), told, Cell(config.centre))
    with clear_errors(config.out, ValueError):
        config.out.mkdir(parents=True, exist_ok=True)
        for name, text in (("table.md", table), ("table.csv", format_csv(rows))):
            temporary = config.out / f".{name}"
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, config.out / name)
        temporary = config.out / ".curves.png"
        draw_curves(rows).savefig(temporary, dpi=110)
        os.replace(temporary, config.out / "curves.png")
    print(table)


def main() -> None:
    """Parses the command line and runs."""
    cli.main(StudyCapacity, run, plan=plan)
