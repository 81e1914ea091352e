"""What frozen networks make of pictures: by their features photos are compared, and told from generated pictures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import nn

from ganinv.engine.standins import import_torchvision
from ganinv.recognizers.cosine import CosineRecognizer
from ganinv.recognizers.loading import load_recognizer
from ganinv.training.face_trunk import SIDE, FaceTrunk, is_face_trunk, load_face_trunk
from ganinv.training.mobilenet import MobileNetV2, load_mobilenet
from ganinv.weights.cards import read_card

Reader = Callable[[torch.Tensor], torch.Tensor]


def as_it_is(features: torch.Tensor) -> torch.Tensor:
    """Returns features as they are."""
    return features


def normalise(features: torch.Tensor) -> torch.Tensor:
    """Returns features [N,C,...] of unit norm over the channels, in float32."""
    return F.normalize(features.float(), dim=1)


class FrozenFeatures(Protocol):
    """A frozen network of a training, which is part of no state. It must not be a judge of what the prior yields.

    embeds_beyond_maps: whether layers of its own lie between the last map and the embeddings. If not, the embeddings are
    merely the mean over the last map, or there are none.
    """

    embeds_beyond_maps: bool

    def look(self, images: torch.Tensor, each: Reader = as_it_is) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """Returns what `each` makes of the maps [N,C,h,w], largest first, and the embeddings [N,D], of images in [-1,1]."""
        ...


class RecognizerFeatures:
    """The features of a recognizer that was trained on public people only: its maps before each halving.

    Raises: ValueError for one that is neither a plain chain of convolutions nor a ResNet.
    """

    embeds_beyond_maps = True

    def __init__(self, recognizer: CosineRecognizer):
        self.recognizer = recognizer
        self.stages, self.rest = split_stages(recognizer)

    def look(self, images: torch.Tensor, each: Reader = as_it_is) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Returns the maps and the embeddings; see FrozenFeatures."""
        x, maps = images * 2, []
        for stage in self.stages:
            x = stage(x)
            maps.append(each(x))
        return maps, self.rest(x)


def split_stages(recognizer: CosineRecognizer) -> tuple[list[nn.Module], nn.Module]:
    """Returns the layers of a recognizer up to each of its maps, largest first, and those beyond the last.

    Raises: ValueError, see RecognizerFeatures.
    """
    trunk, *head = getattr(recognizer, "backbone", [None])
    if isinstance(trunk, import_torchvision().models.ResNet):
        stem, pooled = nn.Sequential(trunk.conv1, trunk.bn1, trunk.relu), nn.Sequential(trunk.maxpool, trunk.layer1)
        rest = [trunk.layer4, trunk.avgpool, nn.Flatten(), trunk.fc]
        return [stem, pooled, trunk.layer2, trunk.layer3], nn.Sequential(*rest, *head)
    if not isinstance(trunk, nn.Sequential):
        kind = getattr(recognizer, "architecture", type(recognizer).__name__)
        raise ValueError(f"expected a vgg_trunk, an alexnet_trunk or a resnet18 to see with, got {kind}")
    halvings = [index for index, layer in enumerate(trunk) if isinstance(layer, nn.MaxPool2d)]
    chunks = [trunk[begin:end] for begin, end in itertools.pairwise([0, *halvings, len(trunk)])]
    return chunks[:-1], nn.Sequential(*chunks[-1], *head)


