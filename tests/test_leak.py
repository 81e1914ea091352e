"""The two questions on the stripes whose answers are arithmetic: a picture of a user is accepted and named, or it is not."""

from __future__ import annotations

import pytest
import torch

from ganinv.errors import Absent, AbsentError
from ganinv.judging import leak
from ganinv.judging.leak import Rate, build_decider, compare_selection, find_shipped, measure_leak
from ganinv.judging.recognitions import RecognitionCache
from ganinv.judging.verdict import Verdict
from ganinv.worlds.references import Judge, References
from tests.test_verdict import CLASSES, StripeRecognizer, stripe

USERS = (0, 1, 2, 3, 4, 5)
NULL, CHOSEN = "random sample of the prior", leak.SELECTION


def make_judges(count=2, **options):
    recognizer = StripeRecognizer(closed=False)
    return [Judge(f"judge{number}", recognizer, sees_users=False, **options) for number in range(count)]


def make_references(judges, per_person=250):
    person = torch.arange(7).repeat_interleave(per_person)  # 7 * 250 * 6 comparisons with other people: 10 500
    noise = 0.05 * torch.randn(len(person), CLASSES, generator=torch.Generator().manual_seed(0))
    rows = torch.eye(CLASSES)[person] + noise
    return References({judge.name: rows for judge in judges}, person)


def show(people):
    return torch.stack([stripe(person) for person in people])[:, None]


def measure(shown, controls, judges=None, references=None, users=USERS):
    judges = judges or make_judges()
    references = references or make_references(judges)
    every = torch.cat([show(shown).flatten(0, 1), *(pictures.flatten(0, 1) for pictures in controls.values())])
    return measure_leak(show(shown), users, controls, judges, references, RecognitionCache(every))


def test_users_whom_two_judges_accept_and_name_are_given_away():
    found = measure(USERS, {NULL: show([7] * 6), CHOSEN: show([0, 1, 2, 7, 7, 7])})  # nobody is person 7
    assert found.answer == "shown" and found.given_away == Rate(6, 6) and found.needed == 2
    assert [judge.far for judge in found.judges] == [1e-3, 1e-3]
    assert "10500 comparisons among the references" in found.judges[0].basis and found.judges[0].people == 7
    assert [row.control for row in found.nulls] == [NULL, leak.STRANGER]
    for row in found.nulls:
        assert row.given_away == Rate(0, 6) and (row.only_pictures, row.only_control) == (6, 0)
        assert row.p == found.p == found.least_p == 2**-5
    assert found.selection.given_away == Rate(3, 6) and found.selection.control == CHOSEN  # an attack, and no null
    # a share 1e-3 of strangers passes, and these are of the six users alone
    assert 0 < found.judges[0].strangers.hits <= 10 and found.judges[0].strangers.n == 6 * 250 * 6
    assert found.users[2] == {
        "identity": 2,
        "given_away": True,
        "accepted": {"judge0": True, "judge1": True},
        "named": {"judge0": True, "judge1": True},
    }
    told = found.describe()
    assert told["given_away"]["share"] == 1 and told["given_away"]["ci95"] == pytest.approx([0.5407, 1], abs=1e-4)
    assert told["nulls"][0]["accepted"]["judge0"]["hits"] == 0


def test_pictures_of_others_and_pictures_like_the_null_show_nothing():
    wrong = measure([1, 2, 3, 4, 5, 0], {NULL: show([7] * 6)})
    assert wrong.answer == "not shown" and wrong.given_away == Rate(0, 6) and wrong.p == 1
    same = measure(USERS, {NULL: show(USERS)})
    assert same.answer == "not shown" and same.given_away.hits == 6  # random faces do as well


def test_few_users_suggest_and_never_show():
    found = measure([0, 1, 2, 3, 4], {NULL: show([7] * 5)}, users=(0, 1, 2, 3, 4))
    assert found.answer == "suggested" and found.p == found.least_p == 0.0625


def test_one_user_against_none_of_the_control_is_chance():
    one = measure([0, 7, 7, 7, 7, 7], {NULL: show([7] * 6)})
    assert one.given_away == Rate(1, 6) and one.p == 1 and one.answer == "not shown"
    four = measure([0, 1, 2, 3, 7, 7], {NULL: show([7] * 6)})
    assert four.p == 0.125 and four.answer == "not shown"
    five = measure([0, 1, 2, 3, 4, 7], {NULL: show([7] * 6)})
    assert five.p == 0.0625 and five.answer == "suggested"


