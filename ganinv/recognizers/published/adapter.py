"""A published network as a recognizer: its frame, its input, its embedding, and what its publishers say of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ganinv.interfaces import Recognition
from ganinv.recognizers.gallery import Enrollable
from ganinv.recognizers.preprocessing import Preprocessing
from ganinv.recognizers.published.frame import WORLD, Frame, Reframe


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What its publishers say of a network. threshold: of the metric, at which they take two pictures for one person.

    metric: "euclidean", a distance, accepted at or below the threshold; "cosine", a similarity, accepted at or above it.
    """

    name: str
    metric: str
    threshold: float | None  # None: they give none
    licence: str
    training: str
    source: str

    @property
    def about(self) -> str:
        """Returns the facts in one line."""
        return f"{self.name}: licence {self.licence}; trained on {self.training}; from {self.source}"


class PublishedRecognizer(Enrollable, nn.Module):
    """Embeddings [N,D] of images [N,3,H,W] in [-1,1] in the world's frame. Open-set: it has no identities of its own.

    Where the metric is the cosine, embeddings have unit norm. Where it is the Euclidean distance they are the network's
    own numbers, raw: at unit norm the distances, and with them the published threshold, would be others.

    network: chip [N,3,side,side] in its own units -> features [N,D]; chip: the frame that it was trained on; frame: that
    of the images it will be shown; beyond: see Reframe.
    """

    num_identities = None

    def __init__(
        self, network: nn.Module, facts: Facts, preprocessing: Preprocessing, *, embedding_dim: int, chip: Frame,
        frame: Frame = WORLD, beyond: str = "edge",
    ):  # fmt: skip
        super().__init__()
        self.network, self.facts, self.preprocessing, self.embedding_dim = network, facts, preprocessing, embedding_dim
        self.reframe = Reframe(frame, chip, preprocessing.size, beyond=beyond)
        self.metric, self.threshold, self.about = facts.metric, facts.threshold, facts.about

    def forward(self, images: torch.Tensor) -> Recognition:
        """Returns embeddings [N,D] and no logits; differentiable."""
        return self.recognize_chips(self.reframe(images))

    def recognize_chips(self, chips: torch.Tensor) -> Recognition:
        """Returns the recognition of chips [N,3,side,side] in [-1,1], cut and aligned as the network was trained."""
        features = self.network(self.preprocessing(chips)).float()
        return Recognition(F.normalize(features, dim=1) if self.metric == "cosine" else features, None)
