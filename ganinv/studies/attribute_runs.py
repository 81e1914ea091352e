"""What runs give away of their users' attributes, with a calibration on other users of the same target."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ganinv import cli
from ganinv.attack.config import AttackConfig
from ganinv.attributes.labels import Attribute, Column, name_values, read_labels
from ganinv.attributes.posterior import Calibration
from ganinv.attributes.probes import Probe, load_probes
from ganinv.engine.files import write_atomically
from ganinv.judging.attributes import measure_attributes
from ganinv.judging.leak import SELECTION
from ganinv.judging.protocol import JudgingAssets, draw_controls, draw_means
from ganinv.judging.readers import Reader, find_reader
from ganinv.reports.attributes import format_run
from ganinv.studies.attack_options import check_typed
from ganinv.studies.outside_pictures import find_best_candidates
from ganinv.studies.verification import load_run, read_kept, read_settings
from ganinv.weights.files import read_tensors, sha256_file
from ganinv.worlds.assets import Assets


@dataclasses.dataclass(frozen=True)
class PastRun:
    """A run: its assets, its pictures [T,K,3,R,R], and who reads them; truth [T,B] where labels say it."""

    folder: Path
    settings: Mapping
    assets: Assets
    pictures: torch.Tensor
    reader: Reader
    truth: torch.Tensor | None
    seed: int

    @property
    def identities(self) -> Sequence[int]:
        """Returns the users that were attacked."""
        return self.settings["identities"]


def report_runs(config) -> dict:
    """Returns run folder -> its entry of attributes.json, after writing that and attributes.md.

    config: the options of the command `attributes`. Raises: ValueError for runs that cannot be read together.
    """
    if not config.runs:
        raise ValueError("expected run folders, got none; try attributes.py RUN --tune=RUN")
    device, names = cli.choose_device(config.device), cli.read_names(config.names)
    probes, typed = load_probes(config.probes), {name: getattr(config, name) for name in ("target", "generator", "judge")}

    def reopen(folder: str, *, shown: bool = True) -> PastRun:
        check_typed(read_settings(Path(folder)), typed, folder)
        return open_run(Path(folder), device, config.labels, names, probes, shown=shown)

    runs = [reopen(folder) for folder in config.runs]
    out = Path(config.out or "runs/attributes")
    out.mkdir(parents=True, exist_ok=True)
    calibration = None
    if config.tune:
        tuning = reopen(config.tune, shown=False)
        check_others(tuning, runs)
        calibration = calibrate(tuning, out)
    found, parts = {}, []
    for run in runs:
        judging = JudgingAssets.of_run(run.assets, device)
        psi = run.settings.get("psi", 1.0)
        controls = draw_controls(judging, run.pictures, run.identities, psi=psi, seed=run.seed)
        if run.settings.get("candidates") and run.assets.generator is not None:
            search = AttackConfig(candidates=run.settings["candidates"], restarts=1, psi=psi)
            best = find_best_candidates(run.assets, run.identities, search, run.seed, device)
            controls = {SELECTION: best[:, None]} | controls
        result = measure_attributes(
            run.assets, run.reader, run.pictures, run.identities, controls, seed=run.seed, calibration=calibration,
            means=read_means(run), truth=run.truth,
        )  # fmt: skip
        found[run.folder.name] = result.describe()
        parts.append(f"## {run.folder.name}\n\n{format_run({'attributes': result.describe()})}")
    content = {"command": cli.name_command("attributes"), "runs": found}
    write_atomically(out / "attributes.json", json.dumps(content, indent=2) + "\n")
    write_atomically(out / "attributes.md", "\n".join(parts))
    print("\n".join(parts))
    print(f"{out}/attributes.md and attributes.json" + (", calibration.safetensors" if calibration else ""))
    return found


def open_run(
    folder: Path, device: torch.device, labels: str, names: Mapping, probes: Mapping[str, Probe], *, shown: bool
) -> PastRun:
    """Returns a run of its folder; shown: with photos of its users, where they are rendered.

    Raises: ValueError when it holds none, or nobody can read its pictures.
    """
    settings = read_settings(folder)
    prior = settings["space"] != "pixels"
    rendered = settings if shown else settings | {"identities": ()}  # photos of nobody
    assets = load_run(rendered, device=device, photos=settings["photos"], prior=prior)
    assets = dataclasses.replace(assets, probes=probes)
    reader, truth = find_reader(assets), None
    if labels:
        users = getattr(assets.target, "names", ()) or assets.world.identities
        wanted = [users[identity] for identity in settings["identities"]]
        columns = name_values(read_labels(labels, wanted, wanted), names)
        reader, truth = encode_labels(reader, columns, wanted)
    return PastRun(folder, settings, assets, read_kept(folder, settings), reader, truth, settings["seed"])


def read_means(run: PastRun) -> torch.Tensor | None:
    """Returns a run's mean faces [T,3,R,R], see draw_means; None where it kept no latents."""
    file = run.folder / "latents.safetensors"
    return draw_means(run.assets.generator, read_tensors(file)[0], len(run.identities)) if file.is_file() else None


