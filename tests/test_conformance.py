"""One table of checks for every registered search space, objective and searcher, and for every goal.

A new entry is tested by existing: it is in its registry.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ganinv.attack.access import TargetAccess
from ganinv.attack.config import AttackConfig, Augment, Optim
from ganinv.attack.goals import ClassGoal, TemplateGoal
from ganinv.attack.invert import invert
from ganinv.attack.loop import Trial, minimise
from ganinv.attack.objectives import IMAGE_TERMS, OBJECTIVES
from ganinv.attack.registry import Registry
from ganinv.attack.searchers import SEARCHERS
from ganinv.attack.spaces import SPACES, Origin, fit_whitening
from ganinv.engine.checkpoint import load_state, save_state
from ganinv.engine.randomness import Draws, Streams
from ganinv.interfaces import Evaluation
from tests.toys import DistanceRecognizer, RawRecognizer, toy_world

TERMS = {**OBJECTIVES, **IMAGE_TERMS}
CONFIG = AttackConfig(
    steps=12, candidates=16, restarts=2, final_transforms=2, psi=1.0, log_every=1, optim=Optim(transforms=2), tv=0.01
)
IDENTITIES = torch.tensor([0, 1, 2, 1, 0])


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_target() -> DistanceRecognizer:
    """Returns a target whose scores are far from 0 and 1."""
    recognizer = toy_world()[1]
    recognizer.sharpness = 0.5
    return recognizer


def make_goals() -> dict:
    templates = draw(3, 64, seed=3)
    return {
        **{f"class {name}": ClassGoal(term) for name, term in OBJECTIVES.items()},
        "template cosine": TemplateGoal(templates),
        "template squared": TemplateGoal(templates, metric="euclidean"),
        "template plain": TemplateGoal(templates, metric="euclidean", squared=False),
    }


GOALS = tuple(make_goals())


def look(images: torch.Tensor, identities: torch.Tensor = IDENTITIES, kind: type = DistanceRecognizer) -> Evaluation:
    """Returns the evaluation of images by the toy target, without a transform."""
    target = kind(make_target().centres.detach(), 0.5)
    return Evaluation(images, images, target(images), identities)


def begin(name: str, config: AttackConfig = CONFIG, count: int = 5):
    """Returns a search space at a start of its own."""
    generator = toy_world()[0]
    first = draw(count, 4) if SPACES[name].needs_prior else draw(count, 3, 8, 8).clamp(-1, 1)
    return SPACES[name].begin(Origin(config, generator, first, lambda: fit_whitening(generator, device="cpu")))


def own(space) -> list[torch.Tensor]:
    return list(space.parameters(recurse=False))


def attack(config: AttackConfig, identities=(0, 1, 2), target=None, **options):
    """Returns the result of an attack on the toy world."""
    prior = SPACES[config.space].needs_prior
    start = None if prior else 0.1 * draw(3, 1, 8, 8)[: len(identities)]
    return invert(toy_world()[0] if prior else None, target or make_target(), identities, config, start=start, **options)


def configure(searcher: str = "adam", **changes) -> AttackConfig:
    """Returns a configuration that a searcher can run, with the least access that it needs."""
    access = "gradients" if SEARCHERS[searcher].gradients else "scores"
    return replace(CONFIG, access=access, optim=Optim(optimizer=searcher, transforms=1, pairs=2), **changes)


# ---- registries


def test_a_name_is_taken_once_and_an_unknown_one_is_refused():
    table = Registry("an animal")
    table.register("cat")(1)
    with pytest.raises(ValueError, match="^expected an animal of a new name, got cat, which is taken; choose another$"):
        table.register("cat")
    with pytest.raises(ValueError, match="^expected an animal among cat, got dog$"):
        table.find("dog")
    assert dict(table) == {"cat": 1} and "cat" in table and len(table) == 1


# ---- terms and goals


@pytest.mark.parametrize("name", TERMS)
def test_a_term_is_one_number_per_sample_whose_gradient_reaches_the_picture_and_no_neighbour(name):
    images = (0.3 * draw(5, 3, 8, 8)).requires_grad_()
    losses = TERMS[name](look(images))
    assert losses.shape == (5,) and losses.isfinite().all()
    (slope,) = torch.autograd.grad(losses[2], images)
    assert slope[2].any() and not slope[[0, 1, 3, 4]].any()
    alone = TERMS[name](look(images[2:3], IDENTITIES[2:3]))
    torch.testing.assert_close(alone, losses[2:3])


@pytest.mark.parametrize("name", TERMS)
def test_descent_lowers_a_term(name):
    space, found = begin("pixels"), []
    trial = Trial(TargetAccess(make_target()), ClassGoal(TERMS[name]), lambda x, draws: x)
    minimise(
        space, trial, IDENTITIES, Streams((0, i) for i in range(5)), steps=20,
        optim=Optim(optimizer="gradient_descent", lr=0.02, decay=False),
        on_step=lambda step, seen: found.append(seen.losses.clone()),
    )  # fmt: skip
    assert (found[-1] < found[0]).all()


@pytest.mark.parametrize("name", GOALS)
def test_a_goal_keeps_its_contract(name):
    goal, kind = make_goals()[name], DistanceRecognizer if "squared" not in name and "plain" not in name else RawRecognizer
    images = (0.3 * draw(5, 3, 8, 8)).requires_grad_()
    case = look(images, kind=kind)
    losses = goal(case)
    (slope,) = torch.autograd.grad(losses[2], images)
    assert losses.shape == (5,) and slope[2].any() and not slope[[0, 1, 3, 4]].any()
    scores, ranks = goal.score(case.recognition, IDENTITIES), goal.rank(case.recognition, torch.arange(3))
    assert scores.shape == (5,) and ranks.shape == (5, 3) and not scores.requires_grad and not ranks.requires_grad
    assert (scores >= 0).all() and (scores <= 1).all()
    assert goal.reads in ("logits", "embeddings")
    part = look(images[3:4], IDENTITIES[3:4], kind)
    torch.testing.assert_close(goal.score(part.recognition, IDENTITIES[3:4]), scores[3:4])
    torch.testing.assert_close(goal.rank(part.recognition, torch.tensor([2, 0])), ranks[3:4, [2, 0]])


# ---- search spaces


@pytest.mark.parametrize("name", SPACES)
def test_a_space_keeps_its_contract(name):
    space = begin(name)
    images = space()
    assert images.shape == (5, 3, 8, 8) and images.dtype == torch.float32
    assert own(space) and all(len(parameter) == 5 for parameter in own(space))
    torch.testing.assert_close(space(torch.tensor([3, 1])), images[[3, 1]])
    torch.testing.assert_close(space(slice(1, 3)), images[1:3])
    slopes = torch.autograd.grad(space(torch.tensor([2]))[0].square().sum(), own(space))
    assert all(slope[2].any() and not slope[[0, 1, 3, 4]].any() for slope in slopes)
    latents = space.latents()
    assert latents and all(len(rows) == 5 and not rows.requires_grad for rows in latents.values())
    assert all(torch.equal(a, b) for a, b in zip(own(space), own(begin(name)), strict=True))


@pytest.mark.parametrize("name", SPACES)
def test_a_space_allows_where_it_begins_and_what_it_has_projected(name):
    space = begin(name)
    for moved in (0.0, 3.0):
        with torch.no_grad():
            for parameter in own(space):
                parameter.add_(moved * draw(*parameter.shape, seed=1))
        space.project_()
        once = [parameter.detach().clone() for parameter in own(space)]
        space.project_()
        for parameter, before in zip(own(space), once, strict=True):
            torch.testing.assert_close(parameter.detach(), before)


# ---- whole attacks

CASES = [(space, "adam", objective) for space in SPACES for objective in OBJECTIVES] + [
    (space, searcher, "cross_entropy") for space in SPACES for searcher in SEARCHERS if searcher != "adam"
]


@pytest.mark.parametrize(("space", "searcher", "objective"), CASES)
def test_an_attack_repeats_leaves_the_target_alone_and_mixes_no_samples(space, searcher, objective):
    config, target = configure(searcher, space=space, objective=objective, steps=4), make_target()
    before = target.centres.detach().clone()
    first, again = (attack(config, target=target) for _ in range(2))
    assert torch.equal(first.images, again.images) and torch.equal(first.scores, again.scores)
    assert torch.equal(target.centres, before) and target.centres.grad is None
    assert not target._forward_hooks and not target._forward_pre_hooks and not target._backward_hooks
    pieces = attack(replace(config, batch=2))
    for name, rows in first.latents.items():
        torch.testing.assert_close(rows, pieces.latents[name], atol=1e-4, rtol=1e-4)
    alone = attack(config, identities=(0,))
    torch.testing.assert_close(alone.images[0], first.images[0], atol=0.01, rtol=0)
    assert (first.images[:, 0] != first.first).flatten(1).any(1).all()


# one that seeks the border of a decision makes the mean loss of its points rise: tests/test_searchers.py
@pytest.mark.parametrize("searcher", [name for name in SEARCHERS if name != "boundary"])
@pytest.mark.parametrize("space", SPACES)
def test_every_searcher_lowers_the_loss_in_every_space(space, searcher):
    rows = []
    config = configure(searcher, space=space, objective="cross_entropy", steps=40, tv=0.0)
    attack(replace(config, augment=Augment(flip=0.0, degrees=0.0, scale=(1.0, 1.0), shift=0.0)), on_step=rows.append)
    assert rows[-1]["objective"] < rows[0]["objective"] and rows[-1]["target_score"] > rows[0]["target_score"]


ECONOMY = {
    "halving": {"halve_at": (0.3, 0.6)},
    "patience": {"patience": 2, "lr": 0.3},
    "leaving": {"leave_at": 0.3},
    "averaging": {"average_last": 5},
}


@pytest.mark.parametrize("searcher", SEARCHERS)
@pytest.mark.parametrize("economy", ECONOMY)
def test_a_search_goes_on_from_any_step_to_the_bit(economy, searcher, tmp_path):
    config = configure(searcher, space="w", objective="cross_entropy", batch=2)
    config = replace(config, optim=replace(config.optim, **ECONOMY[economy]))
    files = []

    def keep(describe):
        files.append(tmp_path / f"{len(files)}.safetensors")
        save_state(files[-1], describe())

    whole = attack(config, on_state=keep)
    for file in files[1:-1:4]:
        again = attack(config, state=load_state(file))
        assert torch.equal(again.latents["w"], whole.latents["w"]) and torch.equal(again.scores, whole.scores), file
        assert again.queries == whole.queries and again.stuck == whole.stuck


def test_the_last_latents_are_averaged():
    space, states = begin("w"), []
    trial = Trial(TargetAccess(make_target()), ClassGoal(), lambda x, draws: x)
    minimise(
        space, trial, IDENTITIES, Streams((0, i) for i in range(5)), steps=6, optim=Optim(average_last=3),
        on_state=lambda describe: states.append(describe()["parameters"][0].detach().clone()),
    )  # fmt: skip
    torch.testing.assert_close(space.v.detach(), torch.stack(states[-3:]).mean(0))
    assert not torch.allclose(states[-1], states[-3])


def test_no_number_is_drawn_twice_for_directions_and_transforms(monkeypatch):
    uniform, drawn = Draws.uniform, []
    monkeypatch.setattr(Draws, "uniform", lambda *given: drawn.append(uniform(*given)) or drawn[-1])
    trial = Trial(TargetAccess(make_target(), "scores"), ClassGoal(), lambda x, draws: x + 0 * draws.uniform(len(x), 0, 1)[0])
    optim = Optim(optimizer="antithetic", pairs=2)
    minimise(begin("w"), trial, IDENTITIES, Streams((0, i) for i in range(5)), steps=3, optim=optim)
    numbers = torch.cat(drawn)
    each = 2 * 4 + 1  # two directions of four numbers; one for a transform that all points of a step share
    assert len(numbers.unique()) == 3 * 5 * each and len(numbers) == 3 * 5 * (2 * 4 + 2 * 2)


def test_a_searcher_that_draws_late_is_refused(monkeypatch):
    class Late(SEARCHERS["antithetic"]):
        def ask(self, step, rows, draws):
            yield from super().ask(step, rows, draws)
            draws.uniform(len(rows), 0, 1)

    monkeypatch.setitem(SEARCHERS.entries, "late", Late)
    with pytest.raises(ValueError, match="draws its numbers before its first point"):
        attack(configure("late", space="w"))
