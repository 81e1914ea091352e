"""Enrolled users: one template a user, and the threshold of whoever runs the recognizer. How deployed recognizers work.

A template is the mean of a user's embeddings. Where embeddings are compared by their cosine they have unit norm, and so
does the mean again, as face verification does it (Deng et al. 2019, ArcFace, on IJB). Where they are compared by their
Euclidean distance, as dlib's are, both stay raw.

The score of a user is a softmax over scale * similarity, the similarity being the cosine, or minus the distance. The scale
changes no order and no decision; it sets how far apart scores are. It is chosen so that the median score of a user's own
photos is TYPICAL_SCORE, each compared with a template made without it: a larger scale gives any face that is a little nearer
to one user than to the others a score of 1.00, and a smaller one gives the users themselves no score to speak of.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ganinv import images
from ganinv.interfaces import Recognition, Recognizer
from ganinv.metrics.scores import METRICS
from ganinv.photos import list_people, order_people, split_photos
from ganinv.recognizers.recognize import find_device
from ganinv.weights.cards import describe_photos, read_card
from ganinv.weights.files import read_tensors, save_weights
from ganinv.weights.quoting import show

log = logging.getLogger(__name__)

TYPICAL_SCORE = 0.9
# where there are templates and no photos to fit it: as fitted for 40 users of the world faces, of SFace and of dlib's network
DEFAULT_SCALES = {"cosine": 8.73, "euclidean": 16.8}
FACE_FOUND = 0.9  # of MTCNN, from which a photo is said to show a face


def compare(embeddings: torch.Tensor, templates: torch.Tensor, metric: str) -> torch.Tensor:
    """Returns the similarities [N,T] of embeddings [N,D] and templates [T,D]: the cosine, or minus the distance."""
    if metric == "cosine":
        return F.normalize(embeddings, dim=1) @ F.normalize(templates, dim=1).T
    squares = (embeddings[:, None] - templates[None]).square().sum(2)
    return -squares.clamp_min(1e-12).sqrt()  # at a distance of 0 the root has no slope


def average(rows: torch.Tensor, metric: str) -> torch.Tensor:
    """Returns the template [D] of one user's embeddings [n,D]; see the head of this file."""
    if metric == "cosine":
        return F.normalize(F.normalize(rows.float(), dim=1).mean(0), dim=0)
    return rows.float().mean(0)


def fit_scale(rows: Sequence[torch.Tensor], metric: str) -> float:
    """Returns the scale at which the median score of users' own photos is TYPICAL_SCORE, of their embeddings [n,D] each.

    Each photo is compared with a template made without it. The metric's default where that cannot be: less than two users
    with two photos, or most photos being nearer to another user.
    """
    templates = torch.stack([average(own, metric) for own in rows])
    gaps = []
    for user, own in enumerate(rows):
        for number in range(len(own) if len(own) > 1 else 0):
            alone = templates.clone()
            alone[user] = average(torch.cat([own[:number], own[number + 1 :]]), metric)
            similarity = compare(own[number : number + 1].float(), alone, metric)[0]
            gaps.append(similarity - similarity[user])
    if not gaps or len(rows) < 2:
        return DEFAULT_SCALES[metric]
    gaps = torch.stack(gaps).double()

    def median_score(scale: float) -> float:
        return (1 / (scale * gaps).exp().sum(1)).median().item()

    low, high = 0.0, 1000.0
    if median_score(high) < TYPICAL_SCORE:
        return DEFAULT_SCALES[metric]
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if median_score(middle) < TYPICAL_SCORE else (low, middle)
    return float(f"{high:.3g}")


