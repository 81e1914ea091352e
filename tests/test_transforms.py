from __future__ import annotations

import pytest
import torch

from ganinv.attack.transforms import Chain, Cutout, RandomAffine, RandomBlur, RandomLight

TRANSFORMS = {
    "affine": RandomAffine(degrees=20, scale=(0.7, 1.4), shift=0.2),
    "light": RandomLight(contrast=0.5, brightness=0.5),
    "blur": RandomBlur(probability=0.5),
    "cutout": Cutout(share=0.4, probability=0.5),
}
TRANSFORMS["chain"] = Chain(tuple(TRANSFORMS.values()))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(16, 3, 12, 12, generator=seeded(9)) * 2 - 1


@pytest.mark.parametrize("name", TRANSFORMS)
def test_shape_and_range_are_kept(name, images):
    result = TRANSFORMS[name](images.sign(), seeded())
    assert result.shape == images.shape and result.dtype == torch.float32
    assert result.min() >= -1 and result.max() <= 1


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_image_has_its_own_draw_and_a_seed_gives_the_same_bits(name, images):
    same = images[:1].expand(16, -1, -1, -1)
    result = TRANSFORMS[name](same, seeded())
    assert len({tuple(row.tolist()) for row in result.flatten(1)}) > 1
    assert torch.equal(result, TRANSFORMS[name](same, seeded()))
    assert not torch.equal(result, TRANSFORMS[name](same, seeded(1)))


@pytest.mark.parametrize("name", TRANSFORMS)
def test_an_image_does_not_touch_its_neighbours(name, images):
    other = images.clone()
    other[0] = 0
    assert torch.equal(TRANSFORMS[name](images, seeded())[1:], TRANSFORMS[name](other, seeded())[1:])


@pytest.mark.parametrize("name", TRANSFORMS)
def test_gradients_reach_every_image(name, images):
    x = (images / 4).requires_grad_()
    TRANSFORMS[name](x, seeded()).square().sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.flatten(1).abs().amax(1).min() > 0


def test_still_affine_is_the_identity_and_flip_1_flips_exactly(images):
    still = RandomAffine(flip=0.0, degrees=0.0, scale=(1.0, 1.0), shift=0.0)
    torch.testing.assert_close(still(images, seeded()), images, atol=1e-5, rtol=0)
    flip = RandomAffine(flip=1.0, degrees=0.0, scale=(1.0, 1.0), shift=0.0)
    torch.testing.assert_close(flip(images, seeded()), images.flip(3), atol=1e-5, rtol=0)


def test_the_range_of_a_reflected_edge_holds_nothing_black():
    white = torch.ones(8, 3, 10, 10)
    assert TRANSFORMS["affine"](white, seeded()).min() > 0.999


def test_cutout_takes_a_square_of_its_share():
    result = Cutout(share=0.5)(torch.ones(32, 3, 8, 8), seeded())
    gone = (result == 0)[:, 0]
    assert set(result.unique().tolist()) == {0.0, 1.0}
    assert gone.any(1).sum(1).max() <= 4 and gone.any(2).sum(1).max() <= 4 and gone.sum((1, 2)).max() == 16
    assert torch.equal(Cutout(probability=0.0)(result, seeded()), result)


def test_blur_of_probability_1_removes_detail_and_of_0_nothing(images):
    checker = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    assert RandomBlur(probability=1.0)(checker.expand(2, 3, 8, 8), seeded()).abs().max() < 1e-6
    assert torch.equal(RandomBlur(probability=0.0)(images, seeded()), images)


def test_whole_pixels_move_without_blur():
    images = (torch.rand(16, 3, 9, 9, generator=torch.Generator().manual_seed(0)) > 0.5).float() * 2 - 1
    still = {"flip": 0.0, "degrees": 0.0, "scale": (1.0, 1.0), "shift": 0.2}
    moved = RandomAffine(**still, whole_pixels=True)(images, torch.Generator().manual_seed(1))
    blurred = RandomAffine(**still)(images, torch.Generator().manual_seed(1))
    torch.testing.assert_close(moved.abs(), torch.ones_like(moved), atol=1e-4, rtol=0)
    assert not torch.equal(moved, images) and blurred.abs().min() < 0.9
