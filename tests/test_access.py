from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from ganinv.attack.access import Queries, TargetAccess
from ganinv.attack.config import AttackConfig, Augment, Optim
from ganinv.attack.goals import ClassGoal, TemplateGoal, make_goal
from ganinv.attack.invert import invert
from ganinv.engine.batches import PROBES
from ganinv.interfaces import RUNGS, Recognition
from ganinv.recognizers.checks import check_recognizer
from ganinv.recognizers.recognize import recognize
from tests.toys import toy_world

CONFIG = AttackConfig(
    space="w", objective="logit", steps=5, candidates=16, restarts=2, final_transforms=3, psi=1.0,
    optim=Optim(transforms=2), augment=Augment(degrees=0.0),
)  # fmt: skip
BLACK_BOX = replace(CONFIG, access="scores", optim=Optim(optimizer="antithetic", transforms=1, pairs=3))
BELOW = RUNGS[1:]


def pictures(count: int = 4) -> torch.Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


# ---- what may be seen


def test_each_rung_sees_less_than_the_one_before():
    _, recognizer, _ = toy_world()
    recognizer.sharpness = 0.05
    images, seen = pictures(), {}
    for rung in RUNGS:
        seen[rung] = TargetAccess(recognizer, rung)(images)
    own = recognizer(images)
    assert torch.equal(seen["gradients"].logits, own.logits)
    assert torch.equal(seen["embeddings"].embeddings, own.embeddings)
    assert seen["scores"].embeddings is None and seen["decisions"].embeddings is None
    for rung in "embeddings", "scores":
        torch.testing.assert_close(seen[rung].logits, own.logits.log_softmax(1))
    assert torch.equal(seen["decisions"].logits.argmax(1), own.logits.argmax(1))
    assert len(seen["decisions"].logits.unique()) == 2
    torch.testing.assert_close(seen["decisions"].logits.softmax(1).amax(1), torch.ones(4))


def test_a_target_decides_for_itself_where_it_has_a_threshold():
    _, recognizer, _ = toy_world()
    recognizer.decide = lambda found: torch.tensor([2, -1, 0, -1])
    scores = TargetAccess(recognizer, "decisions")(pictures()).logits.exp()
    assert scores.round().tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0], [0, 0, 0]]


def test_an_operator_changes_what_leaves_the_target_below_gradients():
    _, recognizer, _ = toy_world()
    recognizer.sharpness = 0.05

    def rounded(found: Recognition) -> Recognition:
        return Recognition(found.embeddings, (10 * found.logits).round() / 10)

    scores = TargetAccess(recognizer, "scores", operator=rounded)(pictures()).logits.exp()
    torch.testing.assert_close(10 * scores, (10 * scores).round(), atol=1e-5, rtol=0)
    assert not torch.equal(scores, TargetAccess(recognizer, "scores")(pictures()).logits.exp())


def reach(thing: object) -> list[object]:
    """Returns all that attributes, items and bound methods lead to, functions' closures apart."""
    found, waiting = {}, [thing]
    while waiting:
        one = waiting.pop()
        if id(one) in found or isinstance(one, type | str | int | float):
            continue
        found[id(one)] = one
        slots = [getattr(one, name, None) for cls in type(one).__mro__ for name in getattr(cls, "__slots__", ())]
        waiting += [*getattr(one, "__dict__", {}).values(), *slots, getattr(one, "__self__", None)]
        waiting += list(one.values()) if isinstance(one, dict) else list(one) if isinstance(one, list | tuple | set) else []
        if isinstance(one, torch.Tensor):
            waiting += [one.grad_fn, one.grad]
    return list(found.values())


@pytest.mark.parametrize("rung", BELOW)
def test_no_attribute_leads_to_the_target_and_no_answer_to_its_parameters(rung):
    _, recognizer, _ = toy_world()
    access = TargetAccess(recognizer, rung)
    images = pictures(3).requires_grad_()
    answer = access(images)
    for start in (access, access.__call__, answer):
        assert not any(isinstance(one, nn.Module | nn.Parameter) for one in reach(start))
    assert any(isinstance(one, nn.Module) for one in reach(TargetAccess(recognizer)))  # the walk does find one
    for value in (answer.embeddings, answer.logits):
        assert value is None or not value.requires_grad
    with pytest.raises(RuntimeError):
        answer.logits.sum().backward()


