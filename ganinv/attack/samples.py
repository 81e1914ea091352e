"""What the loop knows of each sample: its losses, when it stops, which are dropped, and what is returned of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ganinv.attack.config import Optim
from ganinv.interfaces import FaultError

TREND = 0.2  # weight of the last step in the running mean of losses that halving goes by
SURE = 10  # steps running in which a sample that leaves by leave_at was scored so high
LOOK_EVERY = 5  # steps between looks at which samples have stopped; every one on the CPU, where no device is waited for


def spread(mask: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Returns a mask [N] as [N,1,...], to choose rows of `like`."""
    return mask.view(-1, *[1] * (like.ndim - 1))


def drop_worse(losses: torch.Tensor, identities: torch.Tensor, keep: int) -> torch.Tensor:
    """Returns which samples [N] of each identity go on: the half of lower loss, but at least `keep`; inf is gone already."""
    table, own = losses.cpu(), identities.cpu()
    kept = torch.zeros(len(own), dtype=torch.bool)
    for identity in own.unique():
        members = torch.where((own == identity) & table.isfinite())[0]
        order = members[table[members].argsort(stable=True)]  # ties go to the lower index
        kept[order[: max(keep, -(-len(members) // 2))]] = True
    return kept.to(losses.device)


class Samples:
    """The samples [N] of a search, of identities [N], whose `parameters` [N,...] a searcher moves.

    Halving keeps at least `keep` samples of each identity. alive: the indices of the samples that are computed.
    """

    def __init__(self, parameters: list[torch.Tensor], identities: torch.Tensor, optim: Optim, steps: int, keep: int):
        self.parameters, self.identities, self.optim, self.steps, self.keep = parameters, identities, optim, steps, keep
        count, device = len(identities), identities.device
        self.own = {  # of every sample: its last loss and score, the loss's trend, the lowest, steps since, of a high score
            **{name: torch.full((count,), torch.inf, device=device) for name in ("losses", "trend", "best")},
            "scores": torch.zeros(count, device=device),
            **{name: torch.zeros(count, dtype=torch.long, device=device) for name in ("waited", "sure")},
            **{name: torch.zeros(count, dtype=torch.bool, device=device) for name in ("stopped", "dropped")},
            "bad": torch.tensor(torch.inf, device=device),  # the first step at which an objective was not finite
        }
        self.alive = torch.arange(count, device=device)
        self.kept = [parameter.detach().clone() for parameter in parameters] if optim.patience else []
        self.mean, self.averaged = [torch.zeros_like(p) for p in parameters if optim.average_last], 0
        self.halvings = {round(share * steps) for share in optim.halve_at}
        self.may_stop = bool(optim.patience or optim.leave_at)
        self.look_every = 1 if device.type == "cpu" else LOOK_EVERY

    def halve(self, step: int) -> None:
        """Drops the worse half of each identity's samples, where it is time for that."""
        if not step or step not in self.halvings:
            return
        own = self.own
        own["dropped"] |= ~drop_worse(own["trend"], self.identities, self.keep)
        own["trend"][own["dropped"]] = own["losses"][own["dropped"]] = torch.inf
        self.alive = self.alive[~own["dropped"][self.alive]]

    def note(self, step: int, losses: torch.Tensor, scores: torch.Tensor) -> None:
        """Notes the losses and scores [n] of the samples alive, and which of them stop. The device is not waited for."""
        own, rows = self.own, self.alive
        own["bad"] = torch.where(losses.sum().isfinite(), own["bad"], own["bad"].clamp(max=step))
        own["losses"][rows], own["scores"][rows] = losses, scores
        trend = own["trend"][rows]
        own["trend"][rows] = torch.where(trend.isinf(), losses, trend.lerp(losses, TREND))
        if self.may_stop:
            self.note_stops(rows)
            if step % self.look_every == self.look_every - 1:
                self.alive = rows[~own["stopped"][rows]]

    def note_stops(self, rows: torch.Tensor) -> None:
        """Notes which samples stop by their losses and scores, and with patience the parameters of the lowest losses."""
        own, optim = self.own, self.optim
        running, losses = ~own["stopped"][rows], own["losses"][rows]
        if optim.patience:
            better = running & (losses < own["best"][rows])
            own["best"][rows] = torch.where(better, losses, own["best"][rows])
            own["waited"][rows] = torch.where(better, 0, own["waited"][rows] + 1)
            for copy, parameter in zip(self.kept, self.parameters, strict=True):
                copy[rows] = torch.where(spread(better, copy), parameter.detach()[rows], copy[rows])
            running &= (own["waited"][rows] < optim.patience) & (own["best"][rows] > optim.threshold)
        if optim.leave_at:
            own["sure"][rows] = torch.where(own["scores"][rows] >= optim.leave_at, own["sure"][rows] + 1, 0)
            running &= own["sure"][rows] < SURE
        own["stopped"][rows] = ~running

    def check(self) -> None:
        """Raises: FaultError when an objective was not finite."""
        if (worst := self.own["bad"].item()) < torch.inf:
            raise FaultError(f"the objective is not finite at step {worst:.0f}; lower --optim.lr or check the recognizer")

    def copy_parameters(self) -> list[torch.Tensor]:
        """Returns the parameters before a step, for hold_still; none where no sample ever stops."""
        return [parameter.detach().clone() for parameter in self.parameters] if self.may_stop or self.halvings else []

    @torch.no_grad()
    def hold_still(self, before: list[torch.Tensor]) -> None:
        """Puts the samples that have stopped or were dropped back to where they were."""
        still = self.own["stopped"] | self.own["dropped"]
        for parameter, old in zip(self.parameters, before):  # noqa: B905  none where nothing stops
            parameter.copy_(torch.where(spread(still, parameter), old, parameter))

    @torch.no_grad()
    def average(self, step: int) -> None:
        """Takes the parameters after one of the last steps into their mean. Source: Dong et al. 2024, ALSUV, section 3."""
        if self.mean and step >= self.steps - self.optim.average_last:
            self.averaged += 1
            for mean, parameter in zip(self.mean, self.parameters, strict=True):
                mean += (parameter - mean) / self.averaged

    @torch.no_grad()
    def finish(self) -> None:
        """Moves every sample to what is returned of it: with patience its lowest loss, or the mean of its last steps."""
        for parameter, value in zip(self.parameters, self.kept or (self.mean if self.averaged else [])):  # noqa: B905
            parameter.copy_(value)

    def get_state(self) -> dict:
        """Returns all that changes from step to step. Raises: FaultError when an objective was not finite."""
        self.check()
        return {
            "parameters": self.parameters,
            "kept": self.kept,
            "own": self.own,
            "alive": self.alive,
            "mean": self.mean,
            "averaged": self.averaged,
        }

    @torch.no_grad()
    def set_state(self, state: Mapping) -> None:
        """Goes on from what get_state gave."""
        here = [*self.parameters, *self.kept, *self.mean]
        for value, stored in zip(here, [*state["parameters"], *state["kept"], *state["mean"]], strict=True):
            value.copy_(stored)
        self.own = {name: value.to(self.alive.device) for name, value in state["own"].items()}
        self.alive, self.averaged = state["alive"].to(self.alive.device), state["averaged"]
