from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ganinv import images


def test_uint8_round_trip_is_exact():
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    values = images.from_uint8(pixels)
    assert values.min() == -1 and values.max() == 1
    assert torch.equal(images.to_uint8(values), pixels)
    assert images.to_uint8(torch.tensor([-3.0, 3.0])).tolist() == [0, 255]


def test_ranges_and_shapes_are_checked():
    with pytest.raises(ValueError, match="expected uint8 pixels, got torch.float32"):
        images.from_uint8(torch.zeros(1))
    good = torch.zeros(2, 3, 4, 4)
    assert images.check(good) is good
    with pytest.raises(ValueError, match=r"expected photos in \[-1,1\], got \[0,255\]"):
        images.check(torch.tensor([0.0, 255.0]).view(1, 1, 1, 2).expand(1, 3, 1, 2), "photos")
    for shape in ((3, 4, 4), (1, 1, 4, 4)):
        with pytest.raises(ValueError, match=r"\[N,3,H,W\]"):
            images.check(torch.zeros(shape))
    with pytest.raises(ValueError, match="nan"):
        images.check(torch.full((1, 3, 2, 2), torch.nan))


def test_resize_keeps_a_constant_and_its_own_size():
    same = torch.rand(1, 3, 6, 6)
    assert images.resize(same, 6) is same
    assert torch.allclose(images.resize(torch.full((1, 3, 9, 9), 0.3), 4), torch.tensor(0.3))
    assert images.resize(same, (2, 5)).shape == (1, 3, 2, 5)
    x = same.clone().requires_grad_()
    images.resize(x, 3).sum().backward()
    assert x.grad.min() > 0


def test_load_takes_the_centre_square(tmp_path):
    pixels = np.zeros((4, 8), np.uint8)
    pixels[:, 2:6] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert (images.load(tmp_path / "wide.png", 4) == 1).all()
    assert images.load(tmp_path / "wide.png", 2).shape == (1, 3, 2, 2)


def test_a_saved_image_comes_back(tmp_path):
    image = images.from_uint8(torch.randint(0, 256, (3, 5, 5), dtype=torch.uint8))
    images.save(image, tmp_path / "a.png")
    assert torch.equal(images.load(tmp_path / "a.png", 5)[0], image)
    images.save(image, tmp_path / "b.png", scale=2)
    with Image.open(tmp_path / "b.png") as picture:
        assert picture.size == (10, 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_grid_lays_out_row_by_row():
    sheet = images.grid(torch.stack([torch.full((3, 2, 2), float(-k) / 4) for k in range(3)]), columns=2, padding=1)
    assert sheet.shape == (3, 5, 5)
    assert sheet[0, 0].tolist() == [0, 0, 1, -0.25, -0.25]
    assert sheet[0, 4].tolist() == [-0.5, -0.5, 1, 1, 1]
