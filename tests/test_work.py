"""A verdict whose pictures are looked at by workers is, to the bit, that of one process."""

from __future__ import annotations

import pytest
import torch

import ganinv
from ganinv.interfaces import AbsentError, Recognition
from ganinv.judging import protocol
from ganinv.judging.work import LOOKED, PROJECT, QUICK, Work, group
from ganinv.worlds import truth
from tests.test_spread import Copied
from tests.tiny_world import make_rendered_world, make_tiny_world

USERS = 3


@pytest.fixture(scope="module", params=["rendered", "photographed"])
def judged(request, tmp_path_factory):
    """Returns a world, and what an attack found in it."""
    folder = tmp_path_factory.mktemp("world")
    if request.param == "rendered":
        world = make_rendered_world(folder, users=USERS, photos=10, readable=(0, 1))
    else:
        world = make_tiny_world(folder)
    attack = ganinv.LatentAttack(steps=1, candidates=8, restarts=1, final_transforms=1)
    return world, attack(world.prior, world.target, range(USERS))


def describe(report) -> dict:
    """Returns a report without what it took."""
    return {key: value for key, value in report.content.items() if key != "cost"}


def test_a_spread_verdict_is_that_of_one_process_and_asks_nobody_here(judged, monkeypatch):
    world, result = judged
    alone = describe(ganinv.judge(result, world.target, world=world))
    look_ahead, asked = protocol.look_ahead, []

    def look_and_leave(assets, recognitions, *others):
        look_ahead(assets, recognitions, *others)
        recognitions.work.functions = dict.fromkeys(recognitions.work.functions, lambda pictures: asked.append(pictures))
        monkeypatch.setattr(truth, "estimate", lambda *_: asked.append("factors"))

    monkeypatch.setattr(protocol, "look_ahead", look_and_leave)
    if world.truth is not None:
        world.truth.found.clear()
    assert describe(ganinv.judge(result, world.target, world=world, workers=Copied())) == alone
    assert not asked


def test_what_a_node_lacks_is_found_here():
    def look(pictures):
        if homes[0] == "node":
            raise AbsentError("needs a package")
        return pictures.mean((1, 2, 3))

    homes, pictures = ["node"], torch.rand(3, 3, 8, 8)
    work = Work((), {"face": look}, Copied())
    work.prepare([("face", pictures, LOOKED), ("unknown", pictures, LOOKED)])
    homes[0] = "here"
    assert not work.ahead and torch.equal(work("face", pictures), pictures.mean((1, 2, 3)))


def test_batches_are_the_same_wherever_they_are_looked_at():
    sizes = []

    class Network(torch.nn.Module):
        def forward(self, images):
            sizes.append(len(images))
            return Recognition(images.mean((2, 3)), None)

    network, pictures = Network(), torch.rand(150, 3, 8, 8)
    found = Work([network]).see(network, pictures)
    here, sizes[:] = list(sizes), []
    work = Work([network], workers=Copied())
    work.workers.recipe = work.workers.recipe.__class__(work.functions, torch.device("cpu"))  # not copied: it counts
    work.prepare([(work.names[id(network)], pictures, 64)])
    assert sorted(sizes) == sorted(here) == [22, 64, 64]
    assert torch.equal(work.see(network, pictures).embeddings, found.embeddings) and len(sizes) == 3
    other = Network()
    assert torch.equal(work.see(other, pictures).embeddings, found.embeddings)  # of whom nobody was told


def test_no_more_is_sent_at_a_time_than_fits(monkeypatch):
    monkeypatch.setattr("ganinv.judging.work.MOST", 3 * 8 * 8 * 20)  # numbers of twenty pictures
    work = Work((), {"face": lambda pictures: pictures.mean((1, 2, 3))}, Copied())
    pictures = torch.rand(64, 3, 8, 8)
    work.prepare([("face", pictures, LOOKED), ("face", pictures, LOOKED)])
    assert work.workers.built == 2 and len(work.ahead) == 4  # of which two fit; the second time all is known
    assert torch.equal(torch.cat(work.over("face", pictures, LOOKED)), pictures.mean((1, 2, 3)))


def test_units_are_of_one_function_and_about_as_long():
    keys = [(PROJECT, bytes([row])) for row in range(3)] + [("see 0", bytes([row])) for row in range(9)]
    batches = {key: torch.zeros(LOOKED if key[0] == PROJECT else QUICK // 8, 1) for key in keys}
    units = list(group(batches))
    assert [len(unit) for unit in units] == [1, 1, 1, 8, 1]
    assert sorted(key for unit in units for key in unit) == sorted(keys)
    assert all(len({name for name, _ in unit}) == 1 for unit in units)
