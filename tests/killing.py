"""A training that is ended from outside, as a test wants it."""

from __future__ import annotations

from ganinv.engine.checkpoint import save_state


class Killed(BaseException):
    """What ends a training from outside."""


def kill_at(monkeypatch, module, step: int, *, before_saving: bool = False) -> None:
    """Saves the state after every step, and ends the training at the one that would have it go on from `step`."""

    def save(path, state):
        if state["step"] == step and before_saving:
            raise Killed
        save_state(path, state)
        if state["step"] == step:
            raise Killed

    monkeypatch.setattr(module, "save_state", save)
