"""Where a judge takes two pictures for one person: thresholds at false-match rates, from people whom nothing knows."""

from __future__ import annotations

import contextlib

import torch

from ganinv.metrics.scores import face_scores, passed_by
from ganinv.photos import Photos
from ganinv.recognizers.recognize import recognize
from ganinv.worlds.references import Judge

RATES = (1e-2, 1e-3, 1e-4)


def measure_thresholds(judge: Judge, photos: Photos) -> tuple[dict[float, float], int]:
    """Returns false-match rate -> threshold, and the number of pairs: of one photo each of two different people.

    The threshold is a cosine or a Euclidean distance, as the judge compares, which no more than such a share of the pairs
    pass. Of each person the first photo counts. Rates that there are too few pairs for are left out.
    """
    rows = [photos.person.tolist().index(person) for person in photos.person.unique().tolist()]
    device = next(judge.recognizer.parameters()).device
    parts = [photos.images(part).to(device) for part in torch.tensor(rows).split(512)]
    embeddings = torch.cat([recognize(judge.recognizer, images).embeddings for images in parts])
    above = torch.triu_indices(len(rows), len(rows), offset=1)
    impostors = face_scores(embeddings, embeddings, judge.metric)[above[0], above[1]]
    found = {}
    for rate in RATES:
        with contextlib.suppress(ValueError):  # too few pairs
            limit = passed_by(impostors, rate)
            found[rate] = -limit if judge.metric == "euclidean" else limit
    return found, len(impostors)
