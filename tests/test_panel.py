"""The panel of human raters: what is asked, what the page gives away, and what the answers say, by hand."""

from __future__ import annotations

import base64
import copy
import dataclasses
import hashlib
import json
import random
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ganinv import images
from ganinv.commands import panel as command
from ganinv.engine.randomness import seeded
from ganinv.studies.panel.answers import ANSWERS_FORMAT, check_answers, check_key
from ganinv.studies.panel.page import KEY_FORMAT, NOTICES, build_panel, format_page
from ganinv.studies.panel.pictures import number_people, split_references
from ganinv.studies.panel.score_table import format_score
from ganinv.studies.panel.scoring import (
    binomial_tail,
    chance_tail,
    cluster_interval,
    exact_interval,
    fleiss_kappa,
    score_panel,
)
from ganinv.studies.panel.trials import CAUGHT, SWAPPED, choose_candidates, plan_trials
from tests.tiny_world import NAME, SIDE, USERS, make_tiny_world, register, run_main, write_people

ROOT = Path(__file__).resolve().parents[1]
METHOD, CONTROL = "latent w", "random prior sample"


def write_run(folder: Path, seed: int = 0, users=(0, 1, 2), **config) -> Path:
    """Writes a finished run whose pictures are noise of their own, and returns its folder."""
    (folder / "images").mkdir(parents=True)
    for user in users:
        noise = torch.rand(3, SIDE, SIDE, generator=seeded(folder.name, user))
        images.save(2 * noise - 1, folder / "images" / f"{user}_0.png")
    report = {
        "method": "latent", "world": NAME, "identities": list(users), "seed": seed, "summary": {}, "absent": {},
        "per_identity": [{"identity": user} for user in users],
        "cost": dict.fromkeys(("seconds", "images_evaluated", "gradient_queries", "score_queries"), 1),
    }  # fmt: skip
    provenance = config.pop("provenance", {})
    config = {"space": "w", "steps": 5, "seed": seed, "label": "", "target": ""} | config
    for name, content in (("report", report), ("config", config), ("provenance", provenance)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def write_runs(root: Path) -> None:
    """Writes two seeds of a method and one run of a control."""
    write_run(root / "w-0", seed=0)
    write_run(root / "w-1", seed=1)
    write_run(root / "random", steps=0, label=CONTROL)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return make_tiny_world(folder), folder / "photos"


@pytest.fixture
def world(made, monkeypatch, tmp_path):
    """The world, registered; the working folder is new and holds photos/ and runs/."""
    register(monkeypatch, made[0], tmp_path)
    (tmp_path / "photos").symlink_to(made[1])
    write_runs(tmp_path / "runs")
    return made[0]


def read_page(file: str | Path) -> dict:
    """Returns what a page holds."""
    text = Path(file).read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="panel">(.*?)</script>', text, re.DOTALL)[1])


def read_error(capsys) -> str:
    """Returns the one line that stderr must hold."""
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    return err


# ---- the questions


def make_pictures(methods: int = 2, runs: int = 2, users: int = 5) -> dict:
    return {
        f"m{method}": [{user: Path(f"m{method}-{run}/{user}.png") for user in range(users)} for run in range(runs)]
        for method in range(methods)
    }


def plan(pictures=None, people=range(10), seed=0, held_out=None, **changes):
    held_out = {person: [Path(f"held/{person}.png")] for person in people} if held_out is None else held_out
    options = {"num_pictures": 1, "num_catch": 4, "people": list(people), "rng": random.Random(seed)} | changes
    return plan_trials(pictures or make_pictures(), ["m1"], held_out, **options)


def test_every_method_user_control_and_catch_trial_is_asked():
    trials, absent = plan()
    asked = Counter((trial.kind, trial.condition) for trial in trials)
    assert not absent and asked == {
        ("method", "m0"): 5, ("control", "m1"): 5, ("control", SWAPPED): 5, ("catch", CAUGHT): 4
    }  # fmt: skip
    for condition in ("m0", "m1", SWAPPED):
        assert {trial.user for trial in trials if trial.condition == condition} == set(range(5))
    assert len({trial.user for trial in trials if trial.kind == "catch"}) == 4
    for trial in trials:
        shown = int(trial.file.stem)  # whom the picture was made to show
        assert (trial.barred, shown == trial.user) == ((shown, False) if trial.condition == SWAPPED else (None, True))


def test_a_picture_is_asked_once_where_there_are_enough():
    for seed in range(20):
        trials, _ = plan(seed=seed)
        assert len({trial.file for trial in trials}) == len(trials)
    swapped = [trial for trial in plan(make_pictures(runs=1))[0] if trial.condition == SWAPPED]
    assert len(swapped) == 5 and all(trial.file.parts[0] == "m0-0" for trial in swapped)  # a control's would say nothing


def test_pictures_of_a_user_are_of_different_runs():
    trials, _ = plan(make_pictures(runs=3), num_pictures=2)
    files = [trial.file for trial in trials if trial.condition == "m0"]
    assert len(set(files)) == len(files) == 10
    assert sum(trial.condition == "m0" for trial in plan(num_pictures=9)[0]) == 10  # all there are


def test_what_cannot_be_asked_is_absent_with_its_reason():
    assert plan(people=range(5))[1] == {SWAPPED: "needs 2 users and 6 people, got 5 and 5"}
    assert "got 1 and 10" in plan(make_pictures(users=1))[1][SWAPPED]
    assert plan(held_out={3: []})[1].keys() == {CAUGHT}
    with pytest.raises(ValueError, match="labels of their own, got .another user"):
        plan({SWAPPED: make_pictures()["m0"]})


@pytest.mark.parametrize("num_people", [6, 10, 17])
def test_all_people_are_offered_equally_often(num_people):
    trials, _ = plan(people=range(num_people))
    candidates = choose_candidates(trials, range(num_people), random.Random(1))
    for trial, five in zip(trials, candidates, strict=True):
        assert len(set(five)) == 5 and list(five) == sorted(five) and trial.user in five and trial.barred not in five
    offered = Counter(person for five in candidates for person in five).values()
    assert len(offered) == num_people and max(offered) - min(offered) <= 1 + (num_people == 6)  # 6: the barred bind


def test_too_few_people_are_refused():
    trials, _ = plan()
    with pytest.raises(ValueError, match="at least 6 people to choose from, got 5"):
        choose_candidates(trials, range(5), random.Random(0))


# ---- the page and its key


def build(seed: int = 0) -> tuple[dict, dict]:
    rng = random.Random(seed)
    trials, _ = plan(rng=rng)
    candidates = choose_candidates(trials, range(10), rng)
    references = {person: [f"data:image/png;base64,{person}"] for person in range(10)}
    return build_panel(trials, candidates, references, lambda file: "data:x", photographs=True, rng=rng)


def test_the_key_knows_each_item_and_the_page_knows_none():
    page, key = build()
    assert page["panel"] == key["panel"] and page["notice"][0] == "This page contains photographs of real people."
    assert [item["id"] for item in page["items"]] == sorted(key["items"]) and list(page["people"]) == sorted(page["people"])
    for item in page["items"]:
        answer = key["items"][item["id"]]
        assert item.keys() == {"id", "picture", "people"} and item["people"] == answer["people"] == sorted(item["people"])
        assert answer["answer"] in item["people"] and key["people"][answer["answer"]] == answer["user"]
        assert page["people"][answer["answer"]] == [f"data:image/png;base64,{answer['user']}"]
    assert page.keys() == {"panel", "photographs", "notice", "items", "people"}
    kinds = [key["items"][item["id"]]["kind"] for item in page["items"]]
    assert kinds != sorted(kinds) and build(0) == (page, key) and build(1)[0]["panel"] != page["panel"]
    check_key(key, "key")


def test_the_page_loads_nothing_and_runs_its_own_script_only():
    page = build()[0] | {"notice": ["</script><b>", "<!--"]}
    text = format_page(page)
    assert read_page_text(text) == page and "</script><b>" not in text and "@" not in text.partition("<style>")[0]
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    for tag in ("style", "script"):
        source = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1]
        assert f"{tag}-src 'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'" in policy
    assert not re.search(r"https?://|url\(|@import|\bfetch\b|XMLHttp| style=| on\w+=", text)
    assert "transition" not in text and "animation" not in text


