"""The judges' verdict on reconstructions. The attack never grades itself: it sees no judge and no reference."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from ganinv import images as image_convention
from ganinv import metrics, perceptual
from ganinv.data import Photos
from ganinv.interfaces import Recognition, Recognizer
from ganinv.loading import read_tensors
from ganinv.perceptual import AbsentError, PerceptualDistance

NEEDS_PHOTOS = "needs reference photos: pass --photos DIR"
BATCH = 64  # images recognised at once; changes speed alone
FACE_SIDE = 160  # px to which a reconstruction is enlarged for the face detector
FACE_MARGIN = 40  # px of mid-grey around it: crops are tighter than what the detector was trained on
FACE_SMALLEST = 40  # px; a reconstruction is one face, so a small find inside it is not that face


@dataclass(frozen=True)
class Judge:
    """An independent recognizer. sees_users: it was trained on the target's users (other photos) and has their classes.

    A judge that sees users gives judge_score, judge_rank and accuracy; one that does not ("verifier") gives
    identity_similarity, so that no number of it can come from having learnt the users.
    """

    name: str
    recognizer: Recognizer
    sees_users: bool


@dataclass(frozen=True)
class References:
    """Photos of the target's users that neither the target nor any judge was trained on (the caller's word).

    embeddings: judge name -> [M,D]; person: identity [M] of each row; photos: the pictures themselves, for LPIPS only,
    numbered by the same identities, in any number and order; None where pictures may not be passed on.
    """

    embeddings: dict[str, torch.Tensor]
    person: torch.Tensor
    photos: Photos | None = None

    def __post_init__(self):
        for name, rows in self.embeddings.items():
            if rows.ndim != 2 or self.person.shape != rows.shape[:1]:
                got = f"{[*rows.shape]} for {[*self.person.shape]} references"
                raise ValueError(f"expected embeddings [M,D] of the judge {name} for person [M], got {got}")

    @classmethod
    @torch.no_grad()
    def from_photos(cls, photos: Photos, judges: Sequence[Judge], device: str | torch.device = "cpu") -> References:
        """Returns references embedded by each judge; photos.person are the target's identities."""
        embeddings = {}
        for judge in judges:
            parts = torch.arange(len(photos)).split(BATCH)
            rows = [judge.recognizer(photos.images(part).to(device)).embeddings.cpu() for part in parts]
            embeddings[judge.name] = torch.cat(rows)
        return cls(embeddings, photos.person, photos)

    def save(self, path: str | Path) -> None:
        """Writes "<judge>.embeddings" and "person", and no picture, as safetensors; atomic."""
        from safetensors.torch import save_file

        tensors = {f"{name}.embeddings": rows.cpu().contiguous() for name, rows in self.embeddings.items()}
        path = Path(path)
        temporary = path.with_name(f"{path.name}.tmp")
        save_file({**tensors, "person": self.person.cpu().contiguous()}, temporary)
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | Path, photos: Photos | None = None) -> References:
        """Returns what save wrote, with the photos if the caller has them.

        Raises: ValueError when the file is missing, truncated or holds something else.
        """
        tensors, _ = read_tensors(path)
        person = tensors.pop("person", None)
        suffix = ".embeddings"
        if person is None or not all(name.endswith(suffix) for name in tensors):
            raise ValueError(f"expected person and <judge>{suffix} in {path}, got {sorted(tensors) or 'no embeddings'}")
        return cls({name.removesuffix(suffix): rows for name, rows in tensors.items()}, person, photos)


@dataclass(frozen=True)
class Verdict:
    """summary: metric -> {"mean", "ci95", "n"} over identities; per_identity: one dict each; absent: metric -> reason.

    A metric is in summary and in every per_identity entry, or in absent, never in both. ci95 is [low, high], and
    [None, None] for a single identity, from which no interval can be had.
    """

    summary: dict[str, dict]
    per_identity: list[dict]
    absent: dict[str, str]


