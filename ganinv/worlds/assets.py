"""What a run needs, loaded: a world's assets, with the user's own prior, target, gallery or photos in their place."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ganinv.attributes.probes import Probe
from ganinv.photos import Photos, list_people, load_photos, sort_names
from ganinv.recognizers.adapters import weight_file
from ganinv.recognizers.templates import load_gallery, read_classes
from ganinv.weights.checkpoints import find_checkpoint
from ganinv.weights.files import sha256_file
from ganinv.weights.quoting import show
from ganinv.worlds.references import Judge, References
from ganinv.worlds.truth import Truth
from ganinv.worlds.world import World, add_photos, load_references, load_world, read_identities, render_references


@dataclass(frozen=True)
class Assets:
    """What a run needs, loaded: generator (None: no prior), target, judges, references; files: role -> weight file.

    truth: of a world of rendered people and a target that knows them, else None. probes: beside the world's own, by the
    SHA-256 of the weights that they were fitted on. names: of the users of a target of one's own, in the order of their
    numbers, () where nobody names them.
    """

    world: World
    generator: nn.Module | None
    target: nn.Module
    judges: list[Judge]
    references: References | None
    files: dict[str, Path]
    truth: Truth | None = None
    probes: Mapping[str, Probe] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    def weight_files(self) -> dict[str, Path]:
        """Returns role -> file of everything that was read from a file (code is in no such list)."""
        return {role: path for role, path in self.files.items() if path.is_file()}


def load_assets(
    name: str, *, device: torch.device, generator: str = "", target: str = "", photos: str = "", prior: bool = True,
    identities: Sequence[int] = (), gallery: str = "", threshold: float | None = None, classes: str = "",
    judges: Sequence[str] = (),
) -> Assets:  # fmt: skip
    """Returns a world's assets, with the user's own generator, target or photos where they are given.

    identities: users that are attacked, whose reference photos are rendered where the world can do that.
    generator, target: anything that loading.py reads, "" for the world's own; a target also by the name that world.json gives
    to a further one. A target whose card lists the world's
    users keeps the world's judges, references and truth. photos: the world's photo folder, for what needs pictures; with
    a target of other users, a folder with one sub-folder of new photos for each of its identities, in order of name; where
    the target names its users, the photos of those that are attacked suffice. No judge knows these users: those alone take
    part that compare. gallery: a folder of photos, or a file of templates, of the users to enrol in a target that embeds;
    threshold: in place of the gallery's; classes: a file of the users' names in the order that numbers them.
    judges: recognizers that judge in place of the world's, by a judge's name or anything that load_recognizer reads.
    Raises: ValueError for an unknown world, and whatever loading raises.
    """
    world = load_world(name, device)
    target = world.find_target(target)
    names = read_classes(classes) if classes else ()
    if gallery:
        network = world.load(target or world.spec("target"))
        model = load_gallery(network, gallery, threshold=threshold, classes=names)
        names = model.names
    elif threshold is not None:
        raise ValueError("expected --gallery beside --threshold, got none; pass the users to enrol")
    else:
        model = world.load(target) if target else world.target
        names = check_names(names or (read_identities(target) if target else ()), model.num_identities)
    # whoever has users of the same names as the world's, and a folder of their photos, means these
    others = bool(photos) and not (Path(photos) / world.users).is_dir()
    known = not (target or gallery) or (not others and world.knows(target, identities, names))
    prior_file = find_checkpoint(generator or world.spec("prior")) if prior else None
    prior_model = None if not prior else world.load_fitting_prior(str(prior_file)) if generator else world.prior
    chosen = [world.find_judge(judge) for judge in judges]
    judges = chosen or world.load_judges(target or world.roles.get("target", ""), strangers=not known)
    references = world.references if known else None
    if references and not {judge.name for judge in judges} <= references.embeddings.keys():
        references = None  # others embedded them; photos help
    if photos and not known:
        own = load_own_photos(photos, world.resolution, model.num_identities, names, identities)
        references, names = References.from_photos(own, judges, device), own.names
        tell_enrolled(model, photos)
    elif photos and references is None:
        references = References.from_photos(load_references(world, photos), judges, device)
    elif photos:
        references = add_photos(references, load_references(world, photos), judges[0])
    elif world.photos_per_user and references and (known_users := sorted({*identities} & {*references.person.tolist()})):
        references = add_photos(references, render_references(world, known_users), judges[0], of_all=False)
    files = {"prior": weight_file(str(prior_file))} if prior else {}
    files["target"] = weight_file(target or world.spec("target"))
    if gallery or (not target and world.has("gallery")):
        files["gallery"] = Path(gallery or world.spec("gallery"))
    files |= {judge.name: find_judge_file(world, judge) for judge in judges if not judge.sees_users}
    files["lpips_face"] = world.file("lpips_face")
    files |= {judge.name: world.file(judge.name) for judge in judges if judge.sees_users}
    files |= {role: world.file(role) for role in ("references", "factors") if known and world.has(role)}
    truth, names = world.truth if known else None, names if target or gallery else ()
    return Assets(world, prior_model, model, judges, references, files, truth, names=tuple(names))


def find_judge_file(world: World, judge: Judge) -> Path:
    """Returns the weight file of a judge; the place named by its spec where it is code."""
    return world.file(judge.name) if world.has(judge.name) else weight_file(judge.name)


def check_names(names: Sequence[str], num_identities: int | None) -> tuple[str, ...]:
    """Returns the names of a target's users. Raises: ValueError when there are names, and another number of them."""
    if names and len(names) != num_identities:
        raise ValueError(
            f"expected a name for each of the target's {num_identities} identities, got {len(names)}"
            "; name all of them in the order of the classes"
        )
    return tuple(names)