def read_page_text(text: str) -> dict:
    return json.loads(re.search(r'id="panel">(.*?)</script>', text, re.DOTALL)[1])


# ---- making


def test_make_writes_a_blind_page_and_its_key(world, monkeypatch, capsys):
    assert run_main(monkeypatch, command, "make", "runs", "--photos=photos", "--out=out/a.html", "--catch=2") == 0
    out = capsys.readouterr().out
    assert (
        "It contains photographs of people" in out
        and "3 control: another user's" in out
        and "no picture is shown twice" in out
    )
    page, key = read_page("out/a.html"), json.loads(Path("out/a.key.json").read_text())
    text = Path("out/a.html").read_text()
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.html", "a.key.json"]
    assert key["page_sha256"] == hashlib.sha256(text.encode()).hexdigest() and key["absent"] == {}
    asked = Counter(item["condition"] for item in key["items"].values())
    assert asked == {METHOD: 3, CONTROL: 3, SWAPPED: 3, CAUGHT: 2} and len(key["people"]) == USERS
    strings = set(re.findall(r'"([^"]*)"', json.dumps(page))) - {page["panel"], *NOTICES[True]}
    strings = {word for word in strings if not re.fullmatch("[0-9a-f]{8}|data:image/png;base64,[A-Za-z0-9+/]+=*", word)}
    assert strings == {"panel", "photographs", "notice", "items", "people", "id", "picture"}  # and nothing of what is what
    assert not any(item["condition"] in text or item["file"] in text for item in key["items"].values())
    for picture in [item["picture"] for item in page["items"]]:
        assert base64.b64decode(picture.partition(",")[2])[12:24] == b"IHDR" + 2 * SIDE.to_bytes(4, "big")
    for item in page["items"]:  # no photo to be recognised stands among the references
        assert item["picture"] not in {uri for uris in page["people"].values() for uri in uris}
    # the same again, and another panel from another seed
    assert run_main(monkeypatch, command, "make", "runs", "--photos=photos", "--out=b.html", "--catch=2") == 0
    assert Path("b.html").read_text() == text
    assert run_main(monkeypatch, command, "runs", "--photos", "photos", "--out=c.html", "--seed=1") == 0
    assert read_page("c.html")["panel"] != page["panel"]


