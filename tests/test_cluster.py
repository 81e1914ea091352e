"""Work on a Ray cluster of two nodes and a head on this machine, of which processes and nodes are killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ganinv.attack.invert import invert
from ganinv.attack.spread import Spread
from ganinv.commands import latent_attack
from ganinv.engine import cluster
from ganinv.engine.cluster import ATTEMPTS, RayWorkers
from ganinv.errors import FaultError
from ganinv.reports.report_file import read_report
from tests.nodes import add_node, open_cluster
from tests.test_spread import CONFIG, equal
from tests.tiny_world import BRIEF, NAME, make_tiny_world, register, run_main
from tests.toys import toy_world

pytest.importorskip("ray", reason="needs the extra cluster")

STORE = 100 * 2**20  # bytes of each node's object store


@pytest.fixture(scope="module")
def nodes():
    """Yields a cluster: a head without CPUs, and two nodes of one."""
    found = open_cluster(object_store_memory=STORE)
    yield found
    found.shutdown()


def make_recipe(folder: Path):
    """Returns a recipe of a worker that notes who works, and dies where it is told to as long as a file is there."""

    class Clerk:
        def double(self, number):
            (folder / f"{number}-{os.getpid()}").touch()
            return 2 * number

        def meet(self, number):
            """Ends when two workers are here."""
            (folder / f"met-{os.getpid()}").touch()
            while len(list(folder.glob("met-*"))) < 2:
                pass
            return number

        def die(self, number, times):
            for left in range(times):
                mark = folder / f"death-{number}-{left}"
                if not mark.exists():
                    mark.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            return number

        def enlarge(self, seed, rows):
            return np.full(len(rows), seed, dtype=np.int64)

        def fail(self, error):
            raise error

    return Clerk


@pytest.fixture
def workers(nodes, tmp_path):
    """Yields two workers of the cluster."""
    with RayWorkers(nodes.address, 2) as found:
        found.hold(make_recipe(tmp_path))
        yield found


def test_units_are_done_by_all_workers_and_each_once(workers, tmp_path):
    assert dict(workers.run({n: ("double", n) for n in range(8)})) == {n: 2 * n for n in range(8)}
    files = [file.name.split("-") for file in tmp_path.iterdir()]
    assert sorted(int(number) for number, _ in files) == list(range(8))
    assert dict(workers.run({n: ("meet", n) for n in range(2)})) == {0: 0, 1: 1}


def test_the_unit_of_a_killed_worker_is_repeated(workers, caplog):
    units = {0: ("die", 0, ATTEMPTS - 1), 1: ("double", 1), 2: ("die", 2, 1)}
    assert dict(workers.run(units)) == {0: 0, 1: 2, 2: 2}
    assert "its work is repeated" in caplog.text


def test_a_unit_that_kills_every_worker_is_a_fault(workers):
    with pytest.raises(FaultError, match=f"{ATTEMPTS} workers died one after the other"):
        dict(workers.run({0: ("die", 0, ATTEMPTS)}))


def test_what_a_unit_raises_is_raised_here(workers):
    with pytest.raises(ValueError, match="^expected this, got that$"):
        dict(workers.run({0: ("fail", ValueError("expected this, got that"))}))
    with pytest.raises(FaultError, match="^not finite$"):
        dict(workers.run({0: ("fail", FaultError("not finite"))}))


def test_more_than_the_object_store_holds_goes_to_the_disk(workers, tmp_path):
    disk = shutil.disk_usage(tempfile.gettempdir())
    if disk.free < 0.06 * disk.total:
        pytest.skip("Ray writes to no disk of which less than 5 % are free")
    rows = np.zeros(STORE // 2, dtype=np.int8)  # of which the answer takes eight times as much
    workers.hold(partial(make_heavy, make_recipe(tmp_path), np.ones(2 * STORE, dtype=np.int8)))
    found = {key: int(value.sum()) for key, value in workers.run({n: ("enlarge", n, rows) for n in range(4)})}
    assert found == {n: n * len(rows) for n in range(4)}


def make_heavy(recipe, weights):
    """Returns the worker of a recipe that is sent with weights."""
    assert len(weights) == 2 * STORE
    return recipe()


def test_a_store_and_a_disk_that_are_full_are_one_line(workers, tmp_path, monkeypatch):
    def refuse(*_):
        raise workers.ray.exceptions.ObjectStoreFullError("The object store is full")

    monkeypatch.setattr(workers.ray, "put", refuse)
    with pytest.raises(FaultError, match="^the cluster's object store is full, and so is the disk behind it; start it with"):
        workers.hold(make_recipe(tmp_path))


def test_workers_that_start_ahead_serve_one_recipe_after_the_other(nodes, tmp_path):
    with RayWorkers(nodes.address, 2, ahead=True) as workers:
        pids = []
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            workers.hold(make_recipe(tmp_path / name))
            assert dict(workers.run({n: ("meet", n) for n in range(2)})) == {0: 0, 1: 1}
            pids.append({file.name for file in (tmp_path / name).iterdir()})
        assert workers.count == 2 and workers.seconds > 0
        assert len(pids[0]) == 2 and pids[0] == pids[1]  # the same processes, built anew


STAYS = """
import sys
sys.path.insert(0, {root!r})
from ganinv.engine.cluster import RayWorkers

