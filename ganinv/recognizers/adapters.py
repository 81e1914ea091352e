"""Which adapter reads which spec: recognizers that were made elsewhere."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from ganinv.interfaces import Recognizer
from ganinv.recognizers.published.frame import WORLD, Frame
from ganinv.weights.specs import split_spec

log = logging.getLogger(__name__)

PUBLISHED = ("dlib", "sface", "mobilefacenet")  # from an installed package or ganinv's own file, or KIND:FILE
KINDS = (*PUBLISHED, "insightface", "edgeface", "facenet", "torchvision", "timm", "torchscript")
SUFFIXES = (".torchscript", ".pt2", ".onnx")
PROGRAMS = ("torchscript", ".torchscript", ".pt2")  # kinds and suffixes of files that run what their author wrote
FORMS = (
    "dlib, sface, mobilefacenet, insightface:FILE, edgeface:FILE, facenet:vggface2, torchvision:NAME:FILE, timm:NAME:FILE, "
    "torchscript:FILE, FILE.torchscript, FILE.pt2, FILE.onnx"
)


def split_adapter(spec: str) -> tuple[str, str, str] | None:
    """Returns (kind, name, file) of a spec that an adapter reads: its kind or suffix, and what stands behind; else None.

    Raises: ValueError when a name or a file is lacking.
    """
    suffix = Path(spec).suffix.lower()
    kind, colon, rest = spec.partition(":")
    if spec in PUBLISHED and not Path(spec).exists():
        return spec, "", ""
    if Path(spec).exists() or kind not in KINDS or not colon:
        return (suffix, "", spec) if suffix in SUFFIXES else None
    if kind in ("torchvision", "timm"):
        name, _, file = rest.partition(":")
        if not name or not file:
            raise ValueError(f"expected {kind}:NAME:FILE, such as {kind}:resnet18:weights.pt, got {spec}")
        return kind, name, file
    if not rest:
        raise ValueError(f"expected {'facenet:vggface2 or ' if kind == 'facenet' else ''}{kind}:FILE, got {spec}")
    return (kind, rest, "") if kind == "facenet" else (kind, "", rest)


def names_code(spec: str) -> bool:
    """Says whether loading a recognizer's spec runs what somebody wrote: a function or an exported program."""
    found = split_adapter(spec)
    return split_spec(spec) is not None if found is None else found[0] in PROGRAMS


def weight_file(spec: str) -> Path:
    """Returns the file from which a spec's recognizer or prior is read; for code, which has none, the spec as a path."""
    from ganinv.recognizers.classifiers import find_facenet_file
    from ganinv.recognizers.published.files import FILES, SHIPPED, locate

    if spec in SHIPPED and not Path(spec).exists():
        return SHIPPED[spec]
    if spec in FILES and not Path(spec).exists():
        return locate(FILES[spec]) or Path(spec)
    kind, name, file = split_adapter(spec) or ("", "", spec)
    return find_facenet_file(name) if kind == "facenet" else Path(file)


def load_adapter(
    spec: str, device: torch.device | str, *, resolution: int = 64, frame: Frame | None = None
) -> Recognizer | None:
    """Returns the frozen recognizer of a spec that an adapter reads, None for any other spec.

    Logs one line when it behaves as if fed the wrong range. resolution: the side of the pictures it will be shown; frame:
    where the face lies in them, which networks with a frame of their own are told; None: as in published.frame.WORLD.
    Raises: ValueError, see load_published, load_insightface, load_edgeface, load_facenet, load_torchvision, load_timm and
    load_exported.
    """
    found = split_adapter(spec)
    if found is None:
        return None
    from ganinv.recognizers import classifiers, exported, onnx_files, preprocessing
    from ganinv.weights.specs import freeze

    kind, name, file = found
    if kind in PUBLISHED:  # their preprocessing is known: no probe
        return freeze(load_published(kind, file, frame or WORLD), device)
    if kind in ("insightface", "edgeface"):
        from ganinv.recognizers.published import arcface

        load = arcface.load_insightface if kind == "insightface" else arcface.load_edgeface
        recognizer = freeze(load(file, device, frame=frame or WORLD), device)
    elif kind == "facenet":
        recognizer = freeze(classifiers.load_facenet(name), device)
    elif kind in ("torchvision", "timm"):
        load = classifiers.load_torchvision if kind == "torchvision" else classifiers.load_timm
        recognizer = freeze(load(name, Path(file)), device)
    else:
        if kind in PROGRAMS:
            exported.warn_of_code(file)
        read = {".pt2": exported.read_torch_export, ".onnx": onnx_files.read_onnx}.get(kind, exported.read_torchscript)
        recognizer = exported.load_exported(read, Path(file), device, resolution)
    fed = getattr(recognizer, "recognize", recognizer).preprocessing
    if line := preprocessing.probe_preprocessing(recognizer, fed, resolution=resolution):
        log.warning("%s: %s", spec, line)
    return recognizer


def load_published(kind: str, file: str = "", frame: Frame = WORLD) -> Recognizer:
    """Returns one of PUBLISHED, on the CPU, of a file or of the installed package's. Raises: ValueError, see there."""
    from ganinv.recognizers.published import dlib, mobilefacenet, sface

    load = {"dlib": dlib.load_dlib, "sface": sface.load_sface, "mobilefacenet": mobilefacenet.load_mobilefacenet}
    return load[kind](file, frame=frame)