def test_a_panel_of_ones_own_users_holds_a_fifth_of_the_photos_out(world, monkeypatch, capsys):
    write_people(Path("mine"), 6, photos=5)
    write_run(Path("own"), target="mine.py:build")
    assert run_main(monkeypatch, command, "make", "own", "--photos=mine", "--out=own.html", "--references=4") == 0
    assert "3 of the pictures are shown twice" in capsys.readouterr().out  # one run has none to spare
    page = read_page("own.html")
    assert {len(uris) for uris in page["people"].values()} == {4}
    assert not {item["picture"] for item in page["items"]} & {uri for uris in page["people"].values() for uri in uris}
    write_run(Path("other"), target="mine.py:build", seed=1, provenance={"photos": "another hash"})
    for words, message in (
        (["own", "other"], "expected the photos that the runs were given, got others in mine"),
        (["own", "runs"], "expected runs against one target, whose users --photos shows, got mine.py:build, the world's own"),
    ):
        assert run_main(monkeypatch, command, "make", *words, "--photos=mine", "--out=new.html") == 2
        assert message in read_error(capsys)


def test_users_are_shown_by_the_names_that_the_runs_give_them(world):
    write_people(Path("mine"), 3)
    run = SimpleNamespace(report={"names": {"0": "p02", "1": "p00", "2": "p01", "3": "gone"}}, provenance={})
    assert [(number, name) for number, (name, _) in number_people("mine", [run]).items()] == [
        (0, "p02"),
        (1, "p00"),
        (2, "p01"),
    ]
    shown, _ = split_references("mine", None, True, [run])
    assert {file.parent.name for file in shown[0]} == {"p02"} and {file.parent.name for file in shown[1]} == {"p00"}
    shown, _ = split_references("mine", None, True, [SimpleNamespace(report={})])  # of an earlier version
    assert {file.parent.name for file in shown[0]} == {"p00"}


