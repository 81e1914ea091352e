"""What a prior of one's own must keep, and what is said where it does not."""

from __future__ import annotations

import pytest
import torch

from ganinv.priors.checks import check_prior
from ganinv.priors.framed import ResizedGenerator
from ganinv.priors.loading import load_generator
from ganinv.worlds.world import World
from tests.toys import LinearGenerator


class Changed(LinearGenerator):
    """The toy prior with another answer, or other numbers."""

    def __init__(self, change=lambda pictures: pictures, **numbers):
        super().__init__()
        self.change = change
        vars(self).update(numbers)

    def synthesize(self, w):
        return self.change(super().synthesize(w))


def add_noise(pictures):
    return pictures + torch.randn_like(pictures)


def divide(pictures):
    return {}[pictures]


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (Changed(z_dim=0), "expected a prior with z_dim above 0, got 0"),
        (Changed(num_ws=-1), "expected a prior with num_ws above 0, got -1"),
        (Changed(resolution=True), "expected a prior with resolution above 0, got True"),
        (Changed(w_dim=5), r"expected w of shape \[2, 2, 5\] from the prior, got \[2, 2, 4\]"),
        (Changed(resolution=16), r"expected pictures of shape \[2, 3, 16, 16\] from the prior, got \[2, 3, 8, 8\]"),
        (Changed(lambda x: x[:, :1]), r"got \[2, 1, 8, 8\]"),
        (Changed(lambda x: x.double()), "expected pictures of float32 on cpu from the prior, got torch.float64"),
        (Changed(lambda x: x.to(torch.uint8)), "got torch.uint8"),
        (Changed(lambda x: x.to("meta")), "on meta"),
        (Changed(lambda x: x.detach().numpy()), "got ndarray"),
        (Changed(lambda x: x / 0), "expected finite pictures from the prior"),
        (Changed(lambda x: (x + 1) * 127.5), r"expected pictures in \[-1,1\] from the prior, got \["),
        (Changed(add_noise), "expected the same pictures twice for the same latents"),
        (Changed(torch.Tensor.detach), "that change with the latents by a finite gradient, got none"),
        (Changed(lambda x: x * 0), "by a finite gradient, got none"),
        (Changed(lambda x: x.round()), "by a finite gradient, got none"),
        (Changed(divide), r"an answer of synthesize, got KeyError .*from the prior, at .*test_check_prior.py:\d+"),
    ],
)
def test_a_prior_that_breaks_the_convention_is_refused_in_one_line(prior, message):
    check_prior(LinearGenerator())
    with pytest.raises(ValueError, match=message):
        check_prior(prior)


def test_pictures_that_look_like_0_to_1_are_told_of(caplog):
    check_prior(Changed(lambda x: (x.clamp(-1, 1) + 1) / 2 + 0.02))
    assert "return 2 * pictures - 1" in caplog.text


def test_code_that_makes_a_prior_is_checked_where_it_is_loaded(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "class Prior(torch.nn.Module):\n"
        "    z_dim, num_ws, w_dim, resolution = 2, 1, 2, 4\n"
        "    def map(self, z, psi=1.0):\n        return psi * z[:, None]\n"
        "    def synthesize(self, w, y):\n        return w\n"
    )
    with pytest.raises(ValueError, match="expected an answer of synthesize, got TypeError"):
        load_generator(f"{tmp_path}/mine.py:Prior")


@pytest.mark.parametrize("resolution", [4, 16])
def test_a_prior_of_another_size_is_shown_at_the_worlds(resolution, tmp_path, caplog):
    (tmp_path / "mine.py").write_text("from tests.toys import LinearGenerator\nbuild = LinearGenerator\n")
    prior = World(tmp_path, resolution=resolution).load_fitting_prior(f"{tmp_path}/mine.py:build")
    assert isinstance(prior, ResizedGenerator) and prior.resolution == resolution
    check_prior(prior)
    assert f"its pictures of 8 px are shown at the world's {resolution}" in caplog.text
