"""What attacks and re-judging share: one protocol from pictures to everything that the judges say of them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from ganinv.engine.randomness import seeded
from ganinv.errors import Absent, AbsentError
from ganinv.judging.ahead import look_ahead, open_work
from ganinv.judging.attributes import measure_attributes
from ganinv.judging.comparisons import similarity_to_nearest
from ganinv.judging.controls import measure_photos
from ganinv.judging.independence import declare_judges
from ganinv.judging.judgement import Judgement
from ganinv.judging.leak import compare_selection, measure_leak
from ganinv.judging.memorisation import TrainingPhotos, find_training_photos
from ganinv.judging.readers import find_reader
from ganinv.judging.recognitions import RecognitionCache
from ganinv.judging.robustness import MILD, Projection, with_projection
from ganinv.judging.success import list_systems, measure_success
from ganinv.judging.verdict import Verdict, evaluate, find_judge, list_places
from ganinv.judging.work import Workers
from ganinv.metrics.faces import detect_faces
from ganinv.recognizers.gallery import FACE_FOUND
from ganinv.weights.files import sha256_file
from ganinv.worlds.assets import Assets

T = TypeVar("T")


@dataclass(frozen=True)
class JudgingAssets:
    """What judges need: a run's assets, and the world's own prior, through which pictures are projected whoever made them."""

    assets: Assets
    prior: torch.nn.Module | None
    device: torch.device

    @classmethod
    def of_run(cls, assets: Assets, device: torch.device) -> JudgingAssets:
        """Returns what the judges of a run need; without a prior where the world has no such file."""
        file = assets.world.file("prior")
        if assets.generator is not None and assets.files.get("prior") == file:
            return cls(assets, assets.generator, device)
        return cls(assets, assets.world.prior if file.is_file() else None, device)


def judge_pictures(
    judging: JudgingAssets,
    images: torch.Tensor,
    identities: Sequence[int],
    controls: Mapping[str, torch.Tensor],
    *,
    seed: int,
    choice_scores: torch.Tensor | None = None,
    photos: str = "",
    means: torch.Tensor | None = None,
    workers: Workers | None = None,
) -> Judgement:
    """Returns all that the judges say of a run's pictures.

    images: [T,K,3,R,R] in [-1,1]; controls: name -> pictures [T,K or 1,3,R,R] that no search made for these identities;
    choice_scores: see verdict.evaluate; photos: the folder of --photos, "" for none; means: see draw_means. workers: who
    look at the pictures; None: this process.
    """
    began = time.perf_counter()
    assets, device = judging.assets, judging.device
    projection = Projection(judging.prior, device) if judging.prior is not None else None
    shown = [pictures.flatten(0, 1) for pictures in (images, *controls.values())]
    work = open_work(assets, projection, workers, device)
    recognitions = RecognitionCache(torch.cat(shown).to(device), with_projection(projection), work)
    training: TrainingPhotos | Absent
    try:
        training = find_training_photos(assets, photos, find_judge(assets.judges, sees_users=False), device)
    except AbsentError as error:
        training = Absent(str(error))

    def evaluate_one(pictures: torch.Tensor, scores: torch.Tensor | None = None) -> Verdict:
        return evaluate(
            pictures.to(device), identities, assets.target, assets.judges, assets.references, seed=seed,
            face_trunk=assets.world.file("lpips_face"), choice_scores=scores, truth=assets.truth,
            recognitions=recognitions, training=training,
        )  # fmt: skip

    shown_controls = {name: pictures.to(device) for name, pictures in controls.items()}
    every = (images.to(device), identities, shown_controls)
    if workers is not None:
        look_ahead(assets, recognitions, attempt(lambda: find_reader(assets, work)), *every, means)
    verdict = evaluate_one(images, choice_scores)
    judged = {name: evaluate_one(pictures) for name, pictures in controls.items()}
    leak = attempt(lambda: measure_leak(*every, assets.judges, assets.references, recognitions))
    judgement = Judgement(
        verdict=verdict,
        leak=leak,
        selection=attempt(lambda: compare_selection(verdict, judged, leak, seed=seed)),
        success=attempt(
            lambda: measure_success(
                list_systems(assets.target, assets.judges, assets.references, recognitions), *every, seed=seed
            )
        ),
        attributes=attempt(lambda: measure_attributes(assets, find_reader(assets, work), *every, means=means, seed=seed)),
        means=choose_faces(means, identities),
        memorisation=describe_memorisation(training, assets, recognitions, images.to(device), identities),
        controls=judged,
        ceiling=measure_photos(assets.judges, assets.references, identities, seed, assets.truth),
        factors=describe_factors(assets, images, identities),
        judges=declare_judges(assets.judges, assets.files),
        type_i=describe_test(judging, projection),
        photos=choose_photos(assets, identities),
    )
    return dataclasses.replace(judgement, seconds=time.perf_counter() - began)


def attempt(measure: Callable[[], T]) -> T | Absent:
    """Returns what is measured, or why it cannot be."""
    try:
        return measure()
    except AbsentError as error:
        return Absent(str(error))


def describe_memorisation(
    training: TrainingPhotos | Absent,
    assets: Assets,
    recognitions: RecognitionCache,
    images: torch.Tensor,
    identities: Sequence[int],
) -> dict:
    """Returns the nearest training photo of each picture, see TrainingPhotos.describe; {} without training photos."""
    if isinstance(training, Absent):
        return {}
    verifier = find_judge(assets.judges, sees_users=False)
    seen = recognitions(verifier.recognizer, images.flatten(0, 1))
    places = list_places(identities, images.shape[1])
    owners = torch.tensor([place["identity"] for place in places])
    try:
        own = similarity_to_nearest(seen, owners, verifier, assets.references)
    except AbsentError:  # a user without references, as the verdict says
        return {}
    return training.describe(seen.embeddings, own, places)


def choose_photos(assets: Assets, identities: Sequence[int]) -> dict[int, torch.Tensor]:
    """Returns identity -> a reference photo [3,R,R] to show beside its pictures; none in a world of real people."""
    photos = assets.references.photos if assets.references is not None else None
    if photos is None or assets.truth is None or not assets.world.shows_references:
        return {}
    own = {int(identity): photos.images(photos.person == identity) for identity in identities}
    return {identity: rows[0] for identity, rows in own.items() if len(rows)}


def draw_means(prior: torch.nn.Module | None, latents: Mapping[str, torch.Tensor], users: int) -> torch.Tensor | None:
    """Returns the pictures [T,3,R,R] of each user's mean w; None of a single sample, or where no w was searched.

    latents: those of an attack's result, user after user. What the samples agree on stays; where they differ the mean is an
    average face.
    """
    rows = latents.get("w")
    if prior is None or rows is None or len(rows) == users:
        return None
    device = next(prior.parameters()).device
    with torch.no_grad():
        w = rows.view(users, -1, *rows.shape[1:]).mean(1)
        return torch.cat([prior.synthesize(part.to(device)).clamp(-1, 1).cpu() for part in w.split(16)])


def choose_faces(means: torch.Tensor | None, identities: Sequence[int]) -> dict[int, torch.Tensor]:
    """Returns identity -> mean picture [3,R,R], of those in which a face is found: a mean need not be a face."""
    if means is None:
        return {}
    found = detect_faces(means) >= FACE_FOUND
    return {int(one): picture for one, picture, is_face in zip(identities, means, found.tolist(), strict=True) if is_face}


def describe_test(judging: JudgingAssets, projection: Projection | None) -> dict:
    """Returns what the pictures were tested with: the changes, and the projection with the SHA-256 of its prior."""
    test: dict = {"changes": list(MILD), "projection": None}
    if projection is not None:
        file = judging.assets.world.file("prior")
        # a prior that is no world's, given from Python, has no file
        test["projection"] = projection.describe() | ({"prior_sha256": sha256_file(file)} if file.is_file() else {})
    return test


def draw_controls(
    judging: JudgingAssets, images: torch.Tensor, identities: Sequence[int], *, psi: float, seed: int
) -> dict[str, torch.Tensor]:
    """Returns pictures [T,K or 1,3,R,R] that no search made for these identities, by the control's name.

    images: [T,K,3,R,R], each shown for another user; psi: truncation of the random samples of the prior.
    """
    assets, controls = judging.assets, {}
    if len(images) > 1:
        controls["another user's reconstruction"] = images.roll(1, 0)
    generator = assets.generator or judging.prior
    if generator is not None:
        z = torch.randn(len(images), generator.z_dim, generator=seeded(seed, "control"))
        with torch.no_grad():
            w = generator.map(z.to(judging.device), psi)
            controls["random sample of the prior"] = generator.synthesize(w).clamp(-1, 1)[:, None].cpu()
    if assets.truth is not None and len(identities) > 1:  # of rendered people; what the truth says of strangers
        photos = assets.references.photos
        first = torch.stack([photos.images(photos.person == identity)[0] for identity in identities])
        controls["another user's photo"] = first.roll(1, 0)[:, None]
    return controls


def describe_factors(assets: Assets, images: torch.Tensor, identities: Sequence[int]) -> dict[str, dict[str, float]]:
    """Returns, for each factor that can be read off a photo, how much of it the reconstructions recover over all users,
    and the users' own photos ("ceiling"); {} for real people."""
    if assets.truth is None:
        return {}
    device, photos = next(assets.truth.regressor.parameters()).device, assets.references.photos
    owners = torch.tensor(list(identities)).repeat_interleave(images.shape[1])
    found = assets.truth.recover_by_factor(images.flatten(0, 1).to(device), owners)
    theirs = torch.isin(photos.person, owners)
    ceiling = assets.truth.recover_by_factor(photos.images(theirs).to(device), photos.person[theirs])
    return {name: {"recovery": found[name], "ceiling": ceiling[name]} for name in found}
