"""The truth about rendered people: recovery by hand, the audit of a judge, the regressor's file and its training."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ganinv import images
from ganinv.commands import train_factors
from ganinv.photos import Photos
from ganinv.rendered.factors import FACTORS, draw_people
from ganinv.rendered.photos import name_person
from ganinv.training import factors as training
from ganinv.worlds.truth import (
    audit_judge,
    estimate,
    load_regressor,
    passing_distance,
    recovery,
    recovery_by_factor,
    save_regressor,
    standardise,
)
from tests.tiny_world import run_main

COUNT = len(FACTORS)


def test_recovery_is_one_for_the_person_and_zero_for_an_average_one():
    truth = torch.tensor([[1.0, -2.0, 2.0]]).expand(4, 3)
    estimates = torch.stack([truth[0], torch.zeros(3), truth[0] / 2, -truth[0]])
    assert recovery(estimates, truth).tolist() == [1, 0, 0.75, -3]
    with pytest.raises(ValueError, match=r"expected estimates and truth \[N,F\], got \[4, 3\] and \[3, 3\]"):
        recovery(estimates, truth[:3])


def test_recovery_by_factor_is_over_all_people():
    truth = torch.tensor([[1.0, 3.0], [1.0, -1.0]])
    estimates = torch.tensor([[1.0, 3.0], [0.0, -2.0]])
    assert recovery_by_factor(estimates, truth).tolist() == pytest.approx([1 - 1 / 2, 1 - 1 / 10])


def test_standard_factors_have_mean_0_and_spread_1_over_people_not_used_for_them():
    drawn = standardise(draw_people(range(1500)))
    assert drawn.mean(0).abs().max() < 0.12 and (drawn.std(0) - 1).abs().max() < 0.12


def test_audit_counts_what_judge_and_factors_say():
    says, true = (torch.tensor(word, dtype=torch.bool) for word in ([1, 1, 1, 0, 0], [1, 0, 0, 0, 1]))
    assert audit_judge(says, true) == {
        "pictures": 5, "user_by_judge": 3, "user_by_factors": 2,
        "false_positive_rate": pytest.approx(2 / 3), "false_negative_rate": 0.5,
    }  # fmt: skip
    assert audit_judge(says[:1], true[:1])["false_positive_rate"] is None


def test_the_passing_distance_lets_nineteen_of_twenty_own_photos_pass():
    distances = torch.arange(1.0, 101.0)
    assert (distances <= passing_distance(distances)).sum() == 95
    with pytest.raises(ValueError, match="expected at least 20 photos of users, got 19"):
        passing_distance(distances[:19])


def make_people(count: int) -> Photos:
    """Returns pictures of 8 px whose first factor alone shows, as their brightness."""
    truth = standardise(draw_people(range(count)))[:, 0]
    pixels = (127 + 40 * truth).clamp(0, 255).byte()[:, None, None, None].expand(-1, 3, 8, 8).contiguous()
    return Photos(pixels, torch.arange(count), tuple(map(name_person, range(count))), ())


def test_training_finds_the_factor_that_shows_and_no_other(tmp_path):
    config = replace(training.TRAINING, architecture="alexnet_trunk", steps=60, batch=16, lr=3e-3, precision="float32")
    model = training.train_factors(config, make_people(64), tmp_path, device=torch.device("cpu"))
    r2 = training.measure_r2(model, make_people(96))
    assert r2[0] > 0.5 and r2[1:].max() < 0.25
    model.r2 = r2
    assert model.readable.tolist() == [True] + [False] * (COUNT - 1)

    card = save_regressor(model, tmp_path / "factors.safetensors", {"role": "factors"})
    back = load_regressor(tmp_path / "factors.safetensors")
    images = make_people(8).images()
    torch.testing.assert_close(estimate(back, images), estimate(model, images), atol=0.05, rtol=0.05)
    assert torch.equal(back.readable, model.readable)
    (tmp_path / "factors.json").write_text(json.dumps(card | {"factors": ["nose"]}))
    with pytest.raises(ValueError, match=f"expected a regressor of the {COUNT} factors .* got another"):
        load_regressor(tmp_path / "factors.safetensors")


def test_photos_of_real_people_have_no_factors():
    with pytest.raises(ValueError, match="expected folders named by the seeds of rendered people, got n0001"):
        training.true_factors(Photos(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1).long(), ("n0001",), ()))


def test_what_has_a_side_is_not_mirrored():
    class Sided(torch.nn.Module):
        def forward(self, images):
            return images[:, 0, 0, :1].expand(-1, COUNT)

    image = torch.zeros(1, 3, 4, 4)
    image[..., 0] = 1
    found = estimate(Sided(), image)[0]
    sided = [factor.name in ("mole_x", "hair_parting") for factor in FACTORS]
    assert found.tolist() == [1.0 if one else 0.5 for one in sided]


@pytest.mark.parametrize(
    "manifest, people, message",  # person 2 is the only one of these that is held out
    [
        ({"shift": 0.5}, (0, 1, 2), "expected people of prepare_people.py without --shift, got photos of --shift=0.5"),
        ({"shift": 0.0}, (0, 1), "expected people whose name hashes into [0.8,1.0), got none of 2"),
        (None, (0, 1, 2), "expected 2 held-out people or more in photos, got 1"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_training(manifest, people, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for person in people:
        folder = Path("photos/public") / name_person(person)
        folder.mkdir(parents=True)
        images.save(torch.zeros(3, 8, 8), folder / "0.png")
    if manifest is not None:
        Path("photos/prepared.json").write_text(json.dumps(manifest))
    flags = ["--world=worlds/a", "--photos=photos", "--out=out", "--steps=1", "--device=cpu", "--wandb=disabled"]
    assert run_main(monkeypatch, train_factors, *flags) == 2
    assert message in capsys.readouterr().err and not Path("out/factors.safetensors").exists()