def test_an_answer_shares_no_memory_with_the_target():
    _, recognizer, _ = toy_world()
    recognizer.forward = lambda images: Recognition(recognizer.centres[:, :64], recognizer.centres[:, :3])
    before = recognizer.centres.detach().clone()
    answer = TargetAccess(recognizer, "embeddings")(pictures(3))
    answer.embeddings.zero_(), answer.logits.zero_()
    assert torch.equal(recognizer.centres, before)


# ---- counting


def test_every_picture_is_counted_for_whom_it_was_asked():
    _, recognizer, _ = toy_world()
    access = TargetAccess(recognizer, queries=Queries(3))
    access(pictures(4))
    access(pictures(3).requires_grad_(), torch.tensor([2, 0, 2]))
    with torch.no_grad():
        access(pictures(2).requires_grad_(), torch.tensor([2, 2]))
    assert access.queries.describe() == {"gradients": 3, "answers": 6, "shared": 4, "per_identity": {0: 1, 2: 4}}


def test_what_fails_is_not_counted():
    queries = Queries(2)
    with pytest.raises(ValueError), queries.attempt():
        queries.count(3, torch.tensor([1, 1, 1]), gradients=True)
        raise ValueError
    assert queries.describe() == {"gradients": 0, "answers": 0, "shared": 0, "per_identity": {}}


@pytest.mark.parametrize("config", [CONFIG, BLACK_BOX])
def test_an_attacks_queries_are_the_pictures_that_the_target_saw(config):
    generator, recognizer, _ = toy_world()
    calls = []
    recognizer.register_forward_hook(lambda module, arguments, output: calls.append(len(arguments[0])))
    result = invert(generator, recognizer, (0, 2), config)
    asked, optim = result.queries, config.optim
    assert asked["gradients"] + asked["answers"] == result.cost.images_evaluated == sum(calls)
    assert asked["shared"] == 2 * 16 + sum(PROBES)
    points = 1 if config is CONFIG else 2 * optim.pairs
    assert asked["per_identity"] == dict.fromkeys((0, 2), 2 * (5 * points * optim.transforms + 3))
    assert asked["gradients"] == (0 if config is BLACK_BOX else 2 * 2 * 5 * 2 + sum(PROBES))


# ---- refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"access": "rumours"}, "expected an access among gradients, embeddings, scores, decisions, got rumours"),
        ({"access": "scores"}, "expected a search without gradients for the access scores, got adam; pass .*antithetic"),
        ({"optim": Optim(optimizer="luck")}, "expected an optimizer among adam, gradient_descent, antithetic, .*, got luck"),
        ({"optim": Optim(pairs=0)}, r"expected optim.pairs in \[1, 1e5\], got 0"),
        ({"optim": Optim(sigma=0.0)}, r"expected optim.sigma in \(0, 1e3\], got 0.0"),
        ({"optim": Optim(average_last=2, patience=3)}, "optim.average_last or optim.patience, got both"),
    ],
)
def test_a_search_that_asks_for_more_than_it_may_see_is_refused(changes, message):
    generator, recognizer, _ = toy_world()
    with pytest.raises(ValueError, match=message):
        invert(generator, recognizer, (0,), replace(CONFIG, **changes))


def test_a_template_needs_embeddings_and_a_class_needs_scores():
    generator, recognizer, _ = toy_world()
    with pytest.raises(ValueError, match="expected access to embeddings for this goal, got scores"):
        invert(generator, recognizer, (0,), BLACK_BOX, goal=TemplateGoal(torch.eye(3, 64)))
    recognizer.num_identities = None
    with pytest.raises(ValueError, match="expected a target with identities for the access scores"):
        TargetAccess(recognizer, "scores")
    with pytest.raises(ValueError, match="expected logits from the target, got none: the target only embeds"):
        ClassGoal().score(Recognition(torch.eye(3), None), torch.tensor([0]))


