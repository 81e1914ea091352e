"""The image convention: float32 [N,3,H,W], RGB, in [-1,1]; greyscale is three equal channels."""

from __future__ import annotations

import hashlib
import io
import math
import struct
from pathlib import Path, PurePath

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps

LARGEST_SIDE = 256  # pixels of a picture that is read at its own size: what networks reduce it to is smaller
SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".pgm", ".ppm", ".webp", ".bmp", ".tif", ".tiff", ".gif")
FORMATS = ("JPEG", "PNG", "PPM", "WEBP", "BMP", "TIFF", "GIF")  # by content: an EPS named .png would start another program
# what Pillow raises, of broken EXIF tags too
UNREADABLE = (OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, Image.DecompressionBombError)


def from_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """Returns float32 images [...] in [-1,1] from uint8 pixels [...] in [0,255]."""
    if pixels.dtype != torch.uint8:
        raise ValueError(f"expected uint8 pixels, got {pixels.dtype}; images in [-1,1] need no conversion")
    return pixels.float() / 127.5 - 1


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Returns uint8 pixels [...] in [0,255] from images [...] in [-1,1]; values outside are clamped."""
    return ((images.detach().float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def digest(images: torch.Tensor) -> bytes:
    """Returns the SHA-256 of the values of images, whatever their layout and device."""
    return hashlib.sha256(memoryview(images.detach().float().cpu().contiguous().numpy()).cast("B")).digest()


def check(images: torch.Tensor, name: str = "images") -> torch.Tensor:
    """Returns images unchanged if they keep the convention.

    Raises: ValueError when the shape is not [N,3,H,W], or a value is not finite or lies outside [-1,1].
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"expected {name} of shape [N,3,H,W], got {list(images.shape)}")
    low, high = images.min().item(), images.max().item()
    if not (low >= -1.001 and high <= 1.001):
        raise ValueError(f"expected {name} in [-1,1], got [{low:.3g},{high:.3g}]; call images.from_uint8 first")
    return images


def resize(images: torch.Tensor, size: int | tuple[int, int]) -> torch.Tensor:
    """Returns images [N,3,size,size], bilinear with antialiasing; differentiable; a no-op at the same size."""
    size = (size, size) if isinstance(size, int) else tuple(size)
    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)


def blur(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Returns images [N,C,H,W] blurred by a Gaussian of sigma pixels, reflected at the edges: torchvision's, to the bit.

    torchvision.transforms.v2 imports torch's compiler, which takes longer than many runs.
    """
    radius = max(1, round(3 * sigma))
    end = radius / math.sqrt(2)
    line = torch.linspace(-end, end, 2 * radius + 1, dtype=images.dtype, device=images.device)
    weights = line.div(sigma).pow(2).neg().softmax(0)
    kernel = (weights[:, None] * weights).expand(images.shape[1], 1, -1, -1)
    return F.conv2d(F.pad(images, [radius] * 4, mode="reflect"), kernel, groups=images.shape[1])


def to_grey(images: torch.Tensor) -> torch.Tensor:
    """Returns images [N,3,H,W] in [-1,1] as greyscale in three equal channels, by the luma of ITU-R BT.601."""
    weights = torch.tensor((0.299, 0.587, 0.114), dtype=images.dtype, device=images.device)
    return (images * weights[:, None, None]).sum(1, keepdim=True).expand(-1, 3, -1, -1)


def centre_square(picture: Image.Image) -> Image.Image:
    """Returns the largest centred square of a PIL picture."""
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def is_picture(path: PurePath) -> bool:
    """Says whether a file is a picture, by its name; hidden ones, such as those that macOS leaves, are none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def open_picture(path: str | Path | io.BytesIO) -> Image.Image:
    """Returns a picture file as RGB, 8 bits a channel: the one place where pictures are opened.

    Upright as its EXIF tag says; what is transparent lies on mid-grey; 16 bits, or floats in [0,1], are scaled to 8 bits.
    Raises: ValueError naming the file when it is no regular file, of no format of FORMATS, broken, or of another depth.
    """
    try:
        if not isinstance(path, io.BytesIO) and not Path(path).is_file():
            raise ValueError("no such file" if not Path(path).exists() else "it is no regular file")
        with Image.open(path, formats=FORMATS) as picture:
            return flatten(reduce_depth(ImageOps.exif_transpose(picture)))
    except UNREADABLE as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"expected a readable picture, got {path} ({reason}); repair or remove the file") from error


def reduce_depth(picture: Image.Image) -> Image.Image:
    """Returns a picture with 8 bits a channel. Raises: ValueError for numbers whose range nobody knows."""
    if picture.mode != "F" and not picture.mode.startswith("I"):
        return picture
    values = np.asarray(picture).astype(np.float64)
    low, high = values.min(), values.max()
    most = 1.0 if picture.mode == "F" else 65535.0
    if not 0 <= low <= high <= most:
        raise ValueError(f"its numbers, {low:g} to {high:g}, are none of 16 bits, nor floats in [0,1]; save it with 8 bits")
    return Image.fromarray((values * (255 / most)).round().astype(np.uint8))


def flatten(picture: Image.Image) -> Image.Image:
    """Returns a picture as RGB, on mid-grey where it is transparent."""
    if "A" not in picture.getbands() and "transparency" not in picture.info:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    ground = Image.new("RGBA", picture.size, (128, 128, 128, 255))
    return Image.alpha_composite(ground, picture).convert("RGB")


def load_pixels(path: str | Path | io.BytesIO, size: int | None) -> np.ndarray:
    """Returns one picture file as uint8 [size,size,3] RGB: centre square, Lanczos.

    size: None: as large as the square is, LARGEST_SIDE at most. Raises: ValueError, see open_picture.
    """
    square = centre_square(open_picture(path))
    size = size or min(square.width, LARGEST_SIDE)
    return np.asarray(square.resize((size, size), Image.Resampling.LANCZOS))


def load(path: str | Path, size: int | None) -> torch.Tensor:
    """Returns one picture file as an image [1,3,size,size] in [-1,1]; see load_pixels."""
    return from_uint8(torch.from_numpy(load_pixels(path, size).copy())).permute(2, 0, 1)[None]


def to_pil(image: torch.Tensor, scale: int = 1) -> Image.Image:
    """Returns a PIL picture of one image [3,H,W] in [-1,1], each pixel repeated `scale` times."""
    picture = Image.fromarray(to_uint8(image).permute(1, 2, 0).cpu().numpy())
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def save(image: torch.Tensor, path: str | Path, scale: int = 1) -> None:
    """Writes one image [3,H,W] in [-1,1] as PNG, each pixel repeated `scale` times; atomic."""
    path = Path(path)
    temporary = path.with_suffix(".tmp")
    to_pil(image, scale).save(temporary, format="PNG")
    temporary.replace(path)


def grid(images: torch.Tensor, columns: int, padding: int = 2) -> torch.Tensor:
    """Returns one image [3,H',W'] of images [N,3,H,W] laid out row by row on white."""
    count, _, height, width = images.shape
    rows = -(-count // columns)
    sheet = images.new_ones(3, rows * (height + padding) - padding, columns * (width + padding) - padding)
    for index, image in enumerate(images):
        top, left = index // columns * (height + padding), index % columns * (width + padding)
        sheet[:, top : top + height, left : left + width] = image
    return sheet
