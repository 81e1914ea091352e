"""Photos of people who do not exist, rendered from their numbers: the same numbers always make the same picture."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.checkpoint import checkpoint

from ganinv import images
from ganinv.engine import cache
from ganinv.photos import Photos
from ganinv.rendered.camera import develop
from ganinv.rendered.factors import FACTORS, PHOTO, draw_people, draw_photos
from ganinv.rendered.picture import draw_picture

CHUNK = 8  # rows at a time: few enough for the CPU's cache, enough that a call is mostly arithmetic
CHUNK_ACCELERATOR = 256  # rows at a time elsewhere: 4 GB at 64 px


def render(factors: torch.Tensor, photo: torch.Tensor, resolution: int = 64) -> torch.Tensor:
    """Returns images [N,3,R,R] in [-1,1] of factors [N,F] under photo parameters [N,P], both in natural units.

    Differentiable in both; a row never depends on its neighbours. R: a multiple of 8, 64 to 256. The gradient knows how
    the outline moves over the background, but not what one part of the head comes to hide of another.
    Raises: ValueError for another shape or resolution.
    """
    check_resolution(resolution)
    if factors.ndim != 2 or factors.shape[1] != len(FACTORS) or photo.shape != (len(factors), len(PHOTO)):
        raise ValueError(
            f"expected factors [N,{len(FACTORS)}] and photo parameters [N,{len(PHOTO)}], "
            f"got {list(factors.shape)} and {list(photo.shape)}"
        )
    names = [factor.name for factor in FACTORS + PHOTO]

    def render_part(part: torch.Tensor) -> torch.Tensor:
        numbers = dict(zip(names, part.split(1, 1), strict=True))
        return develop(draw_picture(numbers, resolution), numbers)

    rows = torch.cat([factors, photo], 1)
    # a row's intermediate results are a thousand times its picture: with gradients they are computed twice, not kept
    pictures = [
        checkpoint(render_part, part, use_reentrant=False) if rows.requires_grad else render_part(part)
        for part in rows.split(CHUNK if rows.device.type == "cpu" else CHUNK_ACCELERATOR)
    ]
    return torch.cat([rows.new_zeros(0, 3, resolution, resolution), *pictures])


def check_resolution(resolution: int) -> None:
    """Raises ValueError unless the side of a picture is a multiple of 8 of 64 to 256 px."""
    if not isinstance(resolution, int) or resolution % 8 or not 64 <= resolution <= 256:
        raise ValueError(f"expected a resolution of 64 to 256 px that is a multiple of 8, got {resolution!r}; take 64")


@torch.no_grad()
def make_photos(
    people: Sequence[int],
    photos_per_person: int | Sequence[int],
    resolution: int = 64,
    shift: float = 0.0,
    *,
    device: torch.device | str = "cpu",
    progress: bool = False,
    keep: bool = False,
) -> Photos:
    """Returns the photos of people (seeds), person after person; names are those of name_person.

    photos_per_person: how many, from photo seed 0 on, or the photo seeds themselves, such as range(30, 40). keep: look for
    them in the cache first, and keep them there.
    Raises: ValueError for a seed, resolution or shift out of range, or when there is nothing to render.
    """
    from tqdm import tqdm

    numbers = list(range(photos_per_person) if isinstance(photos_per_person, int) else photos_per_person)
    people = list(people)
    check_resolution(resolution)
    if not people or not numbers:
        raise ValueError(f"expected at least one person and photo, got {len(people)} people with {len(numbers)} photos each")
    factors = draw_people(people, shift).to(device)
    pixels = torch.empty(len(people), len(numbers), 3, resolution, resolution, dtype=torch.uint8)
    for row, seed in enumerate(tqdm(people, "people", disable=None if progress else True, leave=False)):
        place = cache.find_place(name_kept(seed, numbers, resolution, shift)) if keep else None
        kept = cache.recall(place, "pixels", pixels[row].shape, torch.uint8)
        if kept is not None:
            pixels[row] = kept
            continue
        photo = draw_photos([seed] * len(numbers), numbers).to(device)
        pixels[row] = images.to_uint8(render(factors[row : row + 1].expand(len(numbers), -1), photo, resolution)).cpu()
        cache.keep(place, "pixels", pixels[row])
    return Photos(
        pixels.flatten(0, 1),
        torch.arange(len(people)).repeat_interleave(len(numbers)),
        tuple(name_person(seed) for seed in people),
        tuple(f"{name_person(seed)}/{number:03d}.png" for seed in people for number in numbers),
    )


@functools.cache
def hash_renderer() -> str:
    """Returns what stands for all that a photo depends on beside its numbers: this package's source, and torch's version."""
    sources = [file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py"))]
    return hashlib.sha256(b"".join([*sources, torch.__version__.encode()])).hexdigest()[:16]


def name_kept(seed: int, numbers: Sequence[int], resolution: int, shift: float) -> str:
    """Returns the name under which a person's photos are kept."""
    which = hashlib.sha256(repr((list(numbers), resolution, shift)).encode()).hexdigest()[:16]
    return f"person-{hash_renderer()}-{which}-{name_person(seed)}"


def name_person(seed: int) -> str:
    """Returns the name of a person's folder; names sort as seeds do."""
    return f"{seed:06d}"
