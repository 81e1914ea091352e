"""Work on several processes and machines through Ray: units of it, in any order, repeated where a worker dies."""

from __future__ import annotations

import functools
import hashlib
import importlib
import logging
import os
import platform
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import ganinv
from ganinv.errors import FaultError

ATTEMPTS = 3  # workers that may die at one unit before it counts as the unit's fault
PATIENCE_S = 180.0  # for a worker to start where none is running
POLL_S = 1.0  # between looks at whether a signal came
ANSWER_S = 5.0  # for a named cluster to answer

log = logging.getLogger(__name__)


@functools.cache
def describe_installation() -> dict[str, str]:
    """Returns what must be equal on all nodes for equal results: versions, and a hash of this package's source."""
    root, digest = Path(ganinv.__file__).parent, hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    versions = {"ganinv": ganinv.__version__, "torch": torch.__version__, "python": platform.python_version()}
    return versions | {"source": digest.hexdigest()[:12]}


class Seat:
    """What Ray holds as an actor: an installation that is checked, then the worker that a recipe builds there."""

    def build(self, expected: Mapping[str, str], threads: int, prepare: Callable[[], object], held: list) -> None:
        """Builds the worker. held: a reference to its recipe, read once the versions are equal and prepare was called.

        Raises: ValueError where the node has other versions.
        """
        own = describe_installation()
        other = [f"{name} {own[name]} instead of {value}" for name, value in expected.items() if own[name] != value]
        if other:
            raise ValueError(
                f"expected the versions of this machine on node {socket.gethostname()}, got {', '.join(other)}; "
                "install the same there"
            )
        torch.set_num_threads(threads)
        prepare()
        self.worker = import_ray().get(held[0])()

    def warm(self) -> None:
        """Imports what most workers need, while nobody asks for them yet."""
        importlib.import_module("ganinv.attack.spread")

    def call(self, method: str, *arguments: object) -> object:
        """Returns what a method of the worker gives."""
        return getattr(self.worker, method)(*arguments)