def test_nobody_real_is_called_real(world, monkeypatch):
    shutil.copytree(world.folder, "copy")
    dataclasses.replace(world, folder=Path("copy"), shows_references=True).save()
    Path(NAME).unlink()
    Path(NAME).symlink_to("copy")
    subprocess.run(["git", "init", "-q", "."], check=True)  # where such a page may lie
    assert run_main(monkeypatch, command, "make", "runs", "--photos=photos", "--out=a.html") == 0
    assert read_page("a.html")["notice"][0] == "Nobody here is real."


def test_make_refuses_in_one_line(world, monkeypatch, capsys):
    subprocess.run(["git", "init", "-q", "checkout"], check=True)
    Path("checkout/.gitignore").write_text("kept/\n")
    Path("there.html").touch()
    write_people(Path("others/private"), USERS, photos=8)
    write_run(Path("far"), users=(0, 7))
    write_run(Path("broken"))
    Path("broken/images/1_0.png").write_bytes(b"no picture")
    write_run(Path("gone"))
    Path("gone/images/1_0.png").unlink()
    given = {"--photos": "photos", "--out": "new.html"}
    for words, changes, message in (
        (["runs"], {"--out": ""}, "expected --photos=FOLDER and --out=FILE.html"),
        (["runs"], {"--photos": ""}, "expected --photos=FOLDER and --out=FILE.html"),
        (["runs"], {"--references": "5"}, "expected references in [1, 4], got 5"),
        (["runs"], {"--people": "4"}, "expected people in [5, 1000], got 4"),
        (["runs"], {"--out": "page.txt"}, "NAME.html, got page.txt"),
        (["runs"], {"--out": "there.html"}, "there.html, which is there"),
        (["runs"], {"--out": "checkout/deep/new.html"}, "outside results/ and every git checkout"),
        (["runs"], {"--out": str(ROOT / "results" / "new.html")}, "outside results/ and every git checkout"),
        (["runs"], {"--photos": "nowhere"}, "nowhere"),
        (["runs"], {"--photos": "others"}, "whose embeddings this world ships"),
        (["runs/random"], {}, "expected a run that searched, got random prior sample alone"),
        (["far"], {}, "expected photos of user 7 in photos, got 6 people"),
        (["broken"], {}, "expected a readable picture, got broken/images/1_0.png"),
        (["gone"], {}, "cannot read gone/images/1_0.png"),
        ([], {}, "expected at least one finished run"),
        (["scorn"], {}, "at scorn, got nothing of that name"),
    ):
        options = [f"{name}={value}" for name, value in (given | changes).items()]
        assert run_main(monkeypatch, command, "make", *words, *options) == 2, message
        assert message in read_error(capsys)
    assert not Path("new.html").exists() and not Path("new.key.json").exists() and not Path("checkout/deep").exists()
    assert run_main(monkeypatch, command, "make", "runs", "--photos=photos", "--out=checkout/kept/new.html") == 0  # ignored


# ---- scoring


def make_key(methods: int = 1, users: int = 2, catch: int = 2) -> dict:
    """Returns a key whose right answer is always the person "a"."""
    people = list("abcde")
    conditions = [(f"m{n}", "method", users) for n in range(methods)] + [
        ("c", "control", users),
        (CAUGHT, "catch", catch),
    ]
    items = {
        f"{name}{user}": {"kind": kind, "condition": name, "user": user, "answer": "a", "people": people}
        for name, kind, count in conditions
        for user in range(count)
    }
    return {"format": KEY_FORMAT, "panel": "p", "items": items}


def answer(key: dict, rater: str, wrong=()) -> dict:
    """Returns a file of right answers but for the items whose names start with a word of `wrong`."""
    rows = [
        {"item": item, "position": place, "choice": "b" if item.startswith(tuple(wrong)) else "a", "seconds": 1.0 + place}
        for place, item in enumerate(key["items"])
    ]
    return {"format": ANSWERS_FORMAT, "panel": "p", "rater": rater, "answers": rows}


