from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F

from ganinv.attack.attacks import LatentAttack
from ganinv.attack.config import AttackConfig, Augment, Optim
from ganinv.attack.goals import ClassGoal, TemplateGoal, make_goal
from ganinv.attack.invert import invert
from ganinv.interfaces import Evaluation, Recognition
from ganinv.recognizers.gallery import Gallery, attach
from tests.toys import RawRecognizer, toy_world

CONFIG = AttackConfig(
    space="w", steps=150, candidates=64, restarts=2, final_transforms=2, psi=1.0, optim=Optim(transforms=1),
    augment=Augment(flip=0.0, degrees=0.0, scale=(1.0, 1.0), shift=0.0),
)  # fmt: skip


def evaluate(embeddings: torch.Tensor, identities: list[int]) -> Evaluation:
    images = torch.zeros(len(embeddings), 3, 4, 4)
    return Evaluation(images, images, Recognition(embeddings, None), torch.tensor(identities))


def test_a_class_goal_scores_by_softmax_and_ranks_by_its_logarithm():
    logits = torch.tensor([[0.0, 1.0], [2.0, -1.0]])
    seen, identities = Recognition(None, logits), torch.tensor([1, 0])
    torch.testing.assert_close(ClassGoal().score(seen, identities), logits.softmax(1)[[0, 1], [1, 0]])
    torch.testing.assert_close(ClassGoal().rank(seen, torch.tensor([1])), logits.log_softmax(1)[:, 1:])


def test_distances_to_templates_have_the_values_worked_out_by_hand():
    templates = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    case = evaluate(torch.tensor([[0.6, 0.8], [3.0, 4.0]]), [0, 1])
    cosine = TemplateGoal(templates)
    assert cosine(case).tolist() == pytest.approx([1 - 0.6, 1 - 0.8])
    assert cosine.score(case.recognition, case.identities).tolist() == pytest.approx([0.8, 0.9])
    raw = TemplateGoal(templates, metric="euclidean")
    squares = [1.4**2 + 0.8**2, 9 + 9]
    assert raw(case).tolist() == pytest.approx(squares)
    plain = TemplateGoal(templates, metric="euclidean", squared=False)
    assert plain(case).tolist() == pytest.approx([value**0.5 for value in squares])
    assert raw.score(case.recognition, case.identities).tolist() == pytest.approx([1 / (1 + v**0.5) for v in squares])
    ranks = raw.rank(case.recognition, torch.tensor([1, 0]))
    assert ranks[1, 0].item() == pytest.approx(-(18**0.5)) and ranks.shape == (2, 2)
    assert ranks[0, 1].item() == pytest.approx(-(squares[0] ** 0.5))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_score_is_one_at_the_template_and_falls_with_the_distance(metric):
    generator = torch.Generator().manual_seed(0)
    template = F.normalize(torch.randn(1, 8, generator=generator), dim=1)
    away = torch.linspace(0, 3, 20)[:, None] * torch.randn(1, 8, generator=generator)
    goal, seen = TemplateGoal(template, metric=metric), Recognition(template + away, None)
    scores = goal.score(seen, torch.zeros(20, dtype=torch.long))
    assert scores[0].item() == pytest.approx(1, abs=1e-6) and scores.min() >= 0 and scores.max() <= 1
    assert (scores.diff() < 0).all()
    assert goal.rank(seen, torch.tensor([0]))[:, 0].argsort(descending=True).tolist() == list(range(20))


@pytest.mark.parametrize("kind", [None, RawRecognizer])
def test_the_search_reaches_a_template_without_a_class(kind):
    generator, recognizer, known = toy_world()
    recognizer = recognizer if kind is None else kind(recognizer.centres.detach())
    with torch.no_grad():
        templates = recognizer(generator.synthesize(known[:, None].expand(-1, 2, -1))).embeddings
    recognizer.num_identities = None
    goal = make_goal(CONFIG, recognizer, templates)
    result = invert(generator, recognizer, (0, 1, 2), CONFIG, goal=goal)
    assert result.scores.min() > (0.97 if kind else 0.99)  # 1 / (1 + d), and 8 bits are a distance
    if kind:  # without a norm the picture itself is found
        torch.testing.assert_close(result.latents["w"].mean(1), known, atol=0.02, rtol=0)


