"""What an operator does to answers, each option by hand; and how many queries an operator answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ganinv.attack import operator as rules
from ganinv.attack.access import Queries, TargetAccess
from ganinv.attack.checks import count_queries
from ganinv.attack.config import AttackConfig, Operator, Optim
from ganinv.attack.invert import invert
from ganinv.interfaces import FaultError
from ganinv.recognizers.gallery import EnrolledRecognizer, Gallery
from tests.toys import RawRecognizer, toy_world

BLACK_BOX = AttackConfig(
    space="w", objective="logit", steps=5, candidates=16, restarts=2, final_transforms=3, access="scores",
    optim=Optim(optimizer="antithetic", transforms=2, pairs=3, halve_at=(0.4,)),
)  # fmt: skip


def pictures(count: int = 4) -> torch.Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def make_gallery(threshold: float | None = 2.2) -> EnrolledRecognizer:
    """Returns three users whose templates are the toy's centres, compared by the distance of grey pixels."""
    centres = toy_world()[1].centres.detach()
    gallery = Gallery(("a", "b", "c"), centres, "euclidean", threshold, scale=0.5)
    return EnrolledRecognizer(RawRecognizer(centres), gallery)


def see(rung: str = "scores", images=None, identities=None, **options) -> torch.Tensor:
    """Returns what an access shows of pictures: probabilities, or similarities."""
    access = TargetAccess(make_gallery(), rung, queries=Queries(3), options=Operator(**options))
    seen = access(pictures() if images is None else images, identities).logits
    return seen if options.get("answers") == "similarities" else seen.exp()


def test_scores_are_rounded_and_similarities_are_minus_the_distance():
    exact = see()
    torch.testing.assert_close(see(decimals=2), (100 * exact).round() / 100, atol=1e-6, rtol=0)
    gallery, images = make_gallery(), pictures()
    distances = torch.cdist(images.mean(1).flatten(1), gallery.templates)
    torch.testing.assert_close(see(answers="similarities"), -distances, atol=1e-5, rtol=0)
    torch.testing.assert_close(see(answers="similarities", decimals=1), -(10 * distances).round() / 10, atol=1e-6, rtol=0)


def test_hidden_users_share_what_is_left_of_one():
    exact, claimed = see(), torch.tensor([0, 1, 2, 1])
    top = see(top=1)
    assert torch.equal(top.argmax(1), exact.argmax(1))
    torch.testing.assert_close(top.amax(1), exact.amax(1))
    torch.testing.assert_close(top.sum(1), torch.ones(4))
    assert all(len(row.unique()) == 2 for row in top)
    one = see(claimed=True, identities=claimed)
    torch.testing.assert_close(one.gather(1, claimed[:, None]), exact.gather(1, claimed[:, None]))
    torch.testing.assert_close(one.sum(1), torch.ones(4))
    hidden = see(answers="similarities", claimed=True, identities=claimed)
    assert hidden.isfinite().sum(1).tolist() == [1] * 4


def test_a_claim_is_accepted_where_another_user_is_nearer_and_needs_a_claim():
    gallery = make_gallery()  # wide: grey passes as anybody
    access = TargetAccess(gallery, "decisions", options=Operator(claimed=True))
    centre = torch.zeros(1, 3, 8, 8)
    assert access(centre, torch.tensor([1])).logits.exp().round().tolist() == [[0, 1, 0]]
    assert TargetAccess(gallery, "decisions")(centre).logits.exp().round().tolist() == [[1, 0, 0]]
    with pytest.raises(ValueError, match="expected the user whom each picture claims to be, got none"):
        access(centre)


def test_noise_is_the_picture_s_own_and_neither_order_nor_batch_moves_it():
    blurred = {"answers": "similarities", "noise": 0.5}
    first = see(**blurred)
    alone = torch.cat([see(images=picture[None], **blurred) for picture in pictures()])
    torch.testing.assert_close(alone, first, atol=1e-6, rtol=0)
    torch.testing.assert_close(see(images=pictures().flip(0), **blurred), first.flip(0), atol=1e-6, rtol=0)
    access = TargetAccess(make_gallery(), "scores", options=Operator(**blurred))
    assert torch.equal(access(pictures()).logits, access(pictures()).logits)  # asking again says nothing new
    assert (first - see(noise_seed=1, **blurred)).abs().min() > 1e-3
    added = see(images=pictures(3000), **blurred) - see(images=pictures(3000), answers="similarities")
    assert added.mean(0).abs().max() < 0.04 and ((added.std(0) - 0.5).abs() < 0.03).all()
    assert torch.corrcoef(added.T).fill_diagonal_(0).abs().max() < 0.06  # of users with each other
    assert abs(float((added / 0.5).pow(4).mean()) - 3) < 0.3  # as normal numbers have