def load_own_photos(
    photos: str | Path, resolution: int, num_identities: int | None, names: Sequence[str], identities: Sequence[int]
) -> Photos:
    """Returns new photos of a target's users, a sub-folder for each; where there are names, of the identities at least.

    Raises: ValueError for another number of folders, or when one that is attacked is missing.
    """
    people = list_people(photos)
    names = names or find_names(photos, people, num_identities)
    if missing := [names[identity] for identity in identities if identity < len(names) and names[identity] not in people]:
        raise ValueError(
            f"expected a sub-folder {show(missing[0])} in {photos}, of a user who is attacked, got none; add photos "
            "that show a face, or leave the user out of --identities"
        )
    theirs = {name: people[name] for name in names if name in people}
    if not theirs:
        raise ValueError(
            f"expected sub-folders of {photos} named as the target's users, such as {show(names[0])}, got none; rename them"
        )
    if strangers := [name for name in people if name not in theirs]:
        print(
            f"{photos}: {len(strangers)} sub-folders are passed over, such as {show(strangers[0])}: no user is named so",
            file=sys.stderr,
        )
    number = torch.tensor([row for row, name in enumerate(names) if name in people])
    own = load_photos(theirs, resolution)
    return dataclasses.replace(own, person=number[own.person], names=tuple(names))


def tell_enrolled(target: nn.Module, photos: str | Path) -> None:
    """Says on stderr how many photos of a folder the users of a target were enrolled with: they are no references."""
    enrolled = {sha256_file(file) for files in (getattr(target, "enrolled", None) or {}).values() for file in files}
    shown = [file for files in list_people(photos).values() for file in files] if enrolled else []
    if again := sum(sha256_file(file) in enrolled for file in shown):
        print(
            f"{photos}: {again} of {len(shown)} photos were enrolled, too: they say little of how the target names its "
            "users, and type I and II are alike; pass others",
            file=sys.stderr,
        )


def find_names(photos: str | Path, people: Mapping[str, Sequence[Path]], num_identities: int | None) -> Sequence[str]:
    """Returns the names of a target's users, which nobody gave, by the sub-folders of a folder, people.

    Whoever lost all photos to align_faces.py keeps a number, as its list of files says; a line names them.
    Raises: ValueError for another number of sub-folders than users.
    """
    if num_identities in (None, len(people)):
        return list(people)
    lost = sorted(list_lost(Path(photos)) - people.keys())
    who = ", ".join(map(show, lost))
    if lost and len(people) + len(lost) == num_identities:
        print(f"{photos}: no photo with a face of {who}, whose number is kept; they cannot be attacked", file=sys.stderr)
        return sort_names([*people, *lost])
    raise ValueError(
        f"expected a sub-folder of {photos} for each of the target's {num_identities} identities, in order of name, got "
        f"{len(people)}" + (f" without {who}, of whom no photo shows a face" if lost else "")
        + "; add the others, or name the users in the target's order with --classes=FILE"
    )  # fmt: skip


def list_lost(photos: Path) -> set[str]:
    """Returns the people of whom align_faces.py, which wrote a folder, found no face or could read no photo."""
    try:
        said = json.loads((photos / "align_faces.json").read_text(encoding="utf-8"))
        return {str(row).partition("/")[0] for key in ("faceless", "unreadable") for row in said[key]}
    except (OSError, ValueError, KeyError, TypeError):  # it wrote none, or somebody else did
        return set()
