"""Twenty kills of workers, nodes and drivers at random, by a seed and at counted moments: nothing is lost. For the night."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ganinv.attack.invert import invert
from ganinv.attack.spread import Spread
from ganinv.commands import latent_attack
from ganinv.engine.cluster import RayWorkers
from ganinv.reports.report_file import read_report
from tests.nodes import add_node, open_cluster
from tests.test_spread import CONFIG, equal
from tests.tiny_world import BRIEF, NAME, USERS, make_tiny_world, register, run_main
from tests.toys import toy_world

pytest.importorskip("ray", reason="needs the extra cluster")
pytestmark = pytest.mark.nightly

SEED = 17
DRIVERS = USERS - 1  # kills of drivers: one after each finished user but the last
OTHERS = 20 - DRIVERS  # kills of workers and nodes
PARTS = 2 * OTHERS + 2  # users of the attack in which they die


@pytest.fixture
def nodes():
    """Yields a cluster: a head without CPUs, and two nodes of one."""
    found = open_cluster()
    yield found
    found.shutdown()


def list_workers(node) -> list[int]:
    """Returns the processes in which this cluster's node holds workers of ours."""
    raylets = {process.process.pid for process in node.all_processes["raylet"]}
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            ours = parent in raylets and (place / "cmdline").read_bytes().startswith(b"ray::Seat")
        except OSError:  # it has ended
            continue
        found += [int(place.name)] if ours else []
    return sorted(found)


def test_an_attack_whose_workers_and_nodes_die_gives_the_bits_of_one_process(nodes, capsys):
    generator, recognizer, _ = toy_world()
    users, config = tuple(n % 3 for n in range(PARTS)), replace(CONFIG, together=1)
    alone = invert(generator, recognizer, users, config)
    chance, killed = random.Random(SEED), []
    moments = list(range(1, 2 * OTHERS, 2))  # finished users, after which somebody dies
    kinds = chance.choices(("worker", "node"), weights=(2, 1), k=OTHERS)

    def on_state(describe) -> None:
        done = len(describe()["finished"])
        if len(killed) == OTHERS or done < moments[len(killed)]:
            return
        with_workers = [node for node in nodes.worker_nodes if list_workers(node)]
        if not with_workers:  # they start: later
            return
        node = chance.choice(sorted(with_workers, key=lambda one: one.unique_id))
        if kinds[len(killed)] == "worker":
            os.kill(chance.choice(list_workers(node)), signal.SIGKILL)
        else:
            nodes.remove_node(node, allow_graceful=False)
            add_node(nodes)
        killed.append((kinds[len(killed)], done))

    with RayWorkers(nodes.address, 2) as workers:
        found = invert(generator, recognizer, users, config, schedule=Spread(workers), on_state=on_state)
    with capsys.disabled():
        print(f"\nkilled, after so many of {PARTS} users: {killed}")
    assert len(killed) == OTHERS and {kind for kind, _ in killed} == {"worker", "node"}
    assert equal(found, alone)


DRIVER = """
import os, signal, sys
sys.path.insert(0, {root!r})
from ganinv.commands import latent_attack
from ganinv.reports.run_folder import RunFolder
save = RunFolder.save_state

def save_and_die(folder, state):
    save(folder, state)
    if len(state["finished"]) >= {most}:
        os.kill(os.getpid(), signal.SIGKILL)

RunFolder.save_state = save_and_die
latent_attack.main()
"""


def test_an_attack_whose_driver_dies_after_every_user_gives_the_bits_of_one_process(nodes, monkeypatch, tmp_path):
    register(monkeypatch, make_tiny_world(tmp_path / "made"), tmp_path)
    common = [f"--world={NAME}", f"--identities=0-{USERS - 1}", "--together=1", *BRIEF]
    spread = ["--engine=ray", f"--address={nodes.address}", "--workers=1", "--save-every=1", "--out=killed"]
    for most in range(1, DRIVERS + 1):
        script = DRIVER.format(root=str(Path(__file__).resolve().parents[1]), most=most)
        options = [*common, *spread] if most == 1 else ["--resume=killed"]
        died = subprocess.run([sys.executable, "-c", script, *options], capture_output=True, text=True, check=False)
        assert died.returncode == -signal.SIGKILL, died.stderr
    assert run_main(monkeypatch, latent_attack, "--resume=killed") == 0
    assert run_main(monkeypatch, latent_attack, *common, "--out=alone") == 0
    reports = [read_report(name) for name in ("killed", "alone")]
    for report in reports:
        del report["cost"]
    assert reports[0] == reports[1]