def score(key: dict, *files: dict, threshold: float = 0.8) -> dict:
    return score_panel(key, [check_answers(file, key, "file") for file in files], threshold)


def test_a_score_by_hand():
    key = make_key()
    result = score(key, answer(key, "x", ["c"]), answer(key, "y", ["c", "m00"]))
    method, control, caught = result["rows"]
    assert (method["condition"], method["correct"], method["n"], method["raters"], method["users"]) == ("m0", 3, 4, 2, 2)
    assert method["accuracy"] == 0.75 and method["over_chance"] == pytest.approx(0.55)
    assert method["p_binomial"] == pytest.approx(4 * 0.2**3 * 0.8 + 0.2**4) and method["median_seconds"] == 1.5
    assert method["p_over_chance"] == pytest.approx(2 / 5 / 5)  # m00: one of two raters in 2 of 5 cases; m01: both in 1 of 5
    assert method["interval"] == "resampled raters and users" and method["ci95"] == [0.0, 1.0]
    assert method["over_control"] == {"control": "c", "mean": 0.75, "ci95": [0.0, 1.0]}
    assert (control["accuracy"], control["p_over_chance"], control["interval"]) == (0, 1, "exact binomial, n 2")
    assert control["ci95"] == pytest.approx([0, 1 - 0.025**0.5]) and "over_control" not in control
    assert caught["accuracy"] == 1 and caught["ci95"] == pytest.approx([0.025**0.5, 1])
    # on m00 they differ, on m01, c0 and c1 they agree
    assert result["agreement"]["observed"] == 0.75 and result["agreement"]["items"] == 4
    assert result["agreement"]["kappa"] == pytest.approx((0.75 - 0.2) / 0.8)
    assert result["agreement"]["fleiss_kappa"] == pytest.approx((0.75 - 34 / 64) / (1 - 34 / 64))  # a 3, b 5 of 8
    assert result["absent"] == {} and "rows_all" not in result


def test_a_rater_who_fails_the_catch_trials_is_listed_apart():
    key = make_key(catch=5)
    files = [answer(key, "x"), answer(key, "y", ["m", "c", CAUGHT + "0"]), answer(key, "z", ["m", CAUGHT])]
    result = score(key, *files)
    assert [(rater["rater"], rater["catch_correct"], rater["flagged"]) for rater in result["raters"]] == [
        ("x", 5, False), ("y", 4, False), ("z", 0, True)
    ]  # fmt: skip
    assert result["rows"][0]["accuracy"] == 0.5 and result["rows_all"][0]["accuracy"] == pytest.approx(1 / 3)
    text = format_score(result)
    assert re.search(r"\| z +\| 0/5 +\| \S+ +\| flagged", text) and "## With the flagged raters" in text
    everybody = score(key, files[2])
    assert everybody["rows"] == [] and "no rater was right in at least 80%" in format_score(everybody)
    assert [row["accuracy"] for row in everybody["rows_all"]] == [0, 1, 0]
    assert not score(key, files[2], threshold=0)["raters"][0]["flagged"]


def test_one_rater_and_no_catch_trials_are_said():
    key = make_key(catch=0)
    result = score(key, answer(key, "x", ["m00"]))
    assert result["absent"] == {
        "catch trials": "the panel has none, so no rater could be checked",
        "agreement": "needs 2 raters who pass the catch trials, got 1",
    }
    assert result["agreement"] is None and result["rows"][0]["ci95"] == [0, 1]  # of two users, one right
    assert "Absent: agreement: needs 2 raters" in format_score(result)


def test_the_strongest_control_is_the_one_compared_with():
    key = make_key(users=4)
    for user in range(4):
        key["items"][f"d{user}"] = key["items"][f"c{user}"] | {"condition": "d"}
    result = score(key, answer(key, "x", ["m00", "c", "d0", "d1"]), answer(key, "y", ["c", "d0"]))
    over = result["rows"][0]["over_control"]
    assert over["control"] == "d" and over["mean"] == pytest.approx(7 / 8 - 5 / 8)
    low, high = over["ci95"]
    assert 0 <= low < 0.25 < high < 1


