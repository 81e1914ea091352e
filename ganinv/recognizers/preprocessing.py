"""What a network is fed, the card that says so, and a probe that notices a wrong range.

A recognizer that was trained elsewhere wants its own size, range and order of channels, which its weight file rarely
tells. A card beside it, NAME.json for NAME.pt, does. All of it is optional:

    {"preprocessing": {"size": 112, "range": [0, 255], "mean": [127.5, 127.5, 127.5], "std": [128, 128, 128],
                       "channels": "BGR"},
     "sha256": "..."}
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from ganinv.images import resize
from ganinv.interfaces import Recognizer
from ganinv.recognizers.callable import OUTPUTS, ask
from ganinv.recognizers.recognize import find_device
from ganinv.weights.cards import read_json
from ganinv.weights.files import sha256_file
from ganinv.weights.quoting import describe_value

log = logging.getLogger(__name__)

LUMA = (0.299, 0.587, 0.114)  # of red, green, blue, as ITU-R BT.601 and Pillow weigh them
MOST_SIDE = 1024  # px that a network is fed: no face recognizer takes more, and each step pays for it
CHANNELS = {"RGB": 3, "BGR": 3, "L": 1}


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Images in [-1,1] to what a network takes: resized, in its channels, in its range, minus mean, over std.

    The default changes nothing. mean and std: one number a channel, in the order and the units in which the network is
    fed. Raises: ValueError for a value that cannot be.
    """

    size: int | tuple[int, int] | None = None  # side, or height and width; None: as the picture is
    range: tuple[float, float] = (-1.0, 1.0)  # what black and white become before mean and std
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    channels: str = "RGB"  # RGB | BGR | L (greyscale, one channel)
    layout: str = "NCHW"  # NCHW | NHWC (the channels last)

    def __post_init__(self):
        if not isinstance(self.channels, str) or self.channels not in CHANNELS:
            raise ValueError(f"expected channels among {', '.join(CHANNELS)}, got {self.channels!r}")
        if self.layout not in ("NCHW", "NHWC"):
            raise ValueError(f"expected a layout among NCHW, NHWC, got {self.layout!r}")
        count = CHANNELS[self.channels]
        if self.channels == "L" and self.mean == (0.0, 0.0, 0.0) and self.std == (1.0, 1.0, 1.0):
            object.__setattr__(self, "mean", (0.0,))
            object.__setattr__(self, "std", (1.0,))
        for name, length in (("range", 2), ("mean", count), ("std", count)):
            if not is_numbers(value := getattr(self, name), length):
                raise ValueError(f"expected {name} of {length} numbers for {self.channels}, got {value!r}")
        if min(self.std) <= 0 or self.range[0] == self.range[1]:
            raise ValueError(f"expected std above 0 and two different ends of range, got {self.std} and {self.range}")
        sides = self.size if isinstance(self.size, tuple) else (self.size,) * 2
        if self.size is not None and not (
            len(sides) == 2 and all(type(side) is int and 1 <= side <= MOST_SIDE for side in sides)
        ):
            raise ValueError(f"expected size to be a side, or [height, width], from 1 to {MOST_SIDE}, got {self.size!r}")

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the network's input, [N,C,h,w] or as the layout says, of images [N,3,H,W] in [-1,1]; differentiable."""
        x = images if self.size is None else resize(images, self.size)
        if self.channels == "BGR":
            x = x.flip(1)
        elif self.channels == "L":
            x = (x * x.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
        black, white = self.range
        x = black + (x + 1) * ((white - black) / 2)
        x = (x - x.new_tensor(self.mean).view(-1, 1, 1)) / x.new_tensor(self.std).view(-1, 1, 1)
        return x if self.layout == "NCHW" else x.permute(0, 2, 3, 1)

    def undo(self, x: torch.Tensor) -> torch.Tensor:
        """Returns images [N,3,H,W], of any range, for which it is fed x [N,3,H,W], but for size, greyscale and layout."""
        mean, std = (x.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        black, white = self.range
        images = (x * std + mean - black) * (2 / (white - black)) - 1
        return images.flip(1) if self.channels == "BGR" else images


def is_numbers(value: object, length: int) -> bool:
    """Says whether a value is a tuple of so many finite numbers."""
    return (
        isinstance(value, tuple)
        and len(value) == length
        and all(type(number) in (int, float) and math.isfinite(number) for number in value)
    )


IMAGENET = Preprocessing(size=224, range=(0.0, 1.0), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


# ---- the card


@dataclass(frozen=True)
class FileCard:
    """What a card says of a recognizer's file. output: one of callable.OUTPUTS; scale: by which cosines become logits.

    said: the names of Preprocessing that stand on it; there: it lies beside the file.
    """

    preprocessing: Preprocessing
    output: str = "logits"
    scale: float = 64.0
    said: frozenset[str] = frozenset()
    there: bool = False


def read_file_card(path: str | Path, default: Preprocessing, *, quiet: bool = False) -> FileCard:
    """Returns what the card beside a recognizer's file says, with the default for what it leaves out.

    Unless quiet, one line in the log says what is assumed where there is no card, or one that says nothing of it.
    Raises: ValueError when the file is missing, its SHA-256 is another, or the card has an odd key or value.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"expected a recognizer's file, got {path}, which is {'a folder' if path.is_dir() else 'missing'}; check the path"
        )
    card_path = path.with_suffix(".json")
    if not os.path.lexists(card_path):
        card = FileCard(default)
        if not quiet:
            tell_assumed(path, card)
        return card
    card = read_json(card_path, beside=path)
    said = card.get("preprocessing", {})
    if not isinstance(said, dict):
        raise ValueError(f'expected {{"preprocessing": {{...}}}} in {card_path}, got something else; see docs/recognizers.md')
    digest = card.get("sha256")
    if digest is not None and sha256_file(path) != digest:
        raise ValueError(f"expected the SHA-256 of {card_path} for {path}, got another; copy both files again")
    output = card.get("output", "logits")
    if output not in OUTPUTS:
        raise ValueError(f"expected output among {', '.join(OUTPUTS)} in {card_path}, got {describe_value(output)}")
    scale = card.get("scale", FileCard.scale)
    if type(scale) not in (int, float) or not 0 < scale < math.inf:
        raise ValueError(f"expected a scale above 0 in {card_path}, got {describe_value(scale)}")
    names = [field.name for field in dataclasses.fields(Preprocessing)]
    said = {name: card[name] for name in names if name in card} | said  # many write them at the top
    if odd := sorted(said.keys() - set(names)):
        raise ValueError(f"expected preprocessing of {', '.join(names)} in {card_path}, got {', '.join(odd)}; take these out")
    said = {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
    if said.get("channels") == "L":  # the default's three numbers say nothing of one channel
        said = {"mean": (0.0,), "std": (1.0,)} | said
    try:
        found = FileCard(dataclasses.replace(default, **said), output, float(scale), frozenset(said), there=True)
    except ValueError as error:
        raise ValueError(f"{error}; see {card_path}") from error
    if not quiet:
        tell_assumed(path, found)
    return found


def tell_assumed(path: Path, card: FileCard) -> None:
    """Logs how a network is fed of which no card says anything."""
    if not card.said:
        lacks = f"says nothing in {path.stem}.json of what it is fed" if card.there else f"has no card {path.stem}.json"
        log.warning("%s %s: it is fed %s", path, lacks, describe(card.preprocessing))


def describe(preprocessing: Preprocessing) -> str:
    """Returns a preprocessing in words, for a message."""
    size = "pictures as they are" if preprocessing.size is None else f"pictures of size {preprocessing.size}"
    scale = "" if set(preprocessing.mean) == {0.0} and set(preprocessing.std) == {1.0} else ", minus mean over std"
    low, high = preprocessing.range
    last = ", channels last" if preprocessing.layout == "NHWC" else ""
    return f"{size}, {preprocessing.channels} in [{low:g},{high:g}]{scale}{last}"


# ---- the probe

# the drawings' embeddings differ by 0.71 to 0.75 (one minus the cosine) for three trained recognizers that are fed rightly,
# by 0.12 at most where they are fed 127 times as much, by 0.005 at most where they are fed 1/127
COLLAPSED = 1 / 4  # of the variety under another range: so much less is no accident
VARIED = 0.4  # the least variety under another range; untrained networks find no faces as different
DRAWN = 4  # faces
OTHER_RANGES = {
    "values in [-1,1]": lambda x: x,
    "values in [-127,127]": lambda x: x * 127.5,
    "values in [0,255]": lambda x: (x + 1) * 127.5,
    "values 127 times smaller than now": lambda x: x / 127.5,  # these two for code, whose own scale is not known
    "values 127 times smaller than now, and centred": lambda x: x / 127.5 - 1,
}


@torch.no_grad()
def probe_preprocessing(
    recognizer: Recognizer, preprocessing: Preprocessing | None = None, *, resolution: int = 64
) -> str | None:
    """Returns one line if a recognizer behaves as if fed the wrong range, else None.

    preprocessing: what stands before its network, where that is known, as it is for an adapter's.
    A few drawn faces, all different, are shown as they are, then so that the network is fed ranges that others use. A
    recognizer that finds the first all alike, and those of another range four times less alike, is most likely fed
    wrongly. This cannot tell [0,1] from [-1,1], RGB from BGR, nor a wrong crop, and says nothing of a recognizer that
    finds all faces alike, whatever it is fed.
    """
    device = find_device(recognizer)
    undo = (preprocessing or Preprocessing()).undo
    drawn = draw_faces(DRAWN, max(resolution, 48)).to(device)
    given = measure_variety(recognizer, drawn)
    variety = {name: measure_variety(recognizer, undo(scale(drawn))) for name, scale in OTHER_RANGES.items()}
    best = max(variety, key=variety.get)
    if variety[best] < VARIED or given > COLLAPSED * variety[best]:
        return None
    return (
        f"the recognizer finds different drawn faces nearly alike (variety {given:.2g}), and not when fed {best} "
        f"({variety[best]:.2g}): expected another range; see range, mean and std of its card, or its code"
    )


def measure_variety(recognizer: Recognizer, images: torch.Tensor) -> float:
    """Returns the mean of one minus the cosine between the embeddings of different images; 0 where one is not finite."""
    embeddings = F.normalize(ask(recognizer, images).embeddings.float(), dim=1)
    if not torch.isfinite(embeddings).all():
        return 0.0
    count = len(embeddings)
    cosines = embeddings @ embeddings.T
    return 1 - ((cosines.sum() - cosines.trace()) / (count * (count - 1))).item()


def draw_faces(count: int, side: int) -> torch.Tensor:
    """Returns drawings of faces [count,3,side,side] in [-1,1]: heads of many colours and shapes, always the same ones."""
    random = torch.rand(count, 24, generator=torch.Generator().manual_seed(9))  # of ten tried, the most varied first four
    line = torch.linspace(-1, 1, side)
    y, x = torch.meshgrid(line, line, indexing="ij")

    def draw(numbers: torch.Tensor) -> torch.Tensor:
        drawn = iter(numbers.tolist())

        def between(low: float, high: float) -> float:
            return low + (high - low) * next(drawn)

        def ellipse(cx: float, cy: float, rx: float, ry: float) -> torch.Tensor:
            return torch.sigmoid(12 * (1 - ((x - cx) / rx).square() - ((y - cy) / ry).square()))

        def paint(picture: torch.Tensor, mask: torch.Tensor, *colour: float) -> torch.Tensor:
            return picture * (1 - mask) + torch.tensor(colour).view(3, 1, 1) * mask

        picture = torch.tensor([between(-0.9, 0.6) for _ in range(3)]).view(3, 1, 1) + between(-0.5, 0.5) * x
        cx, cy, width, height = between(-0.1, 0.1), between(-0.1, 0.1), between(0.45, 0.7), between(0.65, 0.9)
        picture = paint(picture, ellipse(cx, cy, width, height), between(-0.1, 0.9), between(-0.4, 0.6), between(-0.6, 0.5))
        hair = between(-1, 0.5)
        picture = paint(picture, ellipse(cx, cy - 0.9 * height, 1.1 * width, height * between(0.35, 0.7)), hair, hair, hair)
        apart, up, eye, brow = between(0.18, 0.3), between(0.1, 0.3), between(0.06, 0.13), between(0.12, 0.2)
        for sign in (-1, 1):
            picture = paint(picture, ellipse(cx + sign * apart, cy - up, eye, 0.7 * eye), -0.8, -0.8, -0.8)
            picture = paint(picture, ellipse(cx + sign * apart, cy - up - brow, 1.5 * eye, 0.04), hair, hair, hair)
        shade = between(-0.5, 0.5)
        picture = picture + shade * x * ellipse(cx, cy, width, height)
        picture = picture - between(0.1, 0.5) * ellipse(cx, cy + 0.1, between(0.05, 0.1), 0.16)
        return paint(picture, ellipse(cx, cy + between(0.35, 0.5), between(0.12, 0.3), 0.07), between(-0.2, 0.6), -0.5, -0.5)

    return torch.stack([draw(numbers) for numbers in random]).clamp(-1, 1)