def test_image_terms_are_lowered_beside_a_template():
    _, recognizer, _ = toy_world()
    case = evaluate(torch.eye(3, 64), [0, 1, 2])
    case = replace(case, images=torch.full((3, 3, 4, 4), 0.5))
    plain, with_terms = (make_goal(replace(CONFIG, l2=weight), recognizer, torch.eye(3, 64)) for weight in (0.0, 2.0))
    torch.testing.assert_close(with_terms(case) - plain(case), torch.full((3,), 0.5))


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        (torch.eye(3, 63), r"expected templates \[T,64\] of this target, got \[3, 63\]"),
        (torch.ones(64), r"expected templates \[T,64\]"),
        (torch.eye(3, 64) * torch.nan, "expected finite templates"),
        (torch.zeros(2, 64), "expected templates with a direction"),
    ],
)
def test_templates_that_cannot_be_reached_are_refused(templates, message):
    with pytest.raises(ValueError, match=message):
        make_goal(CONFIG, toy_world()[1], templates)


def test_an_identity_without_a_template_is_refused():
    generator, recognizer, _ = toy_world()
    with pytest.raises(ValueError, match="expected identities from 0 to 1, got 2"):
        invert(generator, recognizer, (0, 2), CONFIG, goal=TemplateGoal(torch.eye(2, 64)))
    with pytest.raises(ValueError, match="expected a metric among cosine, euclidean, got manhattan"):
        TemplateGoal(torch.eye(2, 64), metric="manhattan")


def test_the_goal_template_reaches_what_the_gallery_stores():
    generator, recognizer, known = toy_world()
    network = RawRecognizer(recognizer.centres.detach())
    with torch.no_grad():
        templates = network(generator.synthesize(known[:, None].expand(-1, 2, -1))).embeddings
    target = attach(network, Gallery(("Ada", "Bob", "Cleo"), templates, "euclidean"))
    config = replace(CONFIG, goal="template")
    found = invert(generator, target, (2, 0), config)
    torch.testing.assert_close(found.latents["w"].mean(1), known[[2, 0]], atol=0.02, rtol=0)
    given = LatentAttack(**configure_as(CONFIG))(generator, network, [2, 0], templates=templates)
    assert given.config.goal == "template" and torch.equal(given.images, found.images)
    with pytest.raises(ValueError, match="expected a target with templates for the goal template, got one without a gallery"):
        make_goal(config, recognizer)
    with pytest.raises(ValueError, match="expected a goal among class, template, got photo"):
        make_goal(replace(CONFIG, goal="photo"), recognizer)


def configure_as(config: AttackConfig) -> dict:
    """Returns the settings of LatentAttack that give a configuration."""
    return {field.name: getattr(config, field.name) for field in fields(config)}


def test_contrast_leads_past_the_template_away_from_the_mean_of_the_prior():
    templates, others = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 3.0]])
    goal = TemplateGoal(templates, metric="euclidean")
    past = goal.aim_past(others, 0.5)
    assert past.aims.tolist() == [[1.5, -1.0]] and goal.aims.tolist() == [[1.0, 0.0]]
    there = evaluate(past.aims, [0])
    assert past(there).item() == 0 and goal(there).item() == pytest.approx(1.25)
    assert torch.equal(past.score(there.recognition, there.identities), goal.score(there.recognition, there.identities))
    turned = TemplateGoal(templates).aim_past(others, 0.5)  # of unit norm: the mean of others is (0, 1)
    assert turned.aims.tolist()[0] == pytest.approx([1.5 / 2.5**0.5, -0.5 / 2.5**0.5])

    generator, recognizer, known = toy_world()
    network = RawRecognizer(recognizer.centres.detach())
    with torch.no_grad():
        templates = network(generator.synthesize(known[:, None].expand(-1, 2, -1))).embeddings
    config = replace(CONFIG, goal="template", contrast=0.2, bound=4.0)
    states = []
    found = invert(
        generator, attach(network, Gallery(("Ada", "Bob", "Cleo"), templates, "euclidean")), (0, 1), config,
        on_state=lambda describe: states.append(describe()),
    )  # fmt: skip
    mean = states[0]["others"].mean(0) @ generator.matrix.T
    torch.testing.assert_close(found.latents["w"].mean(1), known[:2] + 0.2 * (known[:2] - mean), atol=0.03, rtol=0)
    assert states[0]["others"].shape == (200, 64) and found.queries["shared"] >= 200
