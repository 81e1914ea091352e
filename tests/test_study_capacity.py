"""The study of capacity: which cells and photos, what is resumed, and what the table says; on a world that knows nobody."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock

from ganinv import images
from ganinv.commands import study_capacity
from ganinv.judging import measures
from ganinv.photos import claim_folder
from ganinv.rendered.factors import MOST_SEED
from ganinv.rendered.photos import make_photos, name_person
from ganinv.studies import spreading
from ganinv.studies.capacity import curves, plan, running
from ganinv.studies.capacity.cells import ATTACKED, AXES, GRIDS, Cell, deal, list_cells, list_points
from ganinv.studies.capacity.photos import (
    FIRST_FURTHER,
    PhotoCache,
    list_users,
    measuring_numbers,
    open_photos,
    split_numbers,
    training_numbers,
)
from ganinv.training import recognizer as training
from ganinv.worlds import assets as worlds
from ganinv.worlds.world import render_references
from tests.test_spread import Copied
from tests.tiny_world import make_rendered_world, run_main

USERS, PHOTOS = 6, 20
TINY = (
    *("--world=rendered", "--axes=depth", "--depth=linear,mlp", "--steps=3", "--batch=8", "--public=10", "--device=cpu"),
    *("--candidates=8", "--attack-steps=1", "--work=work", "--out=out"),
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_rendered_world(tmp_path_factory.mktemp("rendered"), users=USERS, photos=PHOTOS, readable=[0, 3, 7])


@pytest.fixture
def tiny(world, tmp_path, monkeypatch):
    (tmp_path / "rendered").symlink_to(world.folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measures, "detect_faces", lambda images: torch.zeros(len(images)))  # seconds a call
    make_attacks = plan.make_attacks

    def make_short(config):
        return {
            name: dataclasses.replace(attack, steps=min(attack.steps, 2), final_transforms=1)
            for name, attack in make_attacks(config).items()
        }

    for module in (plan, running):
        monkeypatch.setattr(module, "make_attacks", make_short)
    monkeypatch.setattr("ganinv.studies.capacity.cells.AXES", {**AXES, "depth": lambda value: Cell(value, photos=2, users=5)})


def hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- which cells and photos


@pytest.mark.parametrize("parts", [1, 2, 3, 50])
def test_parts_share_no_cell_and_leave_none_out(parts):
    cells = list_cells(list_points(GRIDS["full"]), seeds=2)
    assert len(cells) == len(set(cells)) and len(cells) == 2 * (4 + 4 + 5 + 5)  # the centre is made once
    cost = {cell: float(index % 5 + 1) for index, cell in enumerate(cells)}.__getitem__
    heaps = [deal(cells, f"{number}/{parts}", cost) for number in range(1, parts + 1)]
    assert sorted(map(str, cells)) == sorted(str(cell) for heap in heaps for cell in heap)
    weights = [sum(map(cost, heap)) for heap in heaps]
    assert max(weights) - min(weights) <= 5


def test_steps_grow_with_the_users_where_that_is_asked_and_the_centre_is_ones_own():
    asked = {"axes": "depth,users", "depth": "linear", "users": "10,100,3000", "steps": 20, "centre": "resnet18-0.25"}
    for steps_per_users, expected in ((0, [20, 20, 20, 20]), (100, [20, 20, 20, 600])):
        config = study_capacity.StudyCapacity(**asked, steps_per_users=steps_per_users)
        _, cells, _ = plan.build_plan(config)
        assert [plan.make_training(config, cell).steps for cell in cells] == expected
        assert [cell.architecture for cell in cells] == ["linear", *["resnet18-0.25"] * 3]
    with pytest.raises(ValueError, match="expected steps_per_users in"):
        plan.build_plan(study_capacity.StudyCapacity(steps_per_users=-1))
    with pytest.raises(ValueError, match="expected a torchvision classifier such as resnet18, linear or mlp, got nonsense"):
        plan.build_plan(study_capacity.StudyCapacity(axes="depth", centre="nonsense"))


def test_no_photo_that_measures_is_trained_on(world):
    for person in (*ATTACKED, 99, FIRST_FURTHER):
        for count in (2, 10, 12, 30, 50):
            chosen = training_numbers(person, count, PHOTOS)
            assert len(chosen) == len(set(chosen)) == count
            assert training_numbers(person, 80, PHOTOS)[:count] == chosen
            for split in ("references", "test"):
                assert not set(chosen) & set(split_numbers(person, split, PHOTOS))
        assert set(measuring_numbers(5, PHOTOS)(person)) == set(split_numbers(person, "test", PHOTOS))
    # the references are those that the world renders, and its folders split
    references = {f"{name_person(3)}/{number:03d}.png" for number in split_numbers(3, "references", PHOTOS)}
    assert references == set(render_references(world, [3]).files)


def test_users_are_the_first_and_none_is_known_to_a_judge():
    for count in (5, 10, 100, 3000):
        users = list_users(count)
        assert len(set(users)) == count and tuple(users[:5]) == ATTACKED
        assert all(user < 100 or 100_000 <= user < MOST_SEED for user in users)  # 1000 to 99 999 are the public
    assert list_users(3000)[:10] == list_users(10)


def test_stored_photos_are_taken_and_others_rendered_once(tmp_path, monkeypatch):
    stored = tmp_path / "stored"
    photos = make_photos([0], [4])
    claim_folder(stored, {"shift": 0.0, "resolution": 64})
    (stored / "private" / "000000").mkdir(parents=True)
    images.save(-photos.images(0), stored / "private" / "000000" / "004.png")  # told apart from what would be rendered
    cache = PhotoCache(tmp_path / "cache", open_photos(stored, 64), 64)
    got = cache.load([0, FIRST_FURTHER], lambda person: [4, 5])
    assert got.person.tolist() == [0, 0, 1, 1] and got.files[0] == "000000/004.png"
    assert (got.pixels[0].int() - (255 - photos.pixels[0].int())).abs().max() <= 1
    assert torch.equal(got.pixels[2], make_photos([FIRST_FURTHER], [4]).pixels[0])
    monkeypatch.setattr("ganinv.studies.capacity.photos.make_photos", lambda *args, **options: pytest.fail("rendered again"))
    assert torch.equal(cache.load([0, FIRST_FURTHER], lambda person: [4, 5]).pixels, got.pixels)
    with pytest.raises(ValueError, match="expected photos of 96 px of people without a shift"):
        open_photos(stored, 96)


# ---- the command


class CopiedCluster(Copied):
    """Workers without a cluster, opened as those of one are."""

    def __init__(self, *_, **__):
        super().__init__()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_cells_made_by_workers_are_those_of_one_process(tiny, monkeypatch):
    monkeypatch.setattr(spreading, "RayWorkers", CopiedCluster)
    assert run_main(monkeypatch, study_capacity, *TINY) == 0
    table = Path("out/table.md").read_text()
    assert run_main(monkeypatch, study_capacity, *TINY, "--work=spread", "--engine=ray", "--workers=2") == 0
    records = [sorted(Path(folder, "cells").glob("*.json")) for folder in ("work", "spread")]
    for one, other in zip(*records, strict=True):
        here, there = json.loads(one.read_text()), json.loads(other.read_text())
        assert one.name == other.name and there["provenance"]["weights"] == here["provenance"]["weights"]
        assert there["methods"].keys() == here["methods"].keys()
        for name, found in there["methods"].items():
            assert found["per_identity"] == here["methods"][name]["per_identity"]
        (weights,) = Path("spread/targets").glob(f"{Cell(**there['cell'])}-*/target.safetensors")
        assert there["provenance"]["weights"]["target"]["sha256"] == hash_file(weights)
    assert Path("out/table.md").read_text() == table.replace("--out=out\n", "--out=out --work=spread\n")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--engine=slurm"], "expected an engine among local, ray"),
        (["--workers=2"], "expected --engine=ray beside --address"),
    ],
)
def test_an_engine_that_a_study_cannot_have_is_one_line(tiny, monkeypatch, capsys, options, line):
    assert run_main(monkeypatch, study_capacity, *TINY, *options) == 2
    assert line in capsys.readouterr().err


def test_other_weights_on_a_node_are_refused_by_name():
    with pytest.raises(ValueError, match="expected the same weights of the world w on every node, got another judge"):
        spreading.check_weights("w", {"judge": "a", "prior": "b"}, {"judge": "c", "prior": "b"})


def test_a_study_is_written_and_what_is_finished_is_never_made_again(tiny, monkeypatch, capsys):
    assert run_main(monkeypatch, study_capacity, *TINY, "--part=1/2") == 0
    first = capsys.readouterr().out
    assert "1 of 1 cells to do" in first and "Not finished" in first and Path("out/curves.png").stat().st_size > 10_000
    assert run_main(monkeypatch, study_capacity, *TINY, "--part=2/2") == 0
    assert "Not finished" not in Path("out/table.md").read_text()
    rows = list(csv.DictReader(Path("out/table.csv").read_text().splitlines()))
    assert [(row["value"], row["method"]) for row in rows] == [
        (architecture, method) for architecture in ("linear", "mlp") for method in ("latent", plan.CONTROL, "gray-box")
    ]
    assert {row["users"] for row in rows} == {"5"} and {row["n"] for row in rows} == {"5"}
    assert all(float(row["factor_recovery"]) <= 1 and row["acc_at_1_low"] for row in rows)

    records = sorted(Path("work/cells").glob("*.json"))
    for record in map(json.loads, (file.read_text() for file in records)):
        (weights,) = Path("work/targets").glob(f"{Cell(**record['cell'])}-*/target.safetensors")
        assert record["provenance"]["weights"]["target"]["sha256"] == hash_file(weights)
        assert record["attacked"] == list(ATTACKED) and record["top1"]["photos"] == 5 * PHOTOS // 5
        assert [row["identity"] for row in record["methods"]["latent"]["per_identity"]] == list(ATTACKED)

    before, table = {file: file.read_bytes() for file in records}, Path("out/table.md").read_text()
    monkeypatch.setattr(running, "make_cell", lambda *args: pytest.fail("made again"))
    assert run_main(monkeypatch, study_capacity, *TINY) == 0
    assert {file: file.read_bytes() for file in records} == before and Path("out/table.md").read_text() == table
    records[0].unlink()
    assert run_main(monkeypatch, study_capacity, *TINY, "--table-only") == 0
    assert f"- {records[0].stem.rpartition('-')[0]}" in Path("out/table.md").read_text()


def test_a_killed_training_goes_on_to_the_same_weights(tiny, monkeypatch):
    flags = (*TINY, "--depth=mlp", "--methods=gray-box")
    assert run_main(monkeypatch, study_capacity, *flags, "--work=whole") == 0
    assert json.loads(next(Path("whole/cells").glob("*.json")).read_text())["methods"].keys() == {"gray-box"}
    monkeypatch.setattr(worlds, "load_assets", lambda *args, **options: SimpleNamespace(weight_files=dict))
    monkeypatch.setattr(running, "attack_target", lambda *args: {})
    make_training, save_state = plan.make_training, training.save_state
    saved = []

    def save_and_die(path, state):
        save_state(path, state)
        saved.append(state["step"])
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "make_training", lambda *args: dataclasses.replace(make_training(*args), save_every_s=0.0))
    monkeypatch.setattr(training, "save_state", save_and_die)
    for _ in range(3):
        assert run_main(monkeypatch, study_capacity, *flags) == 130
    assert saved == [1, 2, 3] and not list(Path("work/cells").glob("*.json"))
    monkeypatch.setattr(training, "save_state", lambda *args: pytest.fail("trained again"))
    assert run_main(monkeypatch, study_capacity, *flags) == 0
    (whole,), (killed,) = (sorted(Path(work).glob("targets/*/target.safetensors")) for work in ("whole", "work"))
    assert hash_file(whole) == hash_file(killed) and whole.parent.name == killed.parent.name

    trained = []
    monkeypatch.setattr(training, "train_recognizer", lambda *args, **options: trained.append(args))
    assert run_main(monkeypatch, study_capacity, *flags, "--methods=modern") == 0  # another attack on the same target
    assert not trained and len(list(Path("work/cells").glob("*.json"))) == 2


def test_another_process_at_a_cell_is_left_alone(tiny, monkeypatch, capsys):
    monkeypatch.setattr(running, "make_cell", lambda *args: pytest.fail("made twice"))
    flags = (*TINY, "--depth=linear")
    assert run_main(monkeypatch, study_capacity, *flags, "--dry-run") == 0
    assert list(json.loads(capsys.readouterr().out)["cells"]) == ["linear-p2-u5-s0"] and not Path("work").exists()
    config = study_capacity.StudyCapacity(
        world="rendered", axes="depth", depth="linear", steps=3, batch=8, public=10, work=Path("work")
    )
    target = plan.Places.of(config, Cell("linear", photos=2, users=5), {}).target
    target.parent.mkdir(parents=True)
    with FileLock(f"{target}.lock"):
        assert run_main(monkeypatch, study_capacity, *flags) == 0
    assert "another process is at it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--axes=depth,colour"], "expected an axis among depth, parameters, photos, users, got colour"),
        (["--part=4/3"], "expected a part such as 1/3"),
        (["--part=0/3"], "expected a part such as 1/3"),
        (["--part=x"], "expected a part such as 1/3"),
        (["--users=4,10", "--axes=users"], "expected 5 to 100000 users"),
        (["--users=ten", "--axes=users"], "expected a number for the axis users"),
        (["--photos-per-user=1", "--axes=photos"], "expected 2 to 1000 photos per user"),
        (["--parameters=9", "--axes=parameters"], "expected a width"),
        (["--parameters=nan", "--axes=parameters"], "expected"),
        (["--depth=cubic"], "expected a torchvision classifier"),
        (["--grid=huge"], "expected a grid among small, full"),
        (["--world=faces"], "expected a world of rendered people"),
        (["--methods=guess"], "expected methods among latent, gray-box, white-box, modern"),
        (["--methods="], "expected at least one method"),
        (["--steps=0"], "expected steps in [1, 1e7], got 0"),
        (["--seeds=0"], "expected seeds in [1, 1000], got 0"),
        (["--photos=nowhere"], "expected a folder made by prepare_people.py"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_made(flags, words, tiny, monkeypatch, capsys):
    for extra in ([], ["--dry-run"]):
        assert run_main(monkeypatch, study_capacity, *TINY, *flags, *extra) == 2
        err = capsys.readouterr().err
        assert words in err and err.count("\n") == 1
    assert not Path("work").exists() and not Path("out").exists()


# ---- the table


def test_users_are_averaged_over_seeds_and_then_summarized():
    def record(scores):
        users = [{"identity": user, "acc_at_1": score} for user, score in enumerate(scores)]
        methods = {"latent": {"per_identity": users, "control": False}}
        return {"parameters": 7, "top1": {"value": scores[0]}, "methods": methods}

    points = list_points({"users": ("10", "30")})
    finished = {Cell(users=10, seed=0): record([1.0, 0.0]), Cell(users=10, seed=1): record([0.0, 0.0])}
    rows, missing = curves.gather(points, 2, finished)
    assert missing == [Cell(users=30, seed=0), Cell(users=30, seed=1)]
    (row,) = rows
    assert row.top1 == 0.5 and row.summary.keys() == {"acc_at_1"}
    assert row.summary["acc_at_1"] == {"mean": 0.25, "ci95": [0.0, 0.5], "n": 2}
    assert "| 0.25 [0.00, 0.50] |" in re.sub(" +", " ", curves.format_table(rows, missing, "python x", {}))
    low, high = curves.draw_curves(rows).axes[list(AXES).index("users")].get_xlim()
    assert low == pytest.approx(10 / 1.3) and high == pytest.approx(13)  # a single point has room of its own
