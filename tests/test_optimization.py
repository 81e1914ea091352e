from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from ganinv.attack.access import TargetAccess
from ganinv.attack.config import AttackConfig, Augment, Optim
from ganinv.attack.goals import ClassGoal
from ganinv.attack.invert import FORWARD, invert
from ganinv.attack.loop import Trial, minimise
from ganinv.attack.objectives import OBJECTIVES
from ganinv.attack.samples import SURE, drop_worse
from ganinv.attack.spaces import PixelSpace
from ganinv.engine.batches import PROBES, Batch
from ganinv.engine.checkpoint import load_state, save_state
from ganinv.engine.randomness import Streams
from ganinv.interfaces import FaultError, Recognition
from tests.toys import DistanceRecognizer, toy_world

STILL = Augment(flip=0.0, degrees=0.0, scale=(1.0, 1.0), shift=0.0)
CONFIG = AttackConfig(
    steps=30, candidates=64, restarts=4, final_transforms=2, psi=1.0, log_every=1, optim=Optim(transforms=1)
)
DOWNHILL = Optim(optimizer="gradient_descent", lr=0.02, decay=False, transforms=1)


def count_calls(recognizer) -> list[int]:
    calls: list[int] = []
    recognizer.register_forward_hook(lambda module, arguments, output: calls.append(len(arguments[0])))
    return calls


def search(pictures: torch.Tensor, identities: list[int], optim: Optim, steps: int, **options):
    """Returns the pixels found from pictures [N,1,8,8] without transforms, which samples finished, the batches seen."""
    _, recognizer, _ = toy_world()
    calls = count_calls(recognizer)
    space = PixelSpace(pictures)
    streams = Streams((0, index) for index in range(len(pictures)))
    trial = Trial(TargetAccess(recognizer), ClassGoal(OBJECTIVES["confidence"]), lambda x, draws: x, optim.transforms)
    found = minimise(space, trial, torch.tensor(identities), streams, steps=steps, optim=optim, **options)
    assert trial.access.queries.gradients == sum(calls)
    return space.pixels.detach(), found, calls


def centre(identity: int, share: float) -> torch.Tensor:
    """Returns a picture [1,8,8] on the way from grey to the identity's own."""
    return (share * toy_world()[1].centres[identity].detach()).view(1, 8, 8)


