"""People who do not exist, as numbers: their identity factors, and the parameters of photos of them, drawn from seeds.

A person is one number per factor of FACTORS, a photo one number per parameter of PHOTO, both in natural units (lengths
in cm). Nothing else is stored: photos.render makes the picture of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ganinv.engine.randomness import seeded

MOST_SEED = 2**48  # seeds are whole numbers below it
FIRST_PUBLIC = 1000  # in a world, people below it are its users, and from it on the public
WINDOW = 2.0  # a population lies within so many spreads of the mean
MOST_DEVIATION = 5.0  # normal coordinates beyond it are clamped: float32's distribution function is 0 or 1 there


@dataclass(frozen=True)
class Factor:
    """One number of a person or a photo: normal(mean, spread), cut at WINDOW spreads, within the support [low,high]."""

    name: str
    unit: str
    mean: float
    spread: float
    low: float
    high: float
    does: str


def uniform(name: str, unit: str, low: float, high: float, does: str) -> Factor:
    """Returns a factor whose whole support is almost equally likely."""
    return Factor(name, unit, (low + high) / 2, high - low, low, high, does)


FACTORS = (
    Factor("head_width", "ratio", 1.0, 0.05, 0.86, 1.14, "width of the skull"),
    Factor("face_width", "ratio", 1.0, 0.06, 0.83, 1.17, "width of the face below the temples"),
    Factor("face_length", "ratio", 1.0, 0.05, 0.86, 1.14, "length from the eyes to the chin"),
    Factor("forehead_height", "ratio", 1.0, 0.06, 0.83, 1.17, "height from the eyes to the crown"),
    Factor("forehead_bulge", "cm", 0.2, 0.3, -0.6, 1.0, "how far the forehead comes forward"),
    Factor("jaw_width", "ratio", 0.92, 0.08, 0.7, 1.14, "width of the jaw, of that of the face"),
    Factor("chin_length", "cm", 0.0, 0.5, -1.3, 1.3, "how far the chin reaches down"),
    Factor("chin_depth", "cm", 0.9, 0.45, -0.3, 2.1, "how far the chin comes forward"),
    Factor("chin_cleft", "cm", 0.12, 0.15, 0.0, 0.55, "depth of the dimple in the chin"),
    Factor("cheekbones", "cm", 0.55, 0.35, -0.3, 1.5, "how far the cheekbones stand out"),
    Factor("cheek_fullness", "cm", 0.1, 0.5, -1.1, 1.3, "hollow or full cheeks"),
    Factor("brow_ridge", "cm", 0.35, 0.25, -0.2, 1.0, "how far the bone above the eyes stands out"),
    Factor("eye_spacing", "cm", 3.2, 0.25, 2.5, 3.9, "from the middle of the face to the middle of an eye"),
    Factor("eye_width", "cm", 1.5, 0.13, 1.15, 1.85, "half the width of an eye"),
    Factor("eye_height", "cm", 0.68, 0.1, 0.42, 0.95, "height of the upper lid above the corners"),
    Factor("eye_slant", "degree", 3.0, 4.5, -9.0, 15.0, "outer corner of the eye above the inner"),
    Factor("eye_depth", "cm", 0.85, 0.3, 0.1, 1.7, "depth of the eye sockets"),
    Factor("eye_colour", "1", 0.55, 0.35, 0.0, 1.0, "from blue and grey by green and hazel to dark brown"),
    Factor("brow_height", "cm", 2.1, 0.25, 1.4, 2.8, "from the eye to the brow"),
    Factor("brow_thickness", "cm", 0.34, 0.11, 0.1, 0.65, "half the thickness of the brow"),
    Factor("brow_arch", "cm", 0.35, 0.28, -0.3, 1.0, "how far the middle of the brow is above its ends"),
    Factor("brow_slant", "cm", -0.1, 0.22, -0.65, 0.45, "outer end of the brow above the inner"),
    Factor("nose_length", "cm", 4.5, 0.4, 3.5, 5.6, "from the eyes down to the tip"),
    Factor("nose_width", "ratio", 1.0, 0.17, 0.6, 1.5, "width of wings and bridge"),
    Factor("nose_bridge", "cm", 1.1, 0.4, 0.2, 2.2, "height of the bridge"),
    Factor("nose_tip", "cm", 2.1, 0.4, 1.1, 3.2, "how far the tip comes forward"),
    Factor("mouth_height", "cm", 7.4, 0.3, 6.7, 8.2, "from the eyes down to the mouth"),
    Factor("mouth_width", "cm", 2.5, 0.28, 1.8, 3.3, "half the width of the mouth"),
    Factor("upper_lip", "cm", 0.5, 0.17, 0.15, 1.0, "height of the upper lip"),
    Factor("lower_lip", "cm", 0.65, 0.18, 0.25, 1.15, "height of the lower lip"),
    Factor("lip_redness", "1", 0.45, 0.22, 0.0, 1.0, "how far the lips' colour is from the skin's"),
    Factor("ear_size", "ratio", 1.0, 0.13, 0.65, 1.35, "height of the ears"),
    Factor("ear_angle", "cm", 0.5, 0.35, -0.2, 1.5, "how far the ears stand off"),
    Factor("neck_width", "ratio", 1.0, 0.1, 0.75, 1.25, "width of the neck"),
    uniform("skin_tone", "1", 0.0, 1.0, "from the lightest to the darkest skin"),
    Factor("skin_redness", "1", 0.0, 0.4, -1.0, 1.0, "olive or ruddy skin"),
    Factor("freckles", "1", 0.0, 0.35, 0.0, 1.0, "strength of freckles on nose and cheeks"),
    Factor("mole_size", "cm", 0.1, 0.22, 0.0, 0.6, "radius of a mole"),
    Factor("mole_x", "cm", 0.0, 2.6, -5.0, 5.0, "place of the mole, left and right"),
    Factor("mole_y", "cm", -4.5, 2.6, -10.0, 1.0, "place of the mole, up and down"),
    Factor("age", "1", 0.3, 0.35, 0.0, 1.0, "strength of lines and folds"),
    uniform("hair_darkness", "1", 0.0, 1.0, "from light blond by brown to black hair"),
    Factor("hair_redness", "1", 0.1, 0.3, 0.0, 1.0, "red in the hair"),
    Factor("hair_grey", "1", 0.0, 0.3, 0.0, 1.0, "grey in the hair"),
    Factor("hair_line", "cm", 6.3, 1.2, 2.6, 10.0, "from the eyes up to the hair; low is a fringe"),
    Factor("hair_recession", "cm", 0.8, 0.9, -0.8, 3.0, "how much higher the hair begins at the temples"),
    Factor("hair_parting", "cm", 0.0, 3.0, -6.0, 6.0, "place of the parting, left and right"),
    Factor("hair_top", "cm", 1.2, 0.8, 0.1, 3.2, "thickness of the hair on top"),
    Factor("hair_sides", "cm", 0.7, 0.5, 0.05, 2.2, "thickness of the hair at the sides"),
    uniform("hair_length", "cm", 0.0, 16.0, "how far the hair falls below the ears; below 4 is short"),
    Factor("hair_curl", "cm", 0.1, 0.2, 0.0, 0.6, "height of curls"),
    Factor("beard", "1", 0.0, 0.5, 0.0, 1.0, "from none by stubble to a full beard"),
)

PHOTO = (
    uniform("yaw", "degree", -30.0, 30.0, "head turned to the right of the picture"),
    uniform("pitch", "degree", -15.0, 15.0, "head tilted up"),
    uniform("roll", "degree", -8.0, 8.0, "head tilted to a shoulder"),
    Factor("offset_x", "cm", 0.0, 0.5, -1.2, 1.2, "place of the head in the frame"),
    Factor("offset_y", "cm", 0.0, 0.5, -1.2, 1.2, "place of the head in the frame"),
    Factor("zoom", "ratio", 1.0, 0.05, 0.88, 1.12, "size of the head in the frame"),
    uniform("light_azimuth", "degree", -65.0, 65.0, "the light comes from the right of the picture"),
    uniform("light_elevation", "degree", -5.0, 60.0, "the light comes from above"),
    Factor("light_warmth", "1", 0.0, 0.45, -1.0, 1.0, "colour of the light, from blue to orange"),
    uniform("ambient", "1", 0.4, 0.85, "share of the light that comes from all around"),
    Factor("smile", "1", 0.2, 0.5, -0.5, 1.0, "corners of the mouth up"),
    Factor("mouth_open", "1", 0.0, 0.3, 0.0, 1.0, "how far the mouth is open"),
    Factor("brow_raise", "1", 0.0, 0.45, -1.0, 1.0, "brows up"),
    Factor("eyelids", "1", 0.95, 0.15, 0.45, 1.15, "how far the eyes are open"),
    Factor("gaze", "cm", 0.0, 0.15, -0.4, 0.4, "the eyes look to the right of the picture"),
    uniform("glasses", "1", 0.0, 1.0, "glasses from 0.85 on"),
    uniform("glasses_size", "1", 0.0, 1.0, "size of the glasses"),
    uniform("glasses_shade", "1", 0.0, 1.0, "from dark to light rims"),
    uniform("background_red", "1", 0.02, 0.9, "colour of the background"),
    uniform("background_green", "1", 0.02, 0.9, "colour of the background"),
    uniform("background_blue", "1", 0.02, 0.9, "colour of the background"),
    uniform("background_x", "1", -0.6, 0.6, "background brighter to the right"),
    uniform("background_y", "1", -0.6, 0.6, "background brighter at the top"),
    uniform("background_blobs", "1", 0.0, 0.8, "unevenness of the background"),
    uniform("background_phase", "radian", 0.0, 6.28, "where the unevenness lies"),
    uniform("clothes_red", "1", 0.02, 0.8, "colour of the clothes"),
    uniform("clothes_green", "1", 0.02, 0.8, "colour of the clothes"),
    uniform("clothes_blue", "1", 0.02, 0.8, "colour of the clothes"),
    Factor("exposure", "stop", 0.0, 0.25, -0.6, 0.6, "brightness of the photo"),
    Factor("blur", "pixel of 64", 0.3, 0.25, 0.0, 0.9, "standard deviation of the blur, for a photo of 64 px"),
    Factor("noise", "1", 0.01, 0.008, 0.0, 0.03, "standard deviation of the sensor's noise"),
    uniform("noise_pattern", "whole number", 0.0, 65535.0, "which noise; rounded"),
)


def spread(normal: torch.Tensor, factors: Sequence[Factor], shift: float = 0.0) -> torch.Tensor:
    """Returns values [N,F] in natural units of standard-normal coordinates [N,F], differentiable and monotone.

    Each coordinate's quantile becomes the same quantile of the factor's cut normal distribution. shift: how far means
    and ranges move, in spreads; what would leave the support is cut off.
    Raises: ValueError when a mean would leave its support.
    """
    check_shift(shift, factors)
    mean, width, low, high = (
        torch.tensor([getattr(factor, name) for factor in factors], dtype=normal.dtype, device=normal.device)
        for name in ("mean", "spread", "low", "high")
    )
    first = torch.maximum(low, mean - WINDOW * width)
    last = torch.minimum(high, mean + WINDOW * width)
    moved = mean + shift * width
    first, last = ((edge + shift * width).clamp(low, high) for edge in (first, last))
    below, above = (torch.special.ndtr((edge - moved) / width) for edge in (first, last))
    quantile = torch.special.ndtr(normal.clamp(-MOST_DEVIATION, MOST_DEVIATION))
    values = moved + width * torch.special.ndtri(below + quantile * (above - below))
    return values.clamp(first, last)


def check_shift(shift: float, factors: Sequence[Factor]) -> None:
    """Raises ValueError when a factor's mean, moved by so many spreads, leaves its support."""
    lowest = max((factor.low - factor.mean) / factor.spread for factor in factors)
    highest = min((factor.high - factor.mean) / factor.spread for factor in factors)
    if not lowest <= shift <= highest:
        raise ValueError(f"expected a shift of {lowest:.2f} to {highest:.2f} spreads, got {shift}; take a smaller one")


