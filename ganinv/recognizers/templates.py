"""Stored templates: the embeddings that an operator keeps of enrolled users, in the files that are usual.

    FILE.safetensors    a gallery that Gallery.save wrote, or a tensor [D] or [n,D] for each name
    FILE.npz            likewise, arrays; or two, names [n] and encodings [n,D]
    FILE.json           {"Ada": [128 numbers], "Bob": [[...], [...]]}, a list of such objects, or
                        {"names": ["Ada", "Bob", "Bob"], "encodings": [[...], [...], [...]]}

Several embeddings of one name are averaged. All are read as data: no pickle is ever loaded.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from ganinv.interfaces import Recognizer
from ganinv.json_data import parse_json
from ganinv.photos import sort_names
from ganinv.recognizers.gallery import DEFAULT_SCALES, EnrolledRecognizer, Gallery, attach, average, check_embeds, enroll
from ganinv.weights.cards import find_card
from ganinv.weights.files import read_tensors
from ganinv.weights.quoting import first_line, show

UNREADABLE = (OSError, ValueError, TypeError, LookupError, RuntimeError, EOFError, AttributeError, SyntaxError, MemoryError)
SUFFIXES = (".safetensors", ".npz", ".json")
MOST_BYTES = 1 << 28  # 60 000 templates as JSON; .npz, unpacked, and .safetensors hold more


def load_gallery(
    network: Recognizer, place: str | Path, *, threshold: float | None = None, classes: Sequence[str] = ()
) -> EnrolledRecognizer:
    """Returns a network with the users of a folder of photos, or of a file of templates.

    threshold: None: that of the gallery, or the network's own; classes: all names in the order that numbers them.
    Raises: ValueError when there is no such place, or templates are of the wrong length or not finite; see enroll.
    """
    place = Path(place).expanduser()
    if place.is_dir():
        return enroll(network, place, threshold=threshold, classes=classes)
    if place.suffix.lower() not in SUFFIXES or not place.is_file():
        what = "of another kind" if place.is_file() else "missing"
        raise ValueError(
            f"expected a gallery, a folder of people or a file {', '.join(SUFFIXES)}, got {place}, {what}; check the path"
        )
    check_embeds(network)
    metric = getattr(network, "metric", "cosine")
    gallery = read_gallery(place, metric, network.embedding_dim, getattr(network, "threshold", None), threshold)
    return attach(network, gallery.select(classes) if classes else gallery)


def read_gallery(
    path: Path, metric: str, embedding_dim: int, default: float | None, threshold: float | None = None
) -> Gallery:
    """Returns the gallery of a file of templates, for a network of so many numbers.

    default: the threshold where the file has none; threshold: in place of the file's.
    """
    if path.suffix.lower() == ".safetensors" and find_card(path).get("kind") == "gallery":
        gallery = Gallery.load(path)
        if gallery.metric != metric:
            raise ValueError(
                f"expected templates that are compared by {metric}, got {gallery.metric} in {path}"
                "; pass those of this network"
            )
        check_length("the users", gallery.templates.shape[1], embedding_dim, path)
        stored = gallery.threshold if threshold is None else threshold
        values = (gallery.names, gallery.templates, metric, default if stored is None else stored, gallery.scale)
        return Gallery(*values, gallery.photos)
    read = {".safetensors": read_tensor_file, ".npz": read_npz, ".json": read_json_file}[path.suffix.lower()]
    found: dict[str, list[torch.Tensor]] = {}
    for name, rows in read(path):
        if rows.ndim not in (1, 2) or not rows.numel():
            raise ValueError(
                f"expected a template [D] or [n,D] of {show(name)} in {path}, got {list(rows.shape)}"
                "; give numbers for every user"
            )
        check_length(show(name), rows.shape[-1], embedding_dim, path)
        if not torch.isfinite(rows).all():
            raise ValueError(
                f"expected finite templates in {path}, got NaN or infinity for {show(name)}"
                "; take the template out, or make it anew"
            )
        found.setdefault(name, []).append(rows.float().reshape(-1, embedding_dim))
    if not found:
        raise ValueError(f"expected templates of users in {path}, got none; check what wrote it")
    names = sort_names(found)
    templates = torch.stack([average(torch.cat(found[name]), metric) for name in names])
    return Gallery(tuple(names), templates, metric, default if threshold is None else threshold, DEFAULT_SCALES[metric])


def check_length(name: str, got: int, expected: int, path: Path) -> None:
    """Raises: ValueError for templates of another length than the network gives."""
    if got != expected:
        raise ValueError(
            f"expected templates of {expected} numbers, as the network gives, got {got} of {name} in {path}"
            "; pass those of this network"
        )


def read_tensor_file(path: Path) -> Iterable[tuple[str, torch.Tensor]]:
    """Yields (name, [D] or [n,D]) of a .safetensors file."""
    yield from read_tensors(path)[0].items()


def read_npz(path: Path) -> Iterable[tuple[str, torch.Tensor]]:
    """Yields (name, [D] or [n,D]) of an .npz file. Raises: ValueError when it is none, or holds objects."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > MOST_BYTES:
                raise ValueError(f"more than {MOST_BYTES} bytes unpacked")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        if arrays.keys() == {"names", "encodings"}:
            yield from pair(arrays["names"].astype(str).tolist(), arrays["encodings"], path)
            return
        yield from [(name, torch.from_numpy(array.astype(np.float32))) for name, array in arrays.items()]
    except (*UNREADABLE, zipfile.BadZipFile) as error:
        raise ValueError(
            f"expected an .npz file of numbers, got {path} ({first_line(error)}); save arrays of numbers with numpy.savez"
        ) from error


