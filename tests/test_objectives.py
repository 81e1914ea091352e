from __future__ import annotations

import math

import pytest
import torch

from ganinv.attack.objectives import IMAGE_TERMS, OBJECTIVES, weighted_sum
from ganinv.interfaces import Evaluation, Recognition

TERMS = {**OBJECTIVES, **IMAGE_TERMS}


def evaluation(logits, identities, images=None):
    images = torch.zeros(len(logits), 3, 4, 4) if images is None else images
    return evaluate(images, torch.tensor(logits), torch.tensor(identities))


def evaluate(images, logits, identities):
    return Evaluation(images, images, Recognition(None, logits), identities)


def test_classification_terms_have_the_values_worked_out_by_hand():
    case = evaluation([[0.0, math.log(3.0)]], [1])
    assert TERMS["cross_entropy"](case).item() == pytest.approx(-math.log(0.75))
    assert TERMS["confidence"](case).item() == pytest.approx(0.25)
    assert TERMS["logit"](case).item() == pytest.approx(-math.log(3.0))
    assert TERMS["max_margin"](case).item() == pytest.approx(-math.log(3.0))


def test_poincare_is_the_distance_in_the_unit_ball():
    # u = (0.5, 0.5), v = (0.9999, 0): |u-v|^2 = 0.49990001, 1-|u|^2 = 0.5, 1-|v|^2 = 1.9999e-4
    expected = math.acosh(1 + 2 * 0.49990001 / (0.5 * (1 - 0.9999**2)))
    assert TERMS["poincare"](evaluation([[2.0, 2.0]], [0])).item() == pytest.approx(expected, rel=1e-4)


def test_image_terms():
    images = torch.zeros(1, 3, 4, 4)
    images[..., 2:] = 1.0  # one vertical edge of height 1: 4 of the 12 horizontal differences
    case = evaluation([[0.0]], [0], images)
    assert TERMS["total_variation"](case).item() == pytest.approx(4 / 12)
    assert TERMS["l2"](case).item() == pytest.approx(0.5)


@pytest.mark.parametrize("name", sorted(TERMS))
def test_every_term_gives_one_number_a_sample_that_ignores_its_neighbours(name):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 3, 6, 6, generator=generator) * 2 - 1
    logits, identities = torch.randn(5, 7, generator=generator), torch.tensor([0, 3, 6, 3, 1])
    together = TERMS[name](evaluate(images, logits, identities))
    rows = [slice(i, i + 1) for i in range(5)]
    alone = torch.cat([TERMS[name](evaluate(images[i], logits[i], identities[i])) for i in rows])
    assert together.shape == (5,)
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("name", ["cross_entropy", "confidence", "logit", "max_margin", "poincare"])
def test_descent_raises_the_identitys_score(name):
    logits = torch.tensor([[1.0, 0.2, -0.5]], requires_grad=True)
    identities, images = torch.tensor([1]), torch.zeros(1, 3, 2, 2)
    before = logits.softmax(1)[0, 1].item()
    TERMS[name](evaluate(images, logits, identities)).sum().backward()
    assert (logits - 0.1 * logits.grad).softmax(1)[0, 1].item() > before


def test_a_sum_weighs_its_terms_and_refuses_unknown_ones():
    case = evaluation([[0.0, 1.0]], [0])
    assert weighted_sum({"logit": 2.0, "l2": 0.0, "max_margin": 0.5})(case).item() == pytest.approx(0.5)
    with pytest.raises(ValueError, match="got luck"):
        weighted_sum({"luck": 1.0})
