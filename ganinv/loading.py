"""Files and specs to models: "path" | "module:factory" | "file.py:factory". Weights are read as data, never unpickled.

A weight file <name>.safetensors has a card beside it, <name>.json: its SHA-256 and what it takes to build the network.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import json
import os
import pickle
import re
import traceback
import types
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ganinv.interfaces import Generator, Recognition, Recognizer

NAMES_SHOWN = 4  # of missing or odd tensors, in a message
MOST_JSON_BYTES = 1 << 20  # a card has a few thousand
MOST_ENTRIES = 100_000  # of a checkpoint's dicts; a shared dict in dicts would unfold without end
MOST_DEPTH = 20  # of dicts in dicts


# ---- files


def sha256_file(path: str | Path) -> str:
    """Returns the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def read_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Returns the tensors of a .safetensors file or a torch checkpoint, on the CPU, and what else the file says.

    Weights that quantise packed come back as float32.

    A torch checkpoint's nested dicts are flattened: {"GAN": {"S.w": tensor}, "version": "1"} gives the tensor "GAN.S.w"
    and {"version": "1"}. It is read by torch's unpickler of plain data, which runs no code.
    Raises: ValueError when the file is missing, not whole, holds anything but tensors and plain data, or would unfold
    to more than its own size.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"expected a weight file, got {path}, which is {'a folder' if path.is_dir() else 'missing'}")
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, "pt") as file:
                stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                said = dict(file.metadata() or {})
        except (SafetensorError, OSError) as error:
            raise ValueError(f"expected a whole safetensors file, got {path} ({first_line(error)}); copy it again") from error
        return dequantise(stored), said
    return flatten(read_checkpoint(path), path)


def first_line(error: Exception | str) -> str:
    """Returns the first line of a text, at most 200 characters of it, all of them printable."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return "".join(letter if letter.isprintable() else "?" for letter in lines[0][:200])


def read_checkpoint(path: Path):
    """Returns what torch.save wrote, if it is plain data. Raises: ValueError, see read_tensors."""
    try:
        check_unpacked_size(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols
            # a Namespace, in which trainers keep their options, is a bare holder of values
            with torch.serialization.safe_globals([argparse.Namespace]):
                return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"expected a checkpoint of tensors and plain data, got {describe_refusal(error)} in {path}; it was not run"
        ) from error
    except UnpackedSizeError:
        raise
    except Exception as error:  # KeyError, EOFError, IndexError, ...: what torch's reader raises on other bytes
        raise ValueError(f"expected a whole torch checkpoint, got {path}, which cannot be read; copy it again") from error


def describe_refusal(error: pickle.UnpicklingError) -> str:
    """Returns what torch's unpickler of plain data was asked for, when it refused."""
    code = re.search(r"GLOBAL (\S+)", str(error))
    # a broken file and one with code raise the same error; only the second names what it asked for
    return f"a pickle that asks for {first_line(code[1])}" if code else "something else"


class UnpackedSizeError(ValueError):
    """A checkpoint that would unfold to more than its own size."""


def check_unpacked_size(path: Path) -> None:
    """Raises UnpackedSizeError when the members of a zip, by its table, are larger than the file: torch packs none."""
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":  # torch's older format is no zip
            return
        with zipfile.ZipFile(file) as archive:
            declared = sum(member.file_size for member in archive.infolist())
    if declared > (size := path.stat().st_size):
        raise UnpackedSizeError(
            f"expected a checkpoint as torch.save writes it, unpacked, got {path} of {size} bytes, which would unfold to "
            f"{declared}; load it where you trust it and save it again"
        )


