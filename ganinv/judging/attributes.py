"""What is given away about users: attributes read off their pictures, beside what the target knows at all.

All values are standard: 0 is what one guesses who knows nothing. What an estimate explains is 1 - its squared error over
that of the guess. The share of what is knowable is what the pictures explain over what the target's own embedding explains,
over the attributes of which it knows anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ganinv.attributes.labels import Attribute
from ganinv.attributes.posterior import LEVEL, Calibration, measure_coverage
from ganinv.attributes.probes import compare_with_guessing, explain
from ganinv.errors import AbsentError
from ganinv.judging.readers import Reader, find_probe, find_stored, translate
from ganinv.metrics.statistics import summarize, summarize_explained
from ganinv.weights.files import sha256_file
from ganinv.worlds.assets import Assets

LEAST_KNOWN = 0.02  # of an attribute's variance, below which the target is said not to know it
PICTURES, ONE, MEAN, OWN = "pictures", "one picture", "mean face", "own photos"


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """The entry of report.json. reader, truth: who reads, and how users' values are known, in words; samples: pictures a
    user; stored: what the target keeps of users, "" where its probe reads nothing; calibrated: "" or why not. rows: one an
    attribute; overall: source -> summary; users: one a user; see measure_attributes."""

    reader: str
    truth: str
    samples: int
    stored: str
    calibrated: str
    rows: tuple[dict, ...]
    overall: dict[str, dict]
    users: tuple[dict, ...]
    coverage: dict | None = None
    unmeasured: dict[str, str] = field(default_factory=dict)

    def describe(self) -> dict:
        """Returns the entry of report.json."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


def measure_attributes(
    assets: Assets,
    reader: Reader,
    images: torch.Tensor,
    identities: Sequence[int],
    controls: Mapping[str, torch.Tensor],
    *,
    seed: int,
    means: torch.Tensor | None = None,
    calibration: Calibration | None = None,
    truth: torch.Tensor | None = None,
) -> Attributes:
    """Returns what pictures give away about users.

    images, controls: [T,K,3,R,R]; means [T,3,R,R]: a mean face of each user, read as it is; calibration: of other users of
    this target; None: the world's, where it has one; truth [T,B]: the users' standard values, as labels say; None: as the
    reader knows them.

    Each of rows has "name", "values", "unit", "special", "known", "ceiling" (see probes.measure_ceilings), and "explained":
    source -> summary over users, the sources being the stored template or class weights, "pictures" (the posterior mean,
    or where nothing is calibrated the mean of the samples), "one picture" (the first as it is), "own photos" and controls.
    Raises: AbsentError where nothing is known of the users.
    """
    absent, known_truth = {}, truth is not None
    own_truth, own_photos = read_own(reader, identities, truth, absent)
    reading = torch.stack([reader.read(pictures) for pictures in images])  # [T,K,B]
    why = ""
    if calibration is None:
        calibration, why = find_calibration(assets, reader)
    posterior = calibration.interval(reading) if calibration else None
    stored, ceilings, from_stored = read_stored(assets, reader, identities, absent)

    def conclude(samples: torch.Tensor) -> torch.Tensor:
        return calibration.infer(samples)[0] if calibration else samples.mean(1)

    sources = {PICTURES: posterior[0] if posterior else reading.mean(1), ONE: reading[:, 0]}
    sources |= {MEAN: reader.read(means)} if means is not None else {}
    sources |= {OWN: own_photos} if own_photos is not None else {}
    sources |= {name: conclude(torch.stack([reader.read(one) for one in pictures])) for name, pictures in controls.items()}
    truths = dict(zip((one.name for one in reader.attributes), own_truth.split(reader.widths, 1), strict=True))
    parts = {name: split(reader, values) for name, values in sources.items()}
    parts |= {stored: from_stored} if from_stored else {}
    rows = tuple(make_row(one, truths[one.name], parts, ceilings.get(one.name), seed) for one in reader.attributes)
    labelled = known_truth or assets.truth is not None
    overall, of_what = sum_up(rows, truths, parts, ceilings if labelled else {}, stored, seed)
    coverage = None
    if posterior is not None and labelled:
        is_quantity = torch.tensor([not one.values for one in reader.attributes for _ in range(one.width)])
        inside = measure_coverage(*(value[:, is_quantity] for value in (posterior[1], posterior[2], own_truth)))
        coverage = summarize(inside, seed) | {"level": LEVEL}
    return Attributes(
        reader=reader.name, truth=reader.truth if not known_truth else "labels", samples=images.shape[1], stored=stored,
        calibrated=why, rows=rows, overall=overall | of_what, coverage=coverage, unmeasured=absent,
        users=describe_users(reader, identities, rows, own_truth, reading, posterior, from_stored),
    )  # fmt: skip


