from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganinv import images


@pytest.mark.parametrize(("channels", "sigma"), [(3, 1.0), (1, 0.5), (3, 2.3)])
def test_a_blur_is_torchvision_s_to_the_bit(channels, sigma):
    from torchvision.transforms.v2.functional import gaussian_blur

    pictures = torch.rand(4, channels, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    side = 2 * max(1, round(3 * sigma)) + 1
    assert torch.equal(images.blur(pictures, sigma), gaussian_blur(pictures, [side, side], [sigma, sigma]))


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


# ---- the loader


def ramp(side: int = 8) -> np.ndarray:
    """Returns a ramp from black at the left to white at the right, [side,side] in [0,1]."""
    return np.tile(np.linspace(0, 1, side), (side, 1))


@pytest.mark.parametrize(
    ("suffix", "dtype", "most"),
    [(".png", np.uint16, 65535), (".pgm", np.uint16, 65535), (".tif", np.float32, 1), (".png", np.uint8, 255)],
)  # fmt: skip
def test_every_depth_shows_the_same_picture(suffix, dtype, most, tmp_path):
    values = (ramp() * most).round() if most > 1 else ramp()
    if suffix == ".pgm":  # Pillow writes none of 16 bits
        header = b"P5\n8 8\n65535\n"
        (tmp_path / "a.pgm").write_bytes(header + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values.astype(dtype)).save(tmp_path / f"a{suffix}")
    found = images.load_pixels(tmp_path / f"a{suffix}", None)
    np.testing.assert_array_equal(found, np.repeat((ramp() * 255).round()[:, :, None], 3, 2).astype(np.uint8))


def test_a_depth_that_nobody_knows_is_refused(tmp_path):
    for values in (ramp() * 200 + 1, -ramp(), np.full((8, 8), np.nan)):
        Image.fromarray(values.astype(np.float32)).save(tmp_path / "a.tif")
        with pytest.raises(
            ValueError, match=r"expected a readable picture, got .*a.tif \(its numbers, .*save it with 8 bits"
        ):
            images.open_picture(tmp_path / "a.tif")


def test_a_picture_stands_upright(tmp_path):
    upright = Image.fromarray((ramp(16) * 255).astype(np.uint8)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter to the right
    upright.rotate(90, expand=True).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(images.load_pixels(tmp_path / "a.png", None), np.asarray(upright))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_mid_grey_whatever_it_hides(mode, tmp_path):
    picture = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    picture.paste((0, 0, 255, 255), (0, 0, 4, 8))
    if mode == "P":
        palette = Image.fromarray(np.array([[0] * 4 + [1] * 4] * 8, np.uint8), "P")
        palette.putpalette([0, 0, 255, 255, 0, 0])
        palette.save(tmp_path / "a.png", transparency=1)
    else:
        picture.convert(mode).save(tmp_path / "a.png")
    found = images.load_pixels(tmp_path / "a.png", None)
    assert found[0, 7].tolist() == [128, 128, 128] and found[0, 0, 2] > 20


def test_what_is_no_picture_file_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").mkdir()
    for name, reason in ("a", "cannot identify"), ("b", "no regular file"), ("c", "no regular file"), ("d", "no such file"):
        with pytest.raises(ValueError, match=f"expected a readable picture, got .*{name}.png .*{reason}") as caught:
            images.open_picture(tmp_path / f"{name}.png")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "found"),
    [("a.JPG", True), ("a.webp", True), ("a.tiff", True), ("a.jfif", True), ("._a.jpg", False), ("a.txt", False)],
)  # fmt: skip
def test_pictures_are_known_by_their_names(name, found):
    assert images.is_picture(Path(name)) is found


def test_pictures_are_opened_in_one_place():
    package = Path(images.__file__).parent
    opened = [file.name for file in package.rglob("*.py") if re.search(r"Image\.open\((?!buffer)", file.read_text())]
    assert opened == ["images.py"]  # robustness.py opens a JPEG that it has made
