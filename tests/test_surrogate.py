"""A copy of a target on a public network: closed forms on toys whose scores are known, and whole attacks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import ganinv
from ganinv.attack.config import AttackConfig, Operator, Optim, Surrogate
from ganinv.attack.offline import attack
from ganinv.attack.surrogate import FittedCopy, fit_ridge
from ganinv.engine.checkpoint import load_state, save_state
from tests.toys import RawRecognizer, toy_world

USERS = (0, 2)
CONFIG = AttackConfig(
    space="w", access="scores", steps=6, candidates=16, restarts=2, final_transforms=2, optim=Optim(transforms=1),
    surrogate=Surrogate(network="toy", pictures=80, rounds=2, views=2),
)  # fmt: skip


def make_public() -> RawRecognizer:
    """Returns a network that embeds a picture as its grey pixels, and knows nobody."""
    network = RawRecognizer(torch.zeros(1, 64))
    network.num_identities = None
    return network


def see(count: int) -> torch.Tensor:
    generator, _, _ = toy_world()
    z = torch.randn(count, 4, generator=torch.Generator().manual_seed(5))
    return generator.synthesize(generator.map(z)).detach()


def centre(logits: torch.Tensor) -> torch.Tensor:
    return logits - logits.mean(1, keepdim=True)


def test_a_ridge_finds_a_line_and_leave_one_out_is_what_it_says():
    rows = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    true = torch.tensor([[1.0, -2.0], [0.5, 0.0], [3.0, 1.0]], dtype=torch.float64)
    error, weights, bias = fit_ridge(rows, rows @ true + torch.tensor([0.7, -0.2]))
    torch.testing.assert_close(weights, true, atol=1e-4, rtol=0)
    torch.testing.assert_close(bias, torch.tensor([0.7, -0.2], dtype=torch.float64), atol=1e-4, rtol=0)
    assert error < 1e-4
    values = rows @ true + torch.randn(40, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    error, *_ = fit_ridge(rows, values)
    left = []
    for out in range(40):
        kept = torch.arange(40) != out
        _, weights, bias = fit_ridge(rows[kept], values[kept])
        left.append(values[out] - rows[out] @ weights - bias)
    around = (values - values.mean(0)).square().mean().sqrt()
    assert error == pytest.approx(float(torch.stack(left).square().mean().sqrt() / around), rel=0.02)


def test_a_copy_of_scores_that_are_linear_in_the_embeddings_is_exact():
    _, target, _ = toy_world()  # -4 |x - c|^2 is linear in x but for what all users share
    network, shown, new = make_public(), see(60), see(90)[60:]
    with torch.no_grad():
        copy = FittedCopy(network, network(shown).embeddings, target(shown).logits.div(20).softmax(1))
        wanted, found = target(new).logits / 20, copy(new).logits
    torch.testing.assert_close(centre(found), centre(wanted), atol=1e-3, rtol=0)
    assert copy.error < 1e-3 and copy.leading == 0


def test_products_are_taken_where_they_explain_more():
    network, shown, new = make_public(), see(300), see(400)[300:]

    def answer(images):
        x = images.mean(1).flatten(1) @ toy_world()[0].matrix.T
        return torch.stack([x[:, 0] * x[:, 1], x[:, 2].square(), x[:, 3]], 1) / 3

    copy = FittedCopy(network, network(shown).embeddings, answer(shown).softmax(1))
    assert copy.leading == 4 and copy.error < 1e-3
    torch.testing.assert_close(centre(copy(new).logits), centre(answer(new)), atol=5e-3, rtol=0)


def run(config=CONFIG, **options):
    generator, target, _ = toy_world()
    return attack(generator, target, USERS, config, surrogate=make_public(), **options)


def test_the_search_in_a_copy_finds_the_users_and_every_picture_is_counted():
    found = run(replace(CONFIG, steps=150))
    each = 2 * 2 * 2  # rounds, restarts, views
    assert found.queries["per_identity"] == dict.fromkeys(USERS, each) and found.queries["shared"] == 80
    assert found.queries["answers"] == 80 + 2 * each == found.cost.images_evaluated and found.queries["gradients"] == 0
    assert found.queries["own_copy"] > 0 and 0 <= found.queries["copy_error"] < 1
    _, target, _ = toy_world()
    scores = target(found.images[:, 0]).logits.softmax(1)[[0, 1], list(USERS)]
    assert (scores > 0.9).all()


def test_it_goes_on_from_any_answer_and_any_step_to_the_bit_and_asks_nothing_twice(tmp_path):
    files = []

    def keep(describe):
        files.append(tmp_path / f"{len(files)}.safetensors")
        save_state(files[-1], describe())

    rows = []
    whole = run(on_state=keep, on_answers=keep, on_step=rows.append)
    assert [row["step"] for row in rows] == list(range(12))
    counts = [load_state(file)["asked"]["answers"] for file in files]
    assert counts == sorted(counts) and counts[-1] == whole.queries["answers"]
    for number, file in enumerate(files):
        asked = []
        again = run(
            state=load_state(file),
            on_answers=lambda describe, asked=asked: asked.append(describe()["asked"]["answers"]),
        )
        assert torch.equal(again.images, whole.images) and torch.equal(again.scores, whole.scores)
        assert again.queries == whole.queries | {"own_copy": again.queries["own_copy"]}
        assert not set(asked) & set(counts[: number + 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"access": "decisions"},
            "expected --access=scores, --goal=class and an optimizer with gradients beside",
        ),
        ({"optim": Optim(optimizer="cma_es")}, "expected --access=scores, .* got .* the optimizer cma_es"),
        ({"operator": Operator(claimed=True)}, "expected an operator that shows all users' scores"),
        ({"operator": Operator(limit=7)}, "expected operator.limit of at least 8, .* got 7"),
        ({"operator": Operator(budget=95)}, "expected operator.budget of at least 96, .* got 95"),
        ({"surrogate": replace(CONFIG.surrogate, rounds=0)}, "expected rounds in \\[1, 1e4], got 0"),
    ],
)
def test_what_cannot_be_run_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        run(replace(CONFIG, **changes))


def test_a_copy_needs_its_network_and_from_python_it_is_an_argument():
    generator, target, _ = toy_world()
    with pytest.raises(ValueError, match="expected the network toy for the copy, got none; pass surrogate="):
        attack(generator, target, USERS, CONFIG)
    own = ganinv.LatentAttack(
        space="w", access="scores", steps=2, candidates=16, restarts=1, surrogate={"pictures": 40, "rounds": 1, "views": 1},
        optim={"halve_at": ()},
    )  # fmt: skip
    assert own(generator, target, USERS, surrogate=make_public()).queries["answers"] == 42
