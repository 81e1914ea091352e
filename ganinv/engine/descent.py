"""Steps down a gradient, the bits of torch.optim without its compiler, whose import takes longer than a short search.

Both have step(gradients), and a state as torch.optim writes it, so that states of either are read by the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

EPSILON = 1e-8  # beside the root of the second moment


class Adam:
    """Source: Kingma and Ba 2015, Adam: A Method for Stochastic Optimization, Algorithm 1, in the order of torch's sums."""

    def __init__(self, parameters: Sequence[torch.Tensor], lr: float, betas: tuple[float, float]):
        self.parameters, self.lr, self.betas, self.count = list(parameters), lr, betas, 0
        self.moments = [
            (torch.zeros_like(one, requires_grad=False), torch.zeros_like(one, requires_grad=False))
            for one in self.parameters
        ]

    @torch.no_grad()
    def step(self, gradients: Sequence[torch.Tensor]) -> None:
        """Moves the parameters one step."""
        self.count += 1
        first, second = self.betas
        rate = self.lr / (1 - first**self.count)
        shrunk = (1 - second**self.count) ** 0.5
        for parameter, gradient, (mean, square) in zip(self.parameters, gradients, self.moments, strict=True):
            mean.lerp_(gradient, 1 - first)
            square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
            parameter.addcdiv_(mean, (square.sqrt() / shrunk).add_(EPSILON), value=-rate)

    def state_dict(self) -> dict:
        """Returns the moments."""
        if not self.count:
            return {"state": {}}
        step = torch.tensor(float(self.count))
        return {
            "state": {
                place: {"step": step, "exp_avg": mean, "exp_avg_sq": square}
                for place, (mean, square) in enumerate(self.moments)
            }
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping) -> None:
        """Goes on from what state_dict gave."""
        for place, kept in state["state"].items():
            self.count = int(kept["step"])
            for moment, name in zip(self.moments[place], ("exp_avg", "exp_avg_sq"), strict=True):
                moment.copy_(kept[name])


class GradientDescent:
    """Steps of the gradient times the learning rate."""

    def __init__(self, parameters: Sequence[torch.Tensor], lr: float):
        self.parameters, self.lr = list(parameters), lr

    @torch.no_grad()
    def step(self, gradients: Sequence[torch.Tensor]) -> None:
        """Moves the parameters one step."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.add_(gradient, alpha=-self.lr)

    def state_dict(self) -> dict:
        """Returns nothing: no step knows of the one before."""
        return {}

    def load_state_dict(self, state: Mapping) -> None:
        """Takes what state_dict gave."""