@dataclass(frozen=True)
class Gallery:
    """Enrolled users: names, in the order of their numbers, and templates [T,D].

    metric: cosine | euclidean; threshold: in the metric's own units, the least cosine or the largest distance at which a
    face is accepted as a user; None: nobody set one, and the nearest user is named whoever it is. scale: see the head of
    this file. photos: how many were averaged into all templates, 0 where unknown.
    """

    names: tuple[str, ...]
    templates: torch.Tensor
    metric: str = "cosine"
    threshold: float | None = None
    scale: float = DEFAULT_SCALES["cosine"]
    photos: int = 0

    def __post_init__(self):
        if self.metric not in METRICS:
            raise ValueError(f"expected a metric among {', '.join(METRICS)}, got {show(str(self.metric))}")
        if self.templates.ndim != 2 or len(self.templates) != len(self.names) or not self.names:
            raise ValueError(f"expected templates [T,D] of {len(self.names)} users, got {list(self.templates.shape)}")
        if len(set(self.names)) < len(self.names):
            raise ValueError("expected every user once in a gallery, got a name twice; give each user one name")
        finite = torch.isfinite(self.templates).all(1)
        if not finite.all():
            raise ValueError(
                f"expected finite templates, got NaN or infinity for {show(self.names[int(finite.int().argmin())])}"
                "; check the file that they come from"
            )
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"expected a scale above 0, got {self.scale}")
        check_number("threshold", self.threshold)
        largest = 2 * self.templates.norm(dim=1).max().item()  # beyond it everybody is accepted
        low, high = (-1.0, 1.0) if self.metric == "cosine" else (0.0, largest)
        if self.threshold is not None and not low < self.threshold < high:
            what = "cosine" if self.metric == "cosine" else "distance"
            raise ValueError(f"expected a threshold between {low:g} and {high:.3g}, a {what}, got {self.threshold}")

    def select(self, names: Sequence[str]) -> Gallery:
        """Returns the gallery in another order. Raises: ValueError unless it holds exactly these users."""
        rows = order_people(dict(zip(self.names, range(len(self.names)), strict=True)), names)
        return replace(self, names=tuple(rows), templates=self.templates[list(rows.values())])

    def save(self, path: str | Path, card: Mapping = {}) -> dict:  # noqa: B006
        """Writes NAME.safetensors and its card, which names the users; returns the card."""
        said = {"kind": "gallery", "identities": list(self.names), "metric": self.metric, "threshold": self.threshold}
        data = {"data": {"users": describe_photos(self.photos, len(self.names))}} if self.photos else {}
        return save_weights(path, {"templates": self.templates.cpu().float()}, {**said, "scale": self.scale, **data, **card})

    @classmethod
    def load(cls, path: str | Path) -> Gallery:
        """Returns what save wrote. Raises: ValueError when file or card is missing, broken or something else."""
        card, (tensors, _) = read_card(path), read_tensors(path)
        names, templates = card.get("identities"), tensors.get("templates")
        if card.get("kind") != "gallery" or templates is None or not isinstance(names, list):
            raise ValueError(
                f"expected a gallery with templates and identities in {path}, got something else"
                "; pass one that Gallery.save wrote"
            )
        try:
            photos = card.get("data", {}).get("users", {}).get("photos", 0)
            threshold = None if card.get("threshold") is None else float(card["threshold"])
            return cls(
                tuple(map(str, names)), templates.float(), str(card["metric"]), threshold, float(card["scale"]), photos
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"expected metric, threshold and scale on the card of {path}, got none of {error}") from error


class EnrolledRecognizer(nn.Module):
    """An embedding network and a gallery: a recognizer whose classes are the enrolled users. A head of its own is unused.

    enrolled: name -> the photos' files, in the order of the users, where it was enrolled with photos here; else None.
    """

    def __init__(self, network: Recognizer, gallery: Gallery):
        super().__init__()
        if gallery.templates.shape[1] != network.embedding_dim:
            got = gallery.templates.shape[1]
            raise ValueError(
                f"expected templates of {network.embedding_dim} numbers, as the network gives, got {got}"
                "; pass those of this network"
            )
        self.network, self.metric, self.threshold, self.scale = network, gallery.metric, gallery.threshold, gallery.scale
        self.names, self.num_identities, self.embedding_dim = gallery.names, len(gallery.names), network.embedding_dim
        self.num_photos, self.enrolled = gallery.photos, None
        self.register_buffer("templates", gallery.templates.float())

    def forward(self, images: torch.Tensor) -> Recognition:
        """Returns the network's embeddings [N,D], and logits [N,T]: scale times the similarity to each template."""
        embeddings = self.network(images).embeddings
        with torch.autocast(embeddings.device.type, enabled=False):  # 16 bits round a logit of 16 by a tenth
            embeddings = embeddings.float()
            return Recognition(embeddings, self.scale * compare(embeddings, self.templates.float(), self.metric))

    def accept(self, found: Recognition, identities: torch.Tensor) -> torch.Tensor:
        """Returns [N], bool: whether a face passes for the user identities [N], by the threshold.

        Raises: ValueError where nobody set a threshold.
        """
        if self.threshold is None:
            raise ValueError("expected a threshold to accept or reject by, got none; pass --threshold")
        similarity = compare(found.embeddings.float(), self.templates, self.metric)
        own = similarity.gather(1, identities[:, None]).squeeze(1)
        return own >= (self.threshold if self.metric == "cosine" else -self.threshold)

    def decide(self, found: Recognition) -> torch.Tensor:
        """Returns [N]: the user whom each face is taken for, -1 for nobody."""
        nearest = compare(found.embeddings.float(), self.templates, self.metric).argmax(1)
        if self.threshold is None:
            return nearest
        return torch.where(self.accept(found, nearest), nearest, torch.full_like(nearest, -1))


