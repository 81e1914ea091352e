"""The cells of the study of capacity: a target trained, attacked and judged; and the results of all."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from ganinv import cli
from ganinv.attack.config import PIXEL_VARIANTS
from ganinv.attack.invert import invert
from ganinv.engine.checkpoint import drop_state
from ganinv.engine.files import clear_errors, write_atomically
from ganinv.engine.progress import open_bar
from ganinv.json_data import read_json
from ganinv.judging.verdict import evaluate
from ganinv.recognizers.loading import load_recognizer, save_recognizer
from ganinv.reports.comparison_figures import encode_png
from ganinv.reports.comparison_table import format_command
from ganinv.reports.provenance import describe_provenance
from ganinv.studies.attack_run import load_start
from ganinv.studies.capacity.cells import ATTACKED, Cell
from ganinv.studies.capacity.curves import draw_curves, format_csv, format_table, gather
from ganinv.studies.capacity.plan import (
    CONTROL,
    Places,
    build_plan,
    describe_plan,
    hash_judging,
    list_photos,
    make_attacks,
    make_training,
    open_cache,
)
from ganinv.studies.spreading import check_engine, check_weights, spread_cells
from ganinv.training import recognizer as training
from ganinv.weights.cards import describe_photos, read_card
from ganinv.worlds.assets import load_assets

ELSEWHERE = ("--part", "--table", "--engine", "--address", "--workers")  # options that change no number


def run_study(config) -> None:
    """Makes the cells of this part that are not there yet, and writes table and curves of all that are."""
    check_engine(config)
    points, cells, mine = build_plan(config)
    hashes, cache = hash_judging(config), open_cache(config)
    places = {cell: Places.of(config, cell, hashes) for cell in cells}
    left = [cell for cell in mine if not places[cell].record.is_file()]
    if left and not config.table_only:
        told = describe_plan(config)
        minutes = f"about {told['minutes_on_one_core']:.0f} minutes on one core"
        print(f"{len(left)} of {len(mine)} cells to do, {told['photos_to_render']} photos to render: {minutes}", flush=True)

        for folder in (config.work / "cells", config.work / "targets"):
            with clear_errors(folder, ValueError):
                folder.mkdir(parents=True, exist_ok=True)
        if config.engine == "ray":
            wanted = {
                cell: [str(place.relative_to(config.work)) for place in (places[cell].target, places[cell].record)]
                for cell in left
            }
            make = partial(make_elsewhere, config, hashes, tuple(sys.argv))
            spread_cells(config, make, wanted, config.work, gpu=cache.device.type == "cuda")
        else:
            make_here(config, {cell: places[cell] for cell in left}, cache)
    finished = {cell: read_record(place.record) for cell, place in places.items() if place.record.is_file()}
    write_results(config, points, finished)


def make_here(config, places: Mapping, cache) -> None:
    """Makes cells in this process, one after the other; several processes may share a work folder."""
    assets = load_assets(config.world, device=cache.device, identities=ATTACKED)
    for cell, place in open_bar(list(places.items()), "cells"):
        try:
            with FileLock(f"{place.target}.lock", timeout=0):
                if not place.record.is_file():  # another process may just have made it
                    record = make_cell(config, cell, place.target, assets, cache)
                    write_atomically(place.record, json.dumps(record, indent=2) + "\n")
        except Timeout:
            print(f"{cell}: another process is at it", file=sys.stderr)


def make_elsewhere(config, hashes: Mapping[str, str], argv: Sequence[str], folder: Path, cell) -> None:
    """Makes a cell in a worker's folder. Raises: ValueError where the world's weights are others on its node."""
    check_weights(config.world, hash_judging(config), hashes)
    config, sys.argv = dataclasses.replace(config, work=folder), list(argv)  # which the record names
    place, cache = Places.of(config, cell, hashes), open_cache(config)
    for parent in (place.target.parent, place.record.parent):
        parent.mkdir(parents=True, exist_ok=True)
    record = make_cell(config, cell, place.target, load_assets(config.world, device=cache.device, identities=ATTACKED), cache)
    write_atomically(place.record, json.dumps(record, indent=2) + "\n")


def read_record(path: Path) -> dict:
    """Returns a cell's record. Raises: ValueError for a broken file."""
    try:
        return read_json(path, {"cell": dict, "methods": {"*": dict}})
    except ValueError as error:
        raise ValueError(f"expected the record of a cell in {path}; remove it, and it is made again ({error})") from error


def make_cell(config, cell, folder: Path, assets, cache) -> dict:
    """Returns the record of a cell: its target is trained, or goes on, in folder; then attacked and judged."""
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


def make_target(config, cell, folder: Path, cache, seconds: dict):
    """Returns a cell's target as its file holds it, rounded, and its card; adds to seconds what this call took."""
    weights = folder / "target.safetensors"
    if weights.is_file():
        return load_recognizer(str(weights), cache.device), read_card(weights)
    folder.mkdir(exist_ok=True)
    began = time.perf_counter()
    users, public, test = (cache.load(people, numbers) for people, numbers in list_photos(config, cell))
    seconds["render"] += time.perf_counter() - began
    began, settings = time.perf_counter(), make_training(config, cell)
    with open_bar(total=settings.steps, desc=str(cell), leave=False) as bar:

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
    for file in (rounded, rounded.with_suffix(".json")):
        file.unlink()
    drop_state(folder / "state.safetensors")
    seconds["train"] += time.perf_counter() - began
    return load_recognizer(str(weights), cache.device), read_card(weights)


def attack_target(config, cell, target, assets, device, seconds: dict) -> dict[str, dict]:
    """Returns method -> {"summary", "per_identity", "absent", "cost", "control"}; adds to seconds."""

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
        with open_bar(total=attack.steps, desc=f"{cell} {name}", leave=False) as bar:
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


def write_results(config, points: Sequence, finished: Mapping) -> None:
    """Writes table.md, table.csv and curves.png of what is finished, and prints the table."""
    rows, missing = gather(points, config.seeds, finished)
    told = {
        "training": f"{config.steps} steps of {config.batch} photos in {config.precision}, half of them of users, the others "
        f"of four fifths of {config.public} public people"
        + (f"; above {config.steps_per_users} users more steps in proportion" if config.steps_per_users else ""),
        "methods": f"{config.methods}; latent: {config.candidates} candidates, {config.restarts} restarts, "
        f"{config.attack_steps} steps; {CONTROL}: the best of these candidates for the target, before any search",
    }
    # which part and whether only a table was asked for changes nothing that stands in it
    argv = [word for word in sys.argv if not word.startswith(ELSEWHERE)]
    table = format_table(rows, missing, format_command(argv, config.world), told, Cell(config.centre))
    with clear_errors(config.out, ValueError):
        config.out.mkdir(parents=True, exist_ok=True)
        write_atomically(config.out / "table.md", table)
        write_atomically(config.out / "table.csv", format_csv(rows))
        write_atomically(config.out / "curves.png", encode_png(draw_curves(rows), dpi=110))
    print(table)