def test_last_bits_of_a_picture_move_its_noise_in_the_last_bits_alone():
    images = pictures(200)
    near, far = images + 1e-7 * torch.randn(images.shape), images + torch.randn(images.shape) / 127.5
    plain, noisy = {"answers": "similarities"}, {"answers": "similarities", "noise": 0.5}
    noise, moved, changed = (see(images=x, **noisy) - see(images=x, **plain) for x in (images, near, far))
    assert (moved - noise).abs().max() < 1e-3
    assert abs(float(torch.corrcoef(torch.stack([changed.flatten(), noise.flatten()]))[0, 1])) < 0.2  # a grey level away


def test_noise_in_a_search_does_not_depend_on_the_batch():
    generator, recognizer, _ = toy_world()
    config = replace(BLACK_BOX, operator=Operator(noise=0.2), steps=3)
    whole, small = (invert(generator, recognizer, (0, 2), replace(config, batch=size)) for size in (0, 1))
    torch.testing.assert_close(small.images, whole.images, atol=0.02, rtol=0)
    torch.testing.assert_close(small.scores, whole.scores, atol=1e-3, rtol=0)


def test_a_picture_without_a_face_says_nothing(monkeypatch):
    monkeypatch.setattr(rules, "detect_faces", lambda images: torch.tensor([0.99, 0.2, 0.95, 0.0]))
    assert see(faces=True).sum(1).round().tolist() == [1, 0, 1, 0]
    assert see(answers="similarities", faces=True).isfinite().all(1).tolist() == [True, False, True, False]
    assert see("decisions", faces=True)[1].sum() < 0.5
    seen = TargetAccess(make_gallery(), "embeddings", options=Operator(faces=True))(pictures()).embeddings
    assert seen.any(1).tolist() == [True, False, True, False]


# ---- limits


def test_an_operator_answers_so_many_queries_and_no_more():
    access = TargetAccess(make_gallery(), "scores", queries=Queries(3), options=Operator(limit=3, budget=6))
    access(pictures(3), torch.tensor([0, 0, 1]))
    with pytest.raises(FaultError, match="^the operator answers 3 queries a user, and 2 are spent on 0$"):
        access(pictures(2), torch.tensor([0, 0]))
    access(pictures(3))
    with pytest.raises(FaultError, match="^the operator answers 6 queries in all, and 6 are spent$"):
        access(pictures(1), torch.tensor([2]))
    assert access.queries.describe() == {"gradients": 0, "answers": 6, "shared": 3, "per_identity": {0: 2, 1: 1}}


@pytest.mark.parametrize("claimed", [False, True])
def test_what_a_search_may_take_is_what_it_takes(claimed):
    generator, recognizer, _ = toy_world()
    config = replace(BLACK_BOX, operator=Operator(claimed=claimed))
    asked = invert(generator, recognizer, (0, 2), config).queries
    each, together = count_queries(config, 2)
    assert asked["per_identity"] == {0: each, 2: each} and each == (2 * 2 + 3 * 1) * 6 * 2 + 3 + (32 if claimed else 0)
    assert together == 2 * each + (0 if claimed else 32)
    enough = replace(config, operator=Operator(claimed=claimed, limit=each))
    assert invert(generator, recognizer, (0, 2), enough).queries == asked
    with pytest.raises(ValueError, match=f"expected operator.limit of at least {each}, .* got {each - 1}; lower --steps"):
        invert(generator, recognizer, (0, 2), replace(config, operator=Operator(claimed=claimed, limit=each - 1)))
    with pytest.raises(ValueError, match=f"expected operator.budget of at least {together}"):
        invert(generator, recognizer, (0, 2), replace(config, operator=Operator(claimed=claimed, budget=together - 1)))


@pytest.mark.parametrize(
    ("rung", "options", "message"),
    [
        ("scores", {"budget": 0}, "expected budget in \\[1, 1e12], got 0"),
        ("scores", {"limit": 0}, "expected limit in \\[1, 1e12], got 0"),
        ("scores", {"decimals": -1}, "expected decimals in \\[0, 12], got -1"),
        ("scores", {"noise": float("nan")}, "expected noise in \\[0, 1e6], got nan"),
        ("scores", {"answers": "secrets"}, "expected operator.answers among scores, similarities, got secrets"),
        ("scores", {"claimed": True, "top": 1}, "expected operator.claimed or operator.top, got both"),
        ("gradients", {"decimals": 2}, "expected an access below gradients beside operator.decimals, got gradients"),
        ("decisions", {"answers": "similarities"}, "expected the access scores of a target with a gallery"),
        ("embeddings", {"claimed": True}, "expected the access scores or decisions beside operator.claimed"),
    ],
)
def test_options_that_mean_nothing_are_refused(rung, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        TargetAccess(make_gallery(), rung, options=Operator(**options))