class Enrollable:
    """Gives an embedding network the method enroll."""

    def enroll(
        self,
        people: str | Path | Mapping[str, Sequence[Path]],
        *,
        threshold: float | None = None,
        classes: Sequence[str] = (),
        split: str = "all",
    ) -> EnrolledRecognizer:
        """Returns the network with users enrolled, of a folder with a sub-folder of photos for each; see enroll."""
        return enroll(self, people, threshold=threshold, classes=classes, split=split)


def enroll(
    network: Recognizer,
    people: str | Path | Mapping[str, Sequence[Path]],
    *,
    threshold: float | None = None,
    classes: Sequence[str] = (),
    split: str = "all",
) -> EnrolledRecognizer:
    """Returns an embedding network with users enrolled.

    people: a folder with one sub-folder of photos per user, in the frame that the network expects; or name -> files.
    threshold: None: the network's own, where it has one. classes: all names in the order that numbers them, () for the
    order of the folders' names. split: of each user's photos, see photos.split_photos.
    Raises: ValueError when a user has no photo, or no photo with a face, a name is missing, or the threshold is none; for a
    classifier that gives nothing but logits.
    """
    check_number("threshold", threshold)
    check_embeds(network)
    people = dict(people) if isinstance(people, Mapping) else list_people(people)
    people = {name: split_photos(list(files), split) for name, files in order_people(people, classes).items()}
    rows = []
    for name, files in people.items():
        if not files:
            raise ValueError(f"expected a photo of {show(name)} to enrol in the split {split}, got none; add photos")
        check_face(name, files)
        rows.append(embed_files(network, files))
    metric = getattr(network, "metric", "cosine")
    templates = torch.stack([average(own, metric) for own in rows])
    gallery = Gallery(
        tuple(people),
        templates,
        metric,
        getattr(network, "threshold", None) if threshold is None else threshold,
        fit_scale(rows, metric),
        sum(map(len, rows)),
    )
    target = attach(network, gallery)
    target.enrolled = {name: tuple(files) for name, files in people.items()}
    return target


def check_number(name: str, value: object) -> None:
    """Raises: ValueError unless a value is a finite number or None."""
    if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
        raise ValueError(f"expected {name} to be a finite number or None, got {value!r}; pass a cosine or a distance")


def check_embeds(network: Recognizer) -> None:
    """Raises: ValueError for a classifier that gives nothing but logits; says where a head is left unused."""
    users = network.num_identities
    if users is not None and getattr(network, "only_classifies", False):
        raise ValueError(
            f"expected a network that embeds, to enrol users in, got a classifier of {users} users; attack it as it is, or, "
            "where its numbers are an embedding, say output=embeddings on its card, or return (embeddings, None) from code"
        )
    if users is not None:
        log.warning("users are enrolled by the embeddings of the network; its own head of %d classes is unused", users)


def attach(network: Recognizer, gallery: Gallery) -> EnrolledRecognizer:
    """Returns the network with a gallery, frozen, where the network is."""
    return EnrolledRecognizer(network, gallery).to(find_device(network)).eval().requires_grad_(False)


def check_face(name: str, files: Sequence[Path]) -> None:
    """Raises: ValueError when no photo of a user shows a face."""
    from ganinv.metrics.faces import detect_faces

    if not any((detect_faces(images.load(file, None)) >= FACE_FOUND).any() for file in files):
        raise ValueError(f"expected a face in the photos of {show(name)}, got none in {files[0].parent}; replace them")


@torch.no_grad()
def embed_files(network: Recognizer, files: Sequence[Path]) -> torch.Tensor:
    """Returns the embeddings [n,D] of photos, on the CPU, one by one: they may differ in size."""
    device = find_device(network)
    return torch.cat([network(images.load(file, None).to(device)).embeddings.float().cpu() for file in files])