def test_what_has_stopped_is_computed_no_more_and_the_others_do_not_notice():
    pictures = torch.stack([centre(0, 1.0), centre(1, 0.0), centre(2, 0.3)])
    optim = replace(DOWNHILL, patience=5, threshold=0.02)
    together, found, calls = search(pictures, [0, 1, 2], optim, 200)
    assert calls[:2] == [3, 2] and calls[-1] == 1 and sorted(calls, reverse=True) == calls and len(calls) < 200
    assert found.all()
    for index in range(3):
        alone, _, _ = search(pictures[index : index + 1], [index], optim, 200)
        torch.testing.assert_close(together[index], alone[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(together[0], pictures[0])  # it was there, and never moved


def test_a_sample_leaves_when_the_target_was_sure_for_long():
    pictures = torch.stack([centre(0, 1.0), centre(1, 0.0)])
    adam = Optim(lr=0.005, decay=False, transforms=1)  # whose momentum would carry it on
    result, found, calls = search(pictures, [0, 1], replace(adam, leave_at=0.9), 15)
    assert calls == [2] * SURE + [1] * (15 - SURE) and found.all()
    nine, _, _ = search(pictures, [0, 1], adam, SURE - 1)  # it stays where it was seen last
    torch.testing.assert_close(result[0], nine[0], atol=1e-6, rtol=1e-5)


def test_the_worse_half_of_each_identity_is_dropped():
    losses = torch.tensor([3.0, 1.0, 1.0, 2.0, 5.0, torch.inf, 4.0, 6.0])
    identities = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    assert drop_worse(losses, identities, 1).tolist() == [False, True, True, False, True, False, True, False]
    assert drop_worse(losses, identities, 3).tolist() == [False, True, True, True, True, False, True, True]
    assert drop_worse(torch.tensor([2.0]), torch.tensor([0]), 1).all()
    assert drop_worse(torch.ones(4), torch.zeros(4), 1).tolist() == [True, True, False, False]  # ties: the lower index


def test_halving_leaves_the_best_and_computes_no_more_than_them():
    pictures = torch.stack([centre(0, 0.1), centre(0, 0.5), centre(1, 0.6), centre(0, 0.3), centre(1, 0.2), centre(0, 0.0)])
    _, found, calls = search(pictures, [0, 0, 1, 0, 1, 0], replace(DOWNHILL, lr=1e-6, halve_at=(0.2, 0.5)), 10)
    assert calls == [6] * 2 + [3] * 3 + [2] * 5
    assert found.tolist() == [False, True, True, False, False, False]
    _, found, calls = search(pictures, [0, 0, 1, 0, 1, 0], replace(DOWNHILL, lr=1e-6, halve_at=(0.2, 0.5)), 10, keep=2)
    assert calls[-1] == 4 and found.tolist() == [False, True, True, True, True, False]


ECONOMY = {
    "halving": Optim(transforms=2, halve_at=(0.2, 0.5)),
    "patience": Optim(transforms=1, patience=4, lr=0.3),
    "leaving": Optim(transforms=1, leave_at=0.5, halve_at=(0.4,)),
}


@pytest.mark.parametrize("name", ECONOMY)
def test_neither_the_batch_nor_other_users_change_a_result(name):
    generator, recognizer, _ = toy_world()
    config = replace(CONFIG, objective="poincare", optim=ECONOMY[name])
    whole = invert(generator, recognizer, (0, 1, 2), config)
    pieces = invert(generator, recognizer, (0, 1, 2), replace(config, batch=3))
    alone = invert(generator, recognizer, (2,), replace(config, batch=1))
    torch.testing.assert_close(whole.latents["w"], pieces.latents["w"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(whole.latents["w"][2:], alone.latents["w"], atol=1e-4, rtol=1e-4)
    assert whole.cost.gradient_queries == pieces.cost.gradient_queries < sum(PROBES) + 3 * 4 * 30 * config.optim.transforms


@pytest.mark.parametrize("name", ECONOMY)
def test_a_search_goes_on_from_any_step_to_the_bit(name, tmp_path):
    generator, recognizer, _ = toy_world()
    config = replace(CONFIG, objective="poincare", optim=ECONOMY[name], batch=2)  # two parts: users 0 and 1, user 2
    files, whole_rows = [], []

    def keep(describe):
        files.append(tmp_path / f"{len(files)}.safetensors")
        save_state(files[-1], describe())

    whole = invert(generator, recognizer, (0, 1, 2), config, on_state=keep, on_step=whole_rows.append)
    assert len(files) > 10
    for file in files[:: max(1, len(files) // 9)]:
        state, rows = load_state(file), []
        again = invert(generator, recognizer, (0, 1, 2), config, state=state, on_step=rows.append)
        assert torch.equal(again.latents["w"], whole.latents["w"]) and torch.equal(again.scores, whole.scores), file
        assert again.cost.gradient_queries == whole.cost.gradient_queries
        told = [row["gradient_queries"] for row in whole_rows if row["step"] >= state["steps"]]
        assert [row["gradient_queries"] for row in rows] == told


def test_the_first_state_of_a_resumed_attack_is_the_one_it_was_resumed_from():
    """It is written before the part is taken up: killed there, a run took the part's steps, and queries, twice."""
    generator, recognizer, _ = toy_world()
    config, states, first = replace(CONFIG, together=1, steps=4), [], []

    def keep(describe):
        states.append(copy.deepcopy(describe()))

    whole = invert(generator, recognizer, (0, 1), config, on_state=keep)
    middle = next(state for state in states if state["finished"] and state["search"])
    invert(
        generator, recognizer, (0, 1), config, state=copy.deepcopy(middle),
        on_state=lambda describe: first or first.append(copy.deepcopy(describe())),
    )  # fmt: skip
    assert first[0]["steps"] == middle["steps"] > 4 and first[0]["search"]["step"] == middle["search"]["step"]
    again = invert(generator, recognizer, (0, 1), config, state=first[0])
    assert again.queries == whole.queries and torch.equal(again.images, whole.images)


def test_when_memory_runs_out_the_step_is_repeated_with_half_and_the_same_numbers(caplog):
    generator, recognizer, _ = toy_world()
    config = replace(CONFIG, objective="poincare", optim=Optim(transforms=2), augment=Augment())
    whole = invert(generator, recognizer, (0, 1, 2), config)
    forward, calls = recognizer.forward, []

    def starve(images):
        if images.requires_grad:  # the search; the final choice may take more at a time
            calls.append(len(images))
            if len(images) == 12 and calls.count(12) > 6:  # in the fourth step, after half of its transforms
                raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(images)

    recognizer.forward = starve
    states = []
    starved = invert(generator, recognizer, (0, 1, 2), config, on_state=lambda describe: states.append(describe()))
    assert "memory ran out with a batch of 12: going on with 6" in caplog.messages
    assert max(calls[calls.index(12) + 8 :]) <= 6 and states[-1]["batch"] == 6
    torch.testing.assert_close(starved.latents["w"], whole.latents["w"], atol=1e-4, rtol=1e-4)
    assert starved.cost.gradient_queries == whole.cost.gradient_queries


def test_no_more_samples_go_through_the_networks_than_a_batch_however_many_users():
    generator, _, known = toy_world()
    centres = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    recognizer = DistanceRecognizer(centres)
    searched, scored, made = [], [], []
    recognizer.register_forward_hook(
        lambda module, arguments, output: (searched if arguments[0].requires_grad else scored).append(len(arguments[0]))
    )
    synthesize = generator.synthesize
    generator.synthesize = lambda w: made.append(len(w)) or synthesize(w)
    invert(generator, recognizer, tuple(range(40)), replace(CONFIG, steps=2, batch=7))
    assert max(searched) == max(made) == 7
    assert 7 < max(scored) <= FORWARD * 7  # nothing is kept for a backward pass


def test_the_batch_is_planned_from_the_memory():
    generator, recognizer, _ = toy_world()
    calls = count_calls(recognizer)
    invert(generator, recognizer, (0, 1, 2), replace(CONFIG, steps=1))
    assert max(calls) == 40  # of 64 candidates
    with pytest.raises(ValueError, match="expected memory of at least .*MiB for one candidate, got 100MiB"):
        invert(generator, recognizer, (0,), replace(CONFIG, memory="100MiB"))
    with pytest.raises(ValueError, match="expected memory such as 4GiB"):
        invert(generator, recognizer, (0,), replace(CONFIG, memory="much"))


def test_rows_every_few_steps_change_nothing_and_the_last_is_there():
    generator, recognizer, _ = toy_world()
    found = {}
    for every in (1, 4):
        rows = []
        config = replace(CONFIG, steps=11, log_every=every, image_every=3)
        found[every] = invert(generator, recognizer, (0, 1), config, on_step=rows.append), rows
    assert torch.equal(found[1][0].latents["w"], found[4][0].latents["w"])
    assert [row["step"] for row in found[4][1]] == [0, 4, 8, 10]
    assert [row["step"] for row in found[1][1] if "images" in row] == [0, 3, 6, 9, 10]
    assert all("images" in row for row in found[4][1])
    pick = {row["step"]: row["gradient_queries"] for row in found[1][1]}
    assert [row["gradient_queries"] for row in found[4][1]] == [pick[step] for step in (0, 4, 8, 10)]


def test_a_fault_between_rows_tells_its_step():
    generator, recognizer, _ = toy_world()
    forward, calls = recognizer.forward, []

    def spoil(images):
        calls.append(len(images))
        found = forward(images)
        return Recognition(found.embeddings, found.logits * torch.nan) if calls.count(8) == 4 else found

    recognizer.forward = spoil
    with pytest.raises(FaultError, match="not finite at step 3"):
        invert(generator, recognizer, (0, 1), replace(CONFIG, steps=20, log_every=10))


def test_a_frozen_prior_is_neither_moved_nor_saved():
    generator, recognizer, _ = toy_world()
    generator.weight = torch.nn.Parameter(torch.ones(3))
    states = []
    invert(generator, recognizer, (0,), replace(CONFIG, steps=2), on_state=lambda describe: states.append(describe()))
    assert [list(p.shape) for p in states[1]["search"]["parameters"]] == [[4, 2, 4]]


@pytest.mark.parametrize(
    "changes",
    [{"halve_at": (0.5, 1.0)}, {"halve_at": (0.0,)}, {"leave_at": 1.5}, {"leave_at": -0.1}],
)
def test_shares_out_of_range_are_refused(changes):
    generator, recognizer, _ = toy_world()
    with pytest.raises(ValueError, match=r"expected optim.(halve_at in \(0, 1\)|leave_at in \[0, 1\]), got"):
        invert(generator, recognizer, (0,), replace(CONFIG, optim=Optim(**changes)))


def test_every_step_and_transform_has_draws_of_its_own():
    _, recognizer, _ = toy_world()
    drawn: list[float] = []

    def note(images, draws):
        drawn.extend(draws.uniform(len(images), 0, 1).tolist())
        return images

    minimise(
        PixelSpace(torch.zeros(2, 1, 8, 8)), Trial(TargetAccess(recognizer), ClassGoal(), note, views=3),
        torch.tensor([0, 1]), Streams((0, index) for index in range(2)), steps=5, optim=DOWNHILL, batch=Batch(1),
    )  # fmt: skip
    assert len(drawn) == len(set(drawn)) == 2 * 5 * 3


def test_a_batch_that_is_passed_on_splits_a_step():
    pictures = torch.stack([centre(index % 3, 0.2) for index in range(6)])
    whole, _, _ = search(pictures, [0, 1, 2, 0, 1, 2], DOWNHILL, 5)
    parts, _, calls = search(pictures, [0, 1, 2, 0, 1, 2], DOWNHILL, 5, batch=Batch(4))
    assert calls == [4, 2] * 5
    torch.testing.assert_close(whole, parts, atol=1e-6, rtol=1e-5)
