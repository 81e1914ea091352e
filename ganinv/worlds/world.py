"""Worlds: folders of weights with cards, a prior, a target, judges and references that belong together."""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from ganinv.attributes.probes import Probe
from ganinv.interfaces import Recognizer
from ganinv.photos import Photos, choose_photos, list_people, load_photos, select_people
from ganinv.priors.framed import FramedGenerator, ResizedGenerator
from ganinv.priors.loading import load_generator
from ganinv.recognizers.adapters import weight_file
from ganinv.recognizers.loading import load_recognizer, read_frame
from ganinv.recognizers.published.frame import Frame
from ganinv.recognizers.templates import load_gallery
from ganinv.weights.cards import find_card, read_json
from ganinv.weights.files import PRETRAINED
from ganinv.worlds import world_file
from ganinv.worlds.references import Judge, References
from ganinv.worlds.truth import Truth, load_regressor
from ganinv.worlds.world_file import CARDLESS, PUBLISHED, JudgeEntry

log = logging.getLogger(__name__)

MOST_KEPT = 100  # users whose rendered photos are worth a place on the disk: 200 kB each at 64 px
REPLACED = {"lfw": "faces"}  # worlds that are shipped no longer


@dataclass(frozen=True)
class World:
    """A folder of weights, each with a card, and its world.json. What it loads it loads once, when it is first asked for.

    resolution: of its pictures; grey: its photos are greyscale, so a pixel search gets one channel; frame: where the
    mean face lies, five points (x, y) as shares of the side, None where unknown; users: the sub-folder of a photo folder
    whose people are the target's identities, in order of name; public: likewise the others; photos_per_user: of people
    who do not exist, whose photos are rendered when asked for; 0 where people are real; shows_references: reference
    photos may be shown in a report, since nobody on them is real. roles: role -> file in the folder, or published
    network; targets: likewise further recognizers of the same users, by name; judge_entries: likewise the judges, those first
    that never met the users.
    """

    folder: Path
    resolution: int = 64
    grey: bool = False
    users: str = "private"
    public: str = "public"
    photos_per_user: int = 0
    shows_references: bool = False
    frame: tuple[tuple[float, float], ...] | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    targets: Mapping[str, str] = field(default_factory=dict)
    judge_entries: tuple[JudgeEntry, ...] = ()
    device: torch.device | str = "cpu"

    @property
    def name(self) -> str:
        """Returns the folder's name."""
        return self.folder.name

    def has(self, role: str) -> bool:
        """Says whether the world has a role or a judge of that name."""
        return role in self.roles or any(entry.name == role for entry in self.judge_entries)

    def spec(self, role: str) -> str:
        """Returns what load_recognizer and load_generator read for a role, or for a judge by its name.

        Raises: ValueError when the world has no such role.
        """
        judges = {entry.name: entry.recognizer for entry in self.judge_entries}
        place = self.roles.get(role) or judges.get(role)
        if place is None:
            known = ", ".join([*self.roles, *judges]) or "nothing"
            raise ValueError(f"expected a {role} in the world {self.folder}, got {known}; train one, or name your own")
        return place if place in PUBLISHED else str(find_file(self.folder, place))

    def find_target(self, spec: str) -> str:
        """Returns what load_recognizer reads for a target: the world's further one of that name, else the spec itself."""
        place = self.targets.get(spec)
        return spec if place is None else place if place in PUBLISHED else str(find_file(self.folder, place))

    def file(self, role: str) -> Path:
        """Returns the weight file of a role; where the world has no such role, the place where it would lie."""
        return weight_file(self.spec(role)) if self.has(role) else self.folder / f"{role}.safetensors"

    @cached_property
    def prior(self) -> nn.Module:
        """Returns the world's own generator, see load_prior."""
        return self.load_prior(self.spec("prior"))

    def load_prior(self, spec: str) -> nn.Module:
        """Returns the generator of a spec, moved into the world's frame where its card names another."""
        generator, card = load_generator(spec, self.device), find_card(weight_file(spec))
        trained, frame = read_frame(card), self.frame and Frame(self.frame)
        if frame is None or trained is None or trained == frame:
            return generator
        return FramedGenerator(generator, trained, frame, sha256=str(card.get("sha256")))

    def load_fitting_prior(self, spec: str) -> nn.Module:
        """Returns the generator of a spec at the world's size, that of the photos which its pictures stand beside."""
        generator = self.load_prior(spec)
        if generator.resolution == self.resolution:
            return generator
        log.warning("%s: its pictures of %d px are shown at the world's %d", spec, generator.resolution, self.resolution)
        return ResizedGenerator(generator, self.resolution)

    @cached_property
    def target(self) -> Recognizer:
        """Returns the recognizer under attack; an embedding network with the users of the world's gallery enrolled."""
        recognizer = self.load(self.spec("target"))
        return load_gallery(recognizer, self.spec("gallery")) if self.has("gallery") else recognizer

    def load(self, spec: str) -> Recognizer:
        """Returns the recognizer of a spec for the world's pictures."""
        frame = self.frame and Frame(self.frame)
        return load_recognizer(spec, self.device, resolution=self.resolution, frame=frame)

    @cached_property
    def judges(self) -> list[Judge]:
        """Returns the judges of the world's own target, those first that never met the users."""
        return self.load_judges(self.roles.get("target", ""))

    def load_judges(self, target: str, *, strangers: bool = False) -> list[Judge]:
        """Returns the judges but a published network that is the target itself; strangers: those that never met the users."""
        entries = [entry for entry in self.judge_entries if entry.recognizer != target or target not in PUBLISHED]
        return [self.load_judge(entry) for entry in entries if not (strangers and entry.sees_users)]

    def load_judge(self, entry: JudgeEntry, recognizer: Recognizer | None = None) -> Judge:
        """Returns a judge; its recognizer is loaded where none is given."""
        recognizer = recognizer or self.load(self.spec(entry.name))
        return Judge(
            entry.name, recognizer, entry.sees_users, metric=getattr(recognizer, "metric", "cosine"),
            thresholds=entry.thresholds, impostor_pairs=entry.impostor_pairs, declared=getattr(recognizer, "about", ""),
        )  # fmt: skip

    def find_judge(self, spec: str) -> Judge:
        """Returns a judge of the world by its name, or of anything that load_recognizer reads, which never met the users.

        A published network's thresholds are the shipped world's that measured them, where its faces lie in this one's frame.
        """
        entries = {entry.name: entry for entry in self.judge_entries}
        if spec in entries:
            return self.load_judge(entries[spec])
        measured = [find_world(name) for name in list_worlds()] if spec in PUBLISHED else []
        known = [
            entry for world in measured if world.frame == self.frame for entry in world.judge_entries if entry.name == spec
        ]
        entry = known[0] if known else JudgeEntry(name=spec, recognizer=spec, sees_users=False)
        return self.load_judge(entry, self.load(spec))

    @cached_property
    def references(self) -> References | None:
        """Returns the users' photos as the judges have embedded them, without pictures; None in a world without.

        Raises: ValueError when a judge has not embedded them.
        """
        if not self.has("references"):
            return None
        references = References.load(self.file("references"))
        if lacking := [entry.name for entry in self.judge_entries if entry.name not in references.embeddings]:
            found = ", ".join(references.embeddings) or "nobody"
            raise ValueError(
                f"expected references that {lacking[0]} has embedded in {self.folder}, got some of {found}; "
                f"run embed_references.py --world={self.folder}"
            )
        return references

    @cached_property
    def truth(self) -> Truth | None:
        """Returns the truth about people who do not exist, None for real ones."""
        return Truth(load_regressor(self.file("factors"), self.device)) if self.has("factors") else None

    @cached_property
    def probes(self) -> dict[str, Probe]:
        """Returns the probes of attributes, by the SHA-256 of the weights that each was fitted on; {} without any."""
        found = [Probe.load(self.file(role)) for role in self.roles if role.startswith("probe_")]
        return {probe.sha256: probe for probe in found}

    @cached_property
    def identities(self) -> tuple[str, ...]:
        """Returns the names of the users in order, as a card lists them, the gallery's or target's; () where none does."""
        role = next((role for role in ("gallery", "target") if self.has(role)), "")
        return read_identities(self.spec(role)) if role else ()

    def knows(self, target: str, identities: Sequence[int] = (), names: Sequence[str] = ()) -> bool:
        """Says whether a target of one's own has the world's users among its classes, under the same numbers.

        That is what its card must say, or names, those of its users: the same names in the same order, as far as both lists
        go; identities: those that are attacked, which must be among them; all of them where none are given.
        """
        theirs, ours = tuple(names) or read_identities(target), self.identities
        common = min(len(theirs), len(ours))
        if not common or theirs[:common] != ours[:common]:
            return False
        return max(identities) < common if identities else len(theirs) == len(ours)

    def save(self) -> None:
        """Writes world.json."""
        world_file.write_world_file(self.folder, {f.name: getattr(self, f.name) for f in dataclasses.fields(self)})

    def with_thresholds(self, measured: Mapping[str, tuple[Mapping[float, float], int]]) -> World:
        """Returns the world with judges' thresholds, name -> (false-match rate -> threshold, pairs measured on)."""
        entries = [
            dataclasses.replace(entry, thresholds=measured[entry.name][0], impostor_pairs=measured[entry.name][1])
            if entry.name in measured else entry
            for entry in self.judge_entries
        ]  # fmt: skip
        return dataclasses.replace(self, judge_entries=tuple(entries))

    def register(self, role: str, file: str | Path, *, sees_users: bool | None = None, is_target: bool = False) -> World:
        """Returns the world with one more file, or another for the role; written to world.json.

        file: a published network, or weights, which are copied with their card unless they lie in the folder; sees_users:
        of a judge, None for what is none; is_target: of a further target of that name.
        """
        place = str(file)
        if place not in PUBLISHED:
            place = f"{role}{Path(file).suffix}"
            self.folder.mkdir(parents=True, exist_ok=True)
            for source in (Path(file), *(() if role in CARDLESS else (Path(file).with_suffix(".json"),))):
                goal = self.folder / f"{role}{source.suffix}"
                if not goal.exists() or not source.samefile(goal):
                    shutil.copyfile(source, temporary := goal.with_name(f"{goal.name}.tmp"))
                    os.replace(temporary, goal)
        if is_target:
            changed = dataclasses.replace(self, targets={**self.targets, role: place})
        elif sees_users is None:
            changed = dataclasses.replace(self, roles={**self.roles, role: place})
        else:
            others = [entry for entry in self.judge_entries if entry.name != role]
            entries = [*others, JudgeEntry(name=role, recognizer=place, sees_users=sees_users)]
            changed = dataclasses.replace(self, judge_entries=tuple(sorted(entries, key=lambda entry: entry.sees_users)))
        changed.save()
        return changed


