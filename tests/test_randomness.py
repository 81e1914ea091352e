from __future__ import annotations

import torch

from ganinv.engine.randomness import AHEAD, Streams, seeded


def draw(streams: Streams, rows, counts) -> torch.Tensor:
    draws = streams.take(rows)
    numbers = torch.cat([draws.uniform(each * len(rows), 0, 1).view(len(rows), -1) for each in counts], 1)
    return numbers, draws


def test_numbers_drawn_ahead_are_each_streams_own_in_order():
    streams = Streams((0, index) for index in range(3))
    rows = torch.tensor([2, 0])
    found = []
    for _ in range(AHEAD // 2):  # past the first numbers drawn ahead
        numbers, draws = draw(streams, rows, (1, 2))
        streams.advance(draws)
        found.append(numbers)
    generators = [seeded(0, index) for index in (2, 0)]
    expected = torch.stack([torch.cat([torch.rand(1, generator=g) for _ in range(3 * (AHEAD // 2))]) for g in generators])
    assert torch.equal(torch.cat(found, 1), expected)


def test_what_is_taken_again_is_the_same_until_the_streams_advance():
    streams = Streams((0, index) for index in range(2))
    both = torch.arange(2)
    first, draws = draw(streams, both, (AHEAD - 1, 5))
    again, _ = draw(streams, both[1:], (AHEAD + 4,))
    assert torch.equal(again[0], first[1])
    streams.advance(draws)
    state = {
        name: [x.clone() for x in value] if isinstance(value, list) else value for name, value in streams.get_state().items()
    }
    after, _ = draw(streams, both, (3 * AHEAD,))
    other = Streams((1, index) for index in range(2))
    other.set_state(state)
    assert torch.equal(draw(other, both, (3 * AHEAD,))[0], after) and not torch.equal(after[:, :5], first[:, :5])


def test_draws_are_arranged_sample_by_sample_in_their_range():
    streams = Streams((0, index) for index in range(2))
    numbers = streams.take().uniform(4, -3, -1)
    single = [torch.rand(2, generator=seeded(0, index)) for index in range(2)]
    assert torch.equal(numbers, -3 + 2 * torch.cat(single))