class RayWorkers:
    """Workers on a Ray cluster, each with an object of its own, which is asked for one unit of work after the other.

    address: host:port or ray://host:port of a running cluster; "": one of this machine alone, which ends with the work, or
    the one that this process is connected to already. count: workers; 0: as many as the cluster has CPUs for, or GPUs.
    threads: CPU threads of each. gpu: every worker holds a GPU. Used as a context: workers end with it. ahead: the cluster
    and its workers start while this process goes on; whoever needs them first waits, and meets what was wrong.
    seconds: of the last run, from the first unit that a worker took to the end of the last.

    Raises: ValueError without the package ray, or a cluster at the address.
    """

    def __init__(self, address: str = "", count: int = 0, *, threads: int = 1, gpu: bool = False, ahead: bool = False):
        if count < 0 or threads < 1:
            raise ValueError(f"expected workers of at least 0 and threads of at least 1, got {count} and {threads}")
        self.address, self.asked, self.threads, self.gpu = address, count, threads, gpu
        self.connected, self.ahead, self.seconds = False, ahead, 0.0
        self.seats: list[Any] = []
        self.stale: list[Any] = []  # of these, those that were not built from the recipe
        self.recipe: Any = None
        self.memory = self.reserved = 0
        self.opening: Future = Future()
        self.closed = threading.Event()

    def __enter__(self) -> RayWorkers:
        self.ray = import_ray()  # here: the first import of ray belongs into the main thread
        if self.ahead:
            threading.Thread(target=self.open_ahead, daemon=True).start()
        else:
            self.opening.set_result(self.open())
        return self

    def open_ahead(self) -> None:
        """Opens the cluster and starts workers, in a thread of its own, which lives as long as they are needed.

        Linux ends the processes of a cluster of this machine with the thread that started them, not with its process.
        """
        try:
            count = self.open()
            while len(self.seats) < count:
                self.stale.append(self.start())
                self.stale[-1].warm.remote()
            self.opening.set_result(count)
        except BaseException as error:  # for whoever waits
            self.opening.set_exception(error)
        self.closed.wait()

    @property
    def count(self) -> int:
        """Returns how many workers there are at most. Raises: what opening the cluster raised."""
        return self.opening.result()

    def open(self) -> int:
        """Returns the number of workers, once the cluster is there."""
        if not self.ray.is_initialized():
            self.connect()
        elif self.address:
            raise ValueError(
                f"expected a process that can connect to {self.address}, got one that is connected already; "
                "leave the address out, or call ray.shutdown()"
            )
        have = self.ray.cluster_resources()
        most = int(have.get("GPU", 0)) if self.gpu else int(have.get("CPU", 0)) // self.threads
        if most < max(1, self.asked):
            what = "GPUs" if self.gpu else f"times {self.threads} CPUs"
            self.close()
            raise ValueError(f"expected a cluster with {max(1, self.asked)} {what}, got {most}; ask for fewer workers")
        return self.asked or most

    def __exit__(self, *_: object) -> None:
        wait([self.opening])  # what it raised whoever needed the cluster has met
        self.close()
        self.closed.set()

    def close(self) -> None:
        """Ends the workers, and the cluster where it was started here."""
        self.dismiss()
        if self.connected:
            self.ray.shutdown()
            self.connected = False

    def connect(self) -> None:
        """Connects to the named cluster, or starts one here. Raises: ValueError where none answers."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options: dict[str, object] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if not self.address:
            options |= {"include_dashboard": False}
        place = self.address.removeprefix("ray://")
        try:
            if place:
                host, _, port = place.rpartition(":")
                socket.create_connection((host, int(port)), ANSWER_S).close()
            self.ray.init(address=self.address or "local", **options)
        except Exception as error:  # of Ray too, which raises nothing narrower where a node does not start
            line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ValueError(
                f"expected a Ray cluster at {self.address or 'this machine'}, got {line}; start one with ray start --head"
            ) from error
        self.connected = True

    def hold(self, recipe: Callable[[], object], memory: int = 0, prepare: Callable[[], object] = lambda: None) -> None:
        """Says what every worker is built from; it is sent once to each node. memory: bytes that one worker takes.

        prepare: called on a worker before the recipe is read there.

        Raises: ValueError for a recipe that cannot be sent, or where no node has the memory; FaultError where the
        cluster's object store is full.
        """
        self.opening.result()
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        largest = max((node.get("memory", 0) for node in nodes), default=0)
        if memory > largest:
            need, have = (f"{size / 2**20:.0f}MiB" for size in (memory, largest))
            raise ValueError(f"expected a node with {need} of memory for one worker, got {have}; lower --batch")
        seats = {id(node): node.get("GPU", 0) if self.gpu else node.get("CPU", 0) // self.threads for node in nodes}
        tight = any(node.get("memory", 0) < memory * min(self.count, seats[id(node)]) for node in nodes)
        if tight and memory > self.reserved:  # they must be placed by their memory, too
            self.dismiss()
        self.stale, self.prepare = list(self.seats), prepare
        self.memory = memory if tight else 0
        with self.clear_full_store():
            try:
                self.recipe = self.ray.put(recipe)
            except (TypeError, AttributeError, RuntimeError) as error:
                raise ValueError(f"expected networks that can be sent to a worker, got one that cannot ({error})") from error

    @contextmanager
    def clear_full_store(self) -> Iterator[None]:
        """Turns what Ray raises where neither store nor disk have place into one line."""
        errors = self.ray.exceptions
        try:
            yield
        except (errors.ObjectStoreFullError, errors.OutOfDiskError) as error:
            raise FaultError(
                "the cluster's object store is full, and so is the disk behind it; start it with more --object-store-memory "
                "or make room: Ray writes to no disk of which less than 5 % are free"
            ) from error

    def dismiss(self) -> None:
        """Ends all workers."""
        for seat in self.seats:
            self.ray.kill(seat)
        self.seats.clear()
        self.stale.clear()

    def run(
        self, units: Mapping[Hashable, tuple], on_wait: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[Hashable, Any]]:
        """Yields (key, value) of units as they are finished. units: key -> (method of the worker, its arguments ...).

        on_wait is called about once a second. Raises: what a unit raises; FaultError where ATTEMPTS workers died at one
        unit, or none could be started.
        """
        errors = self.ray.exceptions
        waiting, deaths = deque(units), Counter()
        starting: dict[Any, Any] = {}  # reference -> the worker that is being built
        running: dict[Any, tuple[Any, Hashable]] = {}  # reference -> the worker and its unit
        idle, patience, began = [seat for seat in self.seats if seat not in self.stale], PATIENCE_S, None
        while self.stale:
            seat = self.stale.pop()
            starting[self.build(seat)] = seat
        while waiting or running:
            while waiting and idle:
                began = began or time.perf_counter()
                seat, key = idle.pop(), waiting.popleft()
                with self.clear_full_store():
                    running[seat.call.remote(*units[key])] = seat, key
            while len(self.seats) < min(self.count, len(waiting) + len(running)):
                seat = self.start()
                starting[self.build(seat)] = seat
            done, _ = self.ray.wait([*running, *starting], timeout=POLL_S)
            on_wait()
            patience = PATIENCE_S if done or running else patience - POLL_S
            if patience <= 0:
                raise FaultError(f"no worker started in {PATIENCE_S:.0f} s; see whether the cluster has free CPUs and memory")
            for reference in done:
                seat, key = (starting.pop(reference), None) if reference in starting else running.pop(reference)
                try:
                    with self.clear_full_store():
                        value = self.ray.get(reference)
                except errors.RayTaskError as error:
                    raise error.cause if isinstance(error.cause, Exception) else error from None
                except (errors.RayActorError, errors.WorkerCrashedError, errors.ObjectLostError) as error:
                    if getattr(error, "actor_init_failed", False):
                        raise FaultError(f"a worker could not start: {str(error).strip().splitlines()[-1]}") from error
                    self.replace(seat, key, deaths)
                    if key is not None:
                        waiting.appendleft(key)
                    continue
                idle.append(seat)
                if key is None:
                    del deaths[None]  # workers can start
                else:
                    self.seconds = time.perf_counter() - began
                    yield key, value

    def start(self) -> Any:
        """Returns a new worker, which is not built yet."""
        needs = {"num_gpus": 1} if self.gpu else {"num_cpus": self.threads}
        self.reserved = self.memory
        self.seats.append(self.ray.remote(Seat).options(**needs, memory=self.memory or None).remote())
        return self.seats[-1]

    def build(self, seat: Any) -> Any:
        """Returns a reference that is ready when a worker is built from the recipe."""
        return seat.build.remote(describe_installation(), self.threads, self.prepare, [self.recipe])

    def replace(self, seat: Any, key: Hashable | None, deaths: Counter) -> None:
        """Forgets a worker that died; run starts another. Raises: FaultError when that was once too often."""
        self.seats.remove(seat)
        self.ray.kill(seat)  # it may be out of reach alone, and hold its place
        deaths[key] += 1
        log.warning("a worker died%s: its work is repeated", "" if key is None else f" at unit {key}")
        if deaths[key] >= ATTEMPTS:
            raise FaultError(f"{ATTEMPTS} workers died one after the other; see their memory, and the logs of Ray")


def import_ray() -> Any:
    """Returns the package ray. Raises: ValueError where it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise ValueError('expected the package ray, got none; pip install "ganinv[cluster]"') from error
    return ray
