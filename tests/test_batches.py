from __future__ import annotations

import pytest
import torch

from ganinv.engine.batches import ON_CPU, PROCESS, SCRATCH, Batch, measure, parse_memory, plan, ran_out

CPU = torch.device("cpu")


def test_memory_is_parsed():
    assert (
        parse_memory("4GiB") == 4 * 2**30
        and parse_memory("1.5 GB") == 1_500_000_000
        and parse_memory("800mib") == 800 * 2**20
    )


@pytest.mark.parametrize("text", ["", "4", "GiB", "0GiB", "-1GiB", "4 apples", "1e3GiB", "٤GiB"])
def test_memory_that_cannot_be_parsed_is_refused(text):
    with pytest.raises(ValueError, match="expected memory such as 4GiB or 800MiB, got"):
        parse_memory(text)


def test_only_a_full_memory_is_one():
    full = RuntimeError("[enforce fail at alloc_cpu.cpp:1] . DefaultCPUAllocator: can't allocate memory")
    assert ran_out(full) and ran_out(torch.OutOfMemoryError("CUDA out of memory")) and ran_out(MemoryError())
    assert not ran_out(RuntimeError("expected 3 channels"))
    with pytest.raises(RuntimeError) as raised:  # what this version of torch says
        torch.empty(2**62, dtype=torch.uint8)
    assert ran_out(raised.value)


def test_a_batch_covers_all_and_is_halved_for_good_when_memory_runs_out(caplog):
    seen = []

    def work(rows: slice) -> int:
        if rows.stop - rows.start > 3:
            raise torch.OutOfMemoryError("full")
        seen.append((rows.start, rows.stop))
        return rows.stop - rows.start

    batch = Batch(12)
    assert batch.over(8, work) == [2, 2, 2, 2] and seen == [(0, 2), (2, 4), (4, 6), (6, 8)] and batch.size == 2
    assert caplog.messages == [
        "memory ran out with a batch of 8: going on with 4",
        "memory ran out with a batch of 4: going on with 2",
    ]
    assert Batch(3).over(8, work) == [3, 3, 2] and Batch(3).over(0, work) == []


def test_one_sample_that_does_not_fit_and_other_errors_end_the_work():
    def fail(error):
        def work(rows):
            raise error

        return work

    with pytest.raises(torch.OutOfMemoryError):
        Batch(1).over(2, fail(torch.OutOfMemoryError("full")))
    batch = Batch(4)
    with pytest.raises(RuntimeError, match="of another kind"):
        batch.over(4, fail(RuntimeError("of another kind")))
    assert batch.size == 4


def test_the_footprint_is_what_autograd_holds_at_a_time():
    weight = torch.randn(1000, 1000)

    def work(count: int) -> None:
        for _ in range(2):  # one after the other: they are not held together
            x = torch.zeros(count, 1000, requires_grad=True)
            y = (x @ weight).exp().exp()  # holds the weight, and each exp its result
            torch.autograd.grad(y.sum(), x)
            del x, y

    fixed, each = measure(work, CPU)
    assert each == pytest.approx(2 * 4000 * SCRATCH, rel=0.01) and fixed - PROCESS == pytest.approx(4e6 * SCRATCH, rel=0.01)


def test_the_plan_is_what_fits_and_no_more_than_asked_for():
    def size(memory: int, most: int) -> int:
        return plan(memory, fixed=1000, each=10, most=most, device=CPU).size

    assert size(1255, 0) == 25 and size(1255, 100) == 25 and size(1255, 7) == 7 and size(10**6, 0) == ON_CPU
    assert plan(10**6, 1000, 10, 0, torch.device("cuda")).size == 99_900
    with pytest.raises(ValueError, match="expected memory of at least 1MiB for one candidate, got 0MiB"):
        size(1009, 0)
