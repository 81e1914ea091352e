"""Files of every format with some of their bytes changed: each is read or refused in one line, and nothing else happens.

Thirty of each in every test run, three hundred by -m nightly. No file's code runs, none takes a reader 20 s of the processor,
or waits for ever, none takes 2 GB: a child process reads them, which is watched.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import resource
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from ganinv import images
from ganinv.engine.checkpoint import load_state, save_state
from ganinv.priors.loading import load_generator
from ganinv.priors.stylegan2_pytorch import build_networks
from ganinv.priors.stylegan2_pytorch_files import save_prior
from ganinv.recognizers.cosine import CosineRecognizer
from ganinv.recognizers.loading import load_recognizer, save_recognizer
from ganinv.recognizers.templates import read_classes, read_gallery
from ganinv.reports.report_file import read_report
from ganinv.reports.run_files import read_config, read_provenance, read_steps
from ganinv.worlds.world_file import read_world_file
from tests import test_nvidia, test_rosinality
from tests.test_malicious import payloads, write_payload
from tests.test_nvidia import nvidia_modules  # noqa: F401  modules of the original's names, so that pickles ask for them

HANG_S = 20.0  # of the processor, for one file: a busy machine makes nothing hang
STILL_S = 600.0  # without an answer, where the processor is not what is waited for
MOST_KB = 2 << 20
SPECIAL = (
    b"\0",
    b"\xff",
    b"\x80",
    b"\xff" * 8,
    b"\0" * 8,
    b"[",
    b"{",
    b'"',
    b"NaN",
    b"9" * 40,
    b"(",
    b"t",
    b"R",
    b"\x86",
    b"2",
)


def write_networks(path: Path) -> Path:
    """Writes a prior as stylegan2-pytorch's trainer does, or ours by the suffix; "older" in torch's older format."""
    with torch.random.fork_rng(devices=[]):
        networks = build_networks(8, 2, w_dim=8, depth=1, fmap_max=4)
    state = {f"{part}.{name}": value for part, network in zip(("SE", "GE"), networks, strict=True)
             for name, value in network.state_dict().items()}  # fmt: skip
    if path.suffix == ".safetensors":
        save_prior(path, state, {})
    else:
        torch.save({"GAN": state, "version": "1.9.0"}, path, _use_new_zipfile_serialization=path.stem != "older")
    return path


def write_recognizer(path: Path) -> Path:
    save_recognizer(CosineRecognizer("linear", num_identities=3, embedding_dim=4, input_size=8), path, {"identities": ["a"]})
    return path


def write_program(path: Path) -> Path:
    """Writes a small recognizer as an exported program, of the kind that the suffix says."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net, x = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)).eval(), torch.zeros(2, 3, 8, 8)
        if path.suffix == ".torchscript":
            torch.jit.trace(net, x).save(str(path))
        elif path.suffix == ".pt2":
            torch.export.save(torch.export.export(net, (x,)), path)
        else:
            torch.onnx.export(net, (x,), str(path), dynamo=False, input_names=["x"], dynamic_axes={"x": {0: "n"}})
    path.with_suffix(".json").write_text(json.dumps({"preprocessing": {"size": 8}}))
    return path


