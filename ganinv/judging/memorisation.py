"""Memorisation: is a picture near the user, or near a photo that the prior was trained on?

Photos are named by their number in the sorted list of the training photos, and never shown.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from ganinv.engine import cache
from ganinv.interfaces import AbsentError
from ganinv.metrics.scores import nearest_photo
from ganinv.photos import list_people, load_photos, select_people
from ganinv.recognizers.recognize import recognize
from ganinv.weights.cards import find_card, read_hash_range, read_photos
from ganinv.worlds.assets import Assets
from ganinv.worlds.references import Judge, References

COPY_SHARE = 0.99  # of the users' own photos, which show nobody whom the prior knows, are less near to a training photo
LEAST = 100  # references, below which such a share cannot be read
RULE = (
    "Under the judge that never met the users. A picture is called a copy where it is nearer to a photo that the prior was "
    "trained on than 99 in 100 of the users' own photos are, which show nobody whom the prior was trained on."
)


@dataclass(frozen=True)
class TrainingPhotos:
    """The photos that the prior was trained on, as a judge sees them.

    embeddings: [M,D]; threshold: the cosine above which a picture is a copy of one.
    """

    embeddings: torch.Tensor
    threshold: float

    def nearest(self, pictures: torch.Tensor) -> torch.Tensor:
        """Returns the cosine [N] of embeddings [N,D] to the nearest of them."""
        return nearest_photo(pictures, self.embeddings)[0]

    def describe(self, pictures: torch.Tensor, own: torch.Tensor, places: list[dict]) -> dict:
        """Returns {"photos", "threshold", "rule", "pictures"}: of each picture the nearest training photo.

        pictures: embeddings [N,D]; own: [N], the cosine to the nearest photo of its user; places: {"identity", "k"} of each.
        """
        similarity, number = nearest_photo(pictures, self.embeddings)
        rows = zip(places, number.tolist(), similarity.tolist(), own.tolist(), strict=True)
        return {
            "photos": len(self.embeddings),
            "threshold": self.threshold,
            "rule": RULE,
            "pictures": [
                place | {"photo": photo, "similarity": near, "own": theirs, "copy": near > self.threshold}
                for place, photo, near, theirs in rows
            ],
        }


def find_training_photos(assets: Assets, photos: str, verifier: Judge | None, device: torch.device) -> TrainingPhotos:
    """Returns the training photos of the run's prior, which must be the world's own; their embeddings are kept in a cache.

    photos: the world's photo folder. Raises: AbsentError saying what is missing.
    """
    if verifier is None or assets.references is None or verifier.name not in assets.references.embeddings:
        raise AbsentError("needs references embedded by a judge that never met the users")
    if assets.generator is None:
        raise AbsentError("needs a prior, and none took part")
    file = assets.world.file("prior")
    if assets.files.get("prior") != file:
        raise AbsentError("needs the photos that the prior was trained on, known of the world's own prior alone")
    if not photos:
        raise AbsentError("needs the photos that the prior was trained on: pass --photos DIR")
    card = find_card(file)
    share, count = read_hash_range(card), read_photos(card, "public").get("photos")
    if share is None or count is None:
        raise AbsentError("needs a card that says which photos the prior was trained on")
    folder = Path(photos) / assets.world.public
    try:
        people = select_people(list_people(folder), *share)
        found = sum(map(len, people.values()))
        if found != count:
            raise AbsentError(f"needs the {count} photos that the prior was trained on in {folder}, got {found}")
        embeddings = embed_cached(people, verifier, assets, device)
    except AbsentError:
        raise
    except (ValueError, OSError) as error:  # a photo that cannot be read must not cost the run its report
        raise AbsentError(f"needs the photos that the prior was trained on ({error})") from error
    return TrainingPhotos(embeddings, find_threshold(assets.references, verifier, embeddings))


def find_threshold(references: References, verifier: Judge, embeddings: torch.Tensor) -> float:
    """Returns the cosine to the nearest training photo that a share COPY_SHARE of the users' own photos stay below.

    Raises: AbsentError with too few of them.
    """
    rows = references.embeddings[verifier.name]
    if len(rows) < LEAST:
        raise AbsentError(f"needs at least {LEAST} references to know a copy by, got {len(rows)}")
    return nearest_photo(rows, embeddings)[0].double().quantile(COPY_SHARE).item()


def embed_cached(people: dict[str, list[Path]], verifier: Judge, assets: Assets, device: torch.device) -> torch.Tensor:
    """Returns the embeddings [M,D] of the photos of people, in order; kept for the next run in $XDG_CACHE_HOME/ganinv."""
    files = [path for of_person in people.values() for path in of_person]
    listing = [f"{path.parent.name}/{path.name} {path.stat().st_size}" for path in files]
    weights = str(find_card(assets.files.get(verifier.name)).get("sha256"))
    key = hashlib.sha256("\n".join([weights, str(assets.world.resolution), *listing]).encode()).hexdigest()
    file = cache.find_place(f"training-{key[:16]}")
    rows = cache.recall(file, "embeddings", (len(files), verifier.recognizer.embedding_dim), torch.float32)
    if rows is not None:
        return rows
    print(f"embedding the {len(files)} photos that the prior was trained on, once, into {file}", file=sys.stderr)
    photos = load_photos(people, assets.world.resolution, progress=True)
    order = {name: row for row, name in enumerate(photos.files)}  # load_photos orders by hash
    index = torch.tensor([order[f"{path.parent.name}/{path.name}"] for path in files])
    parts = [recognize(verifier.recognizer, photos.images(part).to(device)).embeddings for part in index.split(512)]
    rows = torch.cat(parts).contiguous()
    cache.keep(file, "embeddings", rows)
    return rows
