"""Runs the study of access, cell by cell; all can be resumed, and what is in the results is not made again."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from ganinv import cli
from ganinv import images as image_convention
from ganinv.engine.checkpoint import load_state, save_state
from ganinv.engine.files import clear_errors, write_atomically
from ganinv.reports.provenance import describe_provenance
from ganinv.studies.access.cells import Bench, find_kind, invert_templates, judge_pictures, measure, recover_templates
from ganinv.studies.access.curves import write_results
from ganinv.studies.access.plan import ATTACKERS, COPY, Cell, choose_judged, list_cells, name_target
from ganinv.studies.access.records import FOLDER, describe_key, hash_key, open_record, write_record
from ganinv.studies.access.searching import search_target
from ganinv.studies.spreading import check_engine, check_weights, spread_cells
from ganinv.weights.files import sha256_file
from ganinv.worlds.assets import Assets, load_assets
from ganinv.worlds.world import find_world


def run_study(config) -> None:
    """Makes what is not there yet, and writes table and figure of all that is."""
    identities, out = cli.parse_identities(config.identities), Path(config.out)
    check_engine(config)
    list_cells(config.attackers, config.seeds)
    choose_judged((), config.judged)
    with clear_errors(config.work, ValueError):
        config.work.mkdir(parents=True, exist_ok=True)
    if not config.table_only:
        assets = load(config, identities)
        kind, name = find_kind(assets.target), name_target(config.target or assets.world.spec("target"))
        cells = list_cells(config.attackers, config.seeds, first=config.seed, target=name, kind=kind)
        if config.engine == "ray":
            make = partial(make_elsewhere, config, tuple(sys.argv), hash_weights(assets))
            spread_cells(config, make, {cell: [f"{FOLDER}/{cell.name}.json"] for cell in cells}, out)
        else:
            run_cells(config, assets, cells, identities)
    write_results(out)


def load(config, identities: Sequence[int]) -> Assets:
    """Returns the world's assets with the target; of a secret network, whoever its copy stands on does not judge."""
    world = find_world(config.world)
    target = config.target or world.spec("target")
    classes = not config.gallery and (config.target or not world.has("gallery"))
    judges = [name for name in config.judge.split(",") if name]
    if classes and not judges:
        judges = [entry.name for entry in world.judge_entries if entry.name not in (COPY.network, target)]
    return load_assets(
        config.world, device=torch.device("cpu"), identities=identities, gallery=config.gallery, target=config.target,
        judges=judges,
    )  # fmt: skip


def hash_weights(assets: Assets) -> dict[str, str]:
    """Returns role -> SHA-256 of all files that were read."""
    return {role: sha256_file(file) for role, file in assets.weight_files().items()}


def make_elsewhere(config, argv: Sequence[str], hashes: Mapping[str, str], folder: Path, cell: Cell) -> None:
    """Runs a cell in a worker's folder. Raises: ValueError where the weights are others on its node."""
    config, sys.argv = dataclasses.replace(config, out=folder, work=folder / "work"), list(argv)
    identities = cli.parse_identities(config.identities)
    assets = load(config, identities)
    check_weights(config.world, hash_weights(assets), hashes)
    run_cells(config, assets, [cell], identities)


def run_cells(config, assets: Assets, cells: Sequence[Cell], identities: Sequence[int]) -> None:
    """Runs the cells one after the other, each with a record and a state of its own."""
    out, spec = Path(config.out), config.target or assets.world.spec("target")
    provenance = describe_provenance(0, torch.device("cpu"), assets.weight_files(), sys.argv)
    weights, judges = provenance["weights"], [judge.name for judge in assets.judges]
    settings = {"pictures": config.pictures, "blends": config.blends, "steps": config.steps}
    made = {role: weights[role]["sha256"] for role in ("prior", "target", "gallery") if role in weights}
    work = config.work / hash_key({"weights": made, "identities": list(identities), "settings": settings})[:12]
    work.mkdir(parents=True, exist_ok=True)
    write_atomically(work / "provenance.json", json.dumps(provenance, indent=2).encode())
    bench = Bench.build(assets, spec, work, identities, config.pictures, config.blends, config.steps)
    for cell in cells:
        key = describe_key(cell, weights, identities, judges, settings)
        record, attacker = open_record(out, cell, key), ATTACKERS[cell.attacker]
        counts = [count for count in attacker.queries if count <= config.most]
        judged = choose_judged(counts, config.judged)
        # with a search every point is of pictures; without one all templates are measured, and some are judged
        wanted = judged if attacker.search else counts
        done = {count for count in judged if "users" in record["points"].get(str(count), {})}
        if not (set(judged) - done or {str(count) for count in wanted} - set(record["points"])):
            print(f"{cell.name}: is there", file=sys.stderr, flush=True)
            continue
        run_cell(bench, cell, out, record, wanted, [count for count in judged if count not in done])


def run_cell(bench: Bench, cell: Cell, out: Path, record: dict, counts: Sequence[int], judged: Sequence[int]) -> None:
    """Finishes one cell: asks for all counts, then makes and judges the pictures of some."""
    attacker, file = ATTACKERS[cell.attacker], bench.work / f"{cell.name}.safetensors"
    found = load_state(file) if file.is_file() else {}
    if missing := [count for count in counts if count not in found]:
        print(f"{cell.name}: asking, up to {max(missing)} queries a user", file=sys.stderr, flush=True)
        with timed(record, "asking"):
            found |= search_target(bench, cell, counts) if attacker.search else recover_templates(bench, cell)
        save_state(file, found)
    if not attacker.search:
        for count in counts:
            record["points"].setdefault(str(count), measure(bench, found[count]))
        write_record(out, cell, record)
    for count in judged:
        print(f"{cell.name}: pictures after {count} queries", file=sys.stderr, flush=True)
        with timed(record, "judging"):
            entry = found[count]
            if attacker.search:
                pictures = image_convention.from_uint8(entry["pictures"])
                record["points"][str(count)] = {"asked": entry["asked"], "failed": entry["failed"]}
            else:
                pictures = invert_templates(bench, entry["templates"], cell.seed)
            record["points"][str(count)]["users"] = judge_pictures(bench, pictures)
        write_record(out, cell, record)


@contextmanager
def timed(record: Mapping, what: str) -> Iterator[None]:
    """Adds the seconds of processor that something takes to a record's; what was stopped on the way is not in them."""
    before = time.process_time()
    yield
    record["seconds"][what] = round(record["seconds"].get(what, 0.0) + time.process_time() - before, 1)