def read_json_file(path: Path) -> Iterable[tuple[str, torch.Tensor]]:
    """Yields (name, [D] or [n,D]) of a JSON file. Raises: ValueError when it is none, or holds something else."""
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"expected at most {MOST_BYTES} bytes of templates, got more in {path}; save them as .npz")
    try:
        content = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(
            f"expected JSON in {path}, got something else ({first_line(error)}); save it again as JSON"
        ) from error
    for part in content if isinstance(content, list) else [content]:
        if not isinstance(part, dict):
            raise ValueError(f"expected {{name: numbers}} in {path}, got {type(part).__name__}; give numbers for every name")
        try:
            if part.keys() == {"names", "encodings"}:
                yield from pair([str(name) for name in part["names"]], np.array(part["encodings"], np.float32), path)
            else:
                yield from [(name, torch.from_numpy(np.array(rows, np.float32))) for name, rows in part.items()]
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"expected lists of as many numbers in {path}, got others ({first_line(error)})"
                "; give as many numbers for every user"
            ) from error


def pair(names: Sequence[str], rows: np.ndarray, path: Path) -> Iterable[tuple[str, torch.Tensor]]:
    """Yields each name with its row. Raises: ValueError unless there are as many."""
    if rows.ndim != 2 or len(rows) != len(names):
        raise ValueError(
            f"expected an encoding for each of the {len(names)} names, got {list(rows.shape)} in {path}; give one for each"
        )
    yield from zip(names, torch.from_numpy(rows.astype(np.float32)), strict=True)


def read_classes(path: str | Path) -> tuple[str, ...]:
    """Returns the users' names in the order that numbers them: a name a line, a JSON list, or {"name": number}.

    Raises: ValueError when the file is missing, or its numbers are not 0, 1, 2, ...
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")  # without the mark that some editors put first
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"expected a file of names in {path}, got none that can be read ({first_line(error)}); check the path"
        ) from error
    if path.suffix.lower() != ".json":
        names = [line.strip() for line in text.splitlines() if line.strip()]
    else:
        try:
            said = parse_json(text)
        except ValueError as error:
            raise ValueError(
                f"expected JSON in {path}, got something else ({first_line(error)}); save it again as JSON"
            ) from error
        if isinstance(said, dict) and sorted(said.values(), key=str) == sorted(range(len(said)), key=str):
            said = sorted(said, key=said.get)
        names = said if isinstance(said, list) and all(isinstance(name, str) for name in said) else []
    twice = [name for name, count in Counter(names).items() if count > 1]
    if not names or twice:
        got = f"{show(twice[0])} twice" if twice else "something else"
        raise ValueError(
            f"expected every user's name once, or {{name: 0, 1, ...}}, in {path}, got {got}; see docs/recognizers.md"
        )
    return tuple(names)
