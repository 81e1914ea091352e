"""Recognizers as exported programs: TorchScript, torch.export and ONNX, each a function of a batch of images.

    FILE.torchscript    torchscript:FILE.pt    FILE.pt2    FILE.onnx

A program answers with logits [N,C], or with (embeddings [N,D], logits [N,C]); a card may say "output": "embeddings".
Without a card it is fed RGB in [-1,1], at the size that the file fixes, if it fixes one.

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
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ganinv.interfaces import Recognition
from ganinv.json_data import find_mismatch, parse_json
from ganinv.recognizers.callable import CallableRecognizer, brief, to_logits
from ganinv.recognizers.checks import has_gradient
from ganinv.recognizers.preprocessing import FileCard, Preprocessing, draw_faces, read_file_card
from ganinv.weights.checkpoints import check_unpacked_size, read_checkpoint
from ganinv.weights.quoting import first_line
from ganinv.weights.specs import freeze

log = logging.getLogger(__name__)

ANY_BATCH = 1 << 30
MOST_CODE = 1 << 25  # bytes of a program's code, which TorchScript packs; its tensors are not packed
NEWEST_OPSET = 17  # of ONNX, in whose words onnx2torch 1.5 reads ReduceMean and its like


@dataclass(frozen=True)
class Program:
    """What was read of a file: run(x [N,C,H,W]) -> tensor or tensors; size it fixes, or None; batches it takes."""

    run: nn.Module
    size: tuple[int, int] | None = None
    least: int = 1
    most: int = ANY_BATCH


class ExportedRecognizer(nn.Module):
    """A program as a callable of images. Batches that it does not take are cut, and filled up with their last image."""

    def __init__(self, program: Program, card: FileCard):
        super().__init__()
        self.program, self.preprocessing, self.output, self.scale = program.run, card.preprocessing, card.output, card.scale
        self.least, self.most = program.least, program.most

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
        answer = self.program(x)
        answer = (answer,) if isinstance(answer, torch.Tensor) else tuple(answer)
        return tuple(part[:count] for part in answer)


def load_exported(
    read: Callable[[Path, torch.device], Program], path: Path, device: torch.device | str, resolution: int
) -> CallableRecognizer:
    """Returns the recognizer of an exported program, checked on drawn faces of the resolution.

    read: read_torchscript, read_torch_export or read_onnx. Raises: ValueError when the file cannot be read or run, gives no
    gradient, or answers for an image by what else is in its batch.
    """
    card = read_file_card(path, Preprocessing())
    if read is not read_onnx:
        warn_of_code(path)
    program = read_program(read, path, torch.device(device))
    if card.preprocessing.size is None and program.size is not None:
        card = replace(card, preprocessing=replace(card.preprocessing, size=program.size))
    images = draw_faces(2, resolution).to(device)
    exported = freeze(ExportedRecognizer(program, card), device)
    try:
        exported(images.clone())
        recognizer = CallableRecognizer(exported, images).eval()
        alone = recognizer(images[:1])
        both = recognizer(images.requires_grad_().clone())
    except (ValueError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a program raises
        shape = list(card.preprocessing(images.detach()).shape)
        raise ValueError(
            f"expected {path} to take an input {shape}, got {brief(error)}; say its size and channels on {path.stem}.json"
        ) from error
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
            return Program(torch.jit.load(str(path), map_location=device).eval())
    except RuntimeError as error:
        raise ValueError(
            f"expected a TorchScript archive, got {path}, which cannot be read ({brief(error)}); copy or export it again"
        ) from error


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
    (shape,) = [node.meta["val"].shape for node in exported.graph.nodes if node.name == inputs[0]]
    if len(shape) != 4:
        raise ValueError(
            f"expected a program of images [N,C,H,W], got an input of {len(shape)} dimensions in {path}"
            "; export it for batches of images"
        )
    size = tuple(shape[2:]) if all(isinstance(side, int) for side in shape[2:]) else None
    if isinstance(shape[0], int):
        return Program(module, size, shape[0], shape[0])
    limits = exported.range_constraints.get(shape[0].node.expr)
    least, most = (max(1, int(limits.lower)), int(min(limits.upper, ANY_BATCH))) if limits else (1, ANY_BATCH)
    return Program(module, size, least, most)


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


def read_onnx(path: Path, device: torch.device) -> Program:
    """Returns an ONNX graph as a network of torch modules, its size and its batches.

    Raises: ValueError when onnx or onnx2torch is missing, the file is no ONNX file, or has operators that onnx2torch lacks.
    """
    try:
        import onnx
        import onnx.version_converter
        import onnx2torch
    except ImportError as error:
        raise ValueError(f"expected onnx2torch to read {path}, got none ({error}); pip install onnx onnx2torch") from error
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, OSError) as error:
        raise ValueError(
            f"expected an ONNX file, got {path}, which cannot be read ({brief(error)}); copy or export it again"
        ) from error
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1 or len(inputs[0].type.tensor_type.shape.dim) != 4:
        raise ValueError(
            f"expected one input of images [N,C,H,W], got {[value.name for value in inputs]} in {path}"
            "; export it with the images alone"
        )
    try:
        network = onnx2torch.convert(simplify(model))
    except (NotImplementedError, RuntimeError) as error:  # the second: onnx has no way back from the newer version
        raise ValueError(
            f"expected operators that onnx2torch knows, got others in {path} ({brief(error)}); export it with torch.export"
        ) from error
    sides = [side.dim_value or None for side in inputs[0].type.tensor_type.shape.dim]  # 0: any
    size = None if None in sides[2:] else tuple(sides[2:])
    return Program(network.eval(), size, sides[0] or 1, sides[0] or ANY_BATCH)


def simplify(model):
    """Returns an ONNX graph in the words of version 17, the newest of which onnx2torch knows most operators.

    torch.onnx writes Reshape with allowzero=1, which onnx2torch refuses; without a zero in the shape it says nothing.
    """
    import onnx

    (version,) = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")] or [0]
    if version > NEWEST_OPSET:
        model = onnx.version_converter.convert_version(model, NEWEST_OPSET)
    known = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Reshape" and node.input[1] in known and (known[node.input[1]] != 0).all():
            kept = [attribute for attribute in node.attribute if attribute.name != "allowzero"]
            del node.attribute[:]
            node.attribute.extend(kept)
    return model