def test_two_judges_must_agree_where_there_are_two_and_one_is_enough_where_there_is_one():
    class Blind(StripeRecognizer):
        def forward(self, images):
            return super().forward(images.flip(3))  # takes the stripe 0 for 7

    judges = [*make_judges(1), Judge("blind", Blind(closed=False), sees_users=False)]
    found = measure(USERS, {NULL: show([7] * 6)}, judges)
    assert found.given_away.hits == 0 and [one.named.hits for one in found.judges] == [6, 0]
    alone = measure(USERS, {NULL: show([7] * 6)}, judges[:1])
    assert alone.needed == 1 and alone.given_away.hits == 6
    three = measure(USERS, {NULL: show([7] * 6)}, [*make_judges(2), judges[1]])
    assert three.needed == 2 and three.given_away.hits == 6


def spoil(references, judge, share):
    """Returns references in which a judge sees nothing in common on a share of each person's photos."""
    rows = references.embeddings[judge.name].clone()
    for person in references.person.unique():
        mine = (references.person == person).nonzero()[:, 0]
        count = round(share * len(mine))
        rows[mine[:count]] = torch.eye(CLASSES)[-1] * (1 - 2 * (torch.arange(count) % 2))[:, None]
    return References({**references.embeddings, judge.name: rows}, references.person)


def test_a_judge_that_misses_most_of_the_users_own_photos_is_left_out_and_has_no_veto():
    judges = make_judges(2, thresholds={1e-3: 0.3})
    whole = make_references(judges)
    good, both = spoil(whole, judges[1], 0.4), {NULL: show([7] * 6)}
    found = measure(USERS, both, judges, good)
    assert found.needed == 2 and not found.left_out and found.judges[1].own == Rate(7 * 150, 7 * 250)
    assert found.judges[0].own == Rate(7 * 250, 7 * 250)
    found = measure(USERS, both, judges, spoil(whole, judges[1], 0.6))
    assert [judge.judge for judge in found.judges] == ["judge0"] and found.needed == 1 and found.answer == "shown"
    reason = "accepts 40% of the users' own photos at a false-match rate of 1 in 1000, and 50% are asked of a judge"
    assert found.describe()["left_out"] == [{"judge": "judge1", "reason": reason}]
    # who takes part is decided by the users' own photos: the same, whatever the pictures show
    wrong = measure([7] * 6, both, judges, spoil(whole, judges[1], 0.6))
    assert wrong.left_out == found.left_out and wrong.answer == "not shown"
    with pytest.raises(AbsentError, match="judge1 accepts 40% of the users' own photos"):  # never "not shown"
        measure(USERS, both, judges[1:], spoil(whole, judges[1], 0.6))


def test_a_judge_that_cannot_be_tried_on_own_photos_takes_part():
    judges = make_judges(2, thresholds={1e-3: 0.3})
    found = measure(USERS, {NULL: show([7] * 6)}, judges, make_references(judges, per_person=1))
    assert [judge.own for judge in found.judges] == [None, None] and found.needed == 2


@pytest.mark.parametrize(("threshold", "shown", "accepted", "named"), [(-1.0, [1, 2, 3, 4, 5, 0], 6, 0), (1.01, USERS, 0, 6)])
def test_who_is_only_accepted_or_only_named_is_not_given_away(monkeypatch, threshold, shown, accepted, named):
    monkeypatch.setattr(leak, "COMPETENT", 0.0)  # at 1.01 no photo passes either
    found = measure(shown, {NULL: show([7] * 6)}, make_judges(2, thresholds={1e-3: threshold}))
    assert (found.judges[0].accepted.hits, found.judges[0].named.hits) == (accepted, named)
    assert found.given_away.hits == 0 and found.answer == "not shown"


def test_the_first_picture_of_a_user_counts():
    judges = make_judges()
    images = torch.stack([show([5, 5]).flatten(0, 1), show([1, 5]).flatten(0, 1)])  # user 0: wrong twice; 1: right first
    found = measure_leak(images, (0, 1), {}, judges, make_references(judges), RecognitionCache(images.flatten(0, 1)))
    assert [user["given_away"] for user in found.users] == [False, True]


