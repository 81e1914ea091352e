"""What judges declare, from cards whose overlaps are known; and the judge that is the target in another hat."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ganinv.judging.independence import check_independent, declare_judges
from ganinv.weights.cards import describe_photos
from ganinv.weights.files import save_weights
from ganinv.worlds.references import Judge

USERS = [f"p{number}" for number in range(4)]
PHOTOS = describe_photos(80, 4, split="train", most=60)


def public(low, high):
    return describe_photos(100, 50, hash_range=(low, high))


TARGET = {"identities": USERS, "data": {"public": public(0.0, 0.8), "users": PHOTOS}}
JUDGE = {"architecture": "vgg", "seed": 1, **TARGET}
VERIFIER = {"identities": [], "data": {"public": public(0.4, 0.8)}}
PRIOR = {"data": {"public": public(0, 0.5)}}


def declare(folder, cards, knows_users=True):
    files = {}
    for role, card in cards.items():
        files[role] = folder / f"{role}.safetensors"
        save_weights(files[role], {"w": torch.ones(1)}, card)
    (entry,) = declare_judges([Judge("judge", None, knows_users)], files)
    return entry, {name: value["share"] for name, value in entry["overlap"].items()}


def test_a_judge_of_the_same_users_says_so(tmp_path):
    entry, shares = declare(tmp_path, {"target": TARGET, "judge": JUDGE, "prior": PRIOR})
    assert (entry["name"], entry["knows_users"], entry["architecture"], entry["seed"]) == ("judge", True, "vgg", 1)
    assert len(entry["sha256"]) == 64 and entry["trained_on"] == {who: said["words"] for who, said in JUDGE["data"].items()}
    assert list(shares.values()) == [1, 1, 1, 1]
    assert "4 of the target's 4 users" in entry["overlap"]["target_users"]["why"]
    assert PHOTOS["words"] in entry["overlap"]["target_photos_of_users"]["why"]


def test_a_judge_of_other_people_shares_what_the_hashes_say(tmp_path):
    _, shares = declare(tmp_path, {"target": TARGET, "judge": VERIFIER, "prior": PRIOR}, knows_users=False)
    assert (shares["target_users"], shares["target_photos_of_users"]) == (0, 0)
    # of [0,0.8) the part [0.4,0.8); of [0,0.5) the part [0.4,0.5)
    assert (shares["target_public_people"], shares["prior_people"]) == pytest.approx((0.5, 0.2))


def test_a_judge_of_some_users_does_not_know_which_photos_it_shares(tmp_path):
    some = {**JUDGE, "identities": USERS[:3]}
    _, shares = declare(tmp_path, {"target": TARGET, "judge": some, "prior": PRIOR})
    assert (shares["target_users"], shares["target_photos_of_users"]) == (0.75, None)


@pytest.mark.parametrize(
    ("cards", "unknown", "whose"),
    [
        ({"judge": VERIFIER, "prior": PRIOR}, {"target_users", "target_photos_of_users", "target_public_people"}, "target"),
        ({"target": {}, "judge": JUDGE, "prior": PRIOR}, {"target_users", "target_photos_of_users"}, "target"),
        ({"target": TARGET, "judge": JUDGE}, {"prior_people"}, "prior"),
        ({"target": TARGET, "judge": JUDGE, "prior": {"data": {"public": "a web crawl"}}}, {"prior_people"}, "prior"),
        ({"target": TARGET, "prior": PRIOR}, {"target_users", "prior_people", "target_public_people"}, "judge"),
        ({"target": TARGET, "judge": {"identities": USERS}, "prior": PRIOR}, {"target_users", "prior_people"}, "judge"),
    ],
)
def test_what_no_card_says_is_unknown_and_never_none(tmp_path, cards, unknown, whose):
    entry, shares = declare(tmp_path, cards)
    assert unknown <= {name for name, share in shares.items() if share is None}
    for name in unknown:
        assert entry["overlap"][name]["why"].startswith("unknown: the") and whose in entry["overlap"][name]["why"]


def network(seed, head=5):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(80, 80), nn.BatchNorm1d(80), nn.Linear(80, head))


def test_a_judge_with_the_targets_weights_is_refused():
    target, other, copy = network(0), network(1), network(0)
    check_independent(target, [Judge("judge", other, True), Judge("verifier", network(2, head=80), False)])
    check_independent(lambda images: images, [Judge("judge", other, True)])  # code has no weights to compare
    with pytest.raises(ValueError, match="share no weights with the target, got 1 of 1 weight tensors of the judge that"):
        check_independent(target, [Judge("judge", copy, True)])
    headed = network(3, head=80)
    headed[0] = copy[0].half()  # another head on the same trunk
    target[0].half().float()
    with pytest.raises(ValueError, match="got 1 of 2 weight tensors of the judge"):
        check_independent(target, [Judge("judge", headed, True)])


def test_one_network_is_not_two_judges():
    once, again, headed, other = network(1), network(1), network(3, head=80), network(2)
    headed[0] = again[0]
    shared = "share no weights, got first and second, which are one network"
    for name, copy, match in (
        ("first", other, "of different names, got first twice"),
        ("second", again, shared),
        ("second", headed, shared),  # another head
    ):
        with pytest.raises(ValueError, match=match):
            check_independent(network(0), [Judge("first", once, False), Judge(name, copy, False)])
    check_independent(network(0), [Judge("first", once, False), Judge("second", other, False)])


def test_tensors_that_start_equal_are_no_sign():
    alike = [nn.Sequential(network(seed), nn.LayerNorm(5000)) for seed in (0, 1)]  # the norm's are ones and zeros
    check_independent(alike[0], [Judge("judge", alike[1], True)])
    check_independent(network(2), [Judge(str(number), model, True) for number, model in enumerate(alike)])
