"""What recognizers know of people's attributes: probes of their embeddings on public photos with labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ganinv.attributes.labels import Column, label_rendered, name_values, read_labels
from ganinv.attributes.probes import Probe, fit_probe
from ganinv.errors import AbsentError
from ganinv.images import to_grey
from ganinv.interfaces import Recognizer
from ganinv.photos import Photos
from ganinv.recognizers.recognize import BATCH, find_device
from ganinv.reports.attributes import format_ceilings
from ganinv.training.pictures import load_pictures

EVERYBODY = (0.0, 1.0)


def probe(
    target: Recognizer,
    photos: Photos | str | Path,
    labels: str | Path | Sequence[Column] | None = None,
    *,
    names: Mapping[str, Sequence[str]] | None = None,
    grey: bool = False,
    resolution: int = 64,
    network: str = "target",
    sha256: str = "",
    seed: int = 0,
) -> Probe:
    """Returns what a target's embeddings say of public people: linear probes, and how far they can be trusted.

    photos: Photos, or a folder or zip as load_pictures reads it; never of the target's users. labels: a CSV as
    attributes.labels describes it, columns, or None for rendered people, whose names are their seeds. names: attribute ->
    names of its values in their order. grey: make the photos grey first. resolution: of photos that are loaded. network,
    sha256: the target's name and that of its weights. seed: of folds and intervals.

    Raises: ValueError for labels that fit no photo, or carry no probe; AbsentError for a target without embeddings.
    """
    if not isinstance(photos, Photos):
        photos = load_pictures(photos, resolution, EVERYBODY)
    if labels is None:
        columns = label_rendered(photos.names, photos.person)
    else:
        people = [photos.names[row] for row in photos.person.tolist()]
        columns = read_labels(labels, people, photos.files) if isinstance(labels, str | Path) else list(labels)
    columns = name_values(columns, names or {})
    metric = getattr(target, "metric", "cosine")
    embeddings = embed(target, photos, grey=grey)
    return fit_probe(network, embeddings, columns, photos.person, metric=metric, sha256=sha256, grey=grey, seed=seed)


@torch.no_grad()
def embed(target: Recognizer, photos: Photos, *, grey: bool) -> torch.Tensor:
    """Returns the embeddings [N,D] of photos, on the CPU. Raises: AbsentError for a target that gives none."""
    device, rows = find_device(target), []
    for part in torch.arange(len(photos)).split(BATCH):
        pictures = photos.images(part).to(device)
        found = target(to_grey(pictures) if grey else pictures).embeddings
        if found is None:
            raise AbsentError("needs a target that gives embeddings: class scores alone carry no probe")
        rows.append(found.float().cpu())
    return torch.cat(rows)


def write_probes(out: Path, probes: Mapping[str, Probe], card: Mapping) -> str:
    """Returns the table of ceilings after writing it (attributes.md, attributes.json) and each probe_<name>.safetensors."""
    out.mkdir(parents=True, exist_ok=True)
    for name, one in probes.items():
        one.save(out / f"probe_{name}.safetensors", {"role": f"probe_{name}", **card})
    found = {
        name: {"ceilings": dict(one.ceilings), "absent": dict(one.absent), "people": one.people, "photos": one.photos}
        for name, one in probes.items()
    }
    table = format_ceilings(probes)
    (out / "attributes.json").write_text(json.dumps({**card, "networks": found}, indent=2) + "\n")
    (out / "attributes.md").write_text(table)
    return table
