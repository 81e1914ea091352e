"""Probes: what a recognizer's embedding says of a person's attributes. The ceiling of any attack that goes through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F

from ganinv.attributes.fitting import Affine, cross, fit_choice, fit_quantities
from ganinv.attributes.labels import Attribute, Column, measure_attribute
from ganinv.errors import AbsentError
from ganinv.metrics.statistics import bootstrap_interval, summarize_explained
from ganinv.weights.cards import read_card
from ganinv.weights.files import check_tensors, read_tensors, save_weights
from ganinv.weights.quoting import show

LEAST_PEOPLE = 100  # labelled, below which no probe is fitted
LEAST_OF_VALUE = 10  # people of each value of a choice
LEAST_LABELLED = 0.5  # share of the people with a label: those who have one may be special


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Linear readings of a network's embeddings, fitted on public people.

    network, sha256: its name and that of its weights, "" where unknown; metric: cosine, for which embeddings are brought to
    unit norm, or euclidean; grey: the photos were grey, and pictures are to be made grey before they are read. weights
    [D,B], offset [B]: a column for every quantity and every value of a choice, in the order of attributes. ceilings: see
    measure_ceiling; absent: attribute -> why there is no probe of it; people, photos: that it was fitted on.
    """

    network: str
    metric: str
    attributes: tuple[Attribute, ...]
    weights: torch.Tensor
    offset: torch.Tensor
    ceilings: Mapping[str, dict]
    sha256: str = ""
    grey: bool = False
    absent: Mapping[str, str] = field(default_factory=dict)
    people: int = 0
    photos: int = 0

    @property
    def explained(self) -> float:
        """Returns the share of how people differ that it explains, the mean over its attributes."""
        return sum(one["explained"]["mean"] for one in self.ceilings.values()) / len(self.ceilings)

    def estimate(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Returns standard values [N,B] of all attributes, side by side, of embeddings [N,D], on the CPU.

        Raises: ValueError for embeddings of another size.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != len(self.weights):
            raise ValueError(f"expected embeddings [N,{len(self.weights)}] for this probe, got {[*embeddings.shape]}")
        return read(self.attributes, prepare(embeddings, self.metric) @ self.weights + self.offset)

    def save(self, path: str | Path, card: Mapping) -> dict:
        """Writes weights and card; returns the card. card: what else there is to say: command, data, caveats, ..."""
        said = {name: getattr(self, name) for name in ("network", "metric", "grey", "people", "photos")}
        said |= {"network_sha256": self.sha256, "ceilings": dict(self.ceilings), "absent": dict(self.absent)}
        said["attributes"] = [asdict(one) for one in self.attributes]
        tensors = {"weights": self.weights.float(), "offset": self.offset.float()}
        return save_weights(path, tensors, {**card, "kind": "probe", **said})

    @classmethod
    def load(cls, path: str | Path) -> Probe:
        """Returns what save wrote. Raises: ValueError when file or card is missing, broken or something else."""
        card = read_card(path)
        try:
            if card["kind"] != "probe":
                raise KeyError("kind probe")
            attributes = tuple(
                Attribute(
                    str(one["name"]), tuple(map(str, one["values"])), str(one["unit"]), tuple(map(float, one["centre"])),
                    tuple(map(float, one["spread"])),
                )
                for one in card["attributes"]
            )  # fmt: skip
            said = {name: card[name] for name in ("network", "metric", "grey", "people", "photos", "ceilings", "absent")}
            sha256 = str(card["network_sha256"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"expected the card of a probe beside {path}, got one without {error}; run probe.py") from error
        tensors, width = read_tensors(path)[0], sum(one.width for one in attributes)
        rows = len(tensors["weights"]) if "weights" in tensors else 0
        expected = {"weights": torch.empty(rows, width), "offset": torch.empty(width)}
        checked = check_tensors(tensors, expected, path)
        return cls(
            **said, sha256=sha256, attributes=attributes, weights=checked["weights"].double(),
            offset=checked["offset"].double(),
        )  # fmt: skip


def load_probes(folder: str | Path) -> dict[str, Probe]:
    """Returns the probes of a folder that probe.py wrote, by the SHA-256 of their networks; {} for "".

    Raises: ValueError for a folder without any.
    """
    files = sorted(Path(folder).expanduser().glob("probe_*.safetensors")) if folder else []
    if folder and not files:
        raise ValueError(f"expected probe_NAME.safetensors in {folder}, got none; run probe.py --out={folder}")
    probes = [Probe.load(file) for file in files]
    return {probe.sha256: probe for probe in probes}


def prepare(embeddings: torch.Tensor, metric: str) -> torch.Tensor:
    """Returns the features [N,D] that a probe reads."""
    rows = embeddings.double().cpu()
    return F.normalize(rows, dim=1) if metric == "cosine" else rows


def read(attributes: Sequence[Attribute], found: torch.Tensor) -> torch.Tensor:
    """Returns standard values [N,B] of what a probe's columns give: quantities themselves, and the logits of choices."""
    parts = found.split([one.width for one in attributes], 1)
    choose = [one.standardise(part.softmax(1)) if one.values else part for one, part in zip(attributes, parts, strict=True)]
    return torch.cat(choose, 1)


def fit_group(attributes: Sequence[Attribute], features: torch.Tensor, labels: torch.Tensor, people: torch.Tensor) -> Affine:
    """Returns weights [D,B] and offset [B] of quantities, or of one choice; labels [n,A], of rows of people [n]."""
    if attributes[0].values:
        shares = torch.eye(attributes[0].width, dtype=torch.float64)[labels[:, 0].long()]
        return fit_choice(features, shares, people)
    return fit_quantities(features, encode(attributes, labels), people)


def encode(attributes: Sequence[Attribute], labels: torch.Tensor) -> torch.Tensor:
    """Returns standard values [n,B] of labels [n,A]."""
    return torch.cat([one.encode(labels[:, place]) for place, one in enumerate(attributes)], 1)


# ---- what a target knows


def fit_probe(
    network: str, embeddings: torch.Tensor, columns: Sequence[Column], person: torch.Tensor, *, metric: str = "cosine",
    sha256: str = "", grey: bool = False, seed: int = 0,
) -> Probe:  # fmt: skip
    """Returns the probe of embeddings [N,D] of labelled photos of person [N].

    An attribute that cannot be probed is under absent, with its reason. Raises: ValueError when none can be.
    """
    features, absent = prepare(embeddings, metric), {}
    groups: dict[object, list[Column]] = {}  # quantities with labels of the same photos are fitted together
    for column in columns:
        try:
            known = check_column(column, person)
        except AbsentError as error:
            absent[column.name] = str(error)
            continue
        groups.setdefault(column.name if column.values else known.numpy().tobytes(), []).append(column)
    if not groups:
        name, reason = next(iter(absent.items()), ("labels", "there is no attribute"))
        raise ValueError(f"expected an attribute that can be probed, got none: {show(name)} {reason}")
    attributes, ceilings, fitted = [], {}, []
    for members in groups.values():
        known = members[0].labels.isfinite()
        labels, rows, people = torch.stack([one.labels[known] for one in members], 1), features[known], person[known]
        own = [measure_attribute(one.name, labels[:, place], one.values, one.unit) for place, one in enumerate(members)]
        ceilings |= measure_ceilings(own, rows, labels, people, metric, seed)
        fitted.append(fit_group(own, rows, labels, people))
        attributes += own
    weights, offsets = zip(*fitted, strict=True)
    return Probe(
        network=network, metric=metric, attributes=tuple(attributes), weights=torch.cat(weights, 1),
        offset=torch.cat(offsets), ceilings=ceilings, sha256=sha256, grey=grey, absent=absent,
        people=len(person.unique()), photos=len(person),
    )  # fmt: skip


def check_column(column: Column, person: torch.Tensor) -> torch.Tensor:
    """Returns which photos [N] have a label. Raises: AbsentError where these labels carry no probe."""
    known = column.labels.isfinite()
    people, everybody = len(person[known].unique()), len(person.unique())
    if people < LEAST_LABELLED * everybody:
        raise AbsentError(f"has a label for {people} of {everybody} people; it needs those of most")
    if people < LEAST_PEOPLE:
        raise AbsentError(f"has labels of {people} people; a probe needs at least {LEAST_PEOPLE}")
    labels = column.labels[known]
    if len(labels.unique()) < 2:
        raise AbsentError("has one value for everybody: there is nothing to tell")
    if column.values:
        counts = [len(person[known][labels == index].unique()) for index in range(len(column.values))]
        if min(counts) < LEAST_OF_VALUE:
            rare = column.values[counts.index(min(counts))]
            raise AbsentError(f"has {min(counts)} people of the value {show(rare)}; it needs {LEAST_OF_VALUE} of each value")
    return known


def measure_ceilings(
    attributes: Sequence[Attribute],
    features: torch.Tensor,
    labels: torch.Tensor,
    people: torch.Tensor,
    metric: str,
    seed: int,
) -> dict[str, dict]:
    """Returns what embeddings say of attributes of people who took no part in the fit: attribute -> ceiling.

    Read off each person's template, the mean of its photos' features. "explained": share of the variance, 0 is guessing, 1
    is all; "photos": a template's, the mean over people; "photo": the same of single photos, where there are several. Of a
    quantity "error" and "error_guessing", mean absolute in its unit; of a choice "accuracy" and "accuracy_guessing". All
    with intervals over people.
    """
    distinct, row = people.unique(return_inverse=True)
    counts, truth = row.bincount(), torch.empty(len(distinct), sum(one.width for one in attributes), dtype=torch.float64)
    truth[row] = encode(attributes, labels)
    means = torch.zeros(len(distinct), features.shape[1], dtype=torch.float64).index_add_(0, row, features)
    means = prepare(means / counts[:, None], metric)
    of_templates, of_photos = torch.empty_like(truth), torch.empty(len(row), truth.shape[1], dtype=torch.float64)
    for fit_on, held in cross(people, seed):
        weights, offset = fit_group(attributes, features[fit_on], labels[fit_on], people[fit_on])
        theirs = row[held].unique()
        of_templates[theirs] = read(attributes, means[theirs] @ weights + offset)
        of_photos[held] = read(attributes, features[held] @ weights + offset)
    errors = torch.zeros_like(truth).index_add_(0, row, (of_photos - truth[row]).square() / counts[row, None])
    widths, ceilings = [one.width for one in attributes], {}
    for one, said, photo, true in zip(attributes, *(x.split(widths, 1) for x in (of_templates, errors, truth)), strict=True):
        found: dict = {"explained": explain(said, true, seed), "photos": len(row) / len(distinct)}
        if len(row) > len(distinct):
            found["photo"] = summarize_explained(photo.sum(1), true.square().sum(1), seed)
        ceilings[one.name] = found | compare_with_guessing(one, said, true, seed)
    return ceilings


def explain(estimates: torch.Tensor, truth: torch.Tensor, seed: int) -> dict:
    """Returns summarize_explained of standard values [P,B]: the guess is 0. Raises: AbsentError where nothing varies."""
    return summarize_explained((estimates - truth).square().sum(1), truth.square().sum(1), seed)


def compare_with_guessing(attribute: Attribute, estimates: torch.Tensor, truth: torch.Tensor, seed: int) -> dict:
    """Returns errors or accuracies of standard values [P,B], and those of the best constant guess."""
    if attribute.values:
        is_value, guess = attribute.decode(truth).argmax(1), max(range(attribute.width), key=attribute.centre.__getitem__)
        hits = (attribute.decode(estimates).argmax(1) == is_value).double()
        return {"accuracy": summarize(hits, seed), "accuracy_guessing": (is_value == guess).double().mean().item()}
    away = attribute.spread[0] * (estimates - truth).abs()[:, 0]
    middle = truth[:, 0].median()
    guessing = attribute.spread[0] * (truth[:, 0] - middle).abs().mean().item()
    return {"error": summarize(away, seed), "error_guessing": guessing}


def summarize(values: torch.Tensor, seed: int) -> dict:
    """Returns {"mean", "ci95", "n"} over people, of fewer resamples than of the users of a run: people are many."""
    interval = list(bootstrap_interval(values, seed, num=1000)) if len(values) > 1 else [None, None]
    return {"mean": values.mean().item(), "ci95": interval, "n": len(values)}
