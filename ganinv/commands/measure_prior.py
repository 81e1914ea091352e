"""Measure how good a prior is, in the features of recognizers that took no part in its training."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ganinv import cli
from ganinv.commands.opening import open_named
from ganinv.engine.files import write_atomically
from ganinv.json_data import read_json


@dataclass(frozen=True, kw_only=True)
class MeasurePrior:
    """Compare samples of a prior with held-out photos of people: measure_prior.py --prior=FILE --photos=FOLDER.

    Example: --prior=runs/mine-prior/prior.safetensors --photos=my_photos
    """

    prior: str = ""  # a prior, as --generator takes it; "": the world's own
    photos: str = ""  # folder or zip of pictures, or of people, that it was trained on
    held_out: str = (
        ""  # the same of photos that nothing was trained on; "": a fifth of --photos, as train_gan.py keeps it apart
    )
    features: str = "dlib,sface"  # recognizers, as --judge takes them, with commas between
    world: str = "synthetic"  # whose prior and photos are taken where none are given
    psis: tuple[float, ...] = (1.0, 0.8)  # truncations; 1, none, is the attacks' own
    count: int = 2000  # samples, and as many held-out photos; at most as many as there are
    seed: int = 0  # of the samples
    out: str = ""  # folder of quality.json and sheets; "": runs/<name of the prior's file>-quality
    device: str = "auto"  # auto | cpu | cuda


def run(config: MeasurePrior) -> None:
    """Writes quality.json, a sheet of samples for each psi, and one of interpolations."""
    from ganinv.priors.loading import load_generator
    from ganinv.worlds.world import find_world

    device, names = cli.choose_device(config.device), split_specs(config.features)
    world = find_world(config.world)
    if not config.psis:
        raise ValueError("expected at least one of --psis, got none")
    if not names:
        raise ValueError("expected recognizers to measure with, got none; pass --features=dlib,sface")
    out = Path(config.out or f"runs/{Path(config.prior).stem or world.name}-quality")
    check_unused(out, config)
    networks = load_networks(names, device, took_part=read_took_part(config.prior or world.file("prior")))
    generator = load_generator(config.prior or str(world.file("prior")), device)
    source = find_source(config.photos or f"data/{world.name}", world)
    photos = load_real(source, generator.resolution, config.count, config.held_out)
    out.mkdir(parents=True, exist_ok=True)
    quality = measure(generator, networks, photos, out, config.psis, config.seed)
    content = json.dumps({"command": cli.name_command("measure_prior")} | quality, indent=2)
    write_atomically(out / "quality.json", content + "\n")
    for line in tell_quality(quality):
        print(line)
    print(f"{out}/quality.json, and sheets of samples and interpolations")


def check_unused(out: Path, config: MeasurePrior) -> None:
    """Raises: ValueError when a folder that nobody named holds what another command measured, such as of another prior."""
    file = out / "quality.json"
    if not config.out and file.is_file() and read_json(file).get("command") != cli.name_command("measure_prior"):
        raise ValueError(f"expected a new folder, got {out}, which holds what another command measured; pass --out")


def split_specs(specs: str) -> list[str]:
    """Returns what stands between the commas."""
    return [spec.strip() for spec in specs.split(",") if spec.strip()]


def find_source(photos: str, world) -> Path:
    """Returns the zip or folder of a prior's pictures: the public people of a world's photo folder, where there are.

    Raises: ValueError for a folder that holds registered users and nobody else: they are not to be learned.
    """
    public, users = Path(photos) / world.public, Path(photos) / world.users
    if users.is_dir() and not public.is_dir():
        raise ValueError(
            f"expected public people in {public}, got registered users alone, in {users}; add FOLDER/PERSON/PHOTO"
        )
    return public if public.is_dir() else Path(photos)


def read_took_part(prior: str | Path) -> list[str]:
    """Returns the recognizers that took part in a prior's training, as its card says; [] where it has none."""
    from ganinv.weights.cards import find_card

    named = find_card(Path(prior)).get("networks")
    return [spec for specs in named.values() for spec in split_specs(str(specs))] if isinstance(named, Mapping) else []


def load_networks(specs: Sequence[str], device, *, took_part: Sequence[str] = ()) -> dict:
    """Returns the recognizers of specs by their names, or by the specs where two have one name.

    One that took part in the training, under that spec or in a file of the same bytes, says so in its name.
    """
    from ganinv.recognizers.adapters import weight_file
    from ganinv.recognizers.loading import load_recognizer
    from ganinv.weights.files import sha256_file

    def read_hash(spec: str) -> str:
        file = weight_file(spec)
        return sha256_file(file) if file.is_file() else spec

    specs, known = list(dict.fromkeys(specs)), {*took_part, *map(read_hash, took_part)}
    stems, networks = Counter(Path(spec).stem for spec in specs), {}
    for spec in specs:
        name = Path(spec).stem if stems[Path(spec).stem] == 1 else spec
        mark = " (took part in the training)" if {spec, read_hash(spec)} & known else ""
        networks[name + mark] = load_recognizer(spec, device)
    return networks


def load_real(source: Path, size: int, count: int, held_out: str = ""):
    """Returns the photos with which samples are compared, at most `count` on each side of a Frechet distance.

    Raises: ValueError when they are too few, or most of `held_out` lie in the source too.
    """
    from ganinv.training.pictures import load_pictures
    from ganinv.training.prior_quality import RealPhotos, check_real, take
    from ganinv.training.recipes import HELD_OUT, NEW_TO_THE_EYE

    places = (held_out, source, source) if held_out else (source,) * 3
    shares = ((0.0, 1.0), NEW_TO_THE_EYE, (0.0, 1.0)) if held_out else (HELD_OUT, NEW_TO_THE_EYE, (0.0, HELD_OUT[0]))
    apart, seen, bank = (load_pictures(place, size, share) for place, share in zip(places, shares, strict=True))
    count = min(count, len(apart), len(seen))
    real = RealPhotos(take(apart, count), take(seen, count), bank)
    check_real(real, source)
    return real


def measure(generator, networks: Mapping, photos, out: Path, psis: Sequence[float], seed: int) -> dict:
    """Returns the quality of a prior at each psi, and writes its sheets."""
    from ganinv.training.prior_quality import measure_prior, save_sheets

    save_sheets(generator, out, psis=psis, seed=seed)
    return measure_prior(generator, networks, photos, psis=psis, seed=seed)


def tell_quality(quality: Mapping[str, Mapping]) -> list[str]:
    """Returns the lines of a table of a prior's quality."""
    columns = ("frechet_ratio", "precision", "recall", "density", "coverage", "similarity_excess", "copies")
    width = 2 + max(len(f"{psi}, {name}") for psi, found in quality.items() for name in found)
    lines = [" " * width + "".join(f"{name:>18}" for name in columns)]
    for psi, found in quality.items():
        rows = {name: row for name, row in found.items() if isinstance(row, Mapping) and name != "absent"}
        for name, row in rows.items():
            lines.append(f"{psi}, {name}".ljust(width) + "".join(f"{row[column]:18.3f}" for column in columns))
        lines += [f"{psi}: faces found in {found['faces_found']:.1%} of samples"] if "faces_found" in found else []
        lines += [f"{psi}: {name} is absent: {reason}" for name, reason in found["absent"].items()]
    return lines


def main() -> None:
    """Parses the command line and runs."""
    cli.main(MeasurePrior, run, plan=open_named)