def evaluate(
    images: torch.Tensor,
    identities: Sequence[int],
    target: Recognizer,
    judges: Sequence[Judge],
    references: References | None,
    *,
    seed: int,
    face_trunk: str | Path | None = None,
) -> Verdict:
    """Returns the verdict on reconstructions; deterministic.

    images: [T,K,3,R,R] in [-1,1], on the recognizers' device; identities: T of them, in the same order; target: gives
    target_score on the plain picture, no transforms; judges: at most one that sees users and one that does not;
    seed: of the bootstrap; face_trunk: safetensors file of lpips_face.
    Per-identity values are means over the K kept; summary means are means over identities, each counting once.
    Raises: ValueError when shapes, range, identities or judges are not as above.
    """
    if images.ndim != 5 or len(images) != len(identities) or images.numel() == 0:
        raise ValueError(f"expected images [T,K,3,R,R] of {len(identities)} identities, got {[*images.shape]}")
    flat = image_convention.check(images.flatten(0, 1))
    owners = torch.tensor(list(identities)).repeat_interleave(images.shape[1])
    judge, verifier = find_judge(judges, sees_users=True), find_judge(judges, sees_users=False)
    seen_by_judge, seen_by_verifier = (one and recognize(one.recognizer, flat) for one in (judge, verifier))

    compare = partial(compare_with_photos, flat, owners, references)
    measures: dict[str, Callable[[], torch.Tensor]] = {
        "target_score": lambda: metrics.identity_score(closed_set(recognize(target, flat), "target"), owners),
        "judge_score": lambda: metrics.identity_score(closed_set(seen_by_judge, "judge"), owners),
        "judge_rank": lambda: metrics.identity_rank(closed_set(seen_by_judge, "judge"), owners).float(),
        "acc_at_1": lambda: hits_within(seen_by_judge, owners, 1),
        "acc_at_5": lambda: hits_within(seen_by_judge, owners, 5),
        "identity_similarity": lambda: compare_embeddings(seen_by_verifier, owners, verifier, references),
        "identity_similarity_judge": lambda: compare_embeddings(seen_by_judge, owners, judge, references),
        "lpips": lambda: compare(perceptual.lpips_imagenet),
        "lpips_face": lambda: compare(lambda: load_face_distance(face_trunk)),
        "face_detected": lambda: detect_faces(flat),
    }
    values: dict[str, torch.Tensor] = {}  # metric -> [T], float64
    absent = {"fid": f"needs thousands of pictures, this run has {len(flat)}; see metrics.frechet_distance"}
    for name, measure in measures.items():
        try:
            values[name] = measure().double().view(images.shape[:2]).mean(1)
        except AbsentError as error:
            absent[name] = str(error)
    return Verdict(
        {name: summarize(of_identities, seed) for name, of_identities in values.items()},
        [
            {"identity": int(identity)} | {name: of_identities[row].item() for name, of_identities in values.items()}
            for row, identity in enumerate(identities)
        ],
        absent,
    )


def summarize(values: torch.Tensor, seed: int) -> dict:
    """Returns {"mean", "ci95", "n"} of values [T]; ci95 is [None, None] when T is 1."""
    interval = list(metrics.bootstrap_interval(values, seed)) if len(values) > 1 else [None, None]
    return {"mean": values.mean().item(), "ci95": interval, "n": len(values)}


def find_judge(judges: Sequence[Judge], *, sees_users: bool) -> Judge | None:
    """Returns the judge that does, or does not, see users; None without one. Raises: ValueError when there are two."""
    found = [judge for judge in judges if judge.sees_users == sees_users]
    if len(found) > 1:
        names = ", ".join(judge.name for judge in found)
        raise ValueError(f"expected at most one judge with sees_users={sees_users}, got {names}; pass one of them")
    return found[0] if found else None


@torch.no_grad()
def recognize(recognizer: Recognizer, images: torch.Tensor) -> Recognition:
    """Returns the recognition of images [N,3,H,W], on the CPU, computed in batches."""
    parts = [recognizer(part) for part in images.split(BATCH)]
    embeddings = torch.cat([part.embeddings.float().cpu() for part in parts])
    logits = None if parts[0].logits is None else torch.cat([part.logits.float().cpu() for part in parts])
    return Recognition(embeddings, logits)


def closed_set(seen: Recognition | None, role: str) -> torch.Tensor:
    """Returns the logits [N,C]. Raises: AbsentError without a recognition; ValueError when it has no logits."""
    if seen is None:
        raise AbsentError("needs a judge that was trained on the target's users; this world has none")
    if seen.logits is None:
        raise ValueError(f"expected a {role} with logits over the users, got an open-set recognizer")
    return seen.logits