def draw_people(seeds: Sequence[int], shift: float = 0.0) -> torch.Tensor:
    """Returns the identity factors [N,F], float32, of people; each depends on its seed and the shift alone.

    Raises: ValueError for a seed out of range, or a shift that leaves the factors' support.
    """
    check_seeds(seeds, "person")
    return spread(draw_normals([("person", seed) for seed in seeds], len(FACTORS)), FACTORS, shift)


def draw_photos(people: Sequence[int], photos: Sequence[int]) -> torch.Tensor:
    """Returns the photo parameters [N,P], float32, of photo photos[i] of person people[i] (both seeds).

    Raises: ValueError for a seed out of range, or lists of different lengths.
    """
    check_seeds(people, "person")
    check_seeds(photos, "photo")
    if len(people) != len(photos):
        raise ValueError(f"expected one photo seed a person, got {len(people)} people and {len(photos)} photos")
    keys = [("photo", person, photo) for person, photo in zip(people, photos, strict=True)]
    return spread(draw_normals(keys, len(PHOTO)), PHOTO)


def draw_normals(keys: Sequence[tuple], count: int) -> torch.Tensor:
    """Returns standard-normal numbers [N,count], one row per key."""
    return torch.stack([torch.randn(count, generator=seeded(*key)) for key in keys]) if keys else torch.zeros(0, count)


def check_seeds(seeds: Sequence[int], name: str) -> None:
    """Raises ValueError unless every seed is a whole number in [0, MOST_SEED)."""
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < MOST_SEED:
            raise ValueError(f"expected a {name} seed of 0 to {MOST_SEED - 1}, got {seed!r}; take a whole number in it")