def write_picture(path: Path) -> Path:
    picture = Image.fromarray((np.mgrid[0:256:8, 0:256:8].sum(0) // 2).astype(np.uint8)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(path, exif=exif)
    return path


def write_state(path: Path) -> Path:
    save_state(path, {"steps": 3, "parts": [torch.arange(5), {"x": torch.ones(2, 2)}], "seconds": 1.5})
    return path


def write_json(value: object) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_text(json.dumps(value))
        return path

    return write


def write_npz(path: Path) -> Path:
    np.savez(path, Ada=np.ones((2, 4), np.float32), Bob=np.arange(4.0))
    return path


REPORT = {
    "method": "latent", "world": "w", "identities": [0, 1], "seed": 0, "absent": {"fid": "few"}, "files": {"a": "b"},
    "summary": {"target_score": {"mean": 0.5, "ci95": [0.1, 0.9], "n": 2}}, "verdict": ["Yes."],
    "per_identity": [{"identity": 0, "target_score": 0.4}, {"identity": 1, "target_score": 0.6}],
    "cost": {"seconds": 1.0, "images_evaluated": 5, "gradient_queries": 3, "score_queries": 2, "verdict_seconds": 2.0},
}  # fmt: skip
PROVENANCE = {"weights": {"target": {"file": "a", "sha256": "0" * 64}}, "argv": ["a", "b"], "precision": "float32"}
CONFIG = {"world": "w", "identities": "0,1", "keep": 1, "psi": 0.8, "optim": {"lr": 0.05}, "threshold": None}
STEP = {"step": 0, "seconds": 0.5, "identities": {"0": 0.25}, "objective": -1.5, "gradient_queries": 4}
WORLD = {"resolution": 64, "roles": {"prior": "prior.safetensors"}, "judges": [
    {"name": "a", "recognizer": "sface", "sees_users": False, "thresholds": {"0.01": 0.4}}]}  # fmt: skip


def read_prior(path: Path):
    return load_generator(str(path))


def read_target(path: Path):
    return load_recognizer(str(path.with_suffix(".safetensors") if path.suffix == ".json" else path), resolution=8)


def read_templates(path: Path):
    return read_gallery(path, "cosine", 4, None)


def read_small_picture(path: Path):
    return images.load_pixels(path, 16)


def write_hostile(path: Path) -> Path:
    return write_payload(path, payloads(path.with_name("canary"))["os.system"])


# format -> (file, what writes it, what reads it)
FORMATS: dict[str, tuple[str, Callable[[Path], Path], Callable[[Path], object]]] = {
    "recognizer": ("a.safetensors", write_recognizer, read_target),
    "card": ("a.json", lambda path: write_recognizer(path.with_suffix(".safetensors")), read_target),
    "prior": ("a.safetensors", write_networks, read_prior),
    "checkpoint": ("a.pt", write_networks, read_prior),
    "older checkpoint": ("older.pt", write_networks, read_prior),
    "rosinality": ("a.pt", lambda path: test_rosinality.write(path, test_rosinality.make_state()), read_prior),
    "nvidia": ("a.pkl", lambda path: test_nvidia.write(path, test_nvidia.make_network()), read_prior),
    "hostile pickle": ("a.pkl", write_hostile, read_prior),
    "hostile checkpoint": ("a.pt", write_hostile, read_prior),
    "onnx": ("a.onnx", write_program, read_target),
    "torchscript": ("a.torchscript", write_program, read_target),
    "torch.export": ("a.pt2", write_program, read_target),
    "npz": ("a.npz", write_npz, read_templates),
    "templates": ("a.json", write_json({"Ada": [1, 2, 3, 4], "Bob": [[0, 1, 0, 1]]}), read_templates),
    "classes": ("a.json", write_json({"Ada": 0, "Bob": 1}), read_classes),
    "state": ("a.safetensors", write_state, load_state),
    "report": ("report.json", write_json(REPORT), read_report),
    "config": ("config.json", write_json(CONFIG), lambda path: read_config(path.parent)),
    "provenance": ("provenance.json", write_json(PROVENANCE), lambda path: read_provenance(path.parent)),
    "steps": ("steps.jsonl", write_json(STEP), lambda path: read_steps(path.parent)),
    "world": ("world.json", write_json(WORLD), lambda path: read_world_file(path.parent)),
    **{kind: (f"a.{kind}", write_picture, read_small_picture) for kind in ("png", "jpg", "webp", "tiff", "bmp")},
}


edits = st.lists(
    st.tuples(st.sampled_from(["flip", "put", "cut", "double", "end"]), st.integers(0, 2**31), st.integers(0, 2**31)),
    min_size=1, max_size=4,
)  # fmt: skip


def mutate(content: bytes, changes: list[tuple[str, int, int]]) -> bytes:
    """Returns content after some changes at places, which are taken modulo its length."""
    changed = bytearray(content)
    for kind, place, number in changes:
        place %= len(changed) + 1
        if kind == "flip" and place < len(changed):
            changed[place] ^= 1 << number % 8
        elif kind == "put":
            word = SPECIAL[number % len(SPECIAL)]
            changed[place : place + len(word)] = word
        elif kind == "cut":
            del changed[place : place + 1 + number % 64]
        elif kind == "double":
            changed[place:place] = changed[place : place + 1 + number % 64]
        elif kind == "end":
            del changed[max(1, place) :]
    return bytes(changed)


def read_mutations(path: Path, read: Callable[[Path], object], count: int, told) -> None:
    """Reads so many mutations of a file, and tells what was odd; each is named before it is read."""
    whole, card, problems = path.read_bytes(), path.with_suffix(".json"), []
    hashed = card.is_file() and card != path and "sha256" in (said := json.loads(card.read_text()))

    @settings(max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(edits)
    def run(changes):
        path.write_bytes(content := mutate(whole, changes))
        if hashed:  # or the hash alone would be tested
            card.write_text(json.dumps(said | {"sha256": hashlib.sha256(content).hexdigest()}))
        told.send(("reads", changes))
        try:
            read(path)
        except ValueError as error:
            if not str(error).isprintable() or len(str(error)) > 1000:
                problems.append((changes, "not one printable line", str(error)[:300]))
        except Exception as error:
            problems.append((changes, type(error).__name__, str(error)[:300]))

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run()
    told.send(("ends", problems, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))


def wait_for(ours, pid: int):
    """Returns what a child process says next, None where it hangs. Raises: EOFError when it has ended."""
    began, least = time.monotonic(), read_cpu(pid)
    while not ours.poll(1.0):
        if read_cpu(pid) - least > HANG_S or time.monotonic() - began > STILL_S:
            return None
    return ours.recv()


def read_cpu(pid: int) -> float:
    """Returns the seconds of the processor that a process has had; 0 where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # of its own and the system's


def check_format(name: str, count: int, folder: Path) -> None:
    """Reads mutations of a format in a child process."""
    file, write, read = FORMATS[name]
    write(folder / file)
    ours, theirs = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=read_mutations, args=(folder / file, read, count, theirs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a process with threads forks
        child.start()
    theirs.close()
    said = ("reads", "nothing yet")
    try:
        while said[0] != "ends":
            before, said = said, wait_for(ours, child.pid)
            assert said is not None, f"no answer for {before[1]}"
    except EOFError:
        pytest.fail(f"the process ended at {said[1]}")
    finally:
        child.kill()
        child.join()
    assert not said[1], said[1][:5]
    assert said[2] < MOST_KB, f"{said[2]} KB more at the peak"
    assert not (folder / "canary").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("name", FORMATS)
def test_a_mutated_file_is_read_or_refused_in_one_line(name, tmp_path):
    check_format(name, 30, tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("name", FORMATS)
def test_three_hundred_mutated_files_are_read_or_refused_in_one_line(name, tmp_path):
    check_format(name, 300, tmp_path)