def split(reader: Reader, values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Returns attribute -> its columns [T,b] of [T,B]."""
    return dict(zip((one.name for one in reader.attributes), values.split(reader.widths, 1), strict=True))


def read_own(
    reader: Reader, identities: Sequence[int], truth: torch.Tensor | None, absent: dict
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Returns the users' values [T,B], and what is read off their own photos; None, and the reason in absent."""
    if truth is None:
        return reader.own(identities)
    try:
        return truth, torch.stack(reader.own(identities)).mean(0)  # labels say what is true: both halves are read
    except AbsentError as error:
        absent[OWN] = str(error)
        return truth, None


def find_calibration(assets: Assets, reader: Reader) -> tuple[Calibration | None, str]:
    """Returns the world's calibration, or None and why there is none for this target and reader."""
    if not assets.world.has("calibration"):
        return None, "nothing was calibrated for this world: run attributes.py on other users of it"
    calibration, card = Calibration.load(assets.world.file("calibration"))
    file = assets.files.get("target")
    if file is None or not file.is_file() or card.get("target_sha256") != sha256_file(file):
        return None, "the world's calibration is of another target"
    if card.get("reader") != reader.name or card.get("attributes") != [one.name for one in reader.attributes]:
        return None, "the world's calibration is of another reader"
    return calibration, ""


def read_stored(
    assets: Assets, reader: Reader, identities: Sequence[int], absent: dict
) -> tuple[str, dict[str, dict], dict[str, torch.Tensor]]:
    """Returns what the target stores, attribute -> ceiling, and attribute -> what is read off what is stored [T,b]."""
    probe = find_probe(assets, "target")
    if probe is None:
        absent["ceiling"] = "needs a probe of the target's weights, which probe.py fits on public people (docs/attributes.md)"
        return "", {}, {}
    try:
        rows, name = find_stored(assets.target)
    except AbsentError as error:
        absent["template"] = str(error)
        return "", dict(probe.ceilings), {}
    return name, dict(probe.ceilings), translate(probe.estimate(rows[list(identities)]), probe, reader.attributes)


def make_row(
    attribute: Attribute, truth: torch.Tensor, parts: Mapping[str, Mapping], ceiling: dict | None, seed: int
) -> dict:
    """Returns a row of Attributes."""
    explained, beside = {}, {}
    for source, values in parts.items():
        if attribute.name in values:
            explained[source] = explain(values[attribute.name], truth, seed)
            beside[source] = compare_with_guessing(attribute, values[attribute.name], truth, seed)
    known = None if ceiling is None else ceiling["explained"]["mean"] >= LEAST_KNOWN and ceiling["explained"]["ci95"][0] > 0
    return {
        "name": attribute.name, "values": list(attribute.values), "unit": attribute.unit, "special": attribute.special,
        "known": known, "ceiling": ceiling, "explained": explained, "beside_guessing": beside,
    }  # fmt: skip


def sum_up(
    rows: Sequence[dict], truths: Mapping, parts: Mapping[str, Mapping], ceilings: Mapping, stored: str, seed: int
) -> tuple[dict[str, dict], dict]:
    """Returns source -> share of the variance that it explains over the attributes that the target knows, all of weight 1;
    and {"knowable", "share"}, what is knowable of it, and the share of that which the pictures recover.

    Knowable is what the target's embedding says of public people; without ceilings (the users' values are only readings
    themselves), what is read off what it stores of these users.
    """
    names = [row["name"] for row in rows if row["known"]]
    if not names:
        return {}, {}

    def pool(source: str) -> dict:
        theirs = parts[source]
        # each user's squared errors over the attributes, in units of the attribute's own spread over these users' guesses
        wrong = torch.stack([(theirs[name] - truths[name]).square().sum(1) for name in names]).sum(0)
        guess = torch.stack([truths[name].square().sum(1) for name in names]).sum(0)
        return summarize_explained(wrong, guess, seed)

    overall = {source: pool(source) for source in parts if all(name in parts[source] for name in names)}
    knowable = None
    if ceilings:
        knowable = sum(ceilings[name]["explained"]["mean"] for name in names) / len(names)
    elif stored in overall:
        knowable = overall[stored]["mean"]
    if knowable is None or knowable <= 0:
        return overall, {}
    pictures = overall[PICTURES]
    low, high = pictures["ci95"]
    share = {
        "mean": pictures["mean"] / knowable, "ci95": [None if end is None else end / knowable for end in (low, high)],
        "n": pictures["n"],
    }  # fmt: skip
    of = {"mean": knowable, "of": "public people" if ceilings else f"these users' {stored}", "attributes": len(names)}
    return overall, {"knowable": of, "share": share}


def describe_users(
    reader: Reader, identities: Sequence[int], rows: Sequence[dict], truth: torch.Tensor, reading: torch.Tensor,
    posterior: tuple[torch.Tensor, ...] | None, stored: Mapping[str, torch.Tensor],
) -> tuple[dict, ...]:  # fmt: skip
    """Returns {"identity", "attributes": {name: ...}} of each user, of the attributes that the target knows (all where
    nobody says): "truth", "stored", "estimate", "interval" and "samples", in natural units, or the names of values with
    "agree", the share of samples that say the same."""
    estimates = split(reader, posterior[0] if posterior else reading.mean(1))
    ends = [split(reader, values) for values in posterior[1:]] if posterior else []
    truths, samples = split(reader, truth), reading.split(reader.widths, 2)
    users = []
    for row, identity in enumerate(identities):
        found = {}
        for one, said, entry in zip(reader.attributes, samples, rows, strict=True):
            if entry["known"] is False:
                continue
            show = value_of if one.values else quantity_of
            shown = {"truth": show(one, truths[one.name][row]), "estimate": show(one, estimates[one.name][row])}
            shown["samples"] = [show(one, sample) for sample in said[row]]
            if one.name in stored:
                shown["stored"] = show(one, stored[one.name][row])
            if one.values:
                shown["agree"] = shown["samples"].count(shown["estimate"]) / len(shown["samples"])
            elif ends:
                shown["interval"] = [quantity_of(one, end[one.name][row]) for end in ends]
            found[one.name] = shown
        users.append({"identity": int(identity), "attributes": found})
    return tuple(users)


def quantity_of(attribute: Attribute, standard: torch.Tensor) -> float:
    """Returns a quantity of a standard value [1]."""
    return attribute.decode(standard).item()


def value_of(attribute: Attribute, standard: torch.Tensor) -> str:
    """Returns the likeliest value of a choice, of standard values [b]."""
    return attribute.values[int(attribute.decode(standard).argmax())]