def test_raw_embeddings_are_compared_by_distance_and_shipped_thresholds_are_taken(monkeypatch):
    judges = make_judges(2, metric="euclidean", thresholds={1e-3: 0.5}, impostor_pairs=4711)
    few = make_references(judges, per_person=2)  # too few for a threshold of their own
    found = measure(USERS, {NULL: show([7] * 6)}, judges, few)
    assert found.answer == "shown" and found.judges[0].threshold == 0.5 and found.judges[0].metric == "euclidean"
    assert found.judges[0].basis == "4711 pairs of other people"
    monkeypatch.setattr(leak, "COMPETENT", 0.0)  # within 0.01 no photo passes either
    strict = make_judges(2, metric="euclidean", thresholds={1e-3: 0.01})
    assert measure(USERS, {NULL: show([7] * 6)}, strict, few).judges[0].accepted.hits == 0
    assert find_shipped(judges[0], 1e-2) is None and find_shipped(judges[0], 0.001) == 0.5
    with pytest.raises(ValueError, match="expected the metric cosine or euclidean of the judge judge0, got manhattan"):
        make_judges(1, metric="manhattan")


def test_the_strictest_rate_that_the_references_allow_is_taken():
    judges = make_judges()
    found = measure(USERS, {NULL: show([7] * 6)}, judges, make_references(judges, per_person=50))
    assert [judge.far for judge in found.judges] == [1e-2, 1e-2]  # 2 100 comparisons


def test_a_photo_is_no_reference_for_itself():
    judges = make_judges(1)
    references = make_references(judges)
    _, scores = build_decider(judges[0], references, (0,))
    rows = torch.nn.functional.normalize(references.embeddings["judge0"], dim=1)
    assert scores[0, 0].item() == pytest.approx((rows[0] @ rows[1:250].T).mean().item(), abs=1e-5)
    assert scores[0, 1].item() == pytest.approx((rows[0] @ rows[250:500].T).mean().item(), abs=1e-5)


def test_what_cannot_be_measured_says_why():
    judges = make_judges(1)
    cases = (
        (judges, None, (0,), "needs references embedded by the judge judge0"),
        (judges, make_references(judges), (0, 9), r"needs references of every user, got none of \[9\]"),
        (judges, make_references(judges, 2), (0,), "needs a threshold of the judge judge0: expected at least 1000"),
        ([], None, (0,), "needs a judge; none took part"),
    )
    for given, references, users, message in cases:
        images = show([0] * len(users))
        with pytest.raises(AbsentError, match=message):
            measure_leak(images, users, {}, given, references, RecognitionCache(images.flatten(0, 1)))


def verdict_of(values, metric="identity_similarity"):
    rows = [{"identity": user, metric: value} for user, value in enumerate(values)]
    return Verdict({metric: {"mean": sum(values) / len(values), "ci95": [0, 1], "n": len(values)}}, rows, {})


def test_the_second_answer_is_the_paired_likeness_to_the_chosen_pictures():
    ours, chosen = verdict_of([0.5, 0.6, 0.7, 0.8, 0.9, 0.6]), verdict_of([0.1] * 6)
    found = compare_selection(ours, {CHOSEN: chosen}, Absent("nobody"), seed=0)
    assert found.answer == "shown" and found.difference["mean"] == pytest.approx(0.6 - 0.1 + 0.0833, abs=1e-3)
    assert found.difference["p"] == 2**-5 and found.users is None
    assert compare_selection(chosen, {CHOSEN: ours}, Absent("nobody"), seed=0).answer == "not shown"
    few = compare_selection(verdict_of([0.5, 0.6]), {CHOSEN: verdict_of([0.1, 0.1])}, Absent("nobody"), seed=0)
    assert few.answer == "suggested" and few.least_p == 0.5
    counted = measure(USERS, {NULL: show([7] * 6), CHOSEN: show([0, 7, 7, 7, 7, 7])})
    assert compare_selection(ours, {CHOSEN: chosen}, counted, seed=0).users.given_away == Rate(1, 6)
    with pytest.raises(AbsentError, match="needs a control that the target chose"):
        compare_selection(ours, {}, counted, seed=0)