def find_file(folder: Path, place: str) -> Path:
    """Returns the file of a place in world.json: NAME in the folder, WORLD/NAME in a shipped world."""
    return PRETRAINED / place if "/" in place else folder / place


def read_identities(spec: str) -> tuple[str, ...]:
    """Returns the names on the card of a recognizer's weight file, in order; () without such a card."""
    file = weight_file(spec)
    card = find_card(file)
    if not card and file.is_file() and file.suffix != ".json" and file.with_suffix(".json").is_file():
        card = read_json(file.with_suffix(".json"), beside=file)  # an adapter's, which need not carry the file's SHA-256
        card = {} if "sha256" in card else card
    names = card.get("identities")
    return tuple(map(str, names)) if isinstance(names, list) else ()


def list_worlds() -> list[str]:
    """Returns the names of the shipped worlds."""
    return sorted(path.parent.name for path in PRETRAINED.glob(f"*/{world_file.NAME}"))


def find_world(name: str | Path) -> World:
    """Returns a world by a shipped name or its folder, without loading anything.

    Raises: ValueError with the names there are, or naming the file or card that the folder lacks; see read_world_file.
    """
    shipped = PRETRAINED / name
    if name in list_worlds():
        folder = shipped
    else:
        folder = Path(os.path.abspath(Path(name).expanduser()))
        if not folder.is_dir() and name in REPLACED:
            new = REPLACED[name]
            raise ValueError(f"expected a world that is shipped, got {name}; world {name} was replaced by {new}")
        if not folder.is_dir() and not list_worlds():
            raise ValueError(
                f"expected the shipped worlds in {PRETRAINED}, got none: this installation of ganinv holds no weights; "
                "install it from a checkout or a source archive with pretrained/, or pass --world=FOLDER"
            )
        if not folder.is_dir():
            raise ValueError(
                f"expected a world among {', '.join(list_worlds())}, or a folder with a world.json, got {name}"
                "; check the name or path"
            )
    world = World(folder, **world_file.read_world_file(folder))
    places = {**world.roles, **world.targets, **{entry.name: entry.recognizer for entry in world.judge_entries}}
    for role, place in places.items():
        file = find_file(folder, place)
        if place not in PUBLISHED and not file.is_file():
            raise ValueError(f"expected {place} for the {role} in the world {folder}, got none; copy the whole folder again")
        if place not in PUBLISHED and role not in CARDLESS and not file.with_suffix(".json").is_file():
            card = file.with_suffix(".json").name
            raise ValueError(f"expected the card {card} of the {role} in the world {folder}, got none; copy both files")
    return world


