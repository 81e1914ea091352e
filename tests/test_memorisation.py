"""What the prior memorised, on a tiny world whose training photos are known."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from ganinv import images
from ganinv.commands import latent_attack
from ganinv.interfaces import AbsentError
from ganinv.judging import memorisation
from ganinv.judging.memorisation import TrainingPhotos, find_training_photos
from ganinv.judging.verdict import find_judge
from ganinv.photos import list_people, select_people
from ganinv.priors.stylegan2_pytorch_files import save_prior
from ganinv.reports.report_file import read_report
from ganinv.weights.cards import describe_photos
from ganinv.weights.files import read_tensors
from ganinv.worlds.assets import load_assets
from ganinv.worlds.references import References
from tests.tiny_world import BRIEF, NAME, make_tiny_world, register, run_main, write_people

PUBLIC = 60


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The tiny world with 60 public people, a prior that says which of them it was trained on, and their number."""
    folder = tmp_path_factory.mktemp("tiny")
    world = make_tiny_world(folder)
    write_people(folder / "photos" / world.public, PUBLIC, photos=2, prefix="n")
    people = select_people(list_people(folder / "photos" / world.public), 0.0, 0.8)
    count = sum(map(len, people.values()))
    assert 40 < count < 2 * PUBLIC
    tensors, said = read_tensors(world.file("prior"))
    weights = {name: value for name, value in tensors.items() if name.startswith(("SE.", "GE."))}
    public = describe_photos(count, len(people), hash_range=(0.0, 0.8))
    save_prior(world.file("prior"), weights, {"role": "prior", "data": {"public": public}}, lr_mlp=float(said["lr_mlp"]))
    return world, folder / "photos", people


@pytest.fixture(autouse=True)
def world(made, monkeypatch, tmp_path):
    register(monkeypatch, made[0], tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(memorisation, "LEAST", 6)
    return made[0]


@pytest.fixture
def assets(world):
    return load_assets(NAME, device=torch.device("cpu"))


def find(assets, photos):
    return find_training_photos(assets, str(photos), find_judge(assets.judges, sees_users=False), torch.device("cpu"))


def test_the_nearest_photo_is_named_by_its_number_and_a_copy_is_flagged():
    bank = torch.eye(4)
    pictures = torch.tensor([[0.1, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    places = [{"identity": 7, "k": 0}, {"identity": 7, "k": 1}]
    found = TrainingPhotos(bank, 0.9).describe(pictures, torch.tensor([0.2, 0.3]), places)
    first, second = found["pictures"]
    assert (first["identity"], first["k"], first["photo"], first["copy"]) == (7, 0, 2, True)
    assert second["similarity"] == pytest.approx(0.5) and second["own"] == pytest.approx(0.3) and not second["copy"]
    assert found["photos"] == 4


def test_training_photos_are_embedded_in_order_and_once(assets, made, monkeypatch, capsys):
    found = find(assets, made[1])
    files = [path for of_person in made[2].values() for path in of_person]
    assert len(found.embeddings) == len(files) and "embedding the" in capsys.readouterr().err
    verifier = find_judge(assets.judges, sees_users=False).recognizer
    for row in (0, 17, len(files) - 1):
        expected = verifier(images.load(files[row], 32)).embeddings[0]
        assert torch.allclose(found.embeddings[row], expected, atol=1e-5)
    monkeypatch.setattr(memorisation, "recognize", None)  # a second time nothing is embedded
    assert torch.equal(find(assets, made[1]).embeddings, found.embeddings)


def test_the_threshold_is_what_the_users_own_photos_reach(assets, made):
    found = find(assets, made[1])
    rows = assets.references.embeddings["verifier"]
    nearest = (rows @ found.embeddings.T).amax(1)
    assert found.threshold == pytest.approx(nearest.double().quantile(0.99).item(), abs=5e-4)  # stored in 16 bits


ABSENT = {
    "no photos": (lambda assets: assets, "", "pass --photos DIR"),
    "no folder": (lambda assets: assets, "nowhere", "nowhere/public, which is no folder"),
    "other photos": (lambda assets: assets, "fewer", "photos that the prior was trained on in fewer/public, got 4"),
    "no prior": (lambda assets: dataclasses.replace(assets, generator=None), "photos", "none took part"),
    "own prior": (
        lambda assets: dataclasses.replace(assets, files=assets.files | {"prior": Path("mine.pt")}),
        "photos",
        "own prior alone",
    ),
    "no references": (lambda assets: dataclasses.replace(assets, references=None), "photos", "needs references"),
    "few references": (
        lambda assets: dataclasses.replace(
            assets, references=References({"verifier": assets.references.embeddings["verifier"][:3]}, torch.zeros(3))
        ),
        "photos",
        "at least 6 references to know a copy by, got 3",
    ),
}


@pytest.mark.parametrize("name", ABSENT)
def test_what_cannot_be_known_is_absent_with_its_reason(name, assets, made):
    change, photos, message = ABSENT[name]
    Path("photos").symlink_to(made[1])
    # of the first public people four photos
    for person in sorted((made[1] / "public").iterdir())[:2]:
        shutil.copytree(person, Path("fewer/public") / person.name)
    fewer = select_people(list_people("fewer/public"), 0.0, 0.8)
    if name == "other photos":
        message = message.replace("got 4", f"got {sum(map(len, fewer.values()))}")
    with pytest.raises(AbsentError, match=message):
        find(change(assets), photos)


def test_a_broken_training_photo_costs_a_run_no_more_than_what_needs_it(assets, made):
    shutil.copytree(made[1], "broken")
    first = next(iter(made[2].values()))[0]
    (Path("broken/public") / first.parent.name / first.name).write_bytes(b"no picture")
    with pytest.raises(AbsentError, match="expected a readable picture"):
        find(assets, "broken")


def test_a_report_says_what_the_prior_remembers(made, monkeypatch):
    arguments = [f"--world={NAME}", *BRIEF, "--identities=0-1", f"--photos={made[1]}", "--out=run"]
    assert run_main(monkeypatch, latent_attack, *arguments) == 0
    report = read_report("run")
    assert {"nearest_training", "nearest_own", "copies"} <= report["summary"].keys()
    rows = report["memory"]["pictures"]
    assert [row["identity"] for row in rows] == [0, 1] and all(0 <= row["photo"] < PUBLIC * 2 for row in rows)
    for row, of_user in zip(rows, report["per_identity"], strict=True):
        assert of_user["nearest_training"] == pytest.approx(row["similarity"])
        assert of_user["nearest_own"] == pytest.approx(row["own"]) and of_user["copies"] == row["copy"]
    assert "nearest training photo" in Path("run/report.html").read_text()
    assert run_main(monkeypatch, latent_attack, *arguments[:-2], "--out=bare") == 0
    bare = json.loads(Path("bare/report.json").read_text())
    assert bare["memory"] == {} and "pass --photos DIR" in bare["absent"]["nearest_training"]
