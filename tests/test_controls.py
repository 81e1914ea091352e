"""Controls and ceilings on the stripes whose answers are arithmetic."""

from __future__ import annotations

import pytest
import torch

from ganinv.judging import controls
from ganinv.judging.verdict import Verdict
from ganinv.worlds.references import Judge, References
from tests.test_verdict import CLASSES, IMAGES, VERIFIER, StripeRecognizer, judge_stripes


def verdict_of(values, metric="acc_at_1"):
    rows = [{"identity": i, metric: value} for i, value in enumerate(values)]
    mean = sum(values) / len(values)
    return Verdict({metric: {"mean": mean, "ci95": [0.0, 1.0], "n": len(values)}}, rows, {})


def test_the_headline_is_the_paired_difference_to_the_strongest_control():
    ours = verdict_of([1.0, 1.0, 0.0])
    weak, strong = verdict_of([0.0, 0.0, 0.0]), verdict_of([0.0, 1.0, 0.5])
    found = controls.strongest_difference(ours, {"weak": weak, "strong": strong}, "acc_at_1", 0)
    assert (found["control"], found["n"]) == ("strong", 3)
    assert found["mean"] == pytest.approx((1 + 0 - 0.5) / 3) and found["ci95"] == [-0.5, 1.0]
    assert found["p"] == 1  # whatever the signs of 1, 0 and -0.5, their sum is 0.5 or more off 0
    assert controls.strongest_difference(ours, {}, "acc_at_1", 0) is None
    assert controls.strongest_difference(ours, {"weak": weak}, "identity_similarity", 0) is None


def test_another_users_pictures_are_a_control_that_fails():
    shown = judge_stripes(IMAGES[:, :1])
    swapped = judge_stripes(IMAGES[:, :1].roll(1, 0))
    assert shown.summary["acc_at_1"]["mean"] == 1 and swapped.summary["acc_at_1"]["mean"] == 0


class Classifier(StripeRecognizer):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.eye(CLASSES))

    def classify(self, embeddings):
        return 10 * embeddings @ self.weight


def test_the_ceiling_is_what_the_users_photos_reach():
    person = torch.tensor([3, 3, 3, 5, 5])
    rows = torch.eye(CLASSES)[person]
    rows[2] = torch.eye(CLASSES)[5]  # a photo of 3 that looks like 5
    references = References({"verifier": rows, "judge": rows}, person)
    judges = [VERIFIER, Judge("judge", Classifier(), sees_users=True)]
    found = controls.measure_photos(judges, references, (3, 5), seed=0)
    # of the three photos of 3, one pair of three is alike; both of 5 are
    assert found["identity_similarity"]["mean"] == pytest.approx((1 / 3 + 1) / 2)
    assert found["acc_at_1"]["mean"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["identity_similarity_judge"] == found["identity_similarity"]
    assert found.keys() == {
        "identity_similarity",
        "identity_similarity_judge",
        "acc_at_1",
    }  # six pairs of strangers allow no false-accept rate
    assert controls.measure_photos(judges, None, (3, 5), seed=0) == {}


def test_a_ceiling_needs_two_photos_of_every_user():
    person = torch.tensor([3, 3, 5])
    references = References({"verifier": torch.eye(CLASSES)[person]}, person)
    assert controls.measure_photos([VERIFIER], references, (3, 5), seed=0) == {}


def test_the_ceiling_has_the_judges_decisions_on_the_users_own_photos():
    person = torch.arange(7).repeat_interleave(25)  # 175 photos, each compared with six other people
    rows = torch.eye(CLASSES)[person] + 0.05 * torch.randn(175, CLASSES, generator=torch.Generator().manual_seed(0))
    other = rows.clone()
    other[75:77] = torch.eye(CLASSES)[7]  # to the verifier, two of the 25 photos of 3 show 7
    judges = [Judge("verifier", VERIFIER.recognizer, False), Judge("judge", Classifier(), True)]
    found = controls.measure_photos(judges, References({"verifier": other, "judge": rows}, person), (3, 5), seed=0)
    assert found["accepted_at_far_1e-2_judge"]["mean"] == 1
    # of the 600 pairs of photos of 3, the 506 of its 23 true ones and the 2 of the two others are alike
    assert found["accepted_at_far_1e-2"]["mean"] == pytest.approx((508 / 600 + 1) / 2)
    assert found["taken_for_user"]["mean"] == found["judges_agree"]["mean"] == pytest.approx((23 / 25 + 1) / 2)
    assert "accepted_at_far_1e-4" not in found