def open_world(name: str | Path) -> World:
    """Returns a world as find_world does, or for a folder that is new or empty a world of 64 px that holds nothing yet."""
    folder = Path(name).expanduser()
    is_path = os.sep in str(name) or folder.is_dir()
    if name not in list_worlds() and is_path and not (folder / world_file.NAME).exists():
        return World(Path(os.path.abspath(folder)))
    return find_world(name)


def load_world(name: str | Path, device: torch.device | str = "cpu") -> World:
    """Returns a world by a shipped name or its folder; prior, target, judges, ... are loaded when they are asked for.

    Raises: ValueError, see find_world.
    """
    return dataclasses.replace(find_world(name), device=device)


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
    """Returns the same photos of users, in order, of a world of people who do not exist: rendered, and kept for later."""
    from ganinv.rendered.photos import make_photos, name_person

    parts = []
    for identity in identities:
        files = [Path(name_person(identity)) / f"{number:03d}.png" for number in range(world.photos_per_user)]
        numbers = [int(path.stem) for path in choose_photos(files, "references")]
        parts.append(make_photos([identity], numbers, world.resolution, keep=len(identities) <= MOST_KEPT))
    return Photos(
        torch.cat([part.pixels for part in parts]),
        torch.cat([torch.full((len(part),), identity) for identity, part in zip(identities, parts, strict=True)]),
        tuple(name for part in parts for name in part.names),
        tuple(file for part in parts for file in part.files),
    )


def load_public(
    world: World, photos: str | Path, share: tuple[float, float], *, most: int | None = None, progress: bool = True
) -> Photos:
    """Returns the photos of a share of the public people, of the first `most` of them, at the world's resolution."""
    people = select_people(list_people(Path(photos) / world.public), *share)
    return load_photos(dict(list(people.items())[:most]), world.resolution, progress=progress)
