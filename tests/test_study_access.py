"""The study of access: its counts and limits by hand, and one of its benches on a toy gallery."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ganinv.attack.config import Operator
from ganinv.attack.spaces import fit_whitening
from ganinv.recognizers.gallery import EnrolledRecognizer, Gallery
from ganinv.reports.audit_page import show_ladder
from ganinv.studies.access import cells, curves, plan
from ganinv.studies.access.cells import Bench, Remembered, invert_templates, measure, recover_templates
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
    table = curves.format_table({"distances": rows}, {"distances": curves.find_limits(rows)})
    assert "not judged" in table and "1, 2 of 2" in table and "none tried" in table
    assert curves.format_csv({"distances": rows}).splitlines()[2].endswith(",2,1 2")
    assert curves.draw_curves({"distances": rows}).axes[1].get_ylim()[1] > 1


def test_an_audit_shows_a_study_that_lies_in_its_folder(tmp_path):
    assert show_ladder(tmp_path) == {}
    points = {"10": make_point([False, False]), "64": make_point([True, False], 64)}
    (tmp_path / "distances-seed0.json").write_text(json.dumps(points))
    curves.write_results(tmp_path, tmp_path, [plan.Cell("distances", 0)], [0, 1])
    shown = show_ladder(tmp_path)
    (row,) = shown["rows"]
    assert row["points"] == ["10: 0 of 2", "64: 1 of 2"] and row["words"] == "distances of the claimed user"
    assert (row["first_lost"], row["half_lost"], row["keeps_all"]) == (64, 64, 10)
    assert shown["figure"].startswith("data:image/png;base64,")


def test_what_was_asked_for_is_checked():
    assert [cell.name for cell in plan.list_cells("template,decisions", 2)] == [
        "template-seed0", "decisions-seed0", "template-seed1", "decisions-seed1"
    ]  # fmt: skip
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
