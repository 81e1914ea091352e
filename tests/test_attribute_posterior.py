"""The posterior of attributes: a linear world whose ceiling, recovery and posterior are known in closed form."""

from __future__ import annotations

import pytest
import torch

from ganinv.attributes.labels import Column
from ganinv.attributes.posterior import Calibration, measure_coverage
from ganinv.attributes.probes import fit_probe

SIZE, SEEN, SAMPLES = 8, 3, 4  # attributes, embedding's directions, samples a person


def make_people(count: int, seed: int, samples: int = SAMPLES) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns (attributes t [N,8], embeddings [N,3], reconstructions' attributes [N,K,8]) of a linear world.

    The recognizer sees t in three directions and is blind in the null space of these; a reconstruction agrees with the
    person in what it sees and is a stranger in the rest.
    """
    generator = torch.Generator().manual_seed(seed)
    attributes = torch.randn(count, SIZE, generator=generator, dtype=torch.float64)
    strangers = torch.randn(count, samples, SIZE, generator=generator, dtype=torch.float64)
    seen = directions()
    projection = seen @ seen.T
    made = (attributes @ projection)[:, None] + strangers - strangers @ projection
    return attributes, attributes @ seen, made


def directions() -> torch.Tensor:
    """Returns orthonormal directions [8,3]; the first attribute is one of them, the last is in the null space."""
    basis = torch.zeros(SIZE, SEEN, dtype=torch.float64)
    basis[0, 0] = 1
    basis[1:-1, 1:] = torch.linalg.qr(torch.randn(SIZE - 2, 2, generator=torch.Generator().manual_seed(0)).double())[0]
    return basis


KNOWN = directions().square().sum(1)  # [8]: the share of each attribute's variance that the recognizer sees


def test_the_probes_ceiling_is_the_share_that_the_recognizer_sees():
    attributes, embeddings, _ = make_people(4000, 1)
    columns = [Column(f"a{place}", attributes[:, place]) for place in range(SIZE)]
    probe = fit_probe("toy", embeddings, columns, torch.arange(4000), metric="euclidean")
    found = torch.tensor([probe.ceilings[one.name]["explained"]["mean"] for one in columns])
    assert torch.allclose(found, KNOWN.float(), atol=0.03)
    assert found[0] > 0.999 and abs(found[-1]) < 0.003


@pytest.mark.parametrize("samples", [1, SAMPLES, 32])
def test_the_posterior_is_that_of_the_closed_form(samples):
    calibration = Calibration.fit(make_people(4000, 2)[2], make_people(4000, 2)[0])
    truth, _, made = make_people(4000, 3, samples)
    mean, spread = calibration.infer(made)
    slope = KNOWN / (KNOWN + (1 - KNOWN) / samples)
    assert torch.allclose(spread.square(), 1 - slope * KNOWN, atol=0.06)
    explained = 1 - (truth - mean).square().mean(0) / truth.square().mean(0)
    assert torch.allclose(explained, slope * KNOWN, atol=0.06)
    raw = 1 - (truth - made.mean(1)).square().mean(0) / truth.square().mean(0)
    assert (explained >= raw - 0.01).all() and raw[-1] < -0.02  # one who does not shrink is punished for guessing


def test_of_what_nothing_recovers_the_posterior_is_the_guess():
    truth, _, made = make_people(300, 4)
    calibration = Calibration.fit(torch.randn_like(made), truth)
    mean, spread = calibration.infer(make_people(300, 5)[2])
    assert mean.abs().mean() < 0.05 and torch.allclose(spread, truth.square().mean(0).sqrt(), atol=0.05)


@pytest.mark.parametrize("seed", [6, 16, 26])
def test_nine_in_ten_of_people_who_took_no_part_lie_within(seed):
    truth, _, made = make_people(60, seed)
    calibration = Calibration.fit(made, truth.sign() * truth.square())  # of heavy tails, so that 1.64 would not do
    truth, _, made = make_people(3000, seed + 1)
    mean, low, high = calibration.interval(made)
    truth = truth.sign() * truth.square()
    assert measure_coverage(low, high, truth).mean().item() == pytest.approx(0.9, abs=0.02)
    assert torch.allclose(mean, (low + high) / 2)


def test_a_calibration_comes_back_from_its_file(tmp_path):
    truth, _, made = make_people(20, 8)
    calibration = Calibration.fit(made, truth)
    calibration.save(tmp_path / "calibration.safetensors", {"reader": "toy"})
    found, card = Calibration.load(tmp_path / "calibration.safetensors")
    assert card["reader"] == "toy" and torch.allclose(found.interval(made)[1], calibration.interval(made)[1], atol=1e-5)


def test_too_few_people_and_other_shapes_are_refused():
    truth, _, made = make_people(9, 9)
    with pytest.raises(ValueError, match="expected at least 10 people to calibrate on, got 9"):
        Calibration.fit(made, truth)
    with pytest.raises(ValueError, match=r"expected readings \[T,K,B\] and truth \[T,B\], got \[9, 4, 8\] and \[9, 7\]"):
        Calibration.fit(made, truth[:, 1:])
