"""A run folder checked: its files against their hashes, its pictures against its latents, its report against both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from ganinv import cli, images
from ganinv.judging.protocol import JudgingAssets, judge_pictures
from ganinv.photos import hash_photos
from ganinv.reports.provenance import describe_provenance, find_differences
from ganinv.reports.report_file import read_report
from ganinv.reports.run_files import read_config
from ganinv.studies.attack_options import check_typed, name_code
from ganinv.weights.files import read_tensors, sha256_file
from ganinv.weights.quoting import first_line
from ganinv.weights.specs import hash_code
from ganinv.worlds.assets import Assets, load_assets

MOST_KEPT = 10_000  # per user, as ranges.py has it
PICTURE_TOLERANCE = 2  # of 255 levels: another machine rounds differently
METRIC_TOLERANCE = 5e-3  # of a metric, relative above 1


def check_run(
    run: str,
    photos: str = "",
    device: str = "auto",
    typed: Mapping[str, str] = {},  # noqa: B006
) -> Iterator[tuple[str, str]]:
    """Yields (what was checked, what is wrong with it; "" for nothing).

    run: the folder; photos: a folder with photos of the users, "" as in the run; typed: option -> spec of code that the
    caller would run. Raises: ValueError when it holds no run, or names other code.
    """

    folder, device = Path(run), cli.choose_device(device)
    report, settings = open_run(run, typed)
    identities, space, keep = settings["identities"], settings["space"], settings["keep"]
    photos = photos or settings["photos"]

    wanted = ["latents.safetensors", *(f"images/{identity}_{k}.png" for identity in identities for k in range(keep))]
    said = report.get("files", {})
    yield (
        "list of files",
        "" if said.keys() >= set(wanted) else f"expected {len(wanted)} files in report.json, got {len(said)}",
    )
    for name, digest in said.items():
        file = folder / name
        inside = file.resolve().is_relative_to(folder.resolve())
        got = sha256_file(file) if inside and file.is_file() else "no file"
        yield first_line(name), "" if digest == got else f"expected SHA-256 {first_line(digest)[:12]}..., got {got[:12]}"

    assets = load_run(settings, device=device, photos=photos, prior=space != "pixels")
    provenance = describe_provenance(report["seed"], device, assets.weight_files(), [])
    if assets.references is not None and assets.references.photos is not None:
        provenance["photos"] = hash_photos(assets.references.photos)
    if code := name_code(settings):
        provenance["code"] = {option: [hash_code(spec) for spec in specs] for option, specs in code.items()}
    checked = ("weights", "photos", "code")
    differences = [line for line in find_differences(folder, provenance) if line.startswith(checked)]
    yield ", ".join(checked), "; ".join(differences)

    latents, _ = read_tensors(folder / "latents.safetensors")
    if not latents or {len(rows) if rows.ndim else 0 for rows in latents.values()} != {len(identities) * keep}:
        raise ValueError(f"expected {len(identities) * keep} rows of latents in {folder}, got others; make the run again")
    with torch.no_grad():
        made = torch.cat([render(space, assets.generator, part, settings["psi"]) for part in split_rows(latents, device)])
    shown = read_kept(folder, settings)
    pictures = shown.flatten(0, 1)
    levels = (images.to_uint8(made).int() - images.to_uint8(pictures).int()).abs().amax().item()
    yield (
        "pictures from latents",
        "" if levels <= PICTURE_TOLERANCE else f"expected the same, got {levels} of 255 levels apart",
    )

    judging = JudgingAssets.of_run(assets, device)
    verdict = judge_pictures(judging, shown, identities, {}, seed=report["seed"], photos=photos).verdict
    for name, entry in report["summary"].items():
        if name == "target_score_transformed":  # of the search's own random transforms
            continue
        if name not in verdict.summary:
            yield name, f"expected {entry['mean']:.4f}, absent here: {verdict.absent.get(name)}"
            continue
        pairs = [(entry["mean"], verdict.summary[name]["mean"])]
        pairs += [(a[name], b[name]) for a, b in zip(report["per_identity"], verdict.per_identity, strict=True)]
        before, now = max(pairs, key=lambda pair: abs(pair[0] - pair[1]))
        far = abs(before - now) > METRIC_TOLERANCE * max(1.0, abs(before))
        yield name, f"expected {before:.4f}, got {now:.4f}" if far else ""


def open_run(run: str, typed: Mapping[str, str]) -> tuple[dict, dict]:
    """Returns the report and the settings of a run folder. Raises: ValueError, see check_run."""
    report, settings = read_report(Path(run)), read_settings(Path(run))
    check_typed(settings, typed, run)
    return report, settings


def read_settings(folder: Path) -> dict:
    """Returns the settings of a run folder, its identities as numbers. Raises: ValueError when it holds no run."""
    try:
        settings = read_config(folder)
        settings |= {name: settings[name] for name in ("world", "seed", "photos", "space", "keep")}  # none may be missing
        if not 1 <= settings["keep"] <= MOST_KEPT:
            raise ValueError(f"it keeps {settings['keep']} pictures")
        judges = [name for name in settings.get("judge", "").split(",") if name]
        return settings | {"identities": cli.parse_identities(settings["identities"]), "judges": judges}
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"expected a run's config.json in {folder}, got none that can be read ({error}); name a run folder that is whole"
        ) from error


def load_run(settings: Mapping, *, device: torch.device, photos: str, prior: bool) -> Assets:
    """Returns the assets that a run was given, of read_settings."""
    specs = {name: settings.get(name, "") for name in ("generator", "target", "gallery", "classes")}
    return load_assets(
        settings["world"], device=device, photos=photos, prior=prior, identities=settings["identities"],
        threshold=settings.get("threshold"), judges=settings["judges"], **specs,
    )  # fmt: skip


def read_kept(folder: Path, settings: Mapping) -> torch.Tensor:
    """Returns the pictures [T,K,3,R,R] of a run folder, as 8-bit files hold them. Raises: ValueError for a missing one."""
    rows = [
        torch.cat([images.load(folder / "images" / f"{identity}_{k}.png", None) for k in range(settings["keep"])])
        for identity in settings["identities"]
    ]
    return torch.stack(rows)


def split_rows(latents: dict[str, torch.Tensor], device: torch.device) -> Iterator[dict[str, torch.Tensor]]:
    """Yields the latents on the device, at most 64 rows at once."""
    for start in range(0, len(next(iter(latents.values()))), 64):
        yield {name: rows[start : start + 64].to(device) for name, rows in latents.items()}


def render(space: str, generator, latents: dict[str, torch.Tensor], psi: float) -> torch.Tensor:
    """Returns pictures [N,3,R,R] on the CPU, clamped to [-1,1], of latents as a search space of that name gives them."""
    if space == "pixels":
        made = latents["pixels"]
    else:
        made = generator.synthesize(generator.map(latents["z"], psi) if space == "z" else latents["w"])
    return made.clamp(-1, 1).cpu()