@pytest.mark.parametrize("correct, count", [(0, 7), (1, 5), (3, 10), (9, 10), (12, 12), (180, 900)])
def test_the_exact_interval_ends_where_the_tails_are_a_fortieth(correct, count):
    low, high = exact_interval(correct, count)
    assert low <= correct / count <= high
    assert low == 0 if not correct else binomial_tail(correct, count, low) == pytest.approx(0.025, abs=1e-6)
    assert high == 1 if correct == count else 1 - binomial_tail(correct + 1, count, high) == pytest.approx(0.025, abs=1e-6)


def test_binomial_tails_by_hand():
    assert binomial_tail(2, 2, 0.2) == pytest.approx(0.04)
    assert binomial_tail(1, 5, 0.2) == pytest.approx(1 - 0.8**5)
    assert binomial_tail(0, 5, 0.2) == 1 and binomial_tail(1, 5, 0) == 0 and binomial_tail(5, 5, 1) == 1
    assert binomial_tail(2500, 5000, 0.5) == pytest.approx(0.5056, abs=1e-3)  # no overflow


def test_raters_who_agree_are_one_surprise():
    assert chance_tail([[10, 0, 0, 0, 0]], 10) == pytest.approx(0.2)  # ten raters, one picture
    assert chance_tail([[1, 1, 0, 0, 0]], 1) == pytest.approx(0.4) and chance_tail([[1, 1, 0, 0, 0]], 0) == 1
    for correct in range(8):  # one rater: binomial
        tail = chance_tail([[0, 1, 0, 0, 0]] * 7, correct)
        assert tail == pytest.approx(binomial_tail(correct, 7, 0.2))
    assert chance_tail([[3, 1, 0, 0, 0], [2, 2, 0, 0, 0]], 5) == pytest.approx(1 / 5 * 2 / 5)


def test_the_interval_counts_clusters_and_not_answers():
    few = torch.tensor([[0.0, 1.0, 0.0, 1.0, 1.0]]).double()
    assert cluster_interval(few) == pytest.approx(cluster_interval(few.expand(40, -1)), abs=1e-9)  # 40 raters alike
    low, high = cluster_interval(few.expand(40, -1) * torch.tensor([1.0, 0.5] * 20).double()[:, None])
    assert high - low > 0.5 and cluster_interval(few.T) == pytest.approx((0.2, 1.0))
    shift = torch.tensor(cluster_interval(few - 0.2)) - torch.tensor(cluster_interval(few))
    assert shift.tolist() == pytest.approx([-0.2, -0.2])


def test_fleiss_kappa_by_hand():
    # two raters: both a; a and b
    observed, kappa = fleiss_kappa(torch.tensor([[2, 0], [1, 1]]))
    assert observed == 0.5 and kappa == pytest.approx((0.5 - (9 / 16 + 1 / 16)) / (1 - 10 / 16))
    assert fleiss_kappa(torch.tensor([[2, 0], [1, 1]]), 0.2) == (0.5, pytest.approx(0.375))
    # the worked example of ten subjects, fourteen raters and five categories at Fleiss' kappa in Wikipedia
    rows = "0 0 0 0 14|0 2 6 4 2|0 0 3 5 6|0 3 9 2 0|2 2 8 1 1|7 7 0 0 0|3 2 6 3 0|2 5 3 2 2|6 5 2 1 0|0 2 2 3 7"
    counts = torch.tensor([[int(cell) for cell in row.split()] for row in rows.split("|")])
    observed, kappa = fleiss_kappa(counts)
    assert observed == pytest.approx(0.378, abs=5e-4) and kappa == pytest.approx(0.210, abs=5e-4)
    assert fleiss_kappa(torch.tensor([[3, 0], [3, 0]])) == (1.0, None)  # one category throughout: undefined, not 0 or 1
    for counts in ([[1, 0], [0, 1]], [[2, 0], [2, 1]]):
        with pytest.raises(ValueError, match="2 or more raters an item"):
            fleiss_kappa(torch.tensor(counts))


