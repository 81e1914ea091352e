"""From a spec to a frozen recognizer, and a recognizer to its weight file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from ganinv.engine.meta import on_meta
from ganinv.interfaces import Recognizer
from ganinv.recognizers.callable import CallableRecognizer
from ganinv.recognizers.preprocessing import draw_faces
from ganinv.recognizers.published.frame import Frame, Reframe
from ganinv.weights.cards import read_card
from ganinv.weights.files import check_tensors, read_tensors, save_weights
from ganinv.weights.quantisation import quantise
from ganinv.weights.specs import call_factory, freeze, split_spec

# of what a card declares: as much as the largest face recognizers have, and sides that an attack can feed
ALONE = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")  # files of weights that name no network
MOST = {"embedding_dim": 1 << 16, "input_size": 1024, "num_identities": 10**7, "scale": 10**6}


def load_recognizer(
    spec: str, device: torch.device | str = "cpu", *, resolution: int = 64, frame: Frame | None = None
) -> Recognizer:
    """Returns the frozen recognizer of a spec: a weight file with its card, one of recognizers.specs, or code.

    Code returns any callable of images [N,3,R,R] in [-1,1]: see CallableRecognizer. resolution: the side R of the
    images with which code is asked for its numbers of identities and embedding dimensions.
    Raises: ValueError when there is no such file or code, or it gives no recognizer.
    """
    from ganinv.recognizers.adapters import load_adapter

    if (adapted := load_adapter(spec, device, resolution=resolution, frame=frame)) is not None:
        return adapted
    code = split_spec(spec)
    if code is None:
        return freeze(load_weights(spec, frame), device)
    recognizer = freeze(call_factory(*code), device)
    if not callable(recognizer):
        raise ValueError(
            f"expected a callable from {spec}, got {type(recognizer).__name__}; return a function of images from it"
        )
    if hasattr(recognizer, "num_identities") and hasattr(recognizer, "embedding_dim"):
        return recognizer
    return CallableRecognizer(recognizer, draw_faces(2, resolution).to(device)).eval()


def save_recognizer(model: nn.Module, path: str | Path, card: Mapping) -> dict:
    """Writes a CosineRecognizer: <name>.safetensors and its card. Returns the card.

    card: what else there is to say: command, data, seed, metrics, ... Raises: ValueError, see save_weights.
    """
    built_from = {
        "kind": "cosine",
        "architecture": model.architecture,
        "input_size": model.input_size,
        "embedding_dim": model.embedding_dim,
        "num_identities": model.num_identities,
        "scale": model.scale,
        "mirror": model.mirror,
    }
    return save_weights(path, quantise(model.state_dict()), {**card, **built_from, "stored": "int8 rows"})


def load_weights(path: str | Path, frame: Frame | None = None) -> nn.Module:
    """Returns the CosineRecognizer of a weight file, frozen, on the CPU; its card says how to build it.

    frame: of the images that it will be shown; where its card says that it was trained in another, they are moved first.

    Raises: ValueError when a file is missing or not whole, or card, SHA-256, names, shapes or values do not fit.
    """
    from ganinv.recognizers.adapters import FORMS
    from ganinv.recognizers.cosine import CosineRecognizer

    path = Path(path)
    has_card = path.suffix == ".safetensors" and os.path.lexists(path.with_suffix(".json"))
    if path.is_file() and path.suffix in ALONE and not has_card:
        raise ValueError(
            f"expected the network of the weights {path}, or their card {path.stem}.json, got the file alone; name the "
            f"network, such as torchvision:resnet18:{path} or timm:NAME:{path}, or pass file.py:factory"
        )
    if path.suffix != ".safetensors" or not path.is_file():
        what = "missing" if not path.is_file() else "of another kind"
        raise ValueError(
            f"expected a recognizer: NAME.safetensors, module:factory, file.py:factory, {FORMS}, got {path}, {what}"
            "; check the path, and see docs/recognizers.md"
        )
    tensors, _ = read_tensors(path)
    card = read_card(path)
    if card.get("kind") != "cosine":
        raise ValueError(
            f"expected a card of the kind cosine beside {path}, got {card.get('kind')}"
            "; pass a recognizer that was trained here, or another form of docs/recognizers.md"
        )
    options = {name: card.get(name) for name in MOST}
    options["num_identities"] = options["num_identities"] or 0  # none: an open-set recognizer
    for name, value in options.items():
        kinds = (int, float) if name == "scale" else (int,)
        if type(value) not in kinds or not 0 <= value <= MOST[name] or (value == 0 and name != "num_identities"):
            raise ValueError(f"expected a positive {name} on the card of {path}, at most {MOST[name]}, got {value!r}")
    check_fit(lambda: CosineRecognizer(str(card.get("architecture")), **options), tensors, path)
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn and replaced: leave the caller's draws alone
        model = CosineRecognizer(str(card.get("architecture")), mirror=card.get("mirror") is True, **options)
    model.load_state_dict(check_tensors(tensors, model.state_dict(), path))
    trained = read_frame(card)
    if frame is not None and trained is not None and trained != frame:
        model.reframe = Reframe(frame, trained, model.input_size)
    return model.eval().requires_grad_(False)


def check_fit(build: Callable[[], nn.Module], tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Returns if a file's tensors are those of the network that its card asks for; nothing is allocated for it.

    Raises: ValueError, see check_tensors.
    """
    try:
        with on_meta():
            expected = build().state_dict()
    except NotImplementedError:  # some draw their first weights in a way that needs memory; what they take is bounded
        return
    check_tensors(tensors, expected, path)


def read_frame(card: Mapping) -> Frame | None:
    """Returns the frame of the faces that a card says a network was trained on; None where it does not say."""
    points = card.get("frame")
    if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        return None
    return Frame(tuple((float(x), float(y)) for x, y in points))
