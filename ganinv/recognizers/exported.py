"""Recognizers as exported programs: TorchScript, torch.export and ONNX, each a function of a batch of images.

    FILE.torchscript    torchscript:FILE.pt    FILE.pt2    FILE.onnx

A program answers with logits [N,C], or with (embeddings [N,D], logits [N,C]); a card may say "output": "embeddings".
Without a card it is fed RGB in [-1,1], at the size and in the layout that the file fixes, if it fixes them.

TorchScript and torch.export archives are programs, not data. TorchScript runs in torch's own interpreter, which knows no
Python but can read and write files; reading a torch.export archive evaluates text in it (pickles in it are refused, and
so are not run). Load one only if you would run its author's code. ONNX files are data: onnx2torch builds a network of
known operators from them.
"""

from __future__ import annotations

import io
import logging
import struct
import warnings
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ganinv.interfaces import Recognition
from ganinv.json_data import find_mismatch, parse_json
from ganinv.recognizers.callable import CallableRecognizer, brief, to_logits
from ganinv.recognizers.checks import has_gradient
from ganinv.recognizers.preprocessing import FileCard, Preprocessing, draw_faces, read_file_card, tell_assumed
from ganinv.weights.checkpoints import check_unpacked_size, read_checkpoint
from ganinv.weights.quoting import first_line
from ganinv.weights.specs import freeze

log = logging.getLogger(__name__)

ANY_BATCH = 1 << 30
MOST_CODE = 1 << 25  # bytes of a program's code, which TorchScript packs; its tensors are not packed


@dataclass(frozen=True)
class Program:
    """What was read of a file: run(x [N,C,H,W]) -> tensor or tensors; batches and numbers it takes.

    size, layout, range, channels: of Preprocessing, None where the file does not say them.
    """

    run: nn.Module
    size: tuple[int, int] | None = None
    least: int = 1
    most: int = ANY_BATCH
    layout: str | None = None
    range: tuple[float, float] | None = None
    channels: str | None = None
    dtype: torch.dtype = torch.float32

    def suit(self, card: FileCard) -> FileCard:
        """Returns a card on which stands what the file says of its input, where the card said nothing."""
        names = ("size", "layout", "range", "channels")
        own = {name: value for name in names if (value := getattr(self, name)) is not None and name not in card.said}
        return replace(card, preprocessing=replace(card.preprocessing, **own))


