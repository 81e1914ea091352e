"""An attack spread over workers gives the bits of one process, whatever dies on the way."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from ganinv.attack.config import AttackConfig, Optim
from ganinv.attack.goals import make_goal
from ganinv.attack.invert import invert
from ganinv.attack.spread import Spread
from ganinv.commands import latent_attack
from tests.tiny_world import BRIEF, NAME, make_tiny_world, register, run_main
from tests.toys import RawRecognizer, toy_world

CONFIG = AttackConfig(
    steps=12, candidates=90, restarts=2, final_transforms=2, batch=4, together=2, memory="4GiB",
    optim=Optim(transforms=1, halve_at=(0.3,)),
)  # fmt: skip


class Copied:
    """Workers without a cluster: everything is copied on its way, and the last unit is finished first."""

    count, seconds = 2, 1.5

    def __init__(self, most: int = 1_000):
        self.most, self.built = most, 0

    def hold(self, recipe, memory, prepare):
        self.recipe, self.memory = copy.deepcopy(recipe), memory

    def run(self, units, on_wait=lambda: None):
        worker = self.recipe()
        self.built += 1
        for done, key in enumerate(list(units)[::-1]):
            if done == self.most:
                raise InterruptedError
            method, *arguments = copy.deepcopy(units[key])
            on_wait()
            yield key, copy.deepcopy(getattr(worker, method)(*arguments))


def equal(first, second) -> bool:
    """Says whether two results of an attack hold the same bits and counts."""
    same = [torch.equal(getattr(first, name), getattr(second, name)) for name in ("images", "scores", "first")]
    same += [torch.equal(first.latents[name], second.latents[name]) for name in first.latents]
    return all(same) and first.queries == second.queries and first.stuck == second.stuck


@pytest.mark.parametrize("space", ["w_plus", "z", "pixels"])
def test_a_spread_attack_gives_the_bits_of_one_process(space):
    generator, recognizer, _ = toy_world()
    config, start = replace(CONFIG, space=space), torch.zeros(3, 1, 8, 8) if space == "pixels" else None
    alone = invert(generator, recognizer, (0, 1, 2), config, start=start)
    workers = Copied()
    assert equal(invert(generator, recognizer, (0, 1, 2), config, start=start, schedule=Spread(workers)), alone)
    assert workers.memory > 0
    assert not equal(invert(generator, recognizer, (0, 1, 2), config, start=start, seed=1, schedule=Spread(workers)), alone)


def test_a_spread_template_inversion_aims_where_one_process_does():
    generator, recognizer, _ = toy_world()
    target, config = RawRecognizer(recognizer.centres.detach()), replace(CONFIG, goal="template", contrast=0.5)
    goal = make_goal(config, target, recognizer.centres.detach() + 0.1)
    alone = invert(generator, target, (0, 1, 2), config, goal=goal)
    assert equal(invert(generator, target, (0, 1, 2), config, goal=goal, schedule=Spread(Copied())), alone)
    other = invert(generator, target, (0, 1, 2), replace(config, contrast=0.0), goal=goal)
    assert not equal(other, alone)


def test_parts_are_as_many_as_workers_where_nothing_is_said():
    generator, recognizer, _ = toy_world()
    states = []
    invert(
        generator, recognizer, (0, 1, 2), replace(CONFIG, together=0), schedule=Spread(Copied()),
        on_state=lambda describe: states.append(describe()),
    )  # fmt: skip
    assert states[-1]["together"] == 2 and len(states[-1]["finished"]) == 2


@pytest.mark.parametrize("ending", ["spread", "alone"])
def test_a_spread_attack_goes_on_from_its_state(ending):
    generator, recognizer, _ = toy_world()
    states, rows = [], []
    with pytest.raises(InterruptedError):
        invert(
            generator, recognizer, (0, 1, 2), replace(CONFIG, candidates=8), schedule=Spread(Copied(most=1)),
            on_state=lambda describe: states.append(describe()), on_step=rows.append,
        )  # fmt: skip
    assert list(states[-1]["finished"]) == [1]  # the second part, which was finished first
    assert [row["step"] for row in rows] == list(range(12))  # in the order of what is done
    resumed = invert(
        generator, recognizer, (0, 1, 2), replace(CONFIG, candidates=8), state=states[-1], on_step=rows.append,
        schedule=Spread(Copied()) if ending == "spread" else None,
    )  # fmt: skip
    assert equal(resumed, invert(generator, recognizer, (0, 1, 2), replace(CONFIG, candidates=8)))
    assert {row["step"] for row in rows} >= set(range(12))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_tiny_world(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--engine=slurm"], "expected an engine among local, ray"),
        (["--workers=2"], "expected --engine=ray beside --address or --workers"),
        (["--engine=ray", "--workers=-1"], "expected workers in [0, 1e4], got -1"),
        (["--engine=ray", "--address=127.0.0.1:1"], "expected a Ray cluster at 127.0.0.1:1, got"),
        (["--engine=ray", "--operator.limit=9"], "expected an operator without limit and budget on several workers"),
        (["--engine=ray", "--operator.budget=99"], "expected an operator without limit and budget"),
        (["--engine=ray", "--address=nonsense"], "expected a Ray cluster at nonsense, got"),
    ],
)
def test_an_engine_that_cannot_be_had_is_one_line(made, monkeypatch, tmp_path, capsys, options, line):
    if options[0] == "--engine=ray":
        pytest.importorskip("ray", reason="needs the extra cluster")
    register(monkeypatch, made, tmp_path)
    assert run_main(monkeypatch, latent_attack, f"--world={NAME}", "--identities=0", *BRIEF, "--out=out", *options) == 2
    error = capsys.readouterr().err
    assert line in error and "Traceback" not in error
