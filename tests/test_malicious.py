"""Hostile weight files: each is refused with one clear line, and nothing in them runs."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ganinv.priors.loading import load_generator
from ganinv.priors.stylegan2_pytorch import build_networks
from ganinv.priors.stylegan2_pytorch_files import save_prior
from ganinv.recognizers.cosine import CosineRecognizer
from ganinv.recognizers.loading import load_recognizer, save_recognizer
from ganinv.weights.cards import read_card
from ganinv.weights.files import read_tensors

ROOT = Path(__file__).resolve().parents[1]


# ---- the source


RUNS_TEXT = {"eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec"}  # not Module.eval()
UNPICKLES = {"pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "torch.hub.load"}
RUNS_PROGRAMS = {"torch.jit.load", "torch.export.load"}
LOADS = {
    "torch.load": ("weights_only", "True"),
    "np.load": ("allow_pickle", "False"),
    "numpy.load": ("allow_pickle", "False"),
}
# TorchScript and torch.export files are programs: the module says so, and warns each time it reads one
KNOWN = {("ganinv/recognizers/exported.py", name) for name in RUNS_PROGRAMS}


def find_dangers(source: str) -> set[str]:
    """Returns the calls and imports by which a file's content could run: unpickling, eval, exec."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "builtins", "torch.serialization"):
            found.add(f"from {node.module} import")
        if not isinstance(node, ast.Call):
            continue
        name, options = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        option, safe = LOADS.get(name, ("", None))
        unsafe = options.get(option) != safe
        if unsafe or name in RUNS_TEXT | UNPICKLES | RUNS_PROGRAMS or options.get("allow_pickle", "False") != "False":
            found.add(name)
    return found


