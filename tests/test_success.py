"""Success attack rates by hand: two users, whose templates lie at places of a line."""

from __future__ import annotations

import pytest
import torch

from ganinv.errors import AbsentError
from ganinv.images import save
from ganinv.judging.recognitions import RecognitionCache
from ganinv.judging.success import ATTACK, IMPOSTOR, System, list_systems, measure_success
from ganinv.metrics.statistics import exact_interval
from ganinv.photos import list_people
from ganinv.worlds.references import Judge, References
from tests.test_verdict import StripeRecognizer, stripe


def level(*levels):
    """Returns pictures [T,1,3,2,2] of one grey each."""
    return torch.tensor(levels)[:, None, None, None, None].expand(-1, 1, 3, 2, 2)


def see(pictures):
    return pictures.mean((1, 2, 3))[:, None]  # [N,1]: the grey itself


SYSTEM = System(
    name="door", metric="euclidean", see=see, thresholds={"operator": 0.1, "FMR 0.01": 0.01},
    enrolled={0: torch.tensor([[0.0]]), 1: torch.tensor([[0.5]])},
    others={0: torch.tensor([[0.05], [0.3]]), 1: torch.tensor([[0.5], [0.55]]), 2: torch.tensor([[0.09]])},
)  # fmt: skip


def test_rates_by_hand():
    found = measure_success([SYSTEM], level(0.0, 0.7), (0, 1), {"random": level(0.7, 0.5)}, seed=0)
    rows = {(row["type"], row["at"], row["pictures"]): row for row in found.rows}
    first = rows["I", "operator", ATTACK]
    assert (first["share"], first["users"], first["comparisons"], first["interval"]) == (0.5, 2, 2, "exact")
    assert first["ci95"] == list(exact_interval(1, 2)) and first["system"] == "door" and first["threshold"] == 0.1
    assert rows["I", "operator", "random"]["share"] == 0.5  # user 1 alone
    # of the photos of user 0, at 0.05 and 0.3, the picture at 0 reaches one; that of user 1 reaches none
    second = rows["II", "operator", ATTACK]
    assert (second["share"], second["comparisons"], second["interval"]) == (0.25, 4, "bootstrap over users")
    assert rows["II", "FMR 0.01", ATTACK]["share"] == 0
    # photos of others: to user 0 come 0.5, 0.55 and 0.09, to user 1 come 0.05, 0.3 and 0.09
    assert rows["I", "operator", IMPOSTOR]["share"] == pytest.approx((1 / 3 + 0) / 2)
    assert rows["I", "operator", IMPOSTOR]["comparisons"] == 6
    assert found.rows[0]["pictures"] == ATTACK and found.describe() == {"rows": list(found.rows), "unmeasured": {}}


def test_judges_see_the_photos_that_users_were_enrolled_with(tmp_path):
    class Gallery(StripeRecognizer):
        metric, threshold = "cosine", 0.9
        templates = torch.eye(8)[[3, 5]]

    for name, row in (("Ada", 3), ("Bob", 4)):
        (tmp_path / name).mkdir()
        save(stripe(row), tmp_path / name / "0.png")
    target, judge = Gallery(), Judge("judge", StripeRecognizer(closed=False), False, thresholds={1e-3: 0.8})
    target.enrolled = list_people(tmp_path)
    images = torch.stack([stripe(3), stripe(5)])[:, None]
    systems = list_systems(target, [judge], None, RecognitionCache(images.flatten(0, 1)))
    found = measure_success(systems, images, (0, 1), {}, seed=0)
    shares = {(row["system"], row["type"]): (row["share"], row["comparisons"]) for row in found.rows}
    assert shares == {("target", "I"): (1.0, 2), ("judge", "I"): (0.5, 2)}  # Bob's photo is of another stripe
    assert found.unmeasured["judge, type II"].startswith("needs other photos")


def test_without_templates_of_every_user_there_is_no_rate():
    with pytest.raises(AbsentError, match="needs templates or photos"):
        measure_success([SYSTEM], level(0.0, 0.7), (0, 5), {}, seed=0)
    with pytest.raises(AbsentError, match="needs a gallery"):
        list_systems(StripeRecognizer(), [], None, RecognitionCache(torch.zeros(1, 3, 32, 32)))


def test_a_gallery_and_its_judges_are_the_systems_of_a_run():
    class Gallery(StripeRecognizer):
        metric, threshold = "cosine", 0.9
        templates = torch.eye(8)[[3, 5]]

    person = torch.tensor([0, 0, 1])
    references = References({"judge": torch.eye(8)[[3, 4, 5]]}, person)
    judge = Judge("judge", StripeRecognizer(closed=False), False, thresholds={1e-3: 0.8})
    images = torch.stack([stripe(3), stripe(4)])[:, None]
    cache = RecognitionCache(images.flatten(0, 1))
    systems = list_systems(Gallery(), [judge], references, cache)
    thresholds = [(one.name, dict(one.thresholds)) for one in systems]
    assert thresholds == [("target", {"operator": 0.9}), ("judge", {"FMR 0.001": 0.8})]
    found = measure_success(systems, images, (0, 1), {}, seed=0)
    rows = found.rows
    assert found.unmeasured.keys() == {"target, type II", "judge, type I"}
    shares = {(row["system"], row["type"], row["pictures"]): row["share"] for row in rows}
    assert shares["target", "I", ATTACK] == 0.5 and ("target", "II", ATTACK) not in shares  # no photos for the target
    assert shares["judge", "II", ATTACK] == 0.25 and ("judge", "I", ATTACK) not in shares
    assert systems[1].enrolled == {}
