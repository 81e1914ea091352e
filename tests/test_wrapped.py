"""Modules of one's own as recognizers: what they are fed, what comes back, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ganinv.recognizers.wrapped import wrap

SIDE, USERS = 8, 5


class Answer(nn.Module):
    """A linear network of images [N,C,8,8] whose answer a function changes."""

    def __init__(self, change=lambda logits, x: logits, channels: int = 3, bias: float = 3.0):
        super().__init__()
        self.linear = nn.Linear(channels * SIDE * SIDE, USERS)
        with torch.no_grad():
            self.linear.weight.copy_(torch.linspace(-1, 1, self.linear.weight.numel()).sin().view_as(self.linear.weight))
            self.linear.bias.fill_(bias)
        self.change, self.fed = change, None

    def forward(self, x):
        self.fed = x.detach()
        return self.change(self.linear(x.flatten(1)), x)


def make_images(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_a_classifier_is_fed_as_told_and_answers_with_its_logits():
    network = Answer().eval()
    target = wrap(network, size=SIDE, mean=(0.1, 0.2, 0.3), std=0.5)
    images = make_images()
    found = target(images)
    expected = ((images + 1) / 2 - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / 0.5
    torch.testing.assert_close(network.fed, expected)
    torch.testing.assert_close(found.logits, network(expected))
    torch.testing.assert_close(found.embeddings.norm(dim=1), torch.ones(2))
    assert target.num_identities == USERS and not any(p.requires_grad for p in target.parameters())


def test_the_default_range_is_minus_one_to_one_and_channels_are_kept_apart():
    network = Answer(channels=1).eval()
    wrap(network, size=SIDE, channels="L")(torch.ones(1, 3, SIDE, SIDE))
    torch.testing.assert_close(network.fed, torch.ones(1, 1, SIDE, SIDE))
    network = Answer().eval()
    red = torch.full((1, 3, SIDE, SIDE), -1.0)
    red[:, 0] = 1
    wrap(network, size=SIDE, channels="BGR", value_range=(0, 255), mean=0.0, std=1.0, output="logits")(red)
    assert network.fed.mean((0, 2, 3)).tolist() == [0, 0, 255]


@pytest.mark.parametrize("make", [list, tuple, np.array, torch.tensor])
def test_mean_and_std_may_be_what_a_caller_has(make):
    target = wrap(Answer().eval(), size=SIDE, mean=make([0.1, 0.2, 0.3]), std=make([0.5, 0.6, 0.7]))
    assert target.preprocessing.mean == pytest.approx((0.1, 0.2, 0.3)) and target.preprocessing.std[2] == pytest.approx(0.7)


def test_probabilities_and_cosines_become_logits():
    images = make_images()
    target = wrap(Answer(lambda logits, x: logits.softmax(1)).eval(), size=SIDE, output="probabilities")
    plain = wrap(Answer().eval(), size=SIDE)
    torch.testing.assert_close(target(images).logits.softmax(1), plain(images).logits.softmax(1))
    cosines = wrap(Answer(lambda logits, x: logits.tanh()).eval(), size=SIDE, output="cosines", scale=10.0)
    torch.testing.assert_close(cosines(images).logits, plain(images).logits.tanh() * 10)


def test_an_embedding_network_has_no_users_until_they_are_enrolled():
    target = wrap(Answer().eval(), size=SIDE, output="embeddings")
    found = target(make_images())
    assert found.logits is None and target.num_identities is None and target.embedding_dim == USERS
    both = wrap(Answer(lambda logits, x: (x.flatten(1), logits)).eval(), size=SIDE)
    assert both.embedding_dim == 3 * SIDE * SIDE and both.num_identities == USERS


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (Answer(), {}, "expected a module in eval mode, got training mode of Answer; call module.eval"),
        (
            nn.Sequential(Answer().eval(), nn.Dropout()).eval().train(False),
            {"output": "scores"},
            "expected an output among logits",
        ),
        (Answer(lambda logits, x: logits.softmax(1)).eval(), {}, "rows that sum to 1: pass output='probabilities'"),
        (Answer(lambda logits, x: logits.tanh()).eval(), {}, "pass output='cosines'"),
        (Answer(lambda logits, x: logits - logits.mean(0)).eval(), {}, "the same answer for a picture in any batch"),
        (Answer(lambda logits, x: logits.detach()).eval(), {}, "no gradient to the picture"),
        (Answer(lambda logits, x: logits * 0 + 2).eval(), {}, "no gradient to the picture"),
        (Answer(lambda logits, x: logits / 0).eval(), {}, "expected finite numbers"),
        (Answer(lambda logits, x: {"logits": logits}).eval(), {}, "expected one tensor, or .* got dict"),
        (Answer(lambda logits, x: logits.sum(1)).eval(), {}, r"expected floating-point numbers \[4,C\], a row per image"),
        (Answer(lambda logits, x: x.numpy()).eval(), {}, "RuntimeError"),
        (Answer().eval(), {"size": 9}, "from the recognizer, at"),
        (Answer().eval(), {"channels": "RGBA"}, "expected channels among RGB, BGR, L"),
        (Answer().eval(), {"std": 0.0}, "expected std above 0"),
        (Answer().eval(), {"mean": (0.5, 0.5)}, "expected mean of 3 numbers"),
        (Answer().eval(), {"scale": -1.0}, "expected a scale above 0"),
        (len, {}, "expected a torch.nn.Module, got builtin_function_or_method"),
    ],
)
def test_what_cannot_be_attacked_is_refused_in_one_line(network, options, message):
    with pytest.raises(ValueError, match=message):
        wrap(network, **{"size": SIDE} | options)


def test_a_module_on_two_devices_is_refused():
    network = nn.Sequential(Answer(), nn.Linear(USERS, 2, device="meta")).eval()
    with pytest.raises(ValueError, match="expected a module on one device, got cpu and meta"):
        wrap(network, size=SIDE)
