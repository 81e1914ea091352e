"""Published recognizers and the published prior: from their packages where those are installed, else from toy files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ganinv.recognizers.published import frame

# ---- the frames


@pytest.mark.parametrize(("name", "side", "most"), [("DLIB", 150, 2.0), ("ARCFACE", 112, 3.0)])
@pytest.mark.parametrize("resolution", [64, 112, 256])
def test_the_world_s_points_come_to_the_chip_s(name, side, most, resolution):
    """A spot of light at each point is followed. ArcFace's template has a narrower, lower mouth than any similarity gives."""
    chip, line = getattr(frame, name), torch.arange(resolution) + 0.5
    reframe, distances = frame.Reframe(frame.WORLD, chip, side), []
    for (x, y), (right, down) in zip(frame.WORLD.points, chip.points, strict=True):
        spot = torch.exp(-((line - y * resolution)[:, None].square() + (line - x * resolution).square()) / 8)
        found = reframe((spot * 2 - 1).expand(1, 3, -1, -1))[0, 0] + 1
        place = torch.arange(side) + 0.5
        at = [(found.sum(dim) * place).sum() / found.sum() for dim in (0, 1)]
        distances.append(((at[0] - right * side).square() + (at[1] - down * side).square()).sqrt().item())
    assert max(distances) < most and sum(distances) / 5 < 2.0


@pytest.mark.parametrize(("resolution", "side"), [(64, 112), (112, 150), (150, 64), (64, 64)])
def test_between_equal_frames_a_picture_is_only_resized(resolution, side):
    pictures = torch.rand(2, 3, resolution, resolution, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = frame.Reframe(frame.WORLD, frame.WORLD, side)(pictures)
    expected = F.interpolate(pictures, (side, side), mode="bilinear", antialias=True, align_corners=False)
    inner = (..., slice(2, -2), slice(2, -2))  # where it shrinks, torch averages what is left at an edge
    torch.testing.assert_close(found[inner], expected[inner], atol=2e-5, rtol=0)


def test_a_similarity_is_found_and_what_lies_beyond_is_as_asked():
    moved = frame.Frame(tuple((0.5 * x + 0.25, 0.5 * y + 0.125) for x, y in frame.WORLD.points))
    assert np.allclose(frame.fit_similarity(frame.WORLD, moved), (0.5, 0.25, 0.125))
    picture = torch.full((1, 3, 8, 8), 0.5)
    picture[..., 0] = 1.0
    edge, black = (frame.Reframe(frame.WORLD, moved, 16, beyond=beyond)(picture) for beyond in ("edge", "black"))
    assert torch.equal(edge[0, 0, 0], torch.tensor([1.0] * 5 + [0.5] * 11)) and black[0, 0, 0].eq(-1).all()
    assert torch.allclose(black[0, 0, 4], torch.tensor([-1.0] * 4 + [1.0] + [0.5] * 7 + [-1.0] * 4))
    with pytest.raises(ValueError, match="expected edge or black"):
        frame.Reframe(frame.WORLD, moved, 16, beyond="white")
    with pytest.raises(ValueError, match="expected five points"):
        frame.Frame(((0.0, 0.0),))


def test_the_frame_is_differentiable_and_whole_under_autocast():
    reframe = frame.Reframe(frame.WORLD, frame.ARCFACE, 12, beyond="black").double()
    images = torch.rand(1, 3, 9, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(reframe, (images,))
    with torch.inference_mode():
        reframe(images.float())  # what is kept of this call must serve one with gradients
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(reframe(images.float()), reframe(images.float().clone()))
        assert reframe(images.float()).dtype == torch.float32
