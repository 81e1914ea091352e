"""The steps of ganinv.engine.descent are torch.optim's, to the bit."""

from __future__ import annotations

import copy

import pytest
import torch

from ganinv.engine import descent


def build(name: str, parameters: list[torch.Tensor]):
    """Returns ours and torch's optimiser, each of its own copy of the parameters."""
    theirs = [parameter.clone().requires_grad_() for parameter in parameters]
    if name == "adam":
        return descent.Adam(parameters, 0.03, (0.9, 0.99)), torch.optim.Adam(theirs, 0.03, betas=(0.9, 0.99)), theirs
    return descent.GradientDescent(parameters, 0.03), torch.optim.SGD(theirs, 0.03), theirs


def take_step(ours, other, theirs, step: int) -> None:
    """Takes a step of both down the same gradients, at a rate that changes."""
    gradients = [torch.randn(one.shape, generator=torch.Generator().manual_seed(step)) for one in theirs]
    ours.lr = other.param_groups[0]["lr"] = 0.03 / (1 + step)
    for parameter, gradient in zip(theirs, gradients, strict=True):
        parameter.grad = gradient.clone()
    other.step()
    ours.step(gradients)


@pytest.mark.parametrize("name", ["adam", "gradient_descent"])
def test_steps_are_those_of_torch_to_the_bit(name):
    ours = [torch.linspace(-2, 3, 35).view(5, 7), torch.ones(3)]
    own, other, theirs = build(name, ours)
    for step in range(20):
        take_step(own, other, theirs, step)
    assert all(map(torch.equal, ours, theirs))


def test_a_state_goes_on_whoever_wrote_it():
    ours = [torch.linspace(-2, 3, 35)]
    own, other, theirs = build("adam", ours)
    for step in range(3):
        take_step(own, other, theirs, step)
    again, fresh = build("adam", [ours[0].clone()])[0], torch.optim.Adam(theirs, 0.03, betas=(0.9, 0.99))
    again.load_state_dict(other.state_dict())
    fresh.load_state_dict(copy.deepcopy(own.state_dict()) | {"param_groups": other.state_dict()["param_groups"]})
    take_step(again, fresh, theirs, 3)
    own.lr = 0.03 / 4
    own.step([theirs[0].grad])
    assert torch.equal(again.parameters[0], ours[0]) and torch.equal(ours[0], theirs[0])