class ExportedRecognizer(nn.Module):
    """A program as a callable of images. Batches that it does not take are cut, and filled up with their last image."""

    def __init__(self, program: Program, card: FileCard):
        super().__init__()
        self.program, self.preprocessing, self.output, self.scale = program.run, card.preprocessing, card.output, card.scale
        self.least, self.most, self.dtype = program.least, program.most, program.dtype

    def train(self, mode: bool = True):
        """Changes nothing but the flag: the mode of a program was fixed when it was exported."""
        self.training = mode
        return self

    def forward(self, images: torch.Tensor):
        """Returns logits [N,C], or (embeddings [N,D], logits [N,C] or None)."""
        parts = [self.run(part) for part in self.preprocessing(images).split(self.most)]
        if len(parts[0]) not in (1, 2):
            raise ValueError(
                f"expected logits, or embeddings and logits, from the program, got {len(parts[0])} tensors"
                "; export one that returns these"
            )
        answers = tuple(torch.cat(answer) for answer in zip(*parts, strict=True))
        if self.output == "embeddings":
            return answers[0], None
        answers = (*answers[:-1], to_logits(answers[-1], self.output, self.scale))
        return answers if len(answers) == 2 else answers[0]

    def run(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns the program's tensors of at most `most` inputs."""
        count = len(x)
        if count < self.least:
            x = torch.cat([x, x[-1:].expand(self.least - count, -1, -1, -1)])
        answer = self.program(x.to(self.dtype))
        answer = (answer,) if isinstance(answer, torch.Tensor) else tuple(answer)
        return tuple(part[:count].float() for part in answer)


def load_exported(
    read: Callable[[Path, torch.device], Program], path: Path, device: torch.device | str, resolution: int
) -> CallableRecognizer:
    """Returns the recognizer of an exported program, checked on drawn faces of the resolution.

    read: read_torchscript, read_torch_export or onnx_files.read_onnx. Raises: ValueError when the file cannot be read or
    run, gives no gradient, or answers for an image by what else is in its batch.
    """
    card = read_file_card(path, Preprocessing(), quiet=True)
    program = read_program(read, path, torch.device(device))
    card = program.suit(card)
    tell_assumed(path, card)
    images = draw_faces(2, resolution).to(device)
    exported = freeze(ExportedRecognizer(program, card), device)
    exported.most = find_most(exported, images)
    try:
        exported(images.clone())
        recognizer = CallableRecognizer(exported, images).eval()
        alone = recognizer(images[:1])
        both = recognizer(images.requires_grad_().clone())
    except (ValueError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a program raises
        shape = list(card.preprocessing(images.detach()).shape)
        cure = f"say its size, channels and layout on {path.stem}.json"
        raise ValueError(f"expected {path} to take an input {shape}, got {brief(error)}; {cure}") from error
    check_gradient(both, images, path)
    for name in ("embeddings", "logits"):
        first, second = getattr(alone, name), getattr(both, name)
        if first is not None and not torch.allclose(first, second[:1], rtol=1e-3, atol=1e-3):
            raise ValueError(
                f"expected {path} to give the same {name} for an image in any batch, got others; export it in eval mode"
            )
    return recognizer


def read_program(read: Callable[[Path, torch.device], Program], path: Path, device: torch.device) -> Program:
    """Returns what one of the readers below reads, without what torch logs of a file that it cannot read.

    Raises: ValueError for whatever a reader raises.
    """
    try:
        logging.disable(logging.CRITICAL)
        return read(path, device)
    except (ValueError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # no reader names the types of its own
        raise ValueError(f"expected a program of images, got {path}, which cannot be read ({brief(error)})") from error
    finally:
        logging.disable(logging.NOTSET)


def find_most(exported: ExportedRecognizer, images: torch.Tensor) -> int:
    """Returns the largest batch of a program: 1 where it says any, yet takes no two images, since one is baked in."""
    if exported.most < ANY_BATCH:
        return exported.most
    fed = exported.preprocessing(images)
    for count in (2, 1):
        with suppress(Exception):  # whatever a program raises; if it takes none, whoever calls it next says so
            if len(exported.run(fed[:count])[0]) == count:
                return ANY_BATCH if count == 2 else 1
    return ANY_BATCH


def check_archive(path: Path) -> None:
    """Raises: ValueError when an archive is packed, or an entry is not as its checksum says: torch may abort on those."""
    try:
        with open(path, "rb") as file:
            check_unpacked_size(file, path, spare=MOST_CODE)
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError, LookupError, struct.error) as error:
        raise ValueError(f"expected an archive of torch, got {path}, which cannot be read ({brief(error)})") from error
    if broken is not None:
        raise ValueError(
            f"expected an archive of torch, got {path}, whose entry {first_line(broken)} is broken; copy it again"
        )


def check_gradient(found: Recognition, images: torch.Tensor, path: Path) -> None:
    """Raises ValueError unless the answer changes with the images by a finite gradient."""
    if has_gradient(found, images):
        return
    raise ValueError(
        f"expected {path} to be differentiable, got no gradient to the picture, which the attack needs; "
        "export it unquantised, and not under torch.no_grad"
    )


def warn_of_code(path: Path) -> None:
    """Tells the user, in one line, what loading such a file means."""
    log.warning("%s is a program: loading it runs what its author wrote; use files of people whose code you would run", path)


# ---- formats


def read_torchscript(path: Path, device: torch.device) -> Program:
    """Returns a TorchScript program. Raises: ValueError when the file is none."""
    check_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that torch.export is newer
            program = torch.jit.load(str(path), map_location=device).eval()
    except RuntimeError as error:
        raise ValueError(
            f"expected a TorchScript archive, got {path}, which cannot be read ({brief(error)}); copy or export it again"
        ) from error
    numbers = [parameter.dtype for parameter in program.parameters() if parameter.is_floating_point()]
    return Program(program, dtype=numbers[0] if numbers else torch.float32)


def read_torch_export(path: Path, device: torch.device) -> Program:
    """Returns a torch.export program, its size and its batches.

    Raises: ValueError when the file cannot be read, holds a pickle, or takes anything but images.
    """
    check_archive(path)
    refuse_pickles(path)
    try:
        exported = torch.export.load(str(path))
        if device.type != "cpu":
            from torch.export.passes import move_to_device_pass

            exported = move_to_device_pass(exported, device)
        module = exported.module(check_guards=False)  # guards are text that would be run
    except Exception as error:  # KeyError, AssertionError, ...: torch's reader names no type of its own
        raise ValueError(
            f"expected a torch.export archive of torch {torch.__version__} or older, got {path}, which cannot be read "
            f"({brief(error)}); export it again"
        ) from error
    inputs = exported.graph_signature.user_inputs
    if len(inputs) != 1:
        raise ValueError(
            f"expected a program of one input, the images, got {len(inputs)} in {path}; export it with the images alone"
        )
    (fed,) = [node.meta["val"] for node in exported.graph.nodes if node.name == inputs[0]]
    shape = fed.shape
    if not fed.is_floating_point():
        raise ValueError(
            f"expected a program of floating-point pictures, got one of {fed.dtype} in {path}, which has no gradient"
            "; export it without the step from whole numbers"
        )
    if len(shape) != 4:
        raise ValueError(
            f"expected a program of images [N,C,H,W], got an input of {len(shape)} dimensions in {path}"
            "; export it for batches of images"
        )
    said = {**read_shape([side if isinstance(side, int) else None for side in shape[1:]]), "dtype": fed.dtype}
    if isinstance(shape[0], int):
        return Program(module, least=shape[0], most=shape[0], **said)
    limits = exported.range_constraints.get(shape[0].node.expr)
    least, most = (max(1, int(limits.lower)), int(min(limits.upper, ANY_BATCH))) if limits else (1, ANY_BATCH)
    return Program(module, least=least, most=most, **said)


def read_shape(sides: Sequence[int | None]) -> dict:
    """Returns the layout, size and channels of Program that an input's three sides behind the batch say; None: any side."""
    last = sides[2] in (1, 3) and sides[0] not in (1, 3)
    depth, size = (sides[2], sides[:2]) if last else (sides[0], sides[1:])
    return {
        "layout": "NHWC" if last else None,
        "size": None if None in size else tuple(size),
        "channels": "L" if depth == 1 else None,
    }


def refuse_pickles(path: Path) -> None:
    """Raises ValueError when a torch.export archive holds a pickle of more than tensors, which torch would run."""
    try:
        with zipfile.ZipFile(path) as archive:
            if any(name.startswith("serialized_") for name in archive.namelist()):
                raise ValueError("it is of an older format, whose tensors are pickles; export it again")
            entries = [(name.partition("/")[2], archive.read(name)) for name in archive.namelist()]
        configs = [parse_json(data) for name, data in entries if name.endswith("_config.json")]
        if problem := find_mismatch(configs, [{"config": {"*": {"use_pickle?": bool}}}]):
            raise ValueError(problem)
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, KeyError, ValueError) as error:
        reason = brief(error)
        raise ValueError(f"expected a torch.export archive, got {path}, which cannot be read ({reason})") from error
    pickled = [name for config in configs for name, entry in config["config"].items() if entry.get("use_pickle")]
    for name, data in entries:
        if name.startswith("data/sample_inputs/"):
            try:
                read_checkpoint(io.BytesIO(data))
            except Exception:  # whatever it is, torch.export would try again without the safeguard
                pickled.append(name)
    if pickled:
        raise ValueError(f"expected no pickled objects in {path}, got {', '.join(sorted(pickled)[:4])}; it was not run")
