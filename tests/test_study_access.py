"""The study of access: its counts and limits by hand, and one of its benches on a toy gallery."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ganinv.attack.config import Operator, Optim, Surrogate
from ganinv.attack.spaces import fit_whitening
from ganinv.recognizers.gallery import EnrolledRecognizer, Gallery
from ganinv.reports.audit_page import show_ladder
from ganinv.studies.access import cells, curves, plan, records, running, searching
from ganinv.studies.access.cells import Bench, Remembered, invert_templates, measure, recover_templates
from ganinv.studies.access.records import describe_key, open_record, write_record
from ganinv.studies.access.searching import search_target
from tests.toys import RawRecognizer, toy_world

USERS = (0, 2)
SMALL = {
    "template": plan.Attacker("the template", "embeddings", (0,)),
    "distances": plan.Attacker("distances", "scores", (3, 12), plan.see_similarities()),
    "decisions": plan.Attacker("yes or no", "decisions", (20, 60), Operator(claimed=True)),
}


def make_bench(work: Path, threshold: float = 2.0) -> Bench:
    generator, recognizer, _ = toy_world()
    centres = recognizer.centres.detach()
    network = Remembered(RawRecognizer(centres))
    network.metric = "euclidean"
    target = EnrolledRecognizer(network, Gallery(("a", "b", "c"), centres, "euclidean", threshold, 0.5))
    world = SimpleNamespace(judge_entries=())
    assets = SimpleNamespace(target=target, generator=generator, world=world, judges=[], references=None)
    return Bench(assets, "toy", work, USERS, 200, 80, 60, {}, fit_whitening(generator, device="cpu", count=500))


def make_user(identity: int, lost: bool) -> dict:
    return {"identity": identity, "given_away": lost, "accepted": {"sface": lost}, "named": {"sface": True}}


def make_point(lost: list[bool], asked: int = 10, distance: float = 0.1) -> dict:
    users = [make_user(number, one) for number, one in enumerate(lost)]
    return {"distance": [distance] * len(lost), "asked": {"0": asked}, "failed": [], "users": users}


# ---- counts and limits


def test_limits_lie_between_what_was_tried():
    lost = {"10": [0, 0, 0, 0], "50": [1, 0, 0, 0], "200": [1, 1, 0, 0], "900": [1, 1, 1, 1]}
    rows = curves.gather({count: [make_point(list(map(bool, of)), int(count))] for count, of in lost.items()})
    assert [row["given_away"] for row in rows] == [[0], [1], [2], [4]]
    assert curves.find_limits(rows) == {"first_lost": 50, "half_lost": 200, "keeps_all": 10, "keeps_half": 50}
    assert curves.find_limits(rows[:1]) == {"first_lost": None, "half_lost": None, "keeps_all": 10, "keeps_half": 10}
    early = curves.gather({"900": [make_point([True], asked=120)]})  # who had nothing left to ask
    assert curves.find_limits(early)["first_lost"] == 120
    assert curves.find_limits(rows[2:]) == {"first_lost": 200, "half_lost": 200, "keeps_all": None, "keeps_half": None}


def test_seeds_stand_beside_each_other_and_what_was_not_judged_says_so():
    unjudged = {"distance": [0.3, 0.5], "asked": {"0": 4, "1": 6}, "failed": [1]}
    rows = curves.gather({"5": [unjudged], "10": [make_point([True, False]), make_point([True, True])]})
    assert rows[0]["judged"] == 0 and rows[0]["distance"] == pytest.approx(0.4) and rows[0]["asked"] == 5
    assert rows[0]["failed"] == 1 and rows[1]["given_away"] == [1, 2] and rows[1]["accepted"] == {"sface": [1, 2]}
    named = {("dlib", "distances"): rows}
    table = curves.format_table(named, {("dlib", "distances"): curves.find_limits(rows)})
    assert "not judged" in table and "1, 2 of 2" in table and "none tried" in table
    assert curves.format_csv(named).splitlines()[2].endswith(",2,1 2")
    distance, given_away, names = curves.draw_curves(named).axes
    assert distance.lines[0].get_ydata().tolist() == [0.4, 0.1]  # the point that was not judged, too
    assert given_away.lines[0].get_ydata().tolist() == [0.5] and names.lines[0].get_ydata().tolist() == [1.0]
    searched = curves.gather({"10": [{key: value for key, value in make_point([True]).items() if key != "distance"}]})
    assert searched[0]["distance"] is None and curves.format_csv({("cnn", "scores"): searched}).count("cnn,scores,10") == 1


def test_a_user_whom_nothing_is_accepted_as_has_failed_when_all_pictures_are_shown(tmp_path, monkeypatch):
    monkeypatch.setitem(plan.ATTACKERS, "decisions", replace(SMALL["decisions"], queries=(20, 500)))
    found = recover_templates(make_bench(tmp_path, threshold=1e-3), plan.Cell("decisions", 0))
    assert found[500]["failed"] == list(USERS)
    assert found[500]["asked"] == dict.fromkeys(USERS, 200)  # the bench has no more pictures
    assert found[500]["templates"].isfinite().all() and not found[500]["templates"].equal(found[20]["templates"])


def test_an_audit_shows_a_study_that_lies_in_its_folder(tmp_path):
    assert show_ladder(tmp_path) == {}
    points = {"10": make_point([False, False]), "64": make_point([True, False], 64)}
    cell = plan.Cell("distances", 0, "dlib")
    with pytest.raises(ValueError, match="expected finished cells in .*, got none"):
        curves.write_results(tmp_path)
    write_record(tmp_path, cell, open_record(tmp_path, cell, make_key(cell)) | {"points": points})
    curves.write_results(tmp_path)
    shown = show_ladder(tmp_path)
    (row,) = shown["rows"]
    assert row["points"] == ["10: 0 of 2", "64: 1 of 2"] and row["words"] == "distances of the claimed user"
    assert (row["first_lost"], row["half_lost"], row["keeps_all"]) == (64, 64, 10)
    assert shown["figure"].startswith("data:image/png;base64,")


def make_key(cell: plan.Cell, **changed: str) -> dict:
    weights = {role: {"sha256": changed.get(role, role)} for role in ("prior", "target", "gallery", "references", "sface")}
    return describe_key(cell, weights, [0, 1], ["sface"], {"steps": 50})


def test_a_cell_is_one_of_its_weights_judges_and_settings(monkeypatch, tmp_path):
    cell = plan.Cell("distances", 1, "dlib")
    key = make_key(cell)
    first = open_record(tmp_path, cell, key)
    assert first["points"] == {} and first["target"] == "dlib" and first["seed"] == 1
    write_record(tmp_path, cell, first | {"points": {"10": {"asked": {}}}})
    assert open_record(tmp_path, cell, key)["points"] == {"10": {"asked": {}}}
    for changed in ("prior", "target", "gallery", "references", "sface"):
        assert open_record(tmp_path, cell, make_key(cell, **{changed: "another"}))["points"] == {}
    monkeypatch.setitem(plan.ATTACKERS, "distances", replace(plan.ATTACKERS["distances"], far=0.1))
    assert open_record(tmp_path, cell, make_key(cell))["points"] == {}
    (tmp_path / "cells" / f"{cell.name}.json").write_text("[]")
    with pytest.raises(ValueError, match="expected JSON as ganinv writes it"):
        open_record(tmp_path, cell, key)


def test_what_was_asked_for_is_checked():
    assert [cell.name for cell in plan.list_cells("template,decisions", 2)] == [
        "template-seed0", "decisions-seed0", "template-seed1", "decisions-seed1"
    ]  # fmt: skip
    assert [cell.name for cell in plan.list_cells("scores", 1, first=2, target="cnn")] == ["cnn-scores-seed2"]
    classes = {cell.attacker for cell in plan.list_cells("all", 1, kind=plan.CLASSES)}
    assert {"scores", "labels", "gradients"} <= classes and not classes & {"template", "decisions", "embeddings"}
    with pytest.raises(ValueError, match="expected attackers of a target with classes among gradients, .*, got template"):
        plan.list_cells("template", 1, kind=plan.CLASSES)
    assert plan.name_target("runs/softmax.safetensors") == "softmax" and plan.name_target("dlib") == "dlib"
    with pytest.raises(ValueError, match="expected attackers among template, distances, .*, got magic"):
        plan.list_cells("template,magic", 1)
    assert plan.choose_judged((10, 64, 150), "64,150,7") == [64, 150] and plan.choose_judged((10,), "") == []
    with pytest.raises(ValueError, match="expected judged as all, or numbers of queries such as 0,150, got many"):
        plan.choose_judged((10,), "many")


# ---- a bench


def test_every_attacker_gets_templates_for_as_many_queries_as_it_says(monkeypatch, tmp_path):
    monkeypatch.setattr(cells, "ATTACKERS", SMALL)
    bench = make_bench(tmp_path)
    exact = recover_templates(bench, plan.Cell("template", 0))[0]
    assert measure(bench, exact)["distance"] == [0, 0]
    distances = recover_templates(bench, plan.Cell("distances", 0))
    assert distances[12]["asked"] == {0: 12, 2: 12}
    assert max(measure(bench, distances[12])["distance"]) < 0.01 < min(measure(bench, distances[3])["distance"])
    decisions = recover_templates(bench, plan.Cell("decisions", 0))
    assert decisions[20]["asked"] == {0: 20, 2: 20} and decisions[60]["failed"] == []
    assert max(measure(bench, decisions[60])["distance"]) < max(measure(bench, decisions[20])["distance"])
    again = recover_templates(make_bench(tmp_path), plan.Cell("decisions", 0))  # what is kept is not asked for again
    assert torch.equal(again[60]["templates"], decisions[60]["templates"]) and again[60]["asked"] == decisions[60]["asked"]
    fresh = recover_templates(make_bench(tmp_path), plan.Cell("distances", 0))
    assert torch.equal(fresh[12]["templates"], distances[12]["templates"])


def test_who_never_passes_has_failed(monkeypatch, tmp_path):
    monkeypatch.setattr(cells, "ATTACKERS", SMALL)
    bench = make_bench(tmp_path, threshold=0.001)
    found = recover_templates(bench, plan.Cell("decisions", 0))[60]
    assert found["failed"] == [0, 2] and found["asked"] == {0: 60, 2: 60} and found["templates"].isfinite().all()


def test_a_recovered_template_becomes_a_picture_near_it(tmp_path):
    bench = make_bench(tmp_path)
    own = bench.assets.target.templates[list(USERS)]
    pictures = invert_templates(bench, own, 0)
    with torch.no_grad():
        near = (bench.assets.target.network(pictures).embeddings - own).norm(dim=1)
    start = torch.cdist(own, bench.pool(0).embeddings).amin(1)
    assert pictures.shape == (2, 3, 8, 8) and (near < start).all()


def test_a_picture_is_looked_at_once(tmp_path):
    calls, bench = [], make_bench(tmp_path)
    network = bench.assets.target.network
    network.network.register_forward_hook(lambda module, arguments, output: calls.append(len(arguments[0])))
    pictures = torch.rand(3, 3, 8, 8)
    with torch.no_grad():
        first, again = network(pictures), network(pictures[[2, 0]])
    assert calls == [3] and torch.equal(again.embeddings, first.embeddings[[2, 0]])
    assert network(pictures.requires_grad_()).embeddings.requires_grad


def test_a_threshold_at_a_rate_needs_a_judge_of_the_same_network(tmp_path):
    with pytest.raises(ValueError, match="expected a threshold of toy at FMR 0.001 in the world, got none"):
        make_bench(tmp_path).find_threshold(plan.ATTACKERS["decisions-strict"])


# ---- searches

SEARCHES = {
    "scores": plan.Attacker(
        "scores", "scores", (10, 40, 200, 400), of=plan.CLASSES, search=Optim(optimizer="cma_es", transforms=1, pairs=4)
    ),
    "labels": plan.Attacker(
        "labels", "decisions", (40, 201), of=plan.CLASSES, objective="confidence",
        search=Optim(optimizer="boundary", transforms=1, pairs=4),
    ),
    "gradients": plan.Attacker("all", "gradients", (40, 60), of=plan.CLASSES, search=Optim(transforms=2)),
    "embeddings": plan.Attacker(
        "template", "embeddings", (40, 400), search=Optim(optimizer="zeroth_order", transforms=1), goal="template"
    ),
    "copy": plan.Attacker(
        "copy", "scores", (100,), of=plan.CLASSES, search=Optim(transforms=1),
        copy=Surrogate(network="toy", pictures=1, rounds=2, views=2),
    ),
}  # fmt: skip


def make_searched(work: Path, gallery: bool, monkeypatch) -> Bench:
    work.mkdir(exist_ok=True)
    bench = make_bench(work)
    if not gallery:
        bench.assets.target = toy_world()[1]
    monkeypatch.setattr(searching, "ATTACKERS", SEARCHES)
    monkeypatch.setattr(searching, "SHOWN", 40)
    monkeypatch.setattr(Bench, "load_public", lambda self, spec: RawRecognizer(toy_world()[1].centres.detach()))
    return bench


def tell(bench: Bench, pictures: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return bench.assets.target(pictures.float() / 127.5 - 1).logits.softmax(1)[[0, 1], list(USERS)]


@pytest.mark.parametrize("name", list(SEARCHES))
def test_a_search_is_looked_at_after_so_many_queries_and_no_more(monkeypatch, tmp_path, name):
    bench, attacker = make_searched(tmp_path, name == "embeddings", monkeypatch), SEARCHES[name]
    found = search_target(bench, plan.Cell(name, 0, "toy"), attacker.queries)
    assert sorted(found) == list(attacker.queries)
    for count, entry in found.items():
        asked = entry["asked"]
        assert set(asked) == set(USERS) and all(count - 20 < spent <= count for spent in asked.values())
        assert entry["pictures"].shape == (2, 3, 8, 8) and entry["pictures"].dtype == torch.uint8
    if name == "embeddings":
        own, prior = bench.assets.target.templates, bench.pool(0).embeddings[:40].mean(0)
        aims = (own + 0.5 * (own - prior))[list(USERS)]  # past the template, away from everybody
        seen = [bench.assets.target.network(found[count]["pictures"] / 127.5 - 1).embeddings for count in (40, 400)]
        first, last = ((rows - aims).norm(dim=1) for rows in seen)
        assert last.sum() < first.sum()
    if name == "scores":
        first, last = (tell(bench, found[count]["pictures"]) for count in (attacker.queries[0], attacker.queries[-1]))
        assert (last >= first).all() and last.min() > 0.5
    assert not list(tmp_path.glob("*search*")) and not list(tmp_path.glob("*copy*"))


def test_a_killed_search_goes_on_to_the_bit(monkeypatch, tmp_path):
    whole = search_target(make_searched(tmp_path / "a", False, monkeypatch), plan.Cell("scores", 0), (10, 200, 400))
    monkeypatch.setattr(searching, "EVERY", -1.0)  # kept after every step
    bench, calls, save = make_searched(tmp_path / "b", False, monkeypatch), [], searching.save_state

    def stop(file, state):
        save(file, state)
        calls.append(state["search"]["step"])
        if len(calls) == 25:
            raise KeyboardInterrupt

    monkeypatch.setattr(searching, "save_state", stop)
    with pytest.raises(KeyboardInterrupt):
        search_target(bench, plan.Cell("scores", 0), (10, 200, 400))
    again = search_target(make_searched(tmp_path / "b", False, monkeypatch), plan.Cell("scores", 0), (10, 200, 400))
    assert calls[24:26] == [25, 26] and calls[-1] == max(calls)
    for count in (10, 200, 400):
        assert (
            torch.equal(again[count]["pictures"], whole[count]["pictures"]) and again[count]["asked"] == whole[count]["asked"]
        )


def test_a_user_as_whom_no_picture_passes_is_said(monkeypatch, tmp_path):
    bench = make_searched(tmp_path, False, monkeypatch)
    bench.assets.target.decide = lambda found: torch.where(found.logits.argmax(1) == 2, -1, found.logits.argmax(1))
    assert search_target(bench, plan.Cell("labels", 0), (40,))[40]["failed"] == [2]


# ---- cells


def test_a_cell_in_the_results_is_not_made_again_unless_its_prior_is_another(monkeypatch, tmp_path, capsys):
    (tmp_path / "prior").write_text("one")
    bench, judged = make_bench(tmp_path), []
    bench.assets.weight_files = lambda: {"prior": tmp_path / "prior"}
    monkeypatch.setattr(running, "ATTACKERS", SMALL)
    monkeypatch.setattr(cells, "ATTACKERS", SMALL)
    monkeypatch.setattr(records, "ATTACKERS", SMALL)

    def judge(bench, pictures):
        judged.append(len(pictures))
        return [make_user(user, True) for user in USERS]

    def build(assets, spec, work, *settings):
        bench.work = work
        return bench

    monkeypatch.setattr(running, "judge_pictures", judge)
    monkeypatch.setattr(running.Bench, "build", build)
    config = SimpleNamespace(
        out=tmp_path / "out", work=tmp_path / "work", target="toy", pictures=200, blends=80, steps=2, most=10_000, judged="3"
    )

    def run(**changed) -> str:
        settings = SimpleNamespace(**{**vars(config), **changed})
        running.run_cells(settings, bench.assets, [plan.Cell("distances", 0, "toy")], USERS)
        return capsys.readouterr().err

    assert "asking, up to 12" in run() and judged == [2]
    record = json.loads((tmp_path / "out/cells/toy-distances-seed0.json").read_text())
    assert set(record["points"]) == {"3", "12"} and "users" in record["points"]["3"] and "users" not in record["points"]["12"]
    assert set(record["seconds"]) == {"asking", "judging"}
    assert run() == "toy-distances-seed0: is there\n" and judged == [2]
    assert "pictures after 12" in (more := run(judged="all")) and "asking" not in more and judged == [2, 2]
    (tmp_path / "prior").write_text("another")
    assert "asking, up to 12" in run() and judged == [2, 2, 2]
    again = json.loads((tmp_path / "out/cells/toy-distances-seed0.json").read_text())
    assert "users" not in again["points"]["12"] and again["key"] != record["key"]
    curves.write_results(tmp_path / "out")
    assert "2 of 2" in (tmp_path / "out/table.md").read_text()
