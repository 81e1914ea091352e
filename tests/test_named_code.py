"""Code that the caller names and that fails, ends, or answers otherwise than agreed: one line, and where it stands."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ganinv.commands import latent_attack, pixel_attack
from ganinv.recognizers.checks import check_recognizer
from ganinv.recognizers.loading import load_recognizer
from tests.tiny_world import BRIEF, NAME, make_tiny_world, register, run_main

ROOT = Path(__file__).resolve().parents[1]
CODE = """
import torch
WEIGHT = torch.linspace(-1, 1, 18).view(6, 3)
CALLS = []
def see(images, extra=None):
    CALLS.append(1)
    return images.mean((2, 3)) @ WEIGHT.T * 9
def build():
    return lambda images: {answer}
def fail():
    raise KeyError("late")
class Prior(torch.nn.Module):
    z_dim = w_dim = 8
    num_ws, resolution = 2, 32
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            self.layer = torch.nn.Linear(16, 3 * 32 * 32)
    def map(self, z, psi=1.0):
        return z[:, None].expand(-1, 2, -1) * psi
    def synthesize(self, w):
        CALLS.append(1)
        images = torch.tanh(self.layer(w.flatten(1)).view(-1, 3, 32, 32))
        return {pictures}
def prior():
    return Prior()
"""
ATTACK = [f"--world={NAME}", "--identities=0-1", *BRIEF]


def write(answer: str = "see(images)", pictures: str = "images") -> None:
    Path("mine.py").write_text(CODE.format(answer=answer, pictures=pictures))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_tiny_world(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def world(made, monkeypatch, tmp_path):
    register(monkeypatch, made, tmp_path)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("exit()", r"got SystemExit .* at .*mine.py:9"),
        ("see(images) if len(CALLS) < 9 else fail()", r"expected the code at .*mine.py:11 to run, got KeyError \('late'\)"),
        ("see(images) if len(CALLS) < 9 else exit()", r"expected the code at .*mine.py:9 to run, got SystemExit"),
        ("see(torch.from_numpy(images.numpy()))", r"the code at .*mine.py:9 to run, got RuntimeError \(Can't call numpy"),
        ("see(images) - see(images).mean(0)", "expected the same embeddings for an image in any batch, got others"),
    ],
)  # fmt: skip
def test_a_target_of_code_that_fails_is_one_line(answer, message, monkeypatch, capsys):
    write(answer)
    assert run_main(monkeypatch, latent_attack, *ATTACK, "--target=mine.py:build", "--out=run") in (1, 2)
    last = capsys.readouterr().err.rstrip("\n").rpartition("\n")[2]
    assert last.startswith("error: ") and re.search(message, last), last


@pytest.mark.parametrize("end", ["fail()", "exit()"])
def test_a_prior_of_code_that_fails_late_is_one_line(end, monkeypatch, capsys):
    write(pictures=f"images if len(CALLS) < 6 else {end}")
    assert run_main(monkeypatch, latent_attack, *ATTACK, "--generator=mine.py:prior", "--out=run") == 1
    last = capsys.readouterr().err.rstrip("\n").rpartition("\n")[2]
    assert re.search(r"^error: expected the code at .*mine.py:\d+ to run, got (KeyError|SystemExit)", last), last


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    write()
    monkeypatch.setattr("ganinv.studies.attack_run.judge_pictures", lambda *args, **options: {}["ours"])
    with pytest.raises(KeyError):
        run_main(monkeypatch, latent_attack, *ATTACK, "--target=mine.py:build", "--out=run")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("see(images).square()", "look like distances (no number below 0"),
        ("-2 * see(images).sigmoid()", "look like minus distances (numbers from -"),
        ("see(images).log_softmax(1)", ""),
        (
            "torch.cat([see(images), see(images) * 0 + 1], 1)[:, [0] * 127 + [6]]",
            "its 128 outputs are taken for as many users",
        ),
    ],
)
def test_answers_that_are_no_logits_of_users_are_told_of(answer, told, caplog):
    write(answer)
    load_recognizer("mine.py:build", resolution=32)
    assert told in caplog.text if told else not caplog.text


def test_embeddings_of_any_one_length_and_pairs_in_the_other_order_are_found():
    write("7 * torch.nn.functional.normalize(see(images))")
    assert load_recognizer("mine.py:build", resolution=32).num_identities is None
    write("(see(images), torch.nn.functional.normalize(see(images)))")
    with pytest.raises(ValueError, match="got rows of one length as logits; return them in the other order"):
        load_recognizer("mine.py:build", resolution=32)
    write("(torch.nn.functional.normalize(see(images)), see(images))")
    check_recognizer(load_recognizer("mine.py:build", resolution=32), 32)


def test_distances_become_logits_where_a_card_says_so():
    import torch

    from ganinv.recognizers.callable import to_logits

    assert to_logits(torch.tensor([[0.5, 1.0]]), "distances", 64.0).tolist() == [[-32.0, -64.0]]


@pytest.mark.parametrize("objective", ["max_margin", "confidence"])
def test_one_user_alone_is_weighed_against_nobody(objective, monkeypatch, capsys):
    write("see(images)[:, :1]")
    words = [f"--world={NAME}", "--identities=0", *BRIEF, "--target=mine.py:build"]
    assert run_main(monkeypatch, latent_attack, *words, f"--objective={objective}", "--dry-run") == 2
    assert f"expected two users or more for the objective {objective}" in capsys.readouterr().err
    assert run_main(monkeypatch, latent_attack, *words, "--objective=logit", "--dry-run") == 0


@pytest.mark.parametrize(("spec", "message"), [(":build", "expected a recognizer"), ("mine.py:wants", "at its call; mend")])
def test_odd_specs_are_one_line(spec, message):
    Path("mine.py").write_text("def wants(size):\n    return size\n")
    with pytest.raises(ValueError, match=message):
        load_recognizer(spec)


def test_a_syntax_error_names_its_line():
    Path("mine.py").write_text("x = 1\ndef build(:\n")
    with pytest.raises(ValueError, match=r"got SyntaxError .* at .*mine.py:2; mend that code"):
        load_recognizer("mine.py:build")


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_closed_stream_costs_nothing(closed):
    command = f"{sys.executable} {ROOT}/scripts/compare.py --dry-run {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0 and "Traceback" not in done.stderr


def test_a_path_that_the_locale_cannot_decode_is_written_as_it_lies_on_the_disk(monkeypatch):
    out = "J\udcc3\udcbcrgen"  # what Python makes of "Jürgen" in an ASCII locale
    assert run_main(monkeypatch, pixel_attack, *ATTACK, "--label=of J\udcc3\udcbcrgen \ud800", f"--out={out}") == 0
    page = Path("Jürgen/report.html").read_text(encoding="utf-8")
    assert "J\ufffd" not in page and Path("Jürgen/report.json").is_file()
