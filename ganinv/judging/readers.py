"""Who reads attributes off pictures: a judge with a probe, or the regressor of rendered people; never the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ganinv.attributes.labels import Attribute
from ganinv.attributes.probes import Probe
from ganinv.errors import AbsentError
from ganinv.images import to_grey
from ganinv.judging.work import ESTIMATE, Work
from ganinv.recognizers.recognize import find_device
from ganinv.rendered.factors import FACTORS, draw_people
from ganinv.weights.cards import read_card
from ganinv.weights.files import sha256_file
from ganinv.worlds.assets import Assets
from ganinv.worlds.references import Judge
from ganinv.worlds.truth import population, standardise


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads the standard values of attributes off pictures.

    read: images [N,3,H,W] in [-1,1] -> [N,B], on the CPU; truth: how the users' own values are known, in words; own: of
    identities, their values [T,B] and what the reader says of their own photos [T,B], None without photos. Raises
    AbsentError where the values need them. ask: images -> what read asks Work about.
    """

    name: str
    attributes: tuple[Attribute, ...]
    read: Callable[[torch.Tensor], torch.Tensor]
    truth: str
    own: Callable[[Sequence[int]], tuple[torch.Tensor, torch.Tensor | None]]
    ask: Callable[[torch.Tensor], tuple[str, torch.Tensor]]

    @property
    def widths(self) -> list[int]:
        """Returns the number of columns of each attribute."""
        return [one.width for one in self.attributes]


def find_reader(assets: Assets, work: Work | None = None) -> Reader:
    """Returns the reader of a run: the truth's where people are rendered, else a judge with a probe.

    A probe that was given comes before the world's own, then whoever the target was calibrated with, then one that never met
    the users, then the probe that explains most. Raises: AbsentError where there is none.
    """
    if assets.truth is not None:
        return read_factors(assets)
    reason = "needs a judge, who reads attributes off pictures; none took part"
    given = {id(probe) for probe in assets.probes.values()}
    found = [(judge, probe) for judge in assets.judges if (probe := find_probe(assets, judge.name)) is not None]
    if found:
        calibrated = name_calibrated(assets)

        def rank(pair: tuple[Judge, Probe]) -> tuple:
            judge, probe = pair
            return id(probe) not in given, judge.name != calibrated, judge.sees_users, -probe.explained

        judge, probe = min(found, key=rank)
        return read_by_judge(assets, judge, probe, work or Work([judge.recognizer]))
    if assets.judges:
        reason = "needs a probe of a judge, which reads attributes off pictures; fit one with probe.py"
    raise AbsentError(reason)


def name_calibrated(assets: Assets) -> str:
    """Returns the reader with whom the world's calibration was made on these weights of the target, "" without one."""
    file = assets.files.get("target")
    if not assets.world.has("calibration") or file is None or not file.is_file():
        return ""
    card = read_card(assets.world.file("calibration"))
    return str(card.get("reader", "")) if card.get("target_sha256") == sha256_file(file) else ""


def find_probe(assets: Assets, role: str) -> Probe | None:
    """Returns the world's probe of the network whose weights a role has; None where none was fitted on these weights."""
    file = assets.files.get(role)
    probes = {**assets.world.probes, **assets.probes}
    return probes.get(sha256_file(file)) if probes and file is not None and file.is_file() else None


def read_by_judge(assets: Assets, judge: Judge, probe: Probe, work: Work) -> Reader:
    """Returns the reader that is a judge's probe. What is true of users is what it says of their own photos."""
    device = find_device(judge.recognizer)

    def ask(images: torch.Tensor) -> tuple[str, torch.Tensor]:
        shown = images.to(device)
        return work.names[id(judge.recognizer)], to_grey(shown) if probe.grey else shown

    def read(images: torch.Tensor) -> torch.Tensor:
        return probe.estimate(work.see(judge.recognizer, ask(images)[1]).embeddings)

    def own(identities: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        references = assets.references
        if references is None or judge.name not in references.embeddings:
            raise AbsentError(f"needs the users' own photos, embedded by {judge.name}, to know what is true of them")
        said, person = probe.estimate(references.embeddings[judge.name]), references.person.cpu()
        theirs = [said[person == identity] for identity in identities]
        if min(map(len, theirs)) < 2:
            raise AbsentError("needs two photos or more of every user: one half says what is true, the other is measured")
        return torch.stack([rows[::2].mean(0) for rows in theirs]), torch.stack([rows[1::2].mean(0) for rows in theirs])

    truth = f"what {judge.name} reads off half of the users' own photos"
    return Reader(name=judge.name, attributes=probe.attributes, read=read, truth=truth, own=own, ask=ask)


def read_factors(assets: Assets) -> Reader:
    """Returns the reader of rendered people's factors, as far as they can be read off photos."""
    truth, photos = assets.truth, assets.references and assets.references.photos
    readable, (mean, spread) = truth.regressor.readable.cpu(), population()
    attributes = tuple(
        Attribute(factor.name, (), factor.unit, (mean[place].item(),), (spread[place].item(),))
        for place, factor in enumerate(FACTORS)
        if readable[place]
    )

    def read(images: torch.Tensor) -> torch.Tensor:
        return truth.estimate(images)[:, readable].double()

    def own(identities: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        numbers = standardise(draw_people([int(identity) for identity in identities]))[:, readable].double()
        if photos is None:
            return numbers, None
        return numbers, torch.stack([read(photos.images(photos.person == one)).mean(0) for one in identities])

    return Reader(
        name="factors", attributes=attributes, read=read, truth="the numbers they were rendered from", own=own,
        ask=lambda images: (ESTIMATE, images),
    )  # fmt: skip


# ---- what is stored of users


def find_stored(target) -> tuple[torch.Tensor, str]:
    """Returns what a target stores of each user [T,D], and its name: templates, or the directions of a cosine head.

    Raises: AbsentError for a target that stores neither in the space of its embeddings.
    """
    templates = getattr(target, "templates", None)
    if isinstance(templates, torch.Tensor):
        return templates.float().cpu(), "template"
    directions = getattr(target, "directions", None)
    if isinstance(directions, torch.Tensor):
        return F.normalize(directions.detach().float().cpu(), dim=1), "class weights"
    raise AbsentError("needs stored templates, or a head that compares by cosine: its class weights lie elsewhere")


def translate(found: torch.Tensor, probe: Probe, attributes: Sequence[Attribute]) -> dict[str, torch.Tensor]:
    """Returns a probe's standard values [N,B] in the units of a reader's attributes, name -> [N,b], of those in both."""
    wanted, said = {one.name: one for one in attributes}, {}
    for one, part in zip(probe.attributes, found.split([one.width for one in probe.attributes], 1), strict=True):
        other = wanted.get(one.name)
        if other is not None and other.values == one.values:
            said[one.name] = other.standardise(one.decode(part))
    return said
