"""Searches that end in samples of a posterior, in a linear world where that is a normal distribution known in closed form."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from torch import nn

from ganinv.attack.access import TargetAccess
from ganinv.attack.config import Optim
from ganinv.attack.goals import TemplateGoal
from ganinv.attack.loop import Trial, minimise
from ganinv.engine.randomness import Streams
from ganinv.interfaces import Recognition

SIZE, SEEN, USERS, SAMPLES, NOISE = 6, 3, 300, 12, 0.5
SHARP = 1 + 2 / NOISE  # precision of what is seen: of the prior, and of a squared distance over the temperature


class LinearSpace(nn.Module):
    """Pictures [N,3,2,3] whose six pixels are the parameters themselves: a linear prior of standard normal coordinates."""

    def __init__(self, start: torch.Tensor):
        super().__init__()
        self.v = nn.Parameter(start.clone())

    def forward(self, rows=slice(None)):
        return self.v[rows].view(-1, 1, 2, 3).expand(-1, 3, -1, -1)

    def project_(self):
        pass


class SeesHalf(nn.Module):
    """Embeds a picture as three of its six pixels; of the others it knows nothing."""

    num_identities, embedding_dim, metric = None, SEEN, "euclidean"

    def forward(self, images):
        return Recognition(images.mean(1).flatten(1)[:, :SEEN], None)


def sample(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Returns users [T,6] of the prior, their templates [T,3], seen with noise, and samples [T,K,6] of their posterior."""
    generator = torch.Generator().manual_seed(0)
    users = torch.randn(USERS, SIZE, generator=generator)
    templates = users[:, :SEEN] + (NOISE / 2) ** 0.5 * torch.randn(USERS, SEEN, generator=generator)
    space = LinearSpace(torch.randn(USERS * SAMPLES, SIZE, generator=generator))
    owners = torch.arange(USERS).repeat_interleave(SAMPLES)
    trial = Trial(TargetAccess(SeesHalf()), TemplateGoal(templates, metric="euclidean"), lambda views, draws: views)
    optim = Optim(optimizer=name, temperature=NOISE, sigma=0.5, lr=0.05, transforms=1)
    minimise(space, trial, owners, Streams(((0, row) for row in range(len(owners))), "cpu"), steps=300, optim=optim)
    return users, templates, space.v.detach().view(USERS, SAMPLES, SIZE)


@pytest.fixture(scope="module", params=["langevin", "gaussian"])
def found(request):
    return sample(request.param)


def test_samples_are_those_of_the_posterior(found):
    _, templates, samples = found
    expected = torch.cat([templates * (1 - 1 / SHARP), torch.zeros(USERS, SIZE - SEEN)], 1)
    spread = torch.tensor([SHARP**-0.5] * SEEN + [1.0] * (SIZE - SEEN))
    away = (samples - expected[:, None]) / spread
    assert away.mean((0, 1)).abs().max() < 0.08  # 3 600 samples of each coordinate
    assert (away.std((0, 1)) - 1).abs().max() < 0.08
    seen = (samples.mean(1)[:, :SEEN] - expected[:, :SEEN]).abs().mean()
    assert seen < 1.2 * (2 / torch.pi) ** 0.5 * spread[0] / SAMPLES**0.5


def test_intervals_of_samples_hold_as_many_users_as_they_say(found):
    users, _, samples = found
    half = stats.t.ppf(0.95, SAMPLES - 1) * samples.std(1) * (1 + 1 / SAMPLES) ** 0.5
    inside = (users - samples.mean(1)).abs() <= half
    assert inside[:, :SEEN].float().mean() == pytest.approx(0.9, abs=0.02)
    assert inside[:, SEEN:].float().mean() == pytest.approx(0.9, abs=0.02)
    assert inside.float().mean() == pytest.approx(0.9, abs=0.02)


def test_restarts_of_a_search_for_the_best_are_surer_than_they_may_be():
    users, _, samples = sample("adam")
    half = stats.t.ppf(0.95, SAMPLES - 1) * samples.std(1) * (1 + 1 / SAMPLES) ** 0.5
    assert ((users - samples.mean(1)).abs() <= half)[:, :SEEN].float().mean() < 0.2
