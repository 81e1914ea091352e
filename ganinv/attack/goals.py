"""What a search wants: a class of the target (the user's score), or a template (a given embedding)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ganinv.attack.config import AttackConfig
from ganinv.attack.objectives import IMAGE_TERMS, OBJECTIVES, pick, weighted_sum
from ganinv.interfaces import Evaluation, Goal, Recognition, Recognizer, Term, require
from ganinv.recognizers.gallery import METRICS, compare

GOALS = ("class", "template")


@dataclass(frozen=True)
class ClassGoal:
    """A high score of each sample's identity. objective: what is lowered, [N]; the score is the softmax probability."""

    objective: Term = OBJECTIVES["max_margin"]
    reads = "logits"

    def __call__(self, evaluation: Evaluation) -> torch.Tensor:
        """Returns the objective [N]."""
        return self.objective(evaluation)

    def score(self, recognition: Recognition, identities: torch.Tensor) -> torch.Tensor:
        """Returns p(identity) [N]."""
        return pick(require(recognition, "logits").detach().softmax(1), identities)

    def rank(self, recognition: Recognition, identities: torch.Tensor) -> torch.Tensor:
        """Returns log p [N,T]."""
        return require(recognition, "logits").detach().log_softmax(1)[:, identities]


class TemplateGoal:
    """An embedding near the template of each sample's identity.

    templates [T,D]: identity i is row i. metric: "cosine" lowers 1 - cosine, and the score is (1 + cosine) / 2;
    "euclidean" lowers the squared distance d (plain where squared is False), and the score is 1 / (1 + d), of the plain
    one. Both scores rise as the embedding comes nearer, and are 1 at the template. image_terms: what else is lowered.
    aims [T,D]: what the loss leads to, the templates themselves, or what lies past them: see aim_past.
    Raises: ValueError for templates that cannot be reached.
    """

    reads = "embeddings"

    def __init__(
        self, templates: torch.Tensor, *, metric: str = "cosine", squared: bool = True, image_terms: Term | None = None
    ):
        if metric not in METRICS:
            raise ValueError(f"expected a metric among {', '.join(METRICS)}, got {metric}")
        if templates.ndim != 2 or not len(templates) or not templates.isfinite().all():
            raise ValueError(
                f"expected finite templates [T,D], got {list(templates.shape)}, or some that are not finite"
                "; check the file that they come from"
            )
        if metric == "cosine" and not templates.norm(dim=1).all():
            raise ValueError("expected templates with a direction, got one of zeros; the metric is the cosine")
        templates = templates.detach().float()
        self.templates = F.normalize(templates, dim=1) if metric == "cosine" else templates
        self.metric, self.squared, self.image_terms, self.aims = metric, squared, image_terms, self.templates

    def aim_past(self, others: torch.Tensor, share: float) -> TemplateGoal:
        """Returns the goal whose loss leads past the templates, by a share of the way there from the mean of others [M,D].

        A search that stops halfway stops nearer to everybody: what sets the user apart is underdone. Scores stay.
        """
        others = F.normalize(others, dim=1) if self.metric == "cosine" else others
        aims = self.templates + share * (self.templates - others.mean(0).to(self.templates))
        goal = copy.copy(self)
        goal.aims = F.normalize(aims, dim=1) if self.metric == "cosine" else aims
        return goal

    def __call__(self, evaluation: Evaluation) -> torch.Tensor:
        """Returns the loss [N]: by metric 1 - cosine, or the squared or plain distance, and the image terms."""
        loss = measure_distance(evaluation.embeddings, self.aims, evaluation.identities, self.metric)
        loss = loss.square() if self.metric == "euclidean" and self.squared else loss
        return loss if self.image_terms is None else loss + self.image_terms(evaluation)

    def score(self, recognition: Recognition, identities: torch.Tensor) -> torch.Tensor:
        """Returns how near [N] each embedding is to its template, in [0,1]."""
        embeddings = require(recognition, "embeddings").detach()
        distance = measure_distance(embeddings, self.templates, identities, self.metric)
        return (1 - distance / 2).clamp(0, 1) if self.metric == "cosine" else 1 / (1 + distance)

    def rank(self, recognition: Recognition, identities: torch.Tensor) -> torch.Tensor:
        """Returns the similarity [N,T] of each embedding to the template of every identity [T]: see gallery.compare."""
        embeddings = require(recognition, "embeddings").detach()
        return compare(embeddings, self.templates.to(embeddings)[identities], self.metric)


def measure_distance(embeddings: torch.Tensor, points: torch.Tensor, identities: torch.Tensor, metric: str) -> torch.Tensor:
    """Returns the distance [N] of each embedding to the point of its identity: 1 - cosine, or Euclidean."""
    wanted = points.to(embeddings)[identities]
    if metric == "cosine":
        return 1 - (F.normalize(embeddings, dim=1) * wanted).sum(1)
    return (embeddings - wanted).norm(dim=1)


def make_goal(config: AttackConfig, recognizer: Recognizer, templates: torch.Tensor | None = None) -> Goal:
    """Returns the goal of a configuration: its objective, or templates [T,D], compared by the recognizer's metric.

    templates: None: where config.goal is "template" those of the recognizer's gallery.
    Raises: ValueError for an unknown goal or objective, and for templates that do not fit the recognizer or are missing.
    """
    if config.goal not in GOALS:
        raise ValueError(f"expected a goal among {', '.join(GOALS)}, got {config.goal}")
    terms = {"total_variation": config.tv, "l2": config.l2}
    if templates is None and config.goal == "template":
        templates = getattr(recognizer, "templates", None)
        if templates is None:
            raise ValueError(
                "expected a target with templates for the goal template, got one without a gallery; "
                "pass --gallery=FOLDER or --templates=FILE"
            )
    if templates is None:
        OBJECTIVES.find(config.objective)
        return ClassGoal(weighted_sum({config.objective: 1.0, **terms}))
    if templates.ndim != 2 or templates.shape[1] != recognizer.embedding_dim:
        raise ValueError(
            f"expected templates [T,{recognizer.embedding_dim}] of this target, got {list(templates.shape)}"
            "; pass those of this network"
        )
    also = weighted_sum(terms) if any(terms[name] for name in IMAGE_TERMS) else None
    return TemplateGoal(templates, metric=getattr(recognizer, "metric", "cosine"), image_terms=also)
