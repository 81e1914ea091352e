"""Worlds: a prior, a target, judges and references that belong together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ganinv.photos import Photos, choose_photos, list_people, load_photos, select_people
from ganinv.priors.loading import load_generator
from ganinv.recognizers.adapters import weight_file
from ganinv.recognizers.loading import load_recognizer
from ganinv.weights.checkpoints import find_checkpoint
from ganinv.worlds.references import Judge, References
from ganinv.worlds.truth import Truth, load_regressor

PRETRAINED = Path(__file__).resolve().parents[2] / "pretrained"


@dataclass(frozen=True)
class World:
    """A folder of weights, each with a card: prior, target, judge, verifier, lpips_face (.safetensors), references.

    resolution: of its pictures; grey: its photos are greyscale, so a pixel search gets one channel; users: the
    sub-folder of a photo folder whose people are the target's identities, in order of name; public: likewise the others;
    photos_per_user: of people who do not exist, whose photos are rendered when asked for; 0 where people are real;
    shows_references: reference photos may be shown in a report, since nobody on them is real.
    """

    folder: Path
    resolution: int = 64
    grey: bool = False
    users: str = "private"
    public: str = "public"
    photos_per_user: int = 0
    shows_references: bool = False

    def file(self, name: str) -> Path:
        """Returns the weight file of a role."""
        return self.folder / f"{name}.safetensors"


WORLDS = {
    "lfw": World(PRETRAINED / "lfw", grey=True),
    "synthetic": World(PRETRAINED / "synthetic", photos_per_user=50, shows_references=True),
}


@dataclass(frozen=True)
class Assets:
    """What a run needs, loaded: generator (None: no prior), target, judges, references; files: role -> weight file.

    truth: of a world of rendered people and its own target, else None.
    """

    world: World
    generator: nn.Module | None
    target: nn.Module
    judges: list[Judge]
    references: References | None
    files: dict[str, Path]
    truth: Truth | None = None

    def weight_files(self) -> dict[str, Path]:
        """Returns role -> file of everything that was read from a file (code is in no such list)."""
        return {role: path for role, path in self.files.items() if path.is_file()}


def find_world(name: str) -> World:
    """Returns a world by name. Raises: ValueError with the names there are."""
    if name not in WORLDS:
        raise ValueError(f"expected a world among {', '.join(WORLDS)}, got {name}")
    return WORLDS[name]


def load_assets(
    name: str, *, device: torch.device, generator: str = "", target: str = "", photos: str = "", prior: bool = True,
    identities: Sequence[int] = (),
) -> Assets:  # fmt: skip
    """Returns a world's assets, with the user's own generator, target or photos where they are given.

    identities: users whose reference photos are rendered where the world can do that.
    generator, target: anything that loading.py reads, "" for the world's own. photos: the world's photo folder, for what
    needs pictures; with a target of one's own, a folder with one sub-folder of new photos for each of its identities, in
    order of name. Such a target has no judge that knows its users: the verifier alone compares them.
    Raises: ValueError for an unknown world, and whatever loading raises.
    """
    world = find_world(name)
    prior_spec = generator or world.file("prior")
    specs = {"prior": str(find_checkpoint(prior_spec)), "target": target or str(world.file("target"))}
    model = load_recognizer(specs["target"], device, resolution=world.resolution)
    prior_model = load_generator(specs["prior"], device) if prior else None
    if not prior:
        del specs["prior"]
    judges, references = [Judge("verifier", load_recognizer(str(world.file("verifier")), device), sees_users=False)], None
    specs |= {role: str(world.file(role)) for role in ("verifier", "lpips_face")}
    if not target:
        specs |= {role: str(world.file(role)) for role in ("judge", "references")}
        judges.append(Judge("judge", load_recognizer(specs["judge"], device), sees_users=True))
        references = References.load(specs["references"])
        if photos:
            references = add_photos(references, load_references(world, photos), judges[0])
        elif known := sorted(set(identities) & set(references.person.tolist()) if world.photos_per_user else ()):
            references = add_photos(references, render_references(world, known), judges[0], of_all=False)
    elif photos:
        own = load_photos(list_people(photos), world.resolution)
        if len(own.names) != model.num_identities:
            raise ValueError(
                f"expected a sub-folder of {photos} for each of the target's {model.num_identities} identities, in order "
                f"of name, got {len(own.names)}"
            )
        references = References.from_photos(own, judges, device)
    truth = None
    if world.photos_per_user and not target:
        specs["factors"] = str(world.file("factors"))
        truth = Truth(load_regressor(specs["factors"], device))
    files = {role: weight_file(spec) if role == "target" else Path(spec) for role, spec in specs.items()}
    return Assets(world, prior_model, model, judges, references, files, truth)


@torch.no_grad()
def add_photos(references: References, photos: Photos, verifier: Judge, *, of_all: bool = True) -> References:
    """Returns references with photos, of_all people or of some. Raises: ValueError when others were embedded."""
    theirs = torch.isin(references.person, photos.person) | of_all
    stored = references.embeddings[verifier.name][theirs]
    same = torch.equal(photos.person, references.person[theirs])
    if same:  # a few suffice: another numbering of the people changes nearly all
        device = next(verifier.recognizer.parameters()).device
        first = slice(0, len(photos), max(1, len(photos) // 8))
        found = verifier.recognizer(photos.images(first).to(device)).embeddings.cpu()
        same = bool(((found * stored[first]).sum(1) > 0.99).all())
    if not same:
        raise ValueError(
            f"expected the {len(stored)} photos whose embeddings this world ships, got {len(photos)} photos or other people; "
            "leave --photos out, or make the world anew with embed_references.py"
        )
    return dataclasses.replace(references, photos=photos)


def load_references(world: World, photos: str | Path) -> Photos:
    """Returns the users' photos of the split that no recognizer was trained on, at the world's resolution."""
    return load_photos(list_people(Path(photos) / world.users), world.resolution, split="references")


def render_references(world: World, identities: Sequence[int]) -> Photos:
    """Returns the same photos of users, in order, of a world of people who do not exist: rendered."""
    from ganinv.rendered.photos import make_photos, name_person

    parts = []
    for identity in identities:
        files = [Path(name_person(identity)) / f"{number:03d}.png" for number in range(world.photos_per_user)]
        numbers = [int(path.stem) for path in choose_photos(files, "references")]
        parts.append(make_photos([identity], numbers, world.resolution))
    return Photos(
        torch.cat([part.pixels for part in parts]),
        torch.cat([torch.full((len(part),), identity) for identity, part in zip(identities, parts, strict=True)]),
        tuple(name for part in parts for name in part.names),
        tuple(file for part in parts for file in part.files),
    )


def load_public(world: World, photos: str | Path, share: tuple[float, float], *, progress: bool = True) -> Photos:
    """Returns the photos of a share of the public people, at the world's resolution."""
    people = select_people(list_people(Path(photos) / world.public), *share)
    return load_photos(people, world.resolution, progress=progress)