def flatten(value: object, path: Path) -> tuple[dict[str, torch.Tensor], dict]:
    """Returns the leaves of nested dicts, tensors and the rest, named by their keys with dots between.

    Raises: ValueError when the dicts are too deep or too many, or a tensor is of no plain kind or larger than its file.
    """
    tensors: dict[str, torch.Tensor] = {}
    rest: dict = {}
    size, count = path.stat().st_size, 0
    waiting = [("", value, 0)]
    while waiting:
        name, item, depth = waiting.pop()
        count += 1
        if depth > MOST_DEPTH or count > MOST_ENTRIES:
            what = "is nested too deeply" if depth > MOST_DEPTH else f"has more than {MOST_ENTRIES} entries"
            raise ValueError(f"expected a checkpoint of nested dicts, got {path}, which {what}")
        if isinstance(item, torch.Tensor):
            if item.device.type != "cpu" or item.layout != torch.strided or item.is_quantized or item.is_complex():
                raise ValueError(f"expected plain tensors in {path}, got another kind for {show(name)}")
            if item.numel() * item.element_size() > size:
                raise ValueError(f"expected tensors within the {size} bytes of {path}, got a larger one, {show(name)}")
            tensors[name or "tensor"] = item.detach()
        elif isinstance(item, Mapping):
            inner = [(f"{name}.{key}" if name else str(key), under, depth + 1) for key, under in item.items()]
            waiting += reversed(inner)
        else:
            rest[name] = item
    return tensors, rest


def show(name: str) -> str:
    """Returns a tensor's name for a message: 80 characters at most, none that a terminal would obey."""
    return name[:80] if name[:80].isprintable() else ascii(name[:80])


def check_tensors(
    tensors: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], path: str | Path
) -> dict[str, torch.Tensor]:
    """Returns the tensors, floats as float32, if names and shapes are those expected and every value is finite.

    Raises: ValueError naming the file and the tensors that are missing, odd, of another shape, or not finite.
    """

    def some(names) -> str:
        names = [show(name) for name in sorted(names)]
        return ", ".join(names[:NAMES_SHOWN]) + (f" and {len(names) - NAMES_SHOWN} more" if names[NAMES_SHOWN:] else "")

    if missing := expected.keys() - tensors.keys():
        raise ValueError(f"expected the tensor(s) {some(missing)} in {path}, got none of that name")
    if odd := tensors.keys() - expected.keys():
        raise ValueError(f"expected no tensor(s) {some(odd)} in {path}; it was written for another network")
    checked = {}
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise ValueError(f"expected {name} of shape {list(expected[name].shape)}, got {list(tensor.shape)} in {path}")
        checked[name] = tensor.float() if expected[name].is_floating_point() else tensor
        if not torch.isfinite(checked[name]).all():
            raise ValueError(f"expected finite values, got NaN or infinity in {name} of {path}")
    return checked