def encode_labels(reader: Reader, columns: Sequence[Column], users: Sequence[str]) -> tuple[Reader, torch.Tensor]:
    """Returns the reader of those attributes that labels name, and the users' standard values [T,B].

    Raises: ValueError when they name none, a user without a label, or a value that the reader does not know.
    """
    known = {column.name: column for column in columns}
    kept = [one for one in reader.attributes if one.name in known]
    if not kept:
        raise ValueError(
            f"expected labels of {', '.join(one.name for one in reader.attributes)}, got {', '.join(known)}; see --labels"
        )
    rows = [one.encode(match_values(one, known[one.name], users)) for one in kept]
    inside = torch.cat([torch.full((one.width,), one in kept) for one in reader.attributes])
    return dataclasses.replace(
        reader, attributes=tuple(kept), read=lambda images: reader.read(images)[:, inside],
        own=lambda identities: tuple(said if said is None else said[:, inside] for said in reader.own(identities)),
    ), torch.cat(rows, 1)  # fmt: skip


def match_values(attribute: Attribute, column: Column, users: Sequence[str]) -> torch.Tensor:
    """Returns a column's labels [T], as indices into the attribute's values where it is a choice."""
    if not column.labels.isfinite().all():
        lacking = users[int(column.labels.isfinite().int().argmin())]
        raise ValueError(f"expected a label {attribute.name} of every user who was attacked, got none of {lacking}")
    if not attribute.values:
        return column.labels
    said = [column.values[int(label)] for label in column.labels.tolist()]
    if strange := set(said) - set(attribute.values):
        values = ", ".join(attribute.values)
        raise ValueError(f"expected {attribute.name} among {values}, as the probe has it, got {min(strange)}; see --names")
    return torch.tensor([attribute.values.index(value) for value in said])


def check_others(tuning: PastRun, runs: Sequence[PastRun]) -> None:
    """Raises: ValueError when a run has a user of the tuning run, or another target or reader."""
    for run in runs:
        if find_target(run.assets) != find_target(tuning.assets) or run.reader.attributes != tuning.reader.attributes:
            raise ValueError(f"expected the target and reader of {run.folder} in {tuning.folder}, got others")
        if common := set(run.identities) & set(tuning.identities):
            raise ValueError(
                f"expected other users in --tune={tuning.folder} than in {run.folder}, got user {min(common)} in both; "
                "nothing is tuned on users who are reported"
            )


def find_target(assets: Assets) -> str:
    """Returns the SHA-256 of a target's weights, "" of code."""
    file = assets.files["target"]
    return sha256_file(file) if file.is_file() else ""


def calibrate(tuning: PastRun, out: Path) -> Calibration:
    """Returns the calibration on a run's users, after writing calibration.safetensors."""
    truth = tuning.truth if tuning.truth is not None else tuning.reader.own(tuning.identities)[0]
    calibration = Calibration.fit(torch.stack([tuning.reader.read(one) for one in tuning.pictures]), truth)
    card = {
        "role": "calibration", "command": cli.name_command("attributes"), "reader": tuning.reader.name,
        "attributes": [one.name for one in tuning.reader.attributes], "target_sha256": find_target(tuning.assets),
        "users": list(tuning.identities), "samples": tuning.pictures.shape[1], "world": tuning.assets.world.name,
    }  # fmt: skip
    calibration.save(out / "calibration.safetensors", card)
    return calibration
