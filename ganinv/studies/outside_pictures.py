"""Pictures that another tool made: read, judged and reported as those of the attacks here."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ganinv import cli, images
from ganinv.attack.access import TargetAccess
from ganinv.attack.checks import check_config
from ganinv.attack.config import AttackConfig
from ganinv.attack.goals import ClassGoal
from ganinv.attack.start import choose_start
from ganinv.engine.batches import ON_CPU, Batch
from ganinv.errors import Absent
from ganinv.judging.independence import check_independent
from ganinv.judging.protocol import JudgingAssets, draw_controls, judge_pictures
from ganinv.photos import hash_photos
from ganinv.recognizers.checks import check_recognizer
from ganinv.reports.provenance import describe_provenance
from ganinv.reports.report_content import describe_target
from ganinv.reports.run_folder import RunFolder, check_new, new_folder
from ganinv.reports.terminal import print_report
from ganinv.studies.attack_run import check_photos
from ganinv.worlds.assets import Assets, load_assets
from ganinv.worlds.photo_check import PhotoCheck
from ganinv.worlds.world import find_world

FILE = re.compile(r"(?:[^0-9]*_)?([0-9]{1,9})_([0-9]{1,9})")  # <identity>_<k>, of other tools attack_iden_<identity>_<k>
DARK = 2  # of 255 levels: what stays below was saved in [0,1] or [-1,1], or shows nothing


@dataclass(frozen=True)
class Prepared:
    """Pictures [T,K,3,R,R] of identities, read and checked, with what judges them; config: with its label."""

    config: object
    device: torch.device
    identities: tuple[int, ...]
    pictures: torch.Tensor
    assets: Assets
    search: AttackConfig
    photo_check: PhotoCheck | None


def prepare_judging(config) -> Prepared:
    """Returns the pictures of a folder and what judges them, after checking all of it; writes nothing.

    config: the options of the command `judge`. Raises: ValueError for what cannot be judged.
    """
    device = cli.choose_device(config.device)
    world = find_world(config.world)
    files = list_pictures(Path(config.pictures))
    identities = tuple(files)
    pictures = read_pictures(files, world.resolution)
    config = replace(config, label=config.label or Path(config.pictures).resolve().name)
    assets = load_assets(
        config.world, device=device, target=config.target, photos=config.photos, identities=identities,
        gallery=config.gallery, threshold=config.threshold, classes=config.classes,
    )  # fmt: skip
    check_recognizer(assets.target, world.resolution, device=device)
    search = AttackConfig(candidates=config.candidates, restarts=1, psi=config.psi, steps=0)
    check_config(search, assets.target, identities, has_prior=True)
    check_independent(assets.target, assets.judges)
    if config.out:
        check_new(Path(config.out))
    return Prepared(config, device, identities, pictures, assets, search, check_photos(assets, config))


def judge_folder(config) -> dict:
    """Returns the report, after writing it with the pictures as they were judged.

    config: the options of the command `judge`.
    """
    made = prepare_judging(config)
    config, assets, identities, pictures, device = made.config, made.assets, made.identities, made.pictures, made.device
    provenance = describe_provenance(config.seed, device, assets.weight_files(), sys.argv)
    if assets.references is not None and assets.references.photos is not None:
        provenance["photos"] = hash_photos(assets.references.photos)
    folder = RunFolder(config.out or new_folder("judged", assets.world.name))
    try:
        folder.write_json("provenance.json", provenance)
        folder.write_config(asdict(config) | {"identities": ",".join(map(str, identities))})
        folder.write_pictures(identities, pictures)
        judging = JudgingAssets.of_run(assets, device)
        controls = draw_controls(judging, pictures, identities, psi=config.psi, seed=config.seed)
        if config.candidates:
            best = find_best_candidates(assets, identities, made.search, config.seed, device)
            controls = {"best candidate": best[:, None]} | controls
        judgement = judge_pictures(judging, pictures, identities, controls, seed=config.seed, photos=config.photos)
        report = folder.write_report(
            method="judged",
            world=config.world,
            seed=config.seed,
            identities=identities,
            judgement=judgement,
            cost=Absent("the pictures were made elsewhere"),
            beside=describe_target(assets.names, identities, made.photo_check),
        )
    finally:
        folder.close()
    print_report(report, folder.path)
    return report


def find_best_candidates(assets: Assets, identities: Sequence[int], search: AttackConfig, seed: int, device) -> torch.Tensor:
    """Returns the candidates [T,3,R,R] that the target scores best, one per identity, as 8-bit files hold them."""
    wanted, access = torch.tensor(identities, device=device), TargetAccess(assets.target)
    z = choose_start(assets.generator, access, ClassGoal(), wanted, search, seed, Batch(ON_CPU))[:, 0]
    with torch.no_grad():
        best = assets.generator.synthesize(assets.generator.map(z, search.psi))
    return images.from_uint8(images.to_uint8(best)).cpu().contiguous()


def list_pictures(folder: Path) -> dict[int, list[Path]]:
    """Returns the picture files of each identity, by rising number, as many of each; a grid.png is passed over.

    Where identities have different numbers of them, the first are taken, as many as all have; a line on stderr says so.
    Raises: ValueError when there are none, or their names tell no identity.
    """
    if not str(folder).strip("."):
        raise ValueError("expected --pictures=FOLDER, got none; pass the folder that holds the pictures")
    if not folder.is_dir():
        raise ValueError(f"expected a folder of pictures, got {folder}, which is no folder; check the path")
    shown = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name != "grid.png")
    folders = [path for path in shown if path.is_dir()]
    loose = [path for path in shown if images.is_picture(path) and path.is_file()]
    if folders and loose:
        raise ValueError(
            f"expected sub-folders or pictures in {folder}, got both: {folders[0].name} and {loose[0].name}; keep one form"
        )
    found: dict[int, list[tuple[int, Path]]] = {}
    for path in loose:
        match = FILE.fullmatch(path.stem)
        if match is None:
            raise ValueError(f"expected pictures named <identity>_<k>, such as 3_0.png, got {path}; rename or remove it")
        found.setdefault(int(match[1]), []).append((int(match[2]), path))
    for place in folders:
        if not re.fullmatch("[0-9]{1,9}", place.name) or int(place.name) in found:
            raise ValueError(f"expected one sub-folder per identity number, such as 3, got {place}; rename or remove it")
        inside = sorted(path for path in place.iterdir() if images.is_picture(path))
        found[int(place.name)] = list(enumerate(inside))
    counts = {identity: len(files) for identity, files in found.items()}
    if not all(counts.values()) or not counts:
        empty = next((place for place in folders if not found[int(place.name)]), folder)
        raise ValueError(
            f"expected pictures ({', '.join(images.SUFFIXES)}) in {empty}, got none; add pictures, or take the folder out"
        )
    least = min(counts.values())
    if max(counts.values()) > least:
        left = sum(counts.values()) - least * len(counts)
        print(f"{folder}: the first {least} pictures of each identity are judged, and {left} left out", file=sys.stderr)
    return {identity: [path for _, path in sorted(found[identity])][:least] for identity in sorted(found)}


def read_pictures(files: dict[int, list[Path]], side: int) -> torch.Tensor:
    """Returns images [T,K,3,side,side] in [-1,1], in the colours that they have; larger pictures are reduced.

    Raises: ValueError for a picture that is not square, smaller than side, of another size than the first, or so dark that
    its range must be another; see images.open_picture.
    """
    rows, size = [], None
    for path in (path for of_identity in files.values() for path in of_identity):
        picture = images.open_picture(path)
        size = size or picture.size
        if picture.size != size or size[0] != size[1] or size[0] < side:
            wanted = f"square pictures of one size, at least {side} px a side"
            raise ValueError(f"expected {wanted}, got {picture.size[0]}x{picture.size[1]} in {path}; save them so")
        highest = int(np.asarray(picture).max())
        if highest <= DARK:
            raise ValueError(
                f"expected levels of 0 to 255, got none above {highest} in {path}; scale [0,1] by 255 before saving"
            )
        # the same pixels where the size is the same
        rows.append(np.asarray(picture.resize((side, side), Image.Resampling.LANCZOS)))
    kept = len(next(iter(files.values())))
    pixels = torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2)
    return images.from_uint8(pixels).view(len(files), kept, 3, side, side).contiguous()
