"""What a verdict will ask networks about pictures, told beforehand, so that many workers can answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain

import torch

from ganinv.errors import Absent
from ganinv.judging.readers import Reader
from ganinv.judging.recognitions import RecognitionCache
from ganinv.judging.robustness import MILD, PROJECTION, Projection, count_together
from ganinv.judging.verdict import find_judge
from ganinv.judging.work import ESTIMATE, FACE, LOOKED, PROJECT, Work, Workers
from ganinv.metrics.faces import detect_faces
from ganinv.recognizers.recognize import BATCH
from ganinv.worlds.assets import Assets
from ganinv.worlds.truth import estimate

Asked = Iterator[tuple[str, torch.Tensor, int]]  # a function's name, pictures, and the size of a batch


def open_work(assets: Assets, projection: Projection | None, workers: Workers | None, device: torch.device) -> Work:
    """Returns the functions that a verdict asks; with workers these are sent to them."""
    functions = {FACE: detect_faces}
    if projection is not None:
        functions[PROJECT] = projection
    if assets.truth is not None:
        functions[ESTIMATE] = partial(estimate, assets.truth.regressor)
    return Work([assets.target, *(judge.recognizer for judge in assets.judges)], functions, workers, device)


def look_ahead(
    assets: Assets,
    recognitions: RecognitionCache,
    reader: Reader | Absent,
    images: torch.Tensor,
    identities: Sequence[int],
    controls: Mapping[str, torch.Tensor],
    means: torch.Tensor | None,
) -> None:
    """Has the workers look at all pictures [T,K,3,R,R], and at the users' own where somebody does.

    What is not told here is found later, in this process; what is told and never asked is lost time, and nothing else.
    """
    work, plain, shown = recognitions.work, recognitions.images[""], [images, *controls.values()]
    changes = ["", *MILD]
    work.prepare(
        chain(
            [(PROJECT, plain, count_together(plain)), (FACE, plain, LOOKED)],
            ask_recognizers(assets, recognitions, changes),
            ask_about_users(assets, reader, shown, identities, means),
            ask_about_photos(assets, work),
        )
    )
    if assets.truth is not None:
        assets.truth.found.update({key: value for (name, key), value in work.ahead.items() if name == ESTIMATE})
    if PROJECTION in recognitions.changes:
        work.prepare(ask_recognizers(assets, recognitions, [PROJECTION]))


def ask_recognizers(assets: Assets, recognitions: RecognitionCache, changes: Sequence[str]) -> Asked:
    """Yields what the judges of the verdict are shown after changes, and all recognizers as it is."""
    names, first = recognitions.work.names, [find_judge(assets.judges, sees_users=sees) for sees in (False, True)]
    for judge in filter(None, first):
        for change in changes:
            yield names[id(judge.recognizer)], recognitions.changed(change), BATCH
    if "" in changes:
        for recognizer in (assets.target, *(judge.recognizer for judge in assets.judges)):
            yield names[id(recognizer)], recognitions.images[""], BATCH


def ask_about_users(
    assets: Assets,
    reader: Reader | Absent,
    shown: Sequence[torch.Tensor],
    identities: Sequence[int],
    means: torch.Tensor | None,
) -> Asked:
    """Yields what the reader is shown of each user, and the truth of all."""
    photos = assets.references.photos if assets.references is not None else None
    if not isinstance(reader, Absent):
        users = [pictures for one in shown for pictures in one] + ([] if means is None else [means])
        for name, pictures in map(reader.ask, users):
            yield name, pictures, BATCH
    if assets.truth is None:
        return
    for pictures in shown:
        yield ESTIMATE, pictures.flatten(0, 1), BATCH
    if photos is not None:
        for identity in identities:
            yield ESTIMATE, photos.images(photos.person == identity), BATCH
        yield ESTIMATE, photos.images(torch.isin(photos.person, torch.tensor(list(identities)))), BATCH


def ask_about_photos(assets: Assets, work: Work) -> Asked:
    """Yields the users' photos before a target that is a gallery, whose success is counted on them."""
    photos = assets.references.photos if assets.references is not None else None
    if photos is not None and getattr(assets.target, "templates", None) is not None:
        yield work.names[id(assets.target)], photos.images(), BATCH
