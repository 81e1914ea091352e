"""Runs the study of access: templates first, which cost next to nothing, then pictures, cell by cell; all can be resumed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from ganinv import cli
from ganinv.engine.checkpoint import load_state, save_state
from ganinv.engine.files import clear_errors, write_atomically
from ganinv.reports.provenance import describe_provenance
from ganinv.studies.access.cells import Bench, invert_templates, judge_pictures, measure, recover_templates
from ganinv.studies.access.curves import write_results
from ganinv.studies.access.plan import ATTACKERS, choose_judged, list_cells
from ganinv.worlds.assets import load_assets


def run_study(config) -> None:
    """Makes what is not there yet, and writes table and figure of all that is."""
    cells, identities = list_cells(config.attackers, config.seeds), cli.parse_identities(config.identities)
    choose_judged((), config.judged)
    with clear_errors(config.work, ValueError):
        config.work.mkdir(parents=True, exist_ok=True)
    if not config.table_only:
        assets = load_assets(
            config.world, device=torch.device("cpu"), identities=identities, gallery=config.gallery, target=config.target,
            judges=[name for name in config.judge.split(",") if name],
        )  # fmt: skip
        bench = Bench.build(
            assets,
            config.target or assets.world.spec("target"),
            config.work,
            identities,
            config.pictures,
            config.blends,
            config.steps,
        )
        provenance = describe_provenance(0, torch.device("cpu"), assets.weight_files(), sys.argv)
        write_atomically(config.work / "provenance.json", json.dumps(provenance, indent=2).encode())
        for cell in cells:
            file = config.work / f"{cell.name}.safetensors"
            if not file.is_file():
                print(f"{cell.name}: templates", file=sys.stderr, flush=True)
                save_state(file, recover_templates(bench, cell))
        for cell in cells:
            found = load_state(config.work / f"{cell.name}.safetensors")
            record = config.work / f"{cell.name}.json"
            points = json.loads(record.read_text()) if record.is_file() else {}
            for count in ATTACKERS[cell.attacker].queries:
                points.setdefault(str(count), measure(bench, found[count]))
            write_atomically(record, json.dumps(points).encode())
            for count in choose_judged(ATTACKERS[cell.attacker].queries, config.judged):
                if "users" in points[str(count)]:
                    continue
                print(f"{cell.name}: pictures after {count} queries", file=sys.stderr, flush=True)
                pictures = invert_templates(bench, found[count]["templates"], cell.seed)
                points[str(count)]["users"] = judge_pictures(bench, pictures)
                write_atomically(record, json.dumps(points).encode())
    write_results(Path(config.out), config.work, cells, identities)
