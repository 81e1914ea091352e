"""Probe what recognizers know of people's attributes, on public photos with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ganinv import cli
from ganinv.commands.opening import open_named


@dataclass(frozen=True, kw_only=True)
class ProbeAttributes:
    """What a recognizer's embedding says of a person: the ceiling of every attack on an attribute.

    Example: --world=faces --photos=my_photos --labels=my_labels.csv
    """

    world: str = "synthetic"  # whose target and judges are probed; a folder of your own gets the probes too
    target: str = ""  # recognizers to probe instead, as --target takes them, with commas between
    photos: str = ""  # folder or zip of public people, never users; "": data/<world>/public
    labels: str = ""  # CSV: photo (or person), then a column for each attribute; "": the factors of rendered people
    names: str = ""  # of the values of choices, in order: "gender=man,woman;glasses=no,yes"
    people: int = 4000  # at most, none of whom a network was trained on, as far as its card says
    share: tuple[float, float] = (
        0.0,
        0.8,
    )  # of the people, by a hash of their names, who are read; the others stay for tests
    caveat: str = ""  # what there is to say of the labels: who annotated them, how
    seed: int = 0  # of folds and intervals
    device: str = "auto"  # auto | cpu | cuda
    out: str = ""  # folder of probes and tables; "": runs/<world>-probes


def run(config: ProbeAttributes) -> None:
    """Fits a probe for each network, and writes probes, table and cards."""
    from ganinv.recognizers.adapters import weight_file
    from ganinv.studies.probing import probe, write_probes
    from ganinv.training.pictures import load_pictures
    from ganinv.weights.cards import describe_photos, find_card, read_hash_range
    from ganinv.weights.files import sha256_file
    from ganinv.worlds.world import load_world

    device = cli.choose_device(config.device)
    world = load_world(config.world, device)
    names = cli.read_names(config.names)
    specs = list_networks(world, config.target)
    photos = load_pictures(config.photos or f"data/{world.name}/public", world.resolution, config.share)
    photos = take_people(photos, config.people, [read_hash_range(find_card(weight_file(spec))) for spec in specs.values()])
    probes = {}
    for name, spec in specs.items():
        file = weight_file(spec)
        probes[name] = probe(
            world.load(spec), photos, config.labels or None, names=names, grey=world.grey, network=name,
            sha256=sha256_file(file) if file.is_file() else "", seed=config.seed,
        )  # fmt: skip
    out = Path(config.out or f"runs/{world.name}-probes")
    card = {
        "command": cli.name_command("probe"),
        "data": {"public": describe_photos(len(photos), len(set(photos.person.tolist())), hash_range=config.share)},
        "caveat": config.caveat,
        "seed": config.seed,
    }
    print(write_probes(out, probes, card))
    register(world, out, probes)
    print(f"{out}/attributes.md, and a probe for each network: pass --probes={out} to an attack or an audit")


def list_networks(world, target: str) -> dict[str, str]:
    """Returns the name of each network to probe -> its spec: those named, or the world's target and judges, each once."""
    from ganinv.recognizers.adapters import PUBLISHED

    if target:
        found = {Path(spec).stem if spec not in PUBLISHED else spec: spec for spec in target.split(",") if spec}
    else:
        roles = ["target", *(entry.name for entry in world.judge_entries)]
        specs = {role: world.spec(role) for role in roles}
        found = {spec if spec in PUBLISHED else role: spec for role, spec in specs.items()}
    for name in found:
        if not name.isidentifier():
            raise ValueError(f"expected a recognizer whose file's name is a word, got {name}; rename the file")
    return found


def take_people(photos, most: int, ranges: Sequence[tuple[float, float] | None]):
    """Returns the photos of at most so many people, those first by the hash of their names, and none of a range.

    ranges: low and high hash of the people that a network was trained on, of whom it would know more than of strangers.
    Raises: ValueError when nobody is left.
    """
    import dataclasses

    import torch

    from ganinv.photos import unit_hash

    known = [(low, high) for low, high in filter(None, ranges)]
    names = {row: name for row, name in enumerate(photos.names) if not any(a <= unit_hash(name) < b for a, b in known)}
    if not names:
        raise ValueError("expected people on whom no network was trained, got none; choose another --share, such as 0.8,1")
    order = sorted(names, key=lambda row: unit_hash(f"probe {names[row]}"))
    kept = torch.isin(photos.person, torch.tensor(order[:most]))
    files = tuple(file for file, keep in zip(photos.files, kept.tolist(), strict=True) if keep)
    return dataclasses.replace(photos, pixels=photos.pixels[kept], person=photos.person[kept], files=files)


def register(world, out: Path, probes) -> None:
    """Copies probes into a world that is a folder of the user's own; a shipped one stays as it is."""
    from ganinv.worlds.world import PRETRAINED

    for name in probes if world.folder.parent != PRETRAINED else ():
        world = world.register(f"probe_{name}", out / f"probe_{name}.safetensors")


def main() -> None:
    """Parses the command line and runs."""
    cli.main(ProbeAttributes, run, plan=open_named)