def test_no_source_file_unpickles_or_evaluates():
    files = [*(ROOT / "ganinv").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
    assert len(files) > 20
    found = {(file.relative_to(ROOT).as_posix(), danger) for file in files for danger in find_dangers(file.read_text())}
    assert found - KNOWN == set()


@pytest.mark.parametrize(
    "source",
    ["pickle.load(f)", "pickle.loads(b)", "from pickle import load", "torch.load(f)", "torch.load(f, weights_only=False)",
     "eval(x)", "exec(x)", "pickle.Unpickler(f).load()", "np.load(f)", "torch.jit.load(f)"],
)  # fmt: skip
def test_the_search_finds_dangers(source):
    assert find_dangers(source)
    assert not find_dangers("model.eval(); torch.load(f, weights_only=True); json.loads(x)")


# ---- the files


class Call:
    """Its pickle calls a function, as a hostile one would."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def payloads(canary: Path) -> dict[str, Call]:
    """Returns pickles that would make the canary."""
    code = f"open({str(canary)!r}, 'w').close()"
    return {
        "os.system": Call(os.system, f"touch {canary}"),
        "builtins.eval": Call(eval, code),
        "builtins.exec": Call(exec, code),
        "subprocess": Call(subprocess.call, ["touch", str(canary)]),
        "nested": Call(torch.storage._load_from_bytes, pickle.dumps(Call(os.system, f"touch {canary}"), protocol=2)),
        "getattr": Call(getattr, Call(__import__, "os"), "system"),
    }


def write_payload(path: Path, payload: Call) -> Path:
    """Writes a payload as a network pickle, or as a checkpoint of torch, by the path's suffix."""
    if path.suffix == ".pkl":
        path.write_bytes(pickle.dumps({"G_ema": payload}))
    elif path.stem == "plain":  # no zip, a pickle alone
        path.write_bytes(pickle.dumps({"GAN": payload}, protocol=2))
    else:
        torch.save({"GAN": {"SE.net.0.weight": torch.zeros(2)}, "version": payload}, path)
    return path


def refusal(load, *arguments) -> str:
    """Returns the one line with which a file is refused."""
    with pytest.raises(ValueError) as caught:
        load(*arguments)
    message = str(caught.value)
    assert message.startswith("expected ") and "got" in message and message.isprintable() and len(message) < 700
    return message


LOADERS = {
    "load_generator": lambda path: load_generator(str(path), "cpu"),
    "load_recognizer": lambda path: load_recognizer(str(path), "cpu"),
    "read_tensors": read_tensors,
}


@pytest.mark.parametrize("name", payloads(Path()))
@pytest.mark.parametrize("file", ["a.pkl", "model_1.pt", "plain.pt"])
def test_no_pickle_runs(name, file, tmp_path):
    canary = tmp_path / "canary"
    payload = payloads(canary)[name]
    path = write_payload(tmp_path / file, payload)
    for loader, load in LOADERS.items():
        message = refusal(load, path)
        if loader == "load_generator" and path.suffix == ".pkl":
            assert "a pickle that asks for " in message and "was not run" in message
    assert not canary.exists()
    if name != "getattr":
        with contextlib.suppress(Exception):
            pickle.loads(pickle.dumps(payload))
        assert canary.exists()  # it works where it is let loose


def write_zip(path: Path, members: dict[str, bytes], compression: int) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def write_zip_bomb(path: Path) -> Path:
    """Writes a whole checkpoint of 4 MB of zeros, packed into a few kilobytes."""
    torch.save({"w": torch.zeros(1_000_000)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    return write_zip(path, members, zipfile.ZIP_DEFLATED)


def write_header(path: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    """Writes a safetensors file with any header, and any length of it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def write_shared_dicts(path: Path) -> Path:
    """Writes 17 dicts in one another, each twice in the next: 2**17 leaves."""
    inner: dict = {"w": torch.zeros(2)}
    for _ in range(17):
        inner = {"a": inner, "b": inner}
    torch.save(inner, path)
    return path


def write_expanded(path: Path) -> Path:
    """Writes a tensor of a million million numbers, each of them the same one of the file."""
    torch.save({"GAN": {"SE.net.0.weight": torch.zeros(1).expand(1_000_000, 1_000_000)}}, path)
    return path


def write_pickle_bomb(path: Path) -> Path:
    """Writes 10 bytes whose memo index makes Python's unpickler allocate a table of 2**31 entries."""
    path.write_bytes(b"\x80\x04Nr" + struct.pack("<I", 2**30) + b".")
    return path


def nest(levels: int, *, doubled: bool) -> bytes:
    """Returns the opcodes of a tuple in a tuple in ..., each of them twice where it is doubled."""
    twice = b"".join(b"r" + struct.pack("<I", level) + b"j" + struct.pack("<I", level) + b"\x86" for level in range(levels))
    return b")" + (twice if doubled else b"\x85" * levels)


def text(word: bytes) -> bytes:
    """Returns the opcode of a text."""
    return b"X" + struct.pack("<I", len(word)) + word


def write_pickle(path: Path, opcodes: bytes) -> Path:
    """Writes a pickle by its opcodes, as a network pickle or as the one of a checkpoint of torch."""
    content = b"\x80\x02" + opcodes + b"."
    if path.suffix == ".pkl":
        path.write_bytes(content)
        return path
    return write_zip(path, {"x/data.pkl": content, "x/version": b"3\n", "x/byteorder": b"little"}, zipfile.ZIP_STORED)


KEY = b"}" + nest(60, doubled=True) + b"K\x01s"  # a key whose hash visits 2**60 parts
SET = b"cbuiltins\nset\n]" + nest(60, doubled=True) + b"a\x85R"
META = b"}" + text(b"class_name") + nest(20, doubled=True) + b"s" + text(b"state") + b"}s"  # a name of 2**20 parts
NAMED = b"}" + text(b"G_ema") + b"ctorch_utils.persistence\n_reconstruct_persistent_obj\n" + META + b"\x85Rs"
BYTES = b"cbuiltins\nbytearray\nI9000000000\n\x85R"
FLOATS = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
FILES = {
    "zip bomb": ("a.pt", write_zip_bomb, "which would unfold to 4"),
    "shared dicts": ("a.pt", write_shared_dicts, "more than 100000 entries"),
    "expanded tensor": ("a.pt", write_expanded, "got a larger one"),
    "memo bomb": ("a.pkl", write_pickle_bomb, "expected a whole pickle"),
    "doubled key": ("a.pkl", lambda p: write_pickle(p, KEY), "whole pickle"),
    "doubled key of a checkpoint": ("a.pt", lambda p: write_pickle(p, KEY), "whole torch checkpoint"),
    "doubled member": ("a.pkl", lambda p: write_pickle(p, SET), "whole pickle"),
    "doubled member of a checkpoint": ("a.pt", lambda p: write_pickle(p, SET), "whole torch checkpoint"),
    "doubled class name": ("a.pkl", lambda p: write_pickle(p, NAMED), "a class named by a tuple"),
    "deep tuple": ("a.pkl", lambda p: write_pickle(p, nest(200_000, doubled=False)), "whole pickle"),
    "nine gigabytes": ("a.pt", lambda p: write_pickle(p, BYTES), "whole torch checkpoint"),
    "zip of other things": ("a.pt", lambda p: write_zip(p, {"x/data.pkl": b"cos\nsystem\n."}, 0), "asks for|whole torch"),
    "shape that lies": ("a.safetensors", lambda p: write_header(p, {"w": FLOATS | {"shape": [1 << 40]}}, b"0" * 16), "whole"),
    "shape that overflows": ("a.safetensors", lambda p: write_header(p, {"w": FLOATS | {"shape": [2**62, 8]}}, b"0" * 16),
                             "whole"),
    "offsets that lie": ("a.safetensors", lambda p: write_header(p, {"w": FLOATS | {"data_offsets": [0, 2**40]}}, b"0" * 16),
                         "whole"),
    "header too long": ("a.safetensors", lambda p: write_header(p, {"w": FLOATS}, b"0" * 16, length=1 << 62), "whole"),
    "header of 90 MB": ("a.safetensors", lambda p: write_header(p, {"w": FLOATS}, b"0" * 16, length=90_000_000), "whole"),
    "header not JSON": ("a.safetensors", lambda p: write_header(p, b"\xff\xfe{\n"), "whole"),
    "header nested": ("a.safetensors", lambda p: write_header(p, b'{"w":' + b"[" * 100_000), "whole"),
    "name with control codes": ("a.safetensors", lambda p: write_header(p, {"w\n\x1b[2J": FLOATS}, b"0" * 16),
                                r"expected tensors of .* got 'w\\n"),
    "step of no rows": ("a.safetensors", lambda p: save_file({"w": torch.zeros(2, 2, dtype=torch.int8),
                                                              "w.step": torch.tensor(1.0)}, p), "expected tensors of"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_lies_is_refused(name, tmp_path):
    file, write, match = FILES[name]
    write(path := tmp_path / file)
    message = refusal(LOADERS["load_generator"], path)
    assert re.search(match, message), message
    refusal(LOADERS["load_recognizer"], path)
    if name not in ("name with control codes", "step of no rows"):  # whose tensors are good, for another network
        refusal(read_tensors, path)


@pytest.mark.parametrize("name", ["packed", "older"])
def test_an_exported_program_that_unfolds_or_is_of_pickles_is_refused(name, tmp_path):
    path = tmp_path / "a.pt2"
    if name == "packed":
        write_zip(path, {"a/data/weights/w": b"\0" * 40_000_000}, zipfile.ZIP_DEFLATED)
    else:
        write_zip(path, {"serialized_state_dict.pt": b"cos\nsystem\n."}, zipfile.ZIP_STORED)
    match = "which would unfold to 40000000" if name == "packed" else "of an older format, whose tensors are pickles"
    assert re.search(match, refusal(LOADERS["load_recognizer"], path))


# ---- cards and configurations


@pytest.mark.parametrize(
    "changes",
    [{"num_identities": 10**7}, {"num_identities": 10**9}, {"embedding_dim": 10**12}, {"embedding_dim": 1 << 16},
     {"input_size": 20_000}, {"architecture": "vit_h_14"}, {"architecture": "resnet18-9"}, {"architecture": {}},
     {"scale": 10**400}],
)  # fmt: skip
def test_a_card_that_asks_for_more_than_its_file_holds_is_refused(changes, tmp_path):
    path = tmp_path / "a.safetensors"
    save_recognizer(CosineRecognizer("linear", num_identities=3, embedding_dim=4, input_size=8), path, {})
    load_recognizer(str(path), "cpu")
    card = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(card | changes))
    refusal(LOADERS["load_recognizer"], path)


@pytest.fixture
def prior_file(tmp_path):
    """A whole prior, with its card."""
    with torch.random.fork_rng(devices=[]):
        networks = build_networks(8, 2, w_dim=8, depth=1, fmap_max=4)
    weights = {f"{part}.{name}": value for part, network in zip(("SE", "GE"), networks, strict=True)
               for name, value in network.state_dict().items()}  # fmt: skip
    (tmp_path / "prior").mkdir()
    path = tmp_path / "prior" / "prior.safetensors"
    save_prior(path, weights, {})
    load_generator(str(path), "cpu")
    return path


def put_link(card: Path) -> None:
    """Moves a card out of its folder and leaves a link."""
    elsewhere = card.parent.parent / "elsewhere.json"
    card.rename(elsewhere)
    card.symlink_to(elsewhere)


def put_fifo(card: Path) -> None:
    """A pipe, on which a reader would wait for ever."""
    card.unlink()
    os.mkfifo(card)


def put_large(card: Path) -> None:
    """A card of 100 MB, most of it a hole that takes no disk."""
    with open(card, "r+b") as file:
        file.truncate(100_000_000)


CARDS = {
    "link": (put_link, "got a link out of its folder"),
    "broken link": (lambda card: (card.unlink(), card.symlink_to("nowhere.json")), "got a link out of its folder"),
    "link to itself": (lambda card: (card.unlink(), card.symlink_to(card)), "got a link out of its folder"),
    "device": (lambda card: (card.unlink(), card.symlink_to("/dev/zero")), "got a link out of its folder"),
    "pipe": (put_fifo, "expected a regular file"),
    "folder": (lambda card: (card.unlink(), card.mkdir()), "expected a regular file"),
    "100 MB": (put_large, "more than 1048576 bytes"),
    "nested": (lambda card: card.write_text("[" * 500_000), "nested too deeply"),
    "long number": (lambda card: card.write_text('{"sha256": ' + "9" * 100_000 + "}"), "expected a card with sha256"),
    "list": (lambda card: card.write_text("[]"), "got a value of type list"),
    "control codes": (lambda card: card.write_text('{"sha256": "\\u001b[2J\\n"}'), "expected SHA-256"),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes and links")
@pytest.mark.parametrize("name", CARDS)
def test_a_hostile_card_is_refused(name, prior_file):
    put, match = CARDS[name]
    put(prior_file.with_suffix(".json"))
    for load in (read_card, LOADERS["load_generator"], LOADERS["load_recognizer"]):
        assert match in refusal(load, prior_file)


def test_a_link_to_a_whole_folder_or_to_file_and_card_is_followed(prior_file, tmp_path):
    (tmp_path / "alias").symlink_to(prior_file.parent)
    load_generator(str(tmp_path / "alias" / prior_file.name), "cpu")
    (tmp_path / "links").mkdir()
    for name in ("prior.safetensors", "prior.json"):  # as the Hugging Face cache keeps files
        (tmp_path / "links" / name).symlink_to(prior_file.parent / name)
    load_generator(str(tmp_path / "links" / "prior.safetensors"), "cpu")


def write_stylegan2_pytorch(folder: Path, number: int, *, lr_mlp: float | None = None) -> Path:
    """Writes a checkpoint as stylegan2-pytorch does, in a folder models/<name>."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        networks = build_networks(8, 2, w_dim=8, depth=1, fmap_max=4)
    state = {f"{part}.{name}": value for part, network in zip(("SE", "GE"), networks, strict=True)
             for name, value in network.state_dict().items()}  # fmt: skip
    torch.save({"GAN": state, "version": "1.9.0"}, folder / f"model_{number}.pt")
    if lr_mlp is not None:
        (folder / ".config.json").write_text(json.dumps({"lr_mlp": lr_mlp}))
    return folder


def test_a_folder_gives_its_latest_checkpoint_and_its_config(tmp_path):
    folder = tmp_path / "models" / "faces"
    for number in (2, 10, 9):
        write_stylegan2_pytorch(folder, number, lr_mlp=0.3)
    prior, expected = load_generator(str(folder), "cpu"), load_generator(str(folder / "model_10.pt"), "cpu")
    assert prior.mapping.net[0].lr_mul == 0.3
    assert torch.equal(prior.mapping.net[0].weight, expected.mapping.net[0].weight)
    other = load_generator(str(folder / "model_9.pt"), "cpu")
    assert not torch.equal(prior.mapping.net[0].weight, other.mapping.net[0].weight)
    assert "expected model_<N>.pt in the folder" in refusal(LOADERS["load_generator"], tmp_path)


@pytest.mark.parametrize("config", [{"lr_mlp": 10**400}, {"lr_mlp": float("nan")}, {"lr_mlp": "\n" * 500}])
def test_a_hostile_config_is_refused(config, tmp_path):
    folder = write_stylegan2_pytorch(tmp_path / "models", 1)
    (folder / ".config.json").write_text(json.dumps(config))
    assert "number lr_mlp" in refusal(LOADERS["load_generator"], folder)


def test_links_out_of_a_folder_are_refused(tmp_path):
    folder = write_stylegan2_pytorch(tmp_path / "models", 1)
    (tmp_path / "secret.json").write_text('{"lr_mlp": 0.3}')
    (folder / ".config.json").symlink_to(tmp_path / "secret.json")
    assert "got a link out of its folder" in refusal(LOADERS["load_generator"], folder)
    (folder / ".config.json").unlink()
    elsewhere = write_stylegan2_pytorch(tmp_path / "elsewhere", 3) / "model_3.pt"
    (folder / "model_7.pt").symlink_to(elsewhere)
    assert "got a link out of its folder" in refusal(LOADERS["load_generator"], folder)


# ---- the command


def test_the_command_ends_with_one_line_and_code_2(tmp_path):
    canary = tmp_path / "canary"
    path = write_payload(tmp_path / "a.pkl", payloads(canary)["os.system"])
    code = tmp_path / "target.py"  # a small target, so that the world's own is not needed
    code.write_text("def build():\n    return lambda images: 100 * images.mean((2, 3))\n")
    result = subprocess.run(
        [sys.executable, ROOT / "scripts" / "latent_attack.py", f"--generator={path}", f"--target={code}:build",
         "--wandb=disabled", "--device=cpu"],
        capture_output=True, text=True, timeout=200, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr and len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: expected ") and path.name in result.stderr
    assert not canary.exists() and not (tmp_path / "runs").exists()
