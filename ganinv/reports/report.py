"""Judging from Python: what independent recognizers say of an attack's result, to print and to keep."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ganinv.attack.result import AttackResult
from ganinv.interfaces import Generator, Recognizer
from ganinv.judging.independence import check_independent
from ganinv.judging.judgement import Judgement
from ganinv.judging.protocol import JudgingAssets, draw_controls, draw_means, judge_pictures
from ganinv.judging.work import Workers
from ganinv.recognizers.recognize import find_device
from ganinv.reports.report_content import BESIDE, build_report, describe_search, describe_target
from ganinv.reports.run_folder import RunFolder
from ganinv.reports.terminal import format_report
from ganinv.worlds.assets import Assets, load_own_photos
from ganinv.worlds.photo_check import PhotoCheck, try_photos
from ganinv.worlds.references import Judge, References
from ganinv.worlds.world import World, add_photos, load_world, render_references

HOME = "faces"  # the shipped world in whose frame published judges look, and which measured their thresholds
NOWHERE = World(Path(os.devnull))  # no world: a folder in which no file can lie


@dataclass(frozen=True)
class Report:
    """What the judges say of a result. content: as report.json holds it. Printed, it is the verdict, then ten numbers."""

    content: dict
    result: AttackResult
    judgement: Judgement

    @property
    def verdict(self) -> list[str]:
        """Returns the verdict in sentences: does it leak, does the search add to selection, and what neither says."""
        return self.content["verdict"]

    @property
    def summary(self) -> dict[str, dict]:
        """Returns metric -> {"mean", "ci95", "n"} over the users."""
        return self.content["summary"]

    def save(self, path: str | Path) -> Path:
        """Writes a run folder: pictures, latents, report.json and report.html. Returns its path.

        Raises: ValueError when it already holds a run; FaultError when the disk is full.
        """
        folder = RunFolder(path)
        try:
            folder.write_result(self.result)
            if self.result.config is not None:
                folder.write_config(self.result.config)
            keys = ("method", "world", "seed", "identities", "goal", "queries")
            folder.write_report(
                **{key: self.content[key] for key in keys}, judgement=self.judgement, cost=self.result.cost,
                beside={key: self.content[key] for key in BESIDE if key in self.content},
            )  # fmt: skip
        finally:
            folder.close()
        return folder.path

    def __str__(self) -> str:
        return format_report(self.content)


def judge(
    result: AttackResult,
    target: Recognizer,
    *,
    judges: Sequence[Judge | str] | None = None,
    references: References | str | Path | None = None,
    world: World | None = None,
    prior: Generator | None = None,
    seed: int = 0,
    force: bool = False,
    photo_check: PhotoCheck | None = None,
    workers: Workers | None = None,
) -> Report:
    """Returns the report on an attack's result. No judge has seen the attack, nor the attack a judge.

    judges: recognizers that are not the target: Judge objects, or what load_recognizer reads, such as "sface", which are
    taken never to have met the users. references: photos of the users on which neither target nor judge was trained: a
    folder with one sub-folder for each of the target's users, in order; without them only what needs none can be said.
    world: a world whose own target this is: its judges, references and prior are taken where none are given.
    prior: for the controls, random samples of it. seed: of intervals and controls. force: go on where the photos of a folder
    say that the target is fed wrongly, or that its users have other numbers. photo_check: what check_photos has already said
    of these, which is then not asked again. workers: an open ganinv.RayWorkers, who look at the pictures; None: this process.

    >>> import ganinv
    >>> world = ganinv.load_world("synthetic")
    >>> result = ganinv.LatentAttack(steps=1, candidates=8, restarts=1)(world.prior, world.target, identities=[0, 1])
    >>> report = ganinv.judge(result, world.target, world=world)
    >>> print(report.verdict[0])
    Does it leak? ...

    Raises: ValueError for a judge that shares weights with the target, for photos of another number of users, or a target
    that does not name them; for a world that has other users than the target.
    """
    if isinstance(judges, str):
        raise ValueError(f"expected a list of judges, got the text {judges!r}; pass [{judges!r}]")
    device = find_device(target)
    resolution = result.images.shape[-1]
    given = judges if judges is not None else world.judges if world else []
    home = world or load_world(HOME, device)
    named = [home.find_judge(judge) if isinstance(judge, str) else judge for judge in given]
    check_independent(target, named)
    if world is not None:
        check_users(world, target, result.identities)
    if references is None and world is not None:
        references = show_references(world, result.identities, named)
    check, names = photo_check, getattr(target, "names", ())
    if isinstance(references, str | Path):
        photos = load_own_photos(references, resolution, target.num_identities, names, result.identities)
        names = photos.names
        if target.num_identities:
            check = check or try_photos(target, photos, names)
            check = check if force else check.require()
        references = References.from_photos(photos, named, device)
    prior = prior if prior is not None else world.prior if world else None
    files = {role: world.file(role) for role in (*world.roles, *(judge.name for judge in named))} if world else {}
    truth = world.truth if world else None
    assets = Assets(world or NOWHERE, prior, target, named, references, files, truth)
    judging = JudgingAssets(assets, prior, device)
    controls = draw_controls(judging, result.images, result.identities, psi=result.config.psi, seed=seed)
    pixels = result.config.space == "pixels"
    first = "start picture" if pixels or not result.config.candidates else "best candidate"
    judgement = judge_pictures(
        judging, result.images, result.identities, {first: result.first[:, None]} | controls, seed=seed,
        choice_scores=result.scores, means=draw_means(prior, result.latents, len(result.identities)), workers=workers,
    )  # fmt: skip
    content = build_report(
        method="pixel" if pixels else "latent", world=world.name if world else "none", seed=result.seed,
        identities=result.identities, judgement=judgement, cost=result.cost, files={}, goal=result.config.goal,
        queries=result.queries, beside=describe_search(result) | describe_target(names, result.identities, check),
    )  # fmt: skip
    return Report(content, result, judgement)


def check_users(world: World, target: Recognizer, identities: Sequence[int]) -> None:
    """Raises: ValueError where a target has another number of users than a world, or users of other names."""
    theirs, count, names = len(world.identities), target.num_identities, getattr(target, "names", ())
    if not theirs or (world.knows("", identities, names) if names else count in (None, theirs)):
        return
    raise ValueError(
        f"expected a target of the {theirs} users of the world {world.name}, got one of {count} others, whom its references "
        "do not show; leave world out, and pass prior=world.prior, judges=world.judges and references=FOLDER"
    )


def show_references(world: World, identities: Sequence[int], judges: Sequence[Judge]) -> References | None:
    """Returns a world's references, with rendered photos of these users where nobody in it is real."""
    references = world.references
    if references is None or not world.photos_per_user:
        return references
    known = sorted({*identities} & {*references.person.tolist()})
    return add_photos(references, render_references(world, known), judges[0], of_all=False) if known else references