with RayWorkers(count=1, ahead=True) as workers:
    count = workers.count  # the cluster is there, and its thread has nothing more to do
    node = workers.ray._private.worker._global_node
    raylet = node.all_processes["raylet"][0].process
    try:
        raylet.wait(5)
        print("Dead")
    except Exception:
        print("Alive")
    workers.hold(lambda: str)
    print(*dict(workers.run({{0: ("capitalize", "7")}})).values())
"""


def test_a_cluster_that_was_started_ahead_stays(tmp_path):
    script = STAYS.format(root=str(Path(__file__).resolve().parents[1]))
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=300)
    assert ended.stdout.split() == ["Alive", "7"], ended.stderr


def test_who_needs_workers_first_meets_what_was_wrong():
    with RayWorkers("127.0.0.1:1", ahead=True) as workers, pytest.raises(ValueError, match="expected a Ray cluster at"):
        workers.hold(dict)


def test_the_work_of_a_node_that_goes_is_done_by_the_others(nodes, tmp_path):
    node = add_node(nodes)
    with RayWorkers(nodes.address, 3) as workers:
        workers.hold(make_recipe(tmp_path))
        found, units = {}, {n: ("double", n) for n in range(40)}
        for key, value in workers.run(units):
            found[key] = value
            if len(found) == 3:
                nodes.remove_node(node)
    assert found == {n: 2 * n for n in range(40)}


def test_a_spread_attack_gives_the_bits_of_one_process_on_two_nodes(nodes):
    generator, recognizer, _ = toy_world()
    alone = invert(generator, recognizer, (0, 1, 2), CONFIG)
    with RayWorkers(nodes.address, 2) as workers:
        assert equal(invert(generator, recognizer, (0, 1, 2), CONFIG, schedule=Spread(workers)), alone)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda own: own | {"ganinv": "9.9"}, "expected the versions of this machine on node .*ganinv .* instead of 9.9"),
        (lambda own: own | {"source": "0" * 12}, "expected the versions of this machine on node .*source .* instead of 0000"),
    ],
)
def test_a_node_with_another_version_is_refused(nodes, tmp_path, monkeypatch, change, line):
    own = cluster.describe_installation()
    monkeypatch.setattr(cluster, "describe_installation", lambda: change(own))
    with RayWorkers(nodes.address, 1) as workers, pytest.raises(ValueError, match=line):
        workers.hold(make_recipe(tmp_path))
        dict(workers.run({0: ("double", 0)}))


def test_what_no_node_has_is_refused(nodes, tmp_path):
    with pytest.raises(ValueError, match="expected a cluster with 100 times 1 CPUs, got 2; ask for fewer workers"):
        RayWorkers(nodes.address, 100).__enter__()
    with RayWorkers(nodes.address, 1) as workers:
        with pytest.raises(ValueError, match="expected a process that can connect to .*, got one that is connected already"):
            RayWorkers(nodes.address, 1).__enter__()
        with pytest.raises(ValueError, match="expected a node with 1048576MiB of memory for one worker, got"):
            workers.hold(make_recipe(tmp_path), memory=2**40)
        with pytest.raises(ValueError, match="expected networks that can be sent to a worker, got one that cannot"):
            workers.hold(threading.Lock().acquire)


DRIVER = """
import os, signal, sys
sys.path.insert(0, {root!r})
from ganinv.commands import latent_attack
from ganinv.reports.run_folder import RunFolder
save = RunFolder.save_state

def save_and_die(folder, state):
    save(folder, state)
    if len(state["finished"]) == 1:
        os.kill(os.getpid(), signal.SIGKILL)

RunFolder.save_state = save_and_die
latent_attack.main()
"""


def test_an_attack_whose_driver_is_killed_goes_on_from_what_is_finished(nodes, monkeypatch, tmp_path):
    register(monkeypatch, make_tiny_world(tmp_path / "made"), tmp_path)
    common = [f"--world={NAME}", "--identities=0-2", "--together=1", *BRIEF]
    spread = ["--engine=ray", f"--address={nodes.address}", "--workers=1", "--save-every=1", "--out=killed"]
    script = DRIVER.format(root=str(Path(__file__).resolve().parents[1]))
    died = subprocess.run([sys.executable, "-c", script, *common, *spread], capture_output=True, text=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not Path("killed/report.json").exists()
    assert run_main(monkeypatch, latent_attack, "--resume=killed") == 0
    assert run_main(monkeypatch, latent_attack, *common, "--out=alone") == 0
    resumed, alone = read_report("killed"), read_report("alone")
    for report in (resumed, alone):
        del report["cost"]["seconds"], report["cost"]["search_seconds"], report["cost"]["verdict_seconds"]
    assert resumed == alone
    rows = [json.loads(line)["step"] for line in Path("killed/steps.jsonl").read_text().splitlines()]
    assert rows == list(range(9))
