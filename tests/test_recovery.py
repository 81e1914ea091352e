"""Templates from answers: the interval belief by numbers known otherwise, and galleries whose templates are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import truncnorm

import ganinv
from ganinv.attack.access import Queries, TargetAccess
from ganinv.attack.belief import Belief, cut_to
from ganinv.attack.config import AttackConfig, Operator, Recovery
from ganinv.attack.offline import attack
from ganinv.attack.recovery import cross, make_pool, recover_from_decisions, recover_from_similarities
from ganinv.engine.checkpoint import load_state, save_state
from ganinv.interfaces import FaultError, Recognition
from ganinv.recognizers.gallery import EnrolledRecognizer, Gallery
from ganinv.reports import assessment
from tests.toys import DistanceRecognizer, RawRecognizer, toy_world

USERS = (0, 2)


def make_gallery(metric: str = "euclidean", threshold: float | None = 6.0) -> EnrolledRecognizer:
    centres = toy_world()[1].centres.detach()
    kind = RawRecognizer if metric == "euclidean" else DistanceRecognizer
    threshold = 0.6 if metric == "cosine" and threshold else threshold and threshold / 3
    return EnrolledRecognizer(kind(centres), Gallery(("a", "b", "c"), centres, metric, threshold, scale=0.5))


def open_door(rung: str, metric: str = "euclidean", count: int = 200, **options):
    """Returns a gallery, an access with a tally, and a pool of pictures."""
    target = make_gallery(metric)
    access = TargetAccess(target, rung, queries=Queries(3), options=Operator(**options))
    return target, access, make_pool(toy_world()[0], target, count, seed=0)


def miss(found, target) -> float:
    """Returns the largest distance of a recovered template to the true one."""
    true = target.templates[list(USERS)]
    true = torch.nn.functional.normalize(true, dim=1) if target.metric == "cosine" else true
    return float((found.templates - true).norm(dim=1).max())


# ---- the belief


@pytest.mark.parametrize(
    ("low", "high"), [(-1.0, 0.5), (0.2, 3.0), (2.0, np.inf), (-np.inf, -4.0), (-np.inf, 1.0), (3.0, 4.5)]
)
def test_moments_are_those_of_a_truncated_normal(low, high):
    np.testing.assert_allclose(cut_to(low, high), truncnorm.stats(low, high, moments="mv"), rtol=1e-6)


def test_far_out_moments_keep_their_digits():
    mean, variance = cut_to(-np.inf, -1000.0)
    np.testing.assert_allclose([mean, variance], [-1000.001, 1e-6], rtol=1e-5)
    assert cut_to(1000.0, np.inf) == (-mean, variance)


def test_narrow_intervals_are_least_squares():
    generator = np.random.default_rng(0)
    rows, true = generator.standard_normal((30, 4)), np.array([1.0, -2.0, 0.5, 3.0])
    belief = Belief(np.zeros(4), 100 * np.eye(4))
    for row in rows:
        belief.learn(row, row @ true - 1e-4, row @ true + 1e-4)
    np.testing.assert_allclose(belief.mean, true, atol=1e-3)
    assert np.sqrt(np.trace(belief.covariance)) < 1e-3


def test_reconsidering_makes_the_order_of_answers_matter_less():
    generator = np.random.default_rng(1)
    rows = generator.standard_normal((40, 3))
    sides = rows @ np.array([1.0, 0.3, -0.5]) > 0.4

    def learn(order, sweeps):
        belief = Belief(np.zeros(3), np.eye(3), noise=0.01)
        for n in order:
            belief.learn(rows[n], *((0.4, np.inf) if sides[n] else (-np.inf, 0.4)))
        belief.reconsider(sweeps)
        return belief.mean

    def gap(sweeps):
        return np.abs(learn(range(40), sweeps) - learn(range(39, -1, -1), sweeps)).max()

    assert gap(6) < 0.1 * gap(0) and gap(6) < 1e-3


def test_a_parabola_crosses_where_it_is_zero():
    at, bend = np.array([-1.0]), np.array([2.0])
    share = cross(at, np.array([1.5]), bend)  # -1 + (1.5 + 1 - 2) s + 2 s^2
    assert abs(-1 + 0.5 * share[0] + 2 * share[0] ** 2) < 1e-9


# ---- similarities


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("claimed", [False, True])
def test_distances_give_the_template_and_every_picture_is_counted(metric, claimed):
    target, access, pool = open_door("scores", metric, answers="similarities", claimed=claimed)
    found = recover_from_similarities(access, pool, USERS, 12)
    assert miss(found, target) < 0.01
    asked = access.queries.describe()
    assert asked["answers"] == (24 if claimed else 12) and asked["shared"] == (0 if claimed else 12)
    assert asked["per_identity"] == (dict.fromkeys(USERS, 12) if claimed else {})


@pytest.mark.parametrize("rung", ["scores", "decisions"])
def test_pictures_and_claims_are_shown_on_the_pools_device(rung):
    class Elsewhere:
        claims, metric, options = True, "euclidean", Operator(answers="similarities", claimed=True)

        def __call__(self, images, identities):
            assert images.device.type == identities.device.type == "meta"
            return Recognition(None, torch.zeros(len(images), 3))

    pool = replace(open_door("embeddings", count=20)[2], device="meta")
    pool = pool.blend([0], [1], np.full(1, 0.5))
    if rung == "scores":
        recover_from_similarities(Elsewhere(), pool, USERS[:1], 5)
    else:
        recover_from_decisions(Elsewhere(), pool, USERS[:1], 5, -6.0, seed=0)


def test_fewer_queries_say_less_and_the_spread_of_fewer_decimals_is_wider():
    errors, spreads = [], []
    for options, queries in (({"decimals": 1}, 3), ({"decimals": 1}, 40), ({"decimals": 3}, 40)):
        target, access, pool = open_door("scores", answers="similarities", claimed=True, **options)
        found = recover_from_similarities(access, pool, USERS, queries)
        errors.append(miss(found, target))
        spreads.append(float(found.spread.max()))
    assert errors[0] > 0.3 and max(errors[1:]) < 0.05 and spreads[0] > spreads[1] > spreads[2]


def test_a_target_that_changes_its_answers_is_one_line():
    target, access, pool = open_door("scores", answers="similarities")
    answer, calls = access.answer, []

    def fickle(images, asked):
        calls.append(0)
        found = answer(images, asked)
        return replace(found, logits=found.logits + 0.01 * torch.arange(len(images))[:, None])

    access.answer = fickle
    with pytest.raises(ValueError, match="expected a target that gives a picture one answer, got two that differ by 0.1"):
        recover_from_similarities(access, pool, USERS, 12)
    with pytest.raises(ValueError, match="expected 2 to 200 queries"):
        recover_from_similarities(access, pool, USERS, 0)


# ---- accept or reject


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_yes_and_no_give_the_template(metric):
    target, access, pool = open_door("decisions", metric, count=400, claimed=True)
    log = []
    found = recover_from_decisions(
        access, pool, USERS, 150, target.threshold, blends=160, on_query=lambda user, asked, look: log.append((user, asked))
    )
    assert miss(found, target) < (0.1 if metric == "euclidean" else 0.05)
    asked = access.queries.describe()["per_identity"]
    assert all(count <= 150 for count in asked.values()) and len(log) == sum(asked.values())


def test_an_answer_that_names_another_user_is_no_rejection():
    target, access, pool = open_door("decisions", count=400)
    assert miss(recover_from_decisions(access, pool, USERS, 150, target.threshold, blends=160), target) < 0.2


def test_nothing_accepted_is_one_line():
    target, access, pool = open_door("decisions", claimed=True)
    target.threshold = 1e-3
    with pytest.raises(FaultError, match="^none of 20 pictures was accepted as user 0, so that no boundary was found"):
        recover_from_decisions(access, pool, USERS, 20, 1e-3)
    with pytest.raises(ValueError, match="expected a threshold to accept or reject by, got none"):
        recover_from_decisions(access, pool, USERS, 20, None)


# ---- whole attacks

CONFIG = AttackConfig(
    goal="template", network="public", access="scores", operator=Operator(answers="similarities", claimed=True), steps=6,
    candidates=16, restarts=2, final_transforms=2, space="w", recovery=Recovery(queries=12, pictures=60),
)  # fmt: skip


@pytest.mark.parametrize(("access", "asked"), [("embeddings", 0), ("scores", 12), ("decisions", 60)])
def test_a_recovered_template_is_inverted_at_home(access, asked):
    operator = CONFIG.operator if access == "scores" else Operator(claimed=access == "decisions")
    config = replace(
        CONFIG, access=access, operator=operator, recovery=Recovery(queries=max(2, asked), pictures=200, blends=80)
    )
    result = attack(toy_world()[0], make_gallery(), USERS, config)
    queries = result.queries
    assert queries["gradients"] == 0 and result.cost.gradient_queries == 0 and queries["own_copy"] > 0
    assert all(count <= asked for count in queries["per_identity"].values())
    assert result.cost.images_evaluated == queries["answers"] == sum(queries["per_identity"].values())
    assert (result.scores > 0.4).all()


def test_it_goes_on_from_any_step_to_the_bit(tmp_path):
    files = []

    def keep(describe):
        files.append(tmp_path / f"{len(files)}.safetensors")
        save_state(files[-1], describe())

    whole = attack(toy_world()[0], make_gallery(), USERS, CONFIG, on_state=keep)
    for file in files[::3]:
        again = attack(toy_world()[0], make_gallery(), USERS, CONFIG, state=load_state(file))
        assert torch.equal(again.images, whole.images) and torch.equal(again.scores, whole.scores)
        assert again.queries == whole.queries


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    ("access", "operator", "total"),
    [
        ("scores", Operator(answers="similarities", claimed=True), 24),
        ("scores", Operator(answers="similarities", decimals=2), 12),
        ("decisions", Operator(claimed=True), None),
        ("decisions", Operator(), None),
    ],
)
def test_a_recovery_that_was_killed_asks_nothing_twice(tmp_path, access, operator, total):
    states = []
    recovery = Recovery(queries=12 if total else 60, pictures=60, blends=80)
    config = replace(CONFIG, access=access, operator=operator, steps=1, recovery=recovery)

    def keep(describe):
        save_state(tmp_path / f"{len(states)}.safetensors", describe())
        states.append(tmp_path / f"{len(states)}.safetensors")

    whole = attack(toy_world()[0], make_gallery(), USERS, config, on_answers=keep)
    asked = whole.queries["answers"]
    assert asked == total or (total is None and asked > 20)
    for number, file in enumerate(states):
        fresh = []
        again = attack(
            toy_world()[0], make_gallery(), USERS, config, state=load_state(file),
            on_answers=lambda describe, fresh=fresh: fresh.append(describe()["asked"]["answers"]),
        )  # fmt: skip
        assert fresh == [load_state(later)["asked"]["answers"] for later in states[number + 1 :]]
        assert again.queries == whole.queries and torch.equal(again.images, whole.images)
    assert len(states) >= 2 or not operator.claimed


def test_answers_are_kept_before_they_are_used(tmp_path):
    kept = []

    def stop(describe):
        kept.append(describe())
        raise Stop

    with pytest.raises(Stop):
        attack(toy_world()[0], make_gallery(), USERS, CONFIG, on_answers=stop)
    counted = kept[0]["recovery"]["answers"]
    assert len(counted["keys"]) == kept[0]["asked"]["answers"] == 12 and counted["answers"].isfinite().all()


def test_from_python_the_same():
    settings = {"access": "scores", "operator": {"answers": "similarities"}, "network": "public", "steps": 2}
    run = ganinv.LatentAttack(
        goal="template", candidates=16, restarts=1, final_transforms=1, space="w", optim={"halve_at": ()},
        recovery={"queries": 12, "pictures": 40}, **settings,
    )  # fmt: skip
    assert "operator.answers='similarities'" in repr(run)
    result = run(toy_world()[0], make_gallery(), USERS)
    assert result.queries["shared"] == 12 and result.config.network == "public"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"goal": "class"}, "expected --goal=template and a target with a gallery beside --network=public, got .*class"),
        ({"access": "gradients", "operator": Operator()}, "expected an access below gradients beside --network=public"),
        ({"operator": Operator()}, "expected --operator.answers=similarities beside --network=public"),
        ({"recovery": Recovery(queries=0)}, "expected queries in \\[2, 1e6], got 0"),
        ({"recovery": Recovery(queries=90, pictures=60)}, "expected recovery.queries of at most the 60"),
        (
            {"operator": replace(CONFIG.operator, limit=11)},
            "expected operator.limit of at least 12, .* got 11; lower --recovery.queries",
        ),
        ({"network": "secret"}, "expected .* for the access scores|expected access to embeddings|expected --network=public"),
    ],
)
def test_what_cannot_be_run_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        attack(toy_world()[0], make_gallery(), USERS, replace(CONFIG, **changes))


def test_the_assessment_says_that_the_templates_were_recovered():
    report = {"method": "latent", "goal": "template", "cost": {"images_evaluated": None}}
    stolen = assessment.list_held(report, {"access": "embeddings", "network": "public"})
    recovered = assessment.list_held(report, {"access": "scores", "network": "public"})
    assert any("were stored" in line for line in stolen) and any("recovered from answers" in line for line in recovered)
    assert not any("were stored" in line for line in recovered)


def test_accept_or_reject_stops_where_the_template_is_known_well_enough():
    target, access, pool = open_door("decisions", count=400, claimed=True)
    found = recover_from_decisions(access, pool, USERS, 150, target.threshold, blends=160, enough=0.1)
    asked = access.queries.describe()["per_identity"]
    assert max(asked.values()) < 150 and float(found.spread.max()) < 0.1 * 6 and miss(found, target) < 0.9
    more = open_door("decisions", count=400, claimed=True)
    recover_from_decisions(more[1], more[2], USERS, 150, target.threshold, blends=160)
    assert sum(more[1].queries.describe()["per_identity"].values()) > sum(asked.values())
    assert Recovery().count("decisions") == 2000 and Recovery().count("scores") == 300 and Recovery(queries=7).count("x") == 7