def save_weights(
    path: str | Path, tensors: Mapping[str, torch.Tensor], card: Mapping, *, metadata: Mapping[str, str] | None = None
) -> dict:
    """Writes <name>.safetensors, then its card <name>.json with the SHA-256, each atomically. Returns the card.

    Raises: ValueError when path does not end in .safetensors, or a value is not finite.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"expected a path that ends in .safetensors, got {path}")
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"expected finite values, got NaN or infinity in {name}; nothing was written to {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=dict(metadata or {}))
    card = {**card, "sha256": sha256_file(temporary)}
    temporary.replace(path)
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(card, indent=2, default=str) + "\n")
    os.replace(temporary, path.with_suffix(".json"))
    return card


def quantise(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns copies on the CPU in a quarter of the size: weights (two dimensions or more) as int8, one step a row.

    A weight w [F,...] becomes w, the nearest of -127..127, and w.step [F], float32; other tensors stay. The rounding is
    at most half a step, 1/254 of the row's largest value. read_tensors undoes it.
    """
    packed: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        if tensor.ndim < 2 or not tensor.is_floating_point():
            packed[name] = tensor.clone()
            continue
        rows = tensor.float().flatten(1)
        step = (rows.abs().amax(1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
        packed[name] = (rows / step[:, None]).round().to(torch.int8).view_as(tensor)
        packed[f"{name}.step"] = step
    return packed


def dequantise(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns what quantise was given, rounded; tensors without a step of their own stay as they are."""
    plain = {}
    for name, tensor in tensors.items():
        step = tensors.get(f"{name}.step")
        if name.endswith(".step") and tensors.get(name.removesuffix(".step"), tensor).dtype == torch.int8:
            continue
        if tensor.dtype == torch.int8 and step is not None and step.shape == tensor.shape[:1] != ():
            tensor = tensor.float() * step.view(-1, *[1] * (tensor.ndim - 1))
        plain[name] = tensor
    return plain


def read_card(path: str | Path) -> dict:
    """Returns the card beside a weight file, which must carry the file's SHA-256.

    Raises: ValueError when the card is missing or no JSON object, or the SHA-256 is another; see read_json.
    """
    card_path = Path(path).with_suffix(".json")
    if not os.path.lexists(card_path):
        raise ValueError(f"expected the card {card_path} beside {path}, got none; copy both files")
    card = read_json(card_path, beside=path)
    if not isinstance(card.get("sha256"), str):
        raise ValueError(f"expected a card with sha256 in {card_path}, got none; write it with save_recognizer or save_prior")
    if (digest := sha256_file(path)) != card["sha256"]:
        raise ValueError(
            f"expected SHA-256 {show(card['sha256'][:12])}... of {path}, got {digest[:12]}...; copy both files again"
        )
    return card


def read_json(path: Path, *, beside: str | Path) -> dict:
    """Returns the JSON object of the file that lies beside a weight file.

    Raises: ValueError when it is no regular file, lies by a link outside the folder of the weight file or of what that
    is a link to, is larger than a mebibyte, or holds something else.
    """
    beside = Path(beside)
    if not path.is_file() or path.resolve().parent not in (beside.parent.resolve(), beside.resolve().parent):
        what = "a link out of its folder" if path.is_symlink() else "something else"
        raise ValueError(f"expected a regular file {path} beside {beside}, got {what}; copy the file itself there")
    with open(path, "rb") as file:
        text = file.read(MOST_JSON_BYTES + 1)
    if len(text) > MOST_JSON_BYTES:
        raise ValueError(f"expected at most {MOST_JSON_BYTES} bytes of JSON in {path}, got more; copy it again")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:  # no JSON, no text, a number of thousands of digits, nested too deeply
        raise ValueError(
            f"expected JSON in {path}, got something other than a JSON object ({first_line(error)}); copy it again"
        ) from error
    if not isinstance(found, dict):
        raise ValueError(f"expected JSON in {path}, got something other than a JSON object; copy it again")
    return found


# ---- specs


def split_spec(spec: str) -> tuple[str, str] | None:
    """Returns (module or file.py, factory) of a spec that names code, None for a path."""
    place, colon, factory = spec.rpartition(":")
    if not colon or Path(spec).exists() or not factory.isidentifier():
        return None
    return place, factory


def call_factory(place: str, factory: str):
    """Returns what factory() of a module or a .py file returns. The user typed the spec, so its code may run.

    Raises: ValueError when there is no such module, file or function.
    """
    if place.endswith(".py"):
        if not Path(place).is_file():
            raise ValueError(f"expected a Python file before the colon of {place}:{factory}, got {place}, which is missing")
        module_spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        module: types.ModuleType = importlib.util.module_from_spec(module_spec)
        module_spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(place)
        except ImportError as error:
            raise ValueError(f"expected a module or a file.py before the colon, got {place} ({error})") from error
    if not callable(getattr(module, factory, None)):
        got = type(getattr(module, factory)).__name__ if hasattr(module, factory) else "nothing of that name"
        raise ValueError(f"expected a function {factory} in {place}, got {got}")
    return getattr(module, factory)()


def freeze(model, device: torch.device | str):
    """Returns model on the device, in eval mode, without gradients of its own, if it is a Module; else unchanged."""
    return model.to(device).eval().requires_grad_(False) if isinstance(model, nn.Module) else model


def load_generator(spec: str, device: torch.device | str) -> Generator:
    """Returns the frozen prior of a spec: a checkpoint, a folder of stylegan2-pytorch's, or code; see load_prior.

    "people", where no file of that name lies, is the renderer of the synthetic world: the prior that knows everyone.
    Raises: ValueError when there is no such file or code, or it gives no prior.
    """
    if spec == "people" and not Path(spec).exists():
        from ganinv.generators.people import People

        return freeze(People(), device)
    code = split_spec(spec)
    if code is None:
        return freeze(load_prior(spec), device)
    generator = freeze(call_factory(*code), device)
    numbers = ("z_dim", "num_ws", "w_dim", "resolution")
    lacking = [name for name in numbers if not isinstance(getattr(generator, name, None), int)]
    lacking += [name for name in ("map", "synthesize") if not callable(getattr(generator, name, None))]
    if lacking:
        raise ValueError(f"expected a prior as interfaces.Generator says, got {type(generator).__name__} without {lacking}")
    return generator


def load_prior(path: str | Path) -> Generator:
    """Returns the prior of a checkpoint, on the CPU: NVIDIA's .pkl, or rosinality's, stylegan2-pytorch's or our own file.

    Raises: ValueError when there is no such file, or it cannot be read as one of them.
    """
    from ganinv.generators import nvidia, rosinality, stylegan2_pytorch

    path = find_checkpoint(path)
    if path.suffix == ".pkl":
        return nvidia.load_checkpoint(path)
    tensors, said = read_tensors(path)
    if rosinality.is_checkpoint(tensors):
        return rosinality.parse_checkpoint(path, tensors)
    return stylegan2_pytorch.parse_checkpoint(path, tensors, said)


def find_checkpoint(path: str | Path) -> Path:
    """Returns the path itself, or of a folder that stylegan2-pytorch wrote, models/<name>, the latest model_<N>.pt.

    Raises: ValueError when a folder holds none, or the latest is a link that leaves the folder.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    numbered = {int(match[1]): file for file in path.iterdir() if (match := re.fullmatch(r"model_(\d{1,9})\.pt", file.name))}
    if not numbered:
        raise ValueError(f"expected model_<N>.pt in the folder {path}, got none; pass models/NAME or a file")
    latest = numbered[max(numbered)]
    if not latest.is_file() or latest.resolve().parent != path.resolve():
        raise ValueError(f"expected a regular file {latest}, got a link out of its folder or no file; pass the file itself")
    return latest


def load_recognizer(spec: str, device: torch.device | str, *, resolution: int = 64) -> Recognizer:
    """Returns the frozen recognizer of a spec: a weight file with its card, one of recognizers.specs, or code.

    Code returns any callable of images [N,3,R,R] in [-1,1]: see CallableRecognizer. resolution: the side R of the
    images with which code is asked for its numbers of identities and embedding dimensions.
    Raises: ValueError when there is no such file or code, or it gives no recognizer.
    """
    from ganinv.recognizers.specs import load_adapter

    if (adapted := load_adapter(spec, device, resolution=resolution)) is not None:
        return adapted
    code = split_spec(spec)
    if code is None:
        return freeze(load_weights(spec), device)
    recognizer = freeze(call_factory(*code), device)
    if not callable(recognizer):
        raise ValueError(f"expected a callable from {spec}, got {type(recognizer).__name__}")
    if hasattr(recognizer, "num_identities") and hasattr(recognizer, "embedding_dim"):
        return recognizer
    return CallableRecognizer(recognizer, torch.zeros(2, 3, resolution, resolution, device=device)).eval()


# ---- recognizers


class CallableRecognizer(nn.Module):
    """Any callable images [N,3,R,R] -> Recognition | logits [N,C] | (embeddings [N,D], logits [N,C] or None).

    Where there are only logits, their direction is the embedding. Called once with sample images, to learn C and D.
    """

    def __init__(self, recognize: Callable, sample: torch.Tensor):
        super().__init__()
        self.recognize = recognize
        with torch.no_grad():
            found = ask(self, sample)
        self.embedding_dim = found.embeddings.shape[1]
        self.num_identities = None if found.logits is None else found.logits.shape[1]

    def forward(self, images: torch.Tensor) -> Recognition:
        """Returns unit embeddings [N,D] and logits [N,C] or None. Raises: ValueError for an answer of another form."""
        answer = self.recognize(images)
        if isinstance(answer, Recognition):
            embeddings, logits = answer.embeddings, answer.logits
        elif isinstance(answer, torch.Tensor):
            embeddings, logits = answer, answer
        elif isinstance(answer, tuple) and len(answer) == 2:
            embeddings, logits = answer
        else:
            raise ValueError(
                "expected a Recognition, logits [N,C] or (embeddings, logits) from the recognizer, "
                f"got {type(answer).__name__}"
            )
        for name, value in (("embeddings", embeddings), ("logits", logits)):
            if name == "logits" and value is None:
                continue
            if not isinstance(value, torch.Tensor) or value.ndim != 2 or len(value) != len(images):
                got = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
                raise ValueError(f"expected {name} of shape [{len(images)},...] from the recognizer, got {got}")
        return Recognition(F.normalize(embeddings.float(), dim=1), logits)


def ask(recognizer: Callable, images: torch.Tensor):
    """Returns the recognizer's answer. Raises: ValueError in one line, with the place, for whatever its code raises.

    What says that memory is short passes unchanged.
    """
    try:
        return recognizer(images)
    except (ValueError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if "DefaultCPUAllocator" in str(error):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise ValueError(
            f"expected an answer for images {list(images.shape)}, got {type(error).__name__} ({brief(error)}) "
            f"from the recognizer, at {place.filename}:{place.lineno}"
        ) from error


def brief(error: BaseException) -> str:
    """Returns the last line of an error, where torch says what went wrong, cut to 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]


@torch.no_grad()
def check_recognizer(recognizer: Recognizer, resolution: int, *, device: torch.device | str | None = None) -> None:
    """Asks a recognizer twice about the same images [4,3,R,R]; returns if it keeps the convention of interfaces.py.

    device: of the images; by default that of the recognizer's parameters, else the CPU.
    Raises: ValueError saying what came, when shapes, norms or values are not as agreed, or the two answers differ.
    """
    if device is None:
        parameters = recognizer.parameters() if isinstance(recognizer, nn.Module) else iter(())
        device = next((parameter.device for parameter in parameters), torch.device("cpu"))
    images = torch.rand(4, 3, resolution, resolution, generator=torch.Generator().manual_seed(0)).to(device) * 2 - 1
    first, second = (ask(recognizer, images) for _ in range(2))
    if not isinstance(first, Recognition):
        raise ValueError(f"expected a Recognition from the recognizer, got {type(first).__name__}")
    check_answer("embeddings", first.embeddings, second.embeddings, [4, recognizer.embedding_dim])
    norms = first.embeddings.norm(dim=1)
    if not torch.allclose(norms, torch.ones_like(norms), atol=1e-3):
        raise ValueError(f"expected embeddings of norm 1, got norms of {norms.min():.3g} to {norms.max():.3g}")
    if recognizer.num_identities is not None:
        check_answer("logits", first.logits, second.logits, [4, recognizer.num_identities])
    elif first.logits is not None:
        raise ValueError("expected no logits of a recognizer with num_identities None, got some; set num_identities")


def check_answer(name: str, first: torch.Tensor | None, second: torch.Tensor | None, shape: list[int]) -> None:
    """Raises ValueError unless both are finite tensors of the shape and the same to float32's rounding."""
    for value in (first, second):
        got = list(value.shape) if isinstance(value, torch.Tensor) else value
        if got != shape:
            raise ValueError(f"expected {name} of shape {shape} for images [{shape[0]},3,R,R], got {got}")
        if not torch.isfinite(value).all():
            raise ValueError(f"expected finite {name} for images in [-1,1], got NaN or infinity")
    # some GPU kernels add in no fixed order, hence a tolerance
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-4):
        raise ValueError(f"expected the same {name} twice for the same images, got others; call eval() on the recognizer")


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


def load_weights(path: str | Path) -> nn.Module:
    """Returns the CosineRecognizer of a weight file, frozen, on the CPU; its card says how to build it.

    Raises: ValueError when a file is missing or not whole, or card, SHA-256, names, shapes or values do not fit.
    """
    from ganinv.recognizers.specs import FORMS
    from ganinv.recognizers.torchvision import CosineRecognizer

    path = Path(path)
    if path.suffix != ".safetensors" or not path.is_file():
        what = "missing" if not path.is_file() else "of another kind"
        raise ValueError(
            f"expected a recognizer: NAME.safetensors, module:factory, file.py:factory, {FORMS}, got {path}, {what}"
        )
    tensors, _ = read_tensors(path)
    card = read_card(path)
    if card.get("kind") != "cosine":
        raise ValueError(f"expected a card of the kind cosine beside {path}, got {card.get('kind')}")
    options = {name: card.get(name) for name in ("embedding_dim", "input_size", "num_identities", "scale")}
    options["num_identities"] = options["num_identities"] or 0  # none: an open-set recognizer
    for name, value in options.items():
        kinds = (int, float) if name == "scale" else (int,)
        if type(value) not in kinds or value < 0 or (value == 0 and name != "num_identities"):
            raise ValueError(f"expected a positive {name} on the card of {path}, got {value!r}")
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn and replaced: leave the caller's draws alone
        model = CosineRecognizer(str(card.get("architecture")), mirror=card.get("mirror") is True, **options)
    model.load_state_dict(check_tensors(tensors, model.state_dict(), path))
    return model.eval().requires_grad_(False)
