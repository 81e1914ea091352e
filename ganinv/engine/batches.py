"""How many samples share a batch: planned from a memory budget, halved when the memory runs out all the same."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import torch

log = logging.getLogger(__name__)
T = TypeVar("T")
UNITS = {"MIB": 2**20, "GIB": 2**30, "TIB": 2**40, "MB": 10**6, "GB": 10**9, "TB": 10**12}
PROBES = (1, 4)  # samples of the two probes: what does not grow with them, such as weights, cancels
ON_CPU = 40  # samples: more made a step slower (0.94 times the speed at 128), fewer too
PROCESS = 1100 * 2**20  # bytes of a process with its libraries, beside its weights: measured
# beside what is saved for the backward pass there are gradients and the networks' scratch: measured, see tests
SCRATCH = 1.6


def parse_memory(text: str) -> int:
    """Returns the bytes of a text such as 4GiB, 800MiB or 1.5GB. Raises: ValueError for any other."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?([MGT]i?B)", text.strip(), re.ASCII | re.IGNORECASE)
    if match is None or not float(match[1]):
        raise ValueError(f"expected memory such as 4GiB or 800MiB, got {text!r}")
    return round(float(match[1]) * UNITS[match[2].upper()])


def ran_out(error: BaseException) -> bool:
    """Says whether an error means that the memory is full; the CPU allocator raises a plain RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


class Batch:
    """The most samples that share a batch; it is halved, for good, whenever the memory runs out."""

    def __init__(self, size: int):
        self.size = size

    def over(self, count: int, work: Callable[[slice], T]) -> list[T]:
        """Returns what work gives of slices that cover range(count).

        Where it runs out of memory it is called again with half as many: a call that fails must leave nothing behind.
        """
        results, start = [], 0
        while start < count:
            rows = slice(start, min(start + self.size, count))
            try:
                results.append(work(rows))
                start = rows.stop
                continue
            except (RuntimeError, MemoryError) as error:
                if rows.stop - start == 1 or not ran_out(error):
                    raise
            # out here, where the error and the tensors that its frames held are gone
            self.size = -(-(rows.stop - start) // 2)
            log.warning("memory ran out with a batch of %d: going on with %d", rows.stop - start, self.size)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        return results


class Footprint(torch.autograd.graph.saved_tensors_hooks):
    """A context that measures the most bytes that autograd holds at a time; weights count once."""

    def __init__(self):
        self.held: Counter[int] = Counter()
        self.now = self.peak = 0
        footprint = self

        class Saved:
            def __init__(self, tensor: torch.Tensor):
                storage = tensor.untyped_storage()
                self.tensor, self.key, self.size = tensor, storage.data_ptr(), storage.nbytes()
                footprint.now += 0 if footprint.held[self.key] else self.size
                footprint.held[self.key] += 1
                footprint.peak = max(footprint.peak, footprint.now)

            def __del__(self):
                footprint.held[self.key] -= 1
                footprint.now -= 0 if footprint.held[self.key] else self.size

        super().__init__(Saved, lambda saved: saved.tensor)


def measure(work: Callable[[int], object], device: torch.device) -> tuple[int, int]:
    """Returns the bytes of memory (fixed, per sample) that work(number of samples) takes, measured with few samples."""
    peaks = []
    for count in PROBES:
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            work(count)
            peaks.append(torch.cuda.max_memory_allocated(device))
        else:
            footprint = Footprint()
            with footprint:
                work(count)
            peaks.append(round(footprint.peak * SCRATCH))
    each = max(1, (peaks[1] - peaks[0]) // (PROBES[1] - PROBES[0]))
    return max(0, peaks[0] - each * PROBES[0]) + (0 if device.type == "cuda" else PROCESS), each


def plan(memory: int, fixed: int, each: int, most: int, device: torch.device) -> Batch:
    """Returns the batch that a budget of bytes holds. most: a bound on it, 0 for none of the caller's own.

    Raises: ValueError when the budget does not hold one sample.
    """
    if memory < fixed + each:
        least = -(-(fixed + each) // 2**20)
        raise ValueError(
            f"expected memory of at least {least}MiB for one candidate, got {memory / 2**20:.0f}MiB; pass a larger --memory"
        )
    fits = (memory - fixed) // each
    return Batch(min(fits, most or (fits if device.type == "cuda" else ON_CPU)))