def write_answers(name: str, content: object) -> str:
    Path(name).write_text(content if isinstance(content, str) else json.dumps(content))
    return name


def test_score_writes_markdown_and_json(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    key = make_key()
    write_answers("p.key.json", key)
    files = [write_answers(f"{rater}.json", answer(key, rater, ["c"])) for rater in ("x", "y|z")]
    assert run_main(monkeypatch, command, "score", "--key=p.key.json", *files) == 0
    out, text = capsys.readouterr().out, Path("p.score.md").read_text()
    assert text in out and out.endswith("p.score.md\np.score.json\n")
    assert re.search(r"\| m0 +\| 1.00 \[0.16, 1.00\] +\| \+0.80 +\| 0.040 +\| 4/4 +\| 2 +\| 2 +\| \S+ +\| \+1.00 \[", text)
    assert "| control: c " in text and "| y/z " in text and "chance is 0.20" in text
    assert json.loads(Path("p.score.json").read_text())["rows"][0]["accuracy"] == 1
    assert run_main(monkeypatch, command, "score", "--key=p.key.json", *files, "--out=there") == 0
    assert Path("there/p.score.md").read_text() == text


def broken(change) -> dict:
    """Returns the answers of rater x after a change."""
    data = copy.deepcopy(answer(make_key(), "x"))
    change(data)
    return data


@pytest.mark.parametrize(
    "files, message",
    [
        ([], "expected at least one file of answers"),
        (['{"format"'], "expected JSON in 0.json"),
        (["[" * 100000], "expected JSON in 0.json"),
        (["[]"], "got something else"),
        ([make_key()], "got something else"),
        ([broken(lambda data: data.update(panel="q"))], "got answers to panel q; score them with that panel's key"),
        ([broken(lambda data: data.update(rater=" "))], "got no rater's name"),
        ([broken(lambda data: data.update(answers={"c0": "a"}))], "got no list of answers"),
        ([broken(lambda data: data["answers"].pop())], f"got no answer to items {CAUGHT}1"),
        (
            [broken(lambda data: data.update(answers=[]))],
            "got no answer to items c0, c1, held-out photo (catch trial)0 and 3 more",
        ),
        ([broken(lambda data: data["answers"].append(data["answers"][0]))], "got two answers to items m00"),
        ([broken(lambda data: data["answers"].append({"item": "z"}))], "got unknown items z"),
        ([broken(lambda data: data["answers"][0].update(choice="f"))], "for item m00 a choice that is none of its 5 people"),
        (
            [broken(lambda data: data["answers"][0].update(choice=["a"]))],
            "for item m00 a choice that is none of its 5 people",
        ),
        ([broken(lambda data: data["answers"][0].update(seconds=-1))], "for item m00 no time in seconds"),
        ([broken(lambda data: data["answers"][0].update(seconds=float("nan")))], "for item m00 no time in seconds"),
        ([answer(make_key(), "x"), answer(make_key(), " X ")], "expected each rater once, got X in 0.json and 1.json"),
    ],
)
def test_bad_answers_are_refused_in_one_line(files, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_answers("p.key.json", make_key())
    names = [write_answers(f"{index}.json", file) for index, file in enumerate(files)]
    assert run_main(monkeypatch, command, "score", "--key=p.key.json", *names) == 2
    assert message in read_error(capsys)
    assert not Path("p.score.json").exists()


@pytest.mark.parametrize(
    "options, message",
    [
        ([], "expected --key=NAME.key.json"),
        (["--key=none.json"], "expected JSON in none.json"),
        (["--key=x.json"], "expected the key that panel.py make wrote, got something else in x.json"),
        (["--key=p.key.json", "--catch-threshold=2"], "expected catch_threshold in [0, 1], got 2"),
    ],
)
def test_a_bad_key_is_refused_in_one_line(options, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_answers("p.key.json", make_key())
    write_answers("x.json", answer(make_key(), "x"))
    assert run_main(monkeypatch, command, "score", "x.json", *options) == 2
    assert message in read_error(capsys)
