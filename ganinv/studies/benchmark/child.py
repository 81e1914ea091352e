"""One process of the benchmark: reads what to measure from standard input, prints a JSON line for every answer.

A process of its own, since the allocator and the number of threads are settled when a process starts, and peak memory is a
process's.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import ganinv.cli  # noqa: F401  (first: it sets how OpenMP threads wait, which torch reads when it is imported)


def answer(request: dict) -> Iterator[dict]:
    """Yields the answers to a request {"device", "threads", "folder", "quick", "measures": {name: seconds}, "memory"}."""
    import torch

    from ganinv.studies.benchmark.bench import Bench
    from ganinv.studies.benchmark.growth import use_memory
    from ganinv.studies.benchmark.measures import MEASURES

    torch.set_num_threads(request["threads"])
    folder, device = Path(request["folder"]), torch.device(request["device"])
    if request.get("memory"):
        yield {"begun": f"memory of {request['memory']}"}
        yield {"memory": use_memory(Bench(device, folder, quick=request["quick"]), request["memory"])}
        yield {"ended": request["memory"]}
        return
    for name, seconds in request["measures"].items():
        yield {"begun": name}
        bench = Bench(device, folder, seconds, request["quick"])
        for found in MEASURES[name](bench):
            yield {"found": found}
        yield {"ended": name}


if __name__ == "__main__":
    for line in answer(json.load(sys.stdin)):
        print(json.dumps(line), flush=True)