def zeros(found: Recognition) -> Recognition:
    return Recognition(found.embeddings * 0, found.logits * 0)


def detached(found: Recognition) -> Recognition:
    return Recognition(found.embeddings.detach(), found.logits.detach())


@pytest.mark.parametrize("spoil", [zeros, detached])
@pytest.mark.parametrize("tv", [0.0, 1.0])  # a term of the pictures must not hide it
@pytest.mark.parametrize("goal", ["class", "template"])
def test_a_target_without_gradients_is_one_line(spoil, tv, goal):
    generator, recognizer, _ = toy_world()
    forward = recognizer.forward
    recognizer.forward = lambda images: spoil(forward(images))
    config = replace(CONFIG, tv=tv)
    wanted = make_goal(config, recognizer, torch.eye(3, 64) if goal == "template" else None)
    with pytest.raises(ValueError, match="have gradients, got none .*pass --access=scores --optim.optimizer=antithetic"):
        invert(generator, recognizer, (0,), config, goal=wanted)
    if spoil is detached and goal == "class":
        assert invert(generator, recognizer, (0,), BLACK_BOX).scores.isfinite().all()


def test_identities_whose_pictures_never_moved_are_named():
    _, recognizer, _ = toy_world()
    config = replace(CONFIG, space="pixels", objective="confidence", restarts=1, augment=Augment(flip=0.0, degrees=0.0))
    recognizer.sharpness = 300.0  # at mid-grey the scores are 0 or 1 to the last bit, and so flat
    start = torch.zeros(3, 1, 8, 8)
    start[2] = recognizer.centres[2].detach().view(1, 8, 8) * 0.9
    result = invert(None, recognizer, (0, 1, 2), config, start=start)
    assert 1 in result.stuck and torch.equal(result.images[1, 0], result.first[1])
    moved = invert(None, recognizer, (0, 1, 2), replace(config, objective="logit"), start=start)
    assert moved.stuck == ()
    assert invert(None, recognizer, (0, 1, 2), replace(config, steps=0), start=start).stuck == ()


@pytest.mark.parametrize(("lr", "stuck"), [(0.01, (0, 1, 2)), (0.2, ())])
def test_a_change_that_nobody_sees_is_no_move(lr, stuck):
    _, recognizer, _ = toy_world()
    optim = Optim(lr=lr, decay=False, transforms=1)  # Adam's two steps move a pixel by 2 lr at most, of a range of 2
    config = replace(CONFIG, space="pixels", objective="logit", restarts=1, steps=2, optim=optim)
    result = invert(None, recognizer, (0, 1, 2), config, start=torch.zeros(3, 1, 8, 8))
    assert result.stuck == stuck and not torch.equal(result.images[:, 0], result.first)


class InPlace(torch.nn.Module):
    """A target that darkens its input in place, as often as it is asked; pure: on a copy."""

    def __init__(self, target, *, pure: bool):
        super().__init__()
        self.target, self.pure = target, pure
        self.num_identities, self.embedding_dim = target.num_identities, target.embedding_dim

    def forward(self, images):
        return self.target((images.clone() if self.pure else images).clamp_(max=0.1))


@pytest.mark.parametrize("config", [CONFIG, replace(CONFIG, tv=0.1, l2=0.1)])
def test_a_target_that_changes_its_input_in_place_changes_its_own_copy_alone(config):
    generator, recognizer, _ = toy_world()
    results = [invert(generator, InPlace(recognizer, pure=pure), (0, 1), config) for pure in (True, False)]
    assert torch.equal(results[0].images, results[1].images) and torch.equal(results[0].scores, results[1].scores)
    images = torch.ones(3, 3, 8, 8)
    recognize(InPlace(recognizer, pure=False), images)
    check_recognizer(InPlace(recognizer, pure=False), 8)
    assert images.min() == 1