class TrunkFeatures:
    """The features of a trunk that looks at pictures of a side of its own, in [0,1].

    embeds: whether the mean over its last map is an embedding.
    """

    embeds_beyond_maps = False

    def __init__(self, trunk: MobileNetV2 | FaceTrunk, side: int = 0, *, embeds: bool = False):
        self.trunk, self.side, self.embeds = trunk, side, embeds  # 0: that of the pictures
        self.last: tuple[torch.Tensor, list[torch.Tensor]] | None = None

    def look(self, images: torch.Tensor, each: Reader = as_it_is) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """Returns the maps and the embeddings; see FrozenFeatures. The last photos are looked at once for all readers."""
        if self.last and self.last[0] is images:
            maps = self.last[1]
        else:
            maps = self.see(images)
            if not maps[0].requires_grad:
                self.last = images, maps
        return [each(one) for one in maps], maps[-1].mean((2, 3)) if self.embeds else None

    def see(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Returns the trunk's maps of images in [-1,1]."""
        pictures = ((images + 1) / 2).contiguous(memory_format=torch.channels_last)
        if self.side and pictures.shape[3] != self.side:
            pictures = F.interpolate(pictures, size=self.side, mode="bilinear", align_corners=False)
        # depthwise convolutions of bfloat16 are slow on a CPU, backward above all
        with torch.autocast(images.device.type, enabled=False):
            return self.trunk(pictures.float())


class SeveralFeatures:
    """The features of several frozen networks, side by side."""

    def __init__(self, parts: Sequence[FrozenFeatures]):
        self.parts = parts
        self.embeds_beyond_maps = any(part.embeds_beyond_maps for part in parts)

    def look(self, images: torch.Tensor, each: Reader = as_it_is) -> tuple[list[torch.Tensor], torch.Tensor | None]:
        """Returns all maps, and the embeddings of those that have any, of unit norm, in one."""
        found = [part.look(images, each) for part in self.parts]
        maps = sorted((one for maps, _ in found for one in maps), key=lambda one: -one.shape[3])
        embeddings = [normalise(one) for _, one in found if one is not None]
        return maps, torch.cat(embeddings, 1) if embeddings else None


def load_features(spec: str, device: torch.device) -> FrozenFeatures:
    """Returns the features of weight files, with commas between.

    Of a recognizer; of a MobileNetV2 trunk, as its card says, or its .json; or of the face network's .json.
    Raises: ValueError for another kind of recognizer, and whatever loading raises.
    """
    if len(specs := spec.split(",")) > 1:
        return SeveralFeatures([load_features(one, device) for one in specs])
    file = Path(spec)
    if file.suffix == ".json" and is_face_trunk(file):
        return TrunkFeatures(load_face_trunk(file).to(device), SIDE, embeds=True)
    has_card = file.suffix == ".safetensors" and file.is_file()
    if file.suffix == ".json" or (has_card and read_card(file).get("kind") == "mobilenet_v2"):
        return TrunkFeatures(load_mobilenet(file).to(device))
    return RecognizerFeatures(load_recognizer(spec, device))


def check_sight(features: FrozenFeatures, resolution: int, device: torch.device) -> None:
    """Raises: ValueError when pictures of such a side are too small for frozen networks."""
    try:
        features.look(torch.zeros(2, 3, resolution, resolution, device=device))
    except RuntimeError as error:  # a kernel, or a pooling, is larger than the map
        raise ValueError(
            f"expected pictures large enough for the networks of --critic, got {resolution} px; pass another --critic"
        ) from error


def measure_distance(
    features: FrozenFeatures, reconstructions: torch.Tensor, photos: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns how far reconstructions are from photos [N,3,R,R]: two numbers [].

    The first is over the maps, of unit norm over the channels (Zhang et al. 2018, Eq. 1, mean over maps); the second is
    1 - cosine of the embeddings, 0 where there are none.
    """
    with torch.no_grad():
        theirs, their_embeddings = features.look(photos, normalise)
    ours, our_embeddings = features.look(reconstructions, normalise)
    layers = [(a - b).square().sum(1).mean() for a, b in zip(ours, theirs, strict=True)]
    if our_embeddings is None:
        return torch.stack(layers).mean(), photos.new_zeros(())
    return torch.stack(layers).mean(), 1 - (normalise(our_embeddings) * normalise(their_embeddings)).sum(1).mean()


class Projector(nn.Module):
    """Maps of frozen features, their channels and scales mixed by weights that are drawn once and never trained.

    A 1x1 convolution mixes the channels of each map; from the deepest on, a 3x3 convolution and an enlargement mix it into
    the next, so that a discriminator cannot hold on to a few features alone. The picture itself comes first: trunks hardly
    mind a wrong tint. A map as large as the picture is left out, if there is another: it costs as much as all others, and
    has little that the picture has not. Source: Sauer et al. 2021, Projected GANs Converge Faster, section 3.2.
    """

    def __init__(self, features: FrozenFeatures, examples: torch.Tensor, generator: torch.Generator):
        """examples: photos [N,3,R,R] in [-1,1], after which every map is brought to unit size."""
        super().__init__()
        self.features = [features]  # in a list: no part of the state
        with torch.no_grad():
            maps, _ = features.look(examples)
        others = [level for level, one in enumerate(maps) if one.shape[2:] != examples.shape[2:]]
        self.levels = others or [len(maps) - 1]  # of the maps that are looked at
        maps = [maps[level] for level in self.levels]
        channels = [min(192, 32 * 2**level) for level in range(len(maps))]
        self.register_buffer("scales", torch.stack([1 / one.float().square().mean().sqrt() for one in maps]))
        self.mix = nn.ModuleList(nn.Conv2d(one.shape[1], c, 1) for one, c in zip(maps, channels, strict=True))
        pairs = zip(channels, [channels[0], *channels[:-1]], strict=True)
        self.blend = nn.ModuleList(nn.Conv2d(own, below, 3, padding=1) for own, below in pairs)
        draw_mixing([*self.mix, *self.blend], generator)
        self.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Returns maps [N,C,h,w], the picture's own first, of images in [-1,1]."""
        found, _ = self.features[0].look(images)
        maps = [found[level] for level in self.levels]
        above, mixed = None, []
        for level in reversed(range(len(maps))):
            x = self.mix[level](maps[level].float() * self.scales[level])
            if above is not None:
                x = (x + F.interpolate(above, size=x.shape[2:], mode="bilinear", align_corners=False)) * 0.5**0.5
            above = self.blend[level](x)
            mixed.append(above)
        return [F.pixel_unshuffle(images, 2), *mixed[::-1]]


@torch.no_grad()
def draw_mixing(layers: Sequence[nn.Conv2d], generator: torch.Generator) -> None:
    """Draws the weights of convolutions such that they keep the size of a signal, in place."""
    for layer in layers:
        fan = layer.weight[0].numel()
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) / fan**0.5)
        layer.bias.zero_()