def hits_within(seen: Recognition | None, owners: torch.Tensor, k: int) -> torch.Tensor:
    """Returns [N], 1 where the owner ranks k or better, else 0. Raises: AbsentError when there are only k classes."""
    logits = closed_set(seen, "judge")
    if logits.shape[1] <= k:
        raise AbsentError(f"needs a judge of more than {k} identities, got {logits.shape[1]}: every rank would count")
    return (metrics.identity_rank(logits, owners) <= k).float()


def compare_embeddings(
    seen: Recognition | None, owners: torch.Tensor, judge: Judge | None, references: References | None
) -> torch.Tensor:
    """Returns the mean cosine [N] of each embedding to its owner's references. Raises: AbsentError."""
    if seen is None or judge is None:
        raise AbsentError("needs another judge (one that saw the users, or one that did not); this world has none")
    if references is None or judge.name not in references.embeddings:
        raise AbsentError(f"needs references embedded by the judge {judge.name}; this world has none")
    chosen = {owner: references.person.cpu() == owner for owner in owners.unique().tolist()}
    if missing := [owner for owner, rows in chosen.items() if not rows.any()]:
        raise AbsentError(f"needs references of every identity, got none of {missing}")
    rows = references.embeddings[judge.name].cpu()
    similarity = torch.empty(len(owners))
    for owner, of_owner in chosen.items():
        similarity[owners == owner] = metrics.mean_cosine(seen.embeddings[owners == owner], rows[of_owner])
    return similarity


def load_face_distance(face_trunk: str | Path | None) -> PerceptualDistance:
    """Returns the distance over a face trunk. Raises: AbsentError when the world has no such file."""
    if face_trunk is None:
        raise AbsentError("needs a perceptual trunk trained on faces; this world has none")
    return perceptual.lpips_face(face_trunk)


def compare_with_photos(
    images: torch.Tensor,
    owners: torch.Tensor,
    references: References | None,
    load: Callable[[], PerceptualDistance],
) -> torch.Tensor:
    """Returns the distance [N] of each image [N,3,R,R] to the nearest reference photo of its owner.

    Photos are brought to the images' size. Raises: AbsentError when a photo, or what load needs, is missing.
    """
    if references is None or references.photos is None:
        raise AbsentError(NEEDS_PHOTOS)
    photos = references.photos
    if missing := sorted(set(owners.tolist()) - set(photos.person.tolist())):
        raise AbsentError(f"needs reference photos of every identity, got none of {missing}")
    distance = load()
    distance.model.to(images.device)
    nearest = torch.empty(len(images))
    for owner in owners.unique().tolist():
        theirs = image_convention.resize(photos.images(photos.person == owner).to(images), tuple(images.shape[-2:]))
        nearest[owners == owner] = distance.nearest(images[owners == owner], theirs).cpu()
    return nearest


def detect_faces(images: torch.Tensor) -> torch.Tensor:
    """Returns the probability [N] in [0,1] of the best face that MTCNN finds; 0 where it finds none.

    Each image is enlarged to 160 px and framed by 40 px of mid-grey, and faces below 40 px are not looked for. Measured
    on 200 tight greyscale photos at 64 px: all found, mean 0.998; upside down 0.10 (0.12 without the frame; with
    repeated or reflected edges a face in 40 was missed in a first sample); 0 on noise. It tells a face from none, and
    says little of how good the face is.
    Raises: AbsentError when facenet-pytorch is not installed.
    Source: Zhang et al. 2016, Joint Face Detection and Alignment using Multitask Cascaded Convolutional Networks.
    """
    try:
        from facenet_pytorch import MTCNN
    except ImportError as error:
        raise AbsentError(f"needs the package facenet-pytorch ({error}): pip install 'facenet-pytorch<2.6'") from error
    with torch.random.fork_rng(devices=[]):  # its networks draw random weights before the real ones are read
        detector = MTCNN(select_largest=False, min_face_size=FACE_SMALLEST).eval()
    best = torch.zeros(len(images))
    for row, image in enumerate(images):  # one at a time: a batch with one faceless image raises
        picture = image_convention.to_pil(image).resize((FACE_SIDE, FACE_SIDE), Image.Resampling.BICUBIC)
        framed = Image.new("RGB", (FACE_SIDE + 2 * FACE_MARGIN,) * 2, (127, 127, 127))
        framed.paste(picture, (FACE_MARGIN, FACE_MARGIN))
        boxes, probabilities = detector.detect(framed)
        if boxes is not None:
            best[row] = float(max(probabilities))
    return best
