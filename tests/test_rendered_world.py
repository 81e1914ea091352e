"""A world of rendered people, of random weights: its reports tell the truth, and its judges are audited against it."""

import json
from pathlib import Path

import pytest
import torch

from ganinv.commands import audit_judges, latent_attack, prepare_people
from ganinv.photos import list_people
from ganinv.rendered.factors import FACTORS
from ganinv.reports.report_file import read_report
from ganinv.worlds.world import load_references, render_references
from tests.tiny_world import BRIEF, make_rendered_world, run_main

USERS, PHOTOS = 6, 20
READABLE = [0, 3, 7]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_rendered_world(tmp_path_factory.mktemp("rendered"), users=USERS, photos=PHOTOS, readable=READABLE)


@pytest.fixture(autouse=True)
def place(world, tmp_path, monkeypatch):
    (tmp_path / "rendered").symlink_to(world.folder)
    monkeypatch.chdir(tmp_path)


def test_a_run_tells_the_truth_and_the_judges_are_audited_against_it(monkeypatch, capsys):
    common = ["--world=rendered", *BRIEF, "--steps=1", "--out=runs/a"]
    assert run_main(monkeypatch, latent_attack, "--identities=0-4", *common) == 0
    report = read_report("runs/a")
    names = {FACTORS[index].name for index in READABLE}
    assert report["factors"].keys() == names and "lpips_face" in report["summary"]  # the photos were rendered
    for place in (report["summary"], report["ceiling"], report["controls"]["another user's photo"]):
        assert place["factor_recovery"]["n"] == 5
    assert Path("runs/a/report.html").read_text().count("a photo of user") == 5  # of people who do not exist

    assert run_main(monkeypatch, latent_attack, "--identities=0-1", *common[:-1], "--label=two", "--out=runs/b") == 0
    capsys.readouterr()
    assert run_main(monkeypatch, audit_judges, "runs", "--world=rendered", "--out=audit") == 0
    found = json.loads(Path("audit/judges.json").read_text())
    assert found["own_photos"] == 20 and found["judges"]["judge, ranks the user first"]["pictures"] == 7
    by_attack = {label: one["judge, ranks the user first"] for label, one in found["attacks"].items()}
    assert {label: one["pictures"] for label, one in by_attack.items()} == {"latent w_plus": 5, "two": 2}
    whole = found["judges"]["judge, ranks the user first"]
    for name in ("user_by_judge", "user_by_factors"):
        assert sum(one[name] for one in by_attack.values()) == whole[name]
    assert "by its embedding: absent: expected" in Path("audit/judges.md").read_text()  # 24 photos tell no rate of 1 %
    assert run_main(monkeypatch, audit_judges, "runs", "--world=faces") == 2
    assert "expected runs of the world faces" in capsys.readouterr().err


def test_photos_in_folders_are_those_that_are_rendered(monkeypatch, capsys, world):
    flags = ["--users=2", f"--photos-per-user={PHOTOS}", "--public=1", "--photos-per-public=1", "--jobs=1", "--device=cpu"]
    assert run_main(monkeypatch, prepare_people, "--out=photos", *flags) == 0
    stored, rendered = load_references(world, "photos"), render_references(world, [0, 1])
    assert stored.files == rendered.files and torch.equal(stored.person, rendered.person)
    assert torch.equal(stored.pixels, rendered.pixels)
    assert [len(list_people(f"photos/{group}")) for group in ("private", "public")] == [2, 1]
    capsys.readouterr()
    for bad in ("--shift=9", "--resolution=60", "--users=0", "--jobs=0"):
        assert run_main(monkeypatch, prepare_people, "--out=other", bad) == 2 and not Path("other").exists()
        assert "expected" in capsys.readouterr().err
    assert run_main(monkeypatch, prepare_people, "--out=photos", *flags, "--shift=0.2") == 2
