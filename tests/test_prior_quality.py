"""How good a prior is: identities on embeddings, and the command on a tiny prior."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ganinv.commands import measure_prior as command
from ganinv.priors.stylegan2_pytorch import build_networks
from ganinv.priors.stylegan2_pytorch_files import save_prior
from ganinv.recognizers.cosine import CosineRecognizer
from ganinv.recognizers.loading import save_recognizer
from ganinv.training import prior_quality
from ganinv.training.prior_quality import RealEmbeddings, compare_sets
from tests.tiny_world import run_main, write_people

SIDE = 16


@pytest.fixture(scope="module")
def real() -> RealEmbeddings:
    """Embeddings of one distribution, of people who have two photos each."""
    rows = torch.randn(3, 400, 8, generator=torch.Generator().manual_seed(0))
    return RealEmbeddings(rows[0], rows[1], torch.cat([rows[1], rows[2]]), torch.arange(400) // 2)


def test_other_photos_are_as_good_as_photos(real):
    others = torch.randn(400, 8, generator=torch.Generator().manual_seed(1))
    found = compare_sets(others, real)
    assert found["frechet_ratio"] == pytest.approx(1, abs=0.5) and found["copies"] < 0.02
    assert all(found[name] > 0.85 for name in ("precision", "recall", "density", "coverage"))
    assert abs(found["similarity_excess"]) < 0.01


def test_the_held_out_photos_themselves_are_perfect(real):
    found = compare_sets(real.held_out, real)
    assert found["frechet_ratio"] == pytest.approx(0, abs=1e-6)
    assert found["precision"] == found["recall"] == found["coverage"] == 1


def test_training_photos_are_copies(real):
    assert compare_sets(real.bank[:400], real)["copies"] > 0.99


def test_a_prior_of_one_face_covers_nothing(real):
    one = real.held_out[:1] + 0.01 * torch.randn(400, 8, generator=torch.Generator().manual_seed(1))
    found = compare_sets(one, real)
    assert found["precision"] > 0.99 and found["recall"] < 0.02 and found["coverage"] < 0.2
    assert found["similarity_excess"] > 0.9 and found["frechet_ratio"] > 10


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A prior and two recognizers of random weights, and 60 people."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    mapping, synthesis = build_networks(SIDE, 1, w_dim=8, depth=2)
    with torch.no_grad():
        mapping.net[-2].weight.mul_(100)  # samples that differ
    parts = {"SE": mapping, "GE": synthesis}
    weights = {f"{name}.{key}": value for name, net in parts.items() for key, value in net.state_dict().items()}
    save_prior("prior.safetensors", weights, {"role": "prior", "networks": {"critic": "eye.safetensors"}})
    for name in ("eye", "other"):
        recognizer = CosineRecognizer("squeezenet1_1", num_identities=0, embedding_dim=4, input_size=32).eval()
        save_recognizer(recognizer, f"{name}.safetensors", {"role": "verifier"})
    write_people(tmp_path / "photos", 60, photos=1, side=SIDE)
    write_people(tmp_path / "alone", 1, photos=6, side=SIDE)
    return tmp_path


COMMON = ["--prior=prior.safetensors", "--photos=photos", "--out=out", "--device=cpu"]


def test_a_prior_is_measured_at_every_psi_and_a_network_of_its_training_is_marked(folder, monkeypatch, capsys):
    monkeypatch.setattr(prior_quality, "detect_faces", lambda pictures: torch.arange(len(pictures)) / len(pictures))
    words = [*COMMON, "--features=eye.safetensors,other.safetensors", "--psis=(1.0,0.5)"]
    assert run_main(monkeypatch, command, *words) == 0
    quality = json.loads(Path("out/quality.json").read_text())
    assert quality["command"].startswith("python scripts/measure_prior.py") and {"psi 1.0", "psi 0.5"} <= quality.keys()
    marked = "eye (took part in the training)"
    assert {"samples", marked, "other", "faces_found", "absent"} == quality["psi 1.0"].keys()
    assert quality["psi 1.0"]["other"] != quality["psi 0.5"]["other"]
    # 0, 1/n, ... of which a tenth is 0.9 or more
    assert quality["psi 1.0"]["faces_found"] == pytest.approx(0.1, abs=1 / quality["psi 1.0"]["samples"])
    assert {path.name for path in Path("out").glob("*.png")} == {"samples.png", "samples-psi0.5.png", "interpolations.png"}
    assert "psi 0.5, other" in capsys.readouterr().out


def test_a_network_is_known_again_by_its_bytes_and_two_of_one_name_are_both_measured(folder):
    torch.manual_seed(5)
    for name in ("one", "two"):
        Path(name).mkdir()
        for suffix in ("safetensors", "json"):
            Path(name, f"eye.{suffix}").write_bytes(Path(f"eye.{suffix}").read_bytes())
        model = CosineRecognizer("squeezenet1_1", num_identities=0, embedding_dim=4, input_size=32).eval()
        save_recognizer(model, f"{name}/other.safetensors", {"role": "verifier"})
    specs = ["one/eye.safetensors", "one/other.safetensors", "two/other.safetensors"]
    names = ["eye (took part in the training)", "one/other.safetensors", "two/other.safetensors"]
    assert [*command.load_networks(specs, "cpu", took_part=["eye.safetensors"])] == names


def test_what_another_command_measured_stays_where_no_folder_is_named(folder, monkeypatch, capsys):
    monkeypatch.setattr(prior_quality, "detect_faces", lambda pictures: torch.ones(len(pictures)))
    words = [word for word in COMMON if not word.startswith("--out")] + ["--features=other.safetensors"]
    assert run_main(monkeypatch, command, *words) == 0
    before = Path("runs/prior-quality/quality.json").read_text()
    assert run_main(monkeypatch, command, *words, "--seed=1") == 2
    assert "got runs/prior-quality, which holds what another command measured; pass --out" in capsys.readouterr().err
    assert Path("runs/prior-quality/quality.json").read_text() == before
    assert run_main(monkeypatch, command, *words) == 0


def test_photos_are_embedded_once_for_all_priors_and_anew_by_another_network(folder, monkeypatch):
    monkeypatch.setattr(prior_quality, "detect_faces", lambda pictures: torch.ones(len(pictures)))
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setattr(prior_quality, "PROBED", 1)
    calls, embed = [], prior_quality.embed
    monkeypatch.setattr(prior_quality, "embed", lambda net, x: (calls.append(len(x)), embed(net, x))[1])

    def measure(network: str) -> tuple[dict, int]:
        calls.clear()
        assert run_main(monkeypatch, command, *COMMON, "--psis=(1.0,)", f"--features={network}.safetensors") == 0
        return json.loads(Path("out/quality.json").read_text())["psi 1.0"][network], sum(calls)

    first, looked = measure("other")
    again, later = measure("other")
    assert first == again and looked - later >= 60  # held-out photos and bank
    torch.manual_seed(5)
    stranger = CosineRecognizer("squeezenet1_1", num_identities=0, embedding_dim=4, input_size=32).eval()
    save_recognizer(stranger, "stranger.safetensors", {"role": "verifier"})
    assert measure("stranger")[1] == looked


def test_held_out_photos_may_lie_in_a_place_of_their_own(folder, monkeypatch):
    write_people(folder / "apart", 20, photos=1, side=SIDE, prefix="q")
    photos = command.load_real(folder / "photos", SIDE, 100, str(folder / "apart"))
    assert set(photos.held_out.names) == {f"q{i:02d}" for i in range(20)}
    assert len(photos.bank) == 60 and set(photos.seen.names) <= set(photos.bank.names)


def test_what_cannot_be_measured_is_absent_with_its_reason(folder, monkeypatch, capsys):
    def missing(pictures):
        raise prior_quality.AbsentError("needs the package facenet-pytorch")

    monkeypatch.setattr(prior_quality, "detect_faces", missing)
    assert run_main(monkeypatch, command, *COMMON, "--features=other.safetensors") == 0
    found = json.loads(Path("out/quality.json").read_text())["psi 1.0"]
    assert "faces_found" not in found and found["absent"] == {"faces_found": "needs the package facenet-pytorch"}
    assert "faces_found is absent: needs the package" in capsys.readouterr().out


@pytest.mark.parametrize(
    "word, message",
    [
        ("--features=nowhere.safetensors", "nowhere.safetensors"),
        ("--prior=nowhere.pt", "nowhere.pt"),
        ("--photos=nowhere", "nowhere"),
        ("--count=0", "expected count in [1, 1e6], got 0"),
        ("--count=5", "expected 6 photos or more a side to measure a prior, of 2 people, got 5 a side"),
        ("--features=,", "expected recognizers to measure with, got none; pass --features=dlib,sface"),
        ("--held-out=alone", "got 6 a side, of 1 held-out people"),
        ("--held-out=photos", "expected held-out photos that nothing was trained on, got"),
        ("--psis=(2.0,)", "expected psis in (0, 1.5], got 2"),
    ],
)
def test_a_mistake_is_one_line(word, message, folder, monkeypatch, capsys):
    assert run_main(monkeypatch, command, *COMMON, "--features=other.safetensors", word) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]
    assert not Path("out/quality.json").exists()


def test_interpolations_begin_and_end_at_samples(folder, monkeypatch):
    from ganinv.priors.loading import load_generator

    sheets = {}
    monkeypatch.setattr(prior_quality.images, "save", lambda sheet, path, scale=1: sheets.update({path.name: sheet}))
    generator = load_generator("prior.safetensors", "cpu")
    prior_quality.save_sheets(generator, folder, psis=(1.0,))
    rows = sheets["interpolations.png"][:, :SIDE]
    z = prior_quality.draw_latents(generator, 2 * prior_quality.PAIRS, 0)
    with torch.no_grad():
        first, last = generator.synthesize(generator.map(z[[0, prior_quality.PAIRS]]))
    torch.testing.assert_close(rows[:, :, :SIDE], first, atol=1e-5, rtol=0)
    torch.testing.assert_close(rows[:, :, -SIDE:], last, atol=1e-5, rtol=0)
    assert F.mse_loss(first, last) > 0
