"""The commands end to end, on a tiny world of random weights: what they write, and how they refuse."""

from __future__ import annotations

import builtins
import csv
import errno
import io
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from ganinv import cli
from ganinv.cli import override
from ganinv.commands import compare, latent_attack, pixel_attack
from ganinv.reports.report_file import read_report
from ganinv.weights.cards import read_card
from tests.tiny_world import BRIEF, NAME, SIDE, make_tiny_world, register, run_main, write_people

ROOT = Path(__file__).resolve().parents[1]
COMMON = [f"--world={NAME}", "--identities=0-2", *BRIEF]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return make_tiny_world(folder), folder / "photos"


@pytest.fixture(autouse=True)
def world(made, monkeypatch, tmp_path):
    """The world, registered; the working folder is new and holds photos/."""
    register(monkeypatch, made[0], tmp_path)
    (tmp_path / "photos").symlink_to(made[1])
    return made[0]


def read_error(capsys) -> str:
    """Returns the one line that stderr must hold."""
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


# ---- runs


ATTACKS = {
    "w": (latent_attack, "--space=w", "--keep=2"),
    "w_plus": (latent_attack, "--space=w_plus", "--objective=poincare"),
    "z": (latent_attack, "--space=z", "--candidates=0"),
    "gray-box": (pixel_attack, "--blur-sigma=0.5"),
    "white-box": (pixel_attack, "--variant=white-box", "--start=public-mean"),
    "modern": (pixel_attack, "--variant=modern"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_fills_its_run_folder(name, monkeypatch, world, capsys):
    command, *extra = ATTACKS[name]
    assert run_main(monkeypatch, command, *COMMON, *extra, "--photos=photos", "--out=run") == 0
    out = Path("run")
    report = read_report(out)
    assert report["method"] == ("latent" if command is latent_attack else "pixel") and report["world"] == NAME
    assert report["identities"] == [0, 1, 2] and report["cost"]["gradient_queries"] > 0
    measured = {"target_score", "judge_score", "acc_at_1", "acc_at_5", "identity_similarity", "face_detected"}
    assert measured | {"lpips_face"} <= report["summary"].keys() and {"fid", "lpips"} <= report["absent"].keys()
    kept = 2 if name == "w" else 1
    for identity in range(3):
        for k in range(kept):
            with Image.open(out / "images" / f"{identity}_{k}.png") as picture:
                assert picture.size == (SIDE, SIDE)
    assert (out / "images" / "grid.png").is_file()
    shown = (out / "report.html").read_text()
    assert shown.count("data:image/png") == 3 * kept + 3 and "a photo of user" not in shown  # photos were there to be shown
    with safe_open(out / "latents.safetensors", "pt") as file:
        (key,) = file.keys()
        assert file.get_slice(key).get_shape()[0] == 3 * kept
        assert key == {"z": "z", "w": "w", "w_plus": "w"}.get(name, "pixels")
    steps = [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]
    assert [row["step"] for row in steps] == [0, 1, 2]
    assert all(row["identities"].keys() == {"0", "1", "2"} for row in steps)
    config, provenance = (json.loads((out / name).read_text()) for name in ("config.json", "provenance.json"))
    assert config["steps"] == 3 and config["optim"]["lr"] > 0
    assert provenance["argv"][1:] == [*COMMON, *extra, "--photos=photos", "--out=run"]
    roles = {"target", "judge", "verifier", "references", "lpips_face"}
    assert provenance["weights"].keys() == roles | ({"prior"} if command is latent_attack else set())
    assert provenance["weights"]["target"]["sha256"] == read_card(world.file("target"))["sha256"]
    assert "target_score" in capsys.readouterr().out
    assert not (out / "wandb").exists() and not Path("wandb").exists() and not list(out.rglob("*.tmp"))


@pytest.mark.parametrize("name", ["w", "modern"])
def test_a_seed_gives_the_same_report(name, monkeypatch):
    command, *extra = ATTACKS[name]
    for out, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert run_main(monkeypatch, command, *COMMON, *extra, f"--seed={seed}", f"--out={out}") == 0
    reports = [read_report(out) for out in "abc"]
    for report in reports:
        del report["cost"]["seconds"], report["cost"]["search_seconds"], report["cost"]["verdict_seconds"]
    assert reports[0] == reports[1] != reports[2]
    ((one,), (same,), (other,)) = (load_file(f"{out}/latents.safetensors").values() for out in "abc")
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_a_run_folder_is_used_once(monkeypatch, capsys):
    assert run_main(monkeypatch, pixel_attack, *COMMON, "--out=run") == 0
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run_main(monkeypatch, pixel_attack, *COMMON, "--seed=1", "--out=run") == 2
    assert "run, which holds a config.json" in read_error(capsys)
    assert before == {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}


def test_without_out_runs_are_numbered(monkeypatch):
    for _ in range(2):
        assert run_main(monkeypatch, pixel_attack, *COMMON) == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == [f"pixel-{NAME}-000", f"pixel-{NAME}-001"]


def test_photos_of_other_people_are_refused(monkeypatch, capsys, world):
    write_people(Path("others") / world.users, 3, photos=4)
    assert run_main(monkeypatch, pixel_attack, *COMMON, "--photos=others", "--out=run") == 2
    assert "or other people" in read_error(capsys) and not Path("run").exists()


@pytest.mark.parametrize("flags", [["--blur-sigma=30"], ["--optim.lr=0"], ["--objective=l2"], ["--seed=-1"]])
def test_values_out_of_range_are_refused(flags, monkeypatch, capsys):
    assert run_main(monkeypatch, pixel_attack, *COMMON, *flags, "--out=run") == 2
    assert "expected" in read_error(capsys) and not Path("run").exists()


def test_nothing_is_said_with_photos_that_needs_none(monkeypatch):
    assert run_main(monkeypatch, pixel_attack, *COMMON, "--out=run") == 0
    assert "--photos" in read_report("run")["absent"]["lpips_face"]


def test_a_recognizer_of_ones_own_is_judged_by_the_verifier_alone(monkeypatch):
    Path("mine.py").write_text(
        "import torch\n"
        "def make():\n"
        "    weight = torch.randn(3 * 32 * 32, 4, generator=torch.Generator().manual_seed(0))\n"
        "    return lambda images: images.flatten(1) @ weight / 30\n"
    )
    assert run_main(monkeypatch, latent_attack, *COMMON, "--target=mine.py:make", "--out=run") == 0
    report = read_report("run")
    assert "target_score" in report["summary"] and {"judge_score", "identity_similarity"} <= report["absent"].keys()
    assert "target" not in json.loads(Path("run/provenance.json").read_text())["weights"]


def test_a_target_that_is_a_judge_is_refused(monkeypatch, capsys, world):
    assert run_main(monkeypatch, pixel_attack, *COMMON, f"--target={world.file('verifier')}", "--out=run") == 2
    assert "expected a target with identities" in read_error(capsys)
    for end in (".safetensors", ".json"):  # under another name
        Path(f"mine{end}").write_bytes(world.file("judge").with_suffix(end).read_bytes())
    find = type(world).spec
    monkeypatch.setattr(type(world), "spec", lambda self, role: find(self, {"verifier": "judge"}.get(role, role)))
    assert run_main(monkeypatch, pixel_attack, *COMMON, "--target=mine.safetensors", "--out=run") == 2
    assert "weight tensors of the verifier that are the target's" in read_error(capsys) and not Path("run").exists()


def test_a_sweeps_values_reach_nested_settings():
    config = latent_attack.LatentAttack()
    values = {"optim.lr": 0.5, "augment": {"flip": 0.0}, "augment.scale": [1.0, 1.2], "psi": 0.6, "_wandb": {}, "x": 1}
    found = override(config, values).attack
    assert (found.optim.lr, found.augment.flip, found.augment.scale, found.psi) == (0.5, 0.0, (1.0, 1.2), 0.6)
    assert found.optim.betas == config.attack.optim.betas and config.attack.optim.lr != 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"identities": "4-9"}, "expected identities from 0 to 5, got 6, 7, 8, 9"),
        ({"target": "nowhere.safetensors"}, "nowhere.safetensors"),
        ({"space": "pixels"}, "scripts/pixel_attack.py"),
        ({"seed": -1}, "expected seed in"),
    ],
)
def test_a_sweeps_values_are_checked_like_options(values, message, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    monkeypatch.setattr("ganinv.reports.tracking.Tracker.start", lambda *args, **kwargs: values)
    assert run_main(monkeypatch, latent_attack, *COMMON, "--out=run") == 2
    assert message in read_error(capsys)


def test_a_sweeps_values_are_those_that_run(monkeypatch):
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    values = {"identities": "3-4", "optim": {"lr": 0.02}}
    monkeypatch.setattr("ganinv.reports.tracking.Tracker.start", lambda *args, **kwargs: values)
    assert run_main(monkeypatch, latent_attack, *COMMON, "--out=run") == 0
    config = json.loads(Path("run/config.json").read_text())
    assert read_report("run")["identities"] == [3, 4] and config["identities"] == "3-4" and config["optim"]["lr"] == 0.02


# ---- refusals


BROKEN_TARGETS = {
    "flat": ("lambda images: images.flatten(1).sum(1)", "expected embeddings of shape [2,...]"),
    "crowd": ("lambda images: images.flatten(1)[:1, :4]", "expected embeddings of shape [2,...]"),
    "text": ("lambda images: 'Ann'", "expected a Recognition"),
    "endless": ("lambda images: images.flatten(1)[:, :4] * float('inf')", "got NaN or infinity"),
    "fickle": ("lambda images: torch.rand(len(images), 4)", "expected the same embeddings twice"),
    "nothing": ("None", "expected a callable"),
}


@pytest.mark.parametrize("name", BROKEN_TARGETS)
def test_a_broken_recognizer_is_one_line(name, monkeypatch, capsys):
    body, message = BROKEN_TARGETS[name]
    Path("mine.py").write_text(f"import torch\n\n\ndef make():\n    return {body}\n")
    assert run_main(monkeypatch, pixel_attack, *COMMON, "--target=mine.py:make", "--out=run") == 2
    assert message in read_error(capsys) and not Path("run").exists()


class Trap:
    """A pickle that makes the folder `sprung` when it is loaded."""

    def __reduce__(self):
        return os.mkdir, ("sprung",)


def write_bad_files(world) -> None:
    """Writes the broken files that MISTAKES names."""
    whole = world.file("prior").read_bytes()
    Path("short.safetensors").write_bytes(whole[: len(whole) // 2])
    Path("other.safetensors").write_bytes(world.file("target").read_bytes())
    torch.save({"GAN": {"S.w": torch.zeros(3)}}, "whole.pt")
    Path("short.pt").write_bytes(Path("whole.pt").read_bytes()[:-200])
    torch.save({"GAN": Trap()}, "trap.pt")
    Path("trap.pkl").write_bytes(pickle.dumps(Trap()))
    Path("empty.safetensors").touch()
    target = world.file("target").read_bytes()
    Path("cut.safetensors").write_bytes(target[:-8])
    Path("cut.json").write_bytes(world.file("target").with_suffix(".json").read_bytes())
    Path("broken.png").write_bytes(b"no picture")
    Path("people").mkdir()
    (Path("people") / "private" / "p00").mkdir(parents=True)
    Path("mine.py").write_text("x = 1\n")


MISTAKES = {
    "world": (latent_attack, ["--world=atlantis"], "or a folder with a world.json, got atlantis"),
    "space": (latent_attack, ["--space=q"], "expected a space among z, w, w_plus"),
    "pixels": (latent_attack, ["--space=pixels"], "scripts/pixel_attack.py"),
    "latents": (pixel_attack, ["--space=w"], "scripts/latent_attack.py"),
    "identity": (latent_attack, ["--identities=4-9"], "expected identities from 0 to 5, got 6, 7, 8, 9"),
    "identities": (latent_attack, ["--identities=a"], "expected identities such as 0-4,9, got 'a'"),
    "objective": (latent_attack, ["--objective=guess"], "max_margin"),
    "optimizer": (latent_attack, ["--optim.optimizer=guess"], "expected an optimizer among adam"),
    "variant": (pixel_attack, ["--variant=x-ray"], "expected a variant among gray-box, white-box, modern, got x-ray"),
    "device": (pixel_attack, ["--device=abacus"], "expected a device among"),
    "wandb": (pixel_attack, ["--wandb=perhaps"], "expected a wandb mode among offline, online, disabled"),
    "restarts": (latent_attack, ["--restarts=13"], "expected at most 12 restarts"),
    "option": (latent_attack, ["--stepps=3"], "--stepps"),
    "number": (latent_attack, ["--steps=many"], "many"),
    "no generator": (latent_attack, ["--generator=none.pt"], "none.pt, which is missing"),
    "short generator": (latent_attack, ["--generator=short.safetensors"], "short.safetensors"),
    "empty generator": (latent_attack, ["--generator=empty.safetensors"], "empty.safetensors"),
    "other generator": (latent_attack, ["--generator=other.safetensors"], "other.safetensors"),
    "short checkpoint": (latent_attack, ["--generator=short.pt"], "short.pt"),
    "other checkpoint": (latent_attack, ["--generator=whole.pt"], "whole.pt"),
    "pickle": (latent_attack, ["--generator=trap.pkl"], "trap.pkl; it was not run"),
    "checkpoint with code": (latent_attack, ["--generator=trap.pt"], "trap.pt; it was not run"),
    "short target": (latent_attack, ["--target=cut.safetensors"], "cut.safetensors"),
    "target without card": (latent_attack, ["--target=other.safetensors"], "other.json"),
    "no factory": (latent_attack, ["--target=mine.py:make"], "expected a function make in mine.py"),
    "no module": (latent_attack, ["--target=nowhere.at.all:make"], "nowhere.at.all"),
    "no photos": (latent_attack, ["--photos=nowhere"], "nowhere"),
    "empty person": (latent_attack, ["--photos=people"], "p00, got none; add photos, or take the folder out"),
    "no start": (pixel_attack, ["--start=nowhere.png"], "nowhere.png"),
    "broken start": (pixel_attack, ["--start=broken.png"], "expected a readable picture, got broken.png"),
    "out is a file": (pixel_attack, ["--out=mine.py"], "mine.py"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_exit_code_2_and_leaves_nothing(name, monkeypatch, world, capsys):
    command, extra, message = MISTAKES[name]
    write_bad_files(world)
    before = sorted(Path().rglob("*"))
    assert run_main(monkeypatch, command, *COMMON, *([] if name == "out is a file" else ["--out=run"]), *extra) == 2
    assert message in read_error(capsys)
    assert sorted(Path().rglob("*")) == before and not Path("sprung").exists()


@pytest.mark.parametrize("victim", ["config.json", "steps.jsonl", "latents.safetensors", "1_0.png", "report.json"])
def test_a_full_disk_is_a_fault_and_what_was_finished_stays(victim, monkeypatch, capsys, tmp_path):
    def refuse(write):
        def wrapped(*args, **kwargs):
            # whoever opens a file by name, the victim's or its temporary's
            if any(Path(str(arg)).name.startswith(victim.removesuffix(".png")) for arg in args[:1]):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(args[0]))
            return write(*args, **kwargs)

        return wrapped

    monkeypatch.setattr(io, "open", refuse(io.open))  # what Path.open and Path.write_bytes call
    monkeypatch.setattr(builtins, "open", refuse(open))
    code = run_main(monkeypatch, pixel_attack, *COMMON, "--out=run")
    monkeypatch.undo()
    err = capsys.readouterr().err
    assert code == 1 and "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith("error: ") and "No space left on device; free some space" in last
    # what was written before is whole, and a run without a report says that it is not
    written = {path.name: path for path in (tmp_path / "run").rglob("*") if path.is_file()}
    order = ["config.json", "steps.jsonl", "latents.safetensors", "1_0.png", "report.json"]
    assert [name in written for name in order] == [number < order.index(victim) for number in range(len(order))]
    if "steps.jsonl" in written:
        rows = [json.loads(line) for line in written["steps.jsonl"].read_text().splitlines()]
        assert [row["step"] for row in rows] == [0, 1, 2]
    for name in written.keys() & {"0_0.png", "1_0.png", "grid.png"}:
        Image.open(written[name]).load()


# ---- compare


def make_runs(monkeypatch, root: str) -> None:
    """Runs the latent attack with two seeds and two pixel variants into folders below root."""
    for out, command, *extra in (
        ("latent-0", latent_attack, "--space=w", "--seed=0"),
        ("latent-1", latent_attack, "--space=w", "--seed=1"),
        ("pixel", pixel_attack),
        ("control", latent_attack, "--steps=0", "--candidates=0", "--label=random prior sample"),
    ):
        assert run_main(monkeypatch, command, *COMMON, *extra, f"--out={root}/{out}") == 0


def test_compare_writes_table_figures_and_commands(monkeypatch, capsys):
    make_runs(monkeypatch, f"results/{NAME}/runs")
    Path(f"results/{NAME}/runs/killed").mkdir()
    Path(f"results/{NAME}/runs/killed/config.json").write_text("{}")
    capsys.readouterr()
    assert run_main(monkeypatch, compare, f"--world={NAME}") == 0
    assert "killed: not finished, left out" in capsys.readouterr().err
    out = Path(f"results/{NAME}")
    written = {"table.md", "table.csv", "differences.csv", "commands.md", "comparison.png", "reconstructions.png"}
    written |= {"economy.csv", "economy.png"}
    assert {path.name for path in out.iterdir()} == written | {"runs"}
    rows = {row["method"]: row for row in csv.DictReader((out / "table.csv").read_text().splitlines())}
    assert rows.keys() == {"latent w", "pixel gray-box", "random prior sample"}
    means = [read_report(out / "runs" / f"latent-{seed}")["summary"]["target_score"]["mean"] for seed in (0, 1)]
    assert float(rows["latent w"]["target_score"]) == pytest.approx(sum(means) / 2) and rows["latent w"]["seeds"] == "2"
    commands = (out / "commands.md").read_text()
    assert commands.count("python scripts/latent_attack.py ") == 3 and "'--label=random prior sample'" in commands
    assert "/somewhere" not in commands and str(Path.cwd()) not in (out / "table.md").read_text()
    spent = [(row["method"], row["seed"], row["step"]) for row in csv.DictReader((out / "economy.csv").open())]
    shown = (("latent w", "0"), ("latent w", "1"), ("pixel gray-box", "0"))  # the control took no step
    assert spent == [(method, seed, step) for method, seed in shown for step in "012"]
    for name in ("comparison.png", "reconstructions.png", "economy.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 300

    # again, from names, elsewhere: the same bytes; a run named twice counts once
    names = [str(out / "runs" / name) for name in ("control", "latent-0", "latent-1", "pixel", "pixel")]
    assert run_main(monkeypatch, compare, *names, "--world", NAME, "--out=again") == 0
    for name in written:
        assert Path("again", name).read_bytes() == (out / name).read_bytes(), name


def test_compare_shows_the_pictures_of_the_runs_and_no_other(monkeypatch):
    make_runs(monkeypatch, "runs")
    shown = []
    monkeypatch.setattr("ganinv.studies.run_comparison.draw_reconstructions", lambda *args: shown.append(args))
    monkeypatch.setattr("ganinv.studies.run_comparison.encode_png", lambda figure: b"")
    assert run_main(monkeypatch, compare, "runs/latent-1", "runs/latent-0", "runs/pixel", f"--world={NAME}") == 0
    ((labels, users, pictures),) = shown
    assert labels == ["latent w", "pixel gray-box"] and users == [0, 1, 2]
    for folder, column in zip(("latent-0", "pixel"), pictures, strict=True):  # the first seed's
        for user, picture in zip(users, column, strict=True):
            with Image.open(f"runs/{folder}/images/{user}_0.png") as file:
                assert (picture == np.asarray(file)).all()


def test_compare_refuses_in_one_line(monkeypatch, capsys):
    make_runs(monkeypatch, "runs")
    assert run_main(monkeypatch, pixel_attack, *COMMON, "--identities=3-4", "--out=others") == 0
    Path("broken").mkdir()
    Path("broken/report.json").write_text('{"method"')
    capsys.readouterr()
    for words, message in (
        (["runs/latent-0", "nowhere"], "at nowhere, got nothing of that name"),
        (["photos"], "at photos, got none that has a report.json"),
        (["runs/latent-0", "others"], "expected runs of the same identities, got [0, 1, 2] in runs/latent-0"),
        (["broken"], "broken/report.json"),
        (["runs", "--world=faces"], "expected runs of the world faces"),
        ([], f"at results/{NAME}/runs, got nothing of that name"),
        (["runs", "--out=broken/report.json"], "broken/report.json"),
        (["runs", "--against=nobody"], "expected a method among random prior sample, latent w, pixel gray-box to compare"),
        (["runs", "--power=-1"], "expected power in [0, 1e6], got -1"),
    ):
        assert run_main(monkeypatch, compare, f"--world={NAME}", *words) == 2
        assert message in read_error(capsys)
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("argv", "runs"),
    [
        (["A", "--world", "lfw", "B", "--out=C"], ["A", "B"]),
        (["--runs=['A', 'B']"], ["A", "B"]),
        (["--runs=A", "--world=lfw"], ["A"]),
        ([], []),
    ],
)
def test_plain_words_are_runs(argv, runs):
    assert list(cli.parse(compare.Compare, argv).runs) == runs


# ---- scripts


@pytest.mark.parametrize("script", sorted(path.stem for path in (ROOT / "scripts").glob("*.py")))
def test_a_script_has_help_and_a_dry_run(script, tmp_path):
    def call(option: str) -> str:
        return subprocess.run(
            [sys.executable, ROOT / "scripts" / f"{script}.py", option],
            capture_output=True, text=True, check=True, timeout=900, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        ).stdout  # fmt: skip

    text = call("--help")
    assert len(text.splitlines()) <= 45 and max(map(len, text.splitlines())) <= 100
    place = {"verify": "run", "enrol_users": "world"}.get(script, "out")  # what it reads, or where it writes
    assert f"--{place} " in text and place in json.loads(call("--dry-run"))
    assert not any((tmp_path / name).exists() for name in ("runs", "results", "data"))
