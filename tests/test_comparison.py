from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import torch

from ganinv.metrics.statistics import bootstrap_interval
from ganinv.reports.comparison import BOOTSTRAP_SEED, Run, group_runs, pair_methods, trace_methods, trace_scores
from ganinv.reports.comparison_figures import draw_bars
from ganinv.reports.comparison_table import (
    format_command,
    format_commands,
    format_csv,
    format_differences,
    format_differences_csv,
    format_economy,
    format_table,
)
from ganinv.reports.markdown import format_csv_rows, format_rows
from ganinv.studies.run_comparison import show_users


def squeeze(text: str) -> str:
    """Returns a Markdown table without what pads its columns."""
    return re.sub(" +", " ", text)


def make_run(name: str, scores: list[float], *, seed: int = 0, absent: dict | None = None, **changes) -> Run:
    """Returns a run whose target_score are the scores; changes: of config, or of report and provenance by their keys."""
    identities = changes.pop("identities", list(range(len(scores))))
    rows = [{"identity": i, "target_score": score} for i, score in zip(identities, scores, strict=True)]
    report = {
        "method": changes.pop("method", "latent"),
        "world": changes.pop("world", "toy"),
        "identities": identities,
        "seed": seed,
        "summary": {"target_score": {}},
        "per_identity": rows,
        "cost": {"seconds": 10.0 + seed},
        "absent": {"lpips": "no trunk"} if absent is None else absent,
    }
    if judges := changes.pop("judges", None):
        report["judges"] = [{"name": name, "knows_users": name == "judge"} for name in judges]
    photos = {"photos": changes.pop("references")} if "references" in changes else {}
    weights = {role: {"file": role, "sha256": digest} for role, digest in changes.pop("weights", {}).items()}
    provenance = {"argv": ["/home/me/ganinv/scripts/latent_attack.py", f"--seed={seed}"], "weights": weights, **photos}
    config = {"space": "w", "seed": seed, "optim": {"lr": 0.1}, "label": "", **changes}
    return Run(Path(name), report, config, provenance)


def test_seeds_become_one_method_and_users_are_averaged_before_they_are_resampled():
    (method,) = group_runs([make_run("b", [1.0, 0.0, 0.5], seed=1), make_run("a", [0.0, 0.0, 0.1], seed=0)])
    assert method.label == "latent w" and [run.seed for run in method.runs] == [0, 1] and method.seconds == 10.5
    entry = method.summary["target_score"]
    # users (0+1)/2, 0 and 0.3: three, not six
    assert entry["mean"] == pytest.approx(0.8 / 3) and entry["n"] == 3
    expected = bootstrap_interval(torch.tensor([0.5, 0.0, 0.3], dtype=torch.float64), BOOTSTRAP_SEED)
    assert entry["ci95"] == pytest.approx(list(expected))


def test_what_changes_no_picture_does_not_part_runs():
    runs = [make_run("a", [1.0]), make_run("b", [0.0], seed=1, out="b", wandb="disabled", device="cuda", photos="p")]
    assert len(group_runs(runs)) == 1
    # a file counts by what it holds, code by its name
    weights = {"prior": "a" * 64}
    runs = [make_run("a", [1.0], generator="x.pt", weights=weights), make_run("b", [0.0], seed=1, weights=weights)]
    assert len(group_runs(runs)) == 1
    runs = [make_run("a", [1.0], target="m:f"), make_run("b", [0.0], seed=1, target="m:g")]
    assert [m.label for m in group_runs(runs)] == ["latent w (target=m:f)", "latent w (target=m:g)"]


def test_namesakes_get_what_sets_them_apart():
    runs = [make_run("a", [1.0]), make_run("b", [0.0], optim={"lr": 0.2}), make_run("c", [0.5], space="z")]
    assert [m.label for m in group_runs(runs)] == ["latent w (optim.lr=0.1)", "latent w (optim.lr=0.2)", "latent z"]
    runs = [make_run("a", [1.0], weights={"prior": "a" * 64}), make_run("b", [0.0], weights={"prior": "b" * 64})]
    assert [m.label for m in group_runs(runs)] == ["latent w (prior=aaaaaaaaaaaa)", "latent w (prior=bbbbbbbbbbbb)"]


def test_labels_are_the_given_one_or_method_and_variant():
    runs = [make_run("a", [1.0], label="best start"), make_run("b", [0.0], method="pixel", variant="gray-box")]
    assert [m.label for m in group_runs(runs)] == ["best start", "pixel gray-box"]


@pytest.mark.parametrize(
    "other, message",
    [
        (make_run("b", [1.0, 0.5], world="lfw"), "expected runs of the same world, got toy in a and lfw in b"),
        (make_run("b", [1.0, 0.5], identities=[5, 6]), r"expected runs of the same identities, got \[0, 1\] in a"),
        (make_run("b", [1.0, 0.5]), "expected one run of latent w a seed, got a and b of seed 0"),
        (make_run("b", [1.0, 0.5], seed=1, weights={"judge": "2" * 64}), "got another judge in b than in a"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(other, message):
    with pytest.raises(ValueError, match=message):
        group_runs([make_run("a", [0.0, 0.1], weights={"judge": "1" * 64}), other])


@pytest.mark.parametrize(
    "ours, theirs, message",
    [
        ({"judges": ["sface", "dlib"]}, {"judges": ["dlib"]}, "the same judge, got sface in a and dlib in b"),
        ({"references": "1" * 64}, {"references": "2" * 64}, "the same reference photos, got 1{12} in a and 2{12} in b"),
        ({"references": "1" * 64}, {"weights": {"references": "2" * 64}}, "the same reference photos"),  # others' users
    ],
)
def test_runs_of_other_judges_or_photos_are_refused(ours, theirs, message):
    with pytest.raises(ValueError, match=message):
        group_runs([make_run("a", [0.0, 0.1], **ours), make_run("b", [0.0, 0.1], seed=1, **theirs)])
    group_runs([make_run("a", [0.0, 0.1], **ours), make_run("b", [0.0, 0.1], seed=1)])  # nobody judged that one
    more = {"judges": ["sface", "mobilefacenet"]} if "judges" in ours else ours  # whose numbers are not compared
    group_runs([make_run("a", [0.0, 0.1], **ours), make_run("b", [0.0, 0.1], seed=1, **more)])


def test_no_photo_of_the_worlds_users_stands_beside_others():
    theirs = make_run("a", [0.0, 0.1], weights={"references": "1" * 64})
    shown = show_users("synthetic", [0, 1], [theirs])
    assert [photo.shape for photo in shown] == [(64, 64, 3)] * 2
    assert show_users("synthetic", [0, 1], [theirs, make_run("b", [0.0, 0.1], references="2" * 64)]) is None


def test_no_run_is_refused():
    with pytest.raises(ValueError, match="at least one finished run"):
        group_runs([])


def test_the_table_says_what_is_absent_and_why(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    with_lpips = make_run("b", [0.25, 0.75], absent={"fid": "few"}, space="z")
    with_lpips.report["summary"]["lpips"] = {}
    for row in with_lpips.report["per_identity"]:
        row["lpips"] = 0.5
    absent = {"fid": "few", "lpips": "needs /home/me/.cache/x"}
    methods = group_runs([make_run("a", [0.0, 1.0], absent=absent), with_lpips])
    text = squeeze(format_table(methods))
    assert "| method | target_score ↑ | lpips ↓ | users | seeds | seconds a run |" in text
    assert "| latent w | 0.50 [0.00, 1.00] | - | 2 | 1 | 10 |" in text
    assert "| latent z | 0.50 [0.25, 0.75] | 0.50 [0.50, 0.50] | 2 | 1 | 10 |" in text
    assert "- fid: few\n" in text and "- lpips (latent w): needs ~/.cache/x\n" in text
    rows = list(csv.DictReader(format_csv(methods).splitlines()))
    assert rows[0]["lpips"] == rows[0]["lpips_low"] == "" and float(rows[1]["lpips"]) == 0.5
    assert float(rows[1]["target_score_high"]) == 0.75 and rows[1]["seeds"] == "1"


def test_scores_are_traced_over_what_they_cost():
    rows = [
        {"step": 0, "seconds": 1.5, "gradient_queries": 4, "identities": {"0": 0.2, "1": 0.6}},
        {"step": 5, "seconds": 2.0, "gradient_queries": 8, "identities": {"2": 0.7}},  # the next part: another user
        {"step": 6, "seconds": 2.5, "gradient_queries": 9, "identities": {"2": 0.1}},
    ]
    points = trace_scores(rows)
    assert [point[:3] for point in points] == [(0, 1.5, 4), (5, 2.0, 8), (6, 2.5, 9)]
    assert [point[3] for point in points] == pytest.approx([0.8 / 3, 1.5 / 3, 0.9 / 3])
    methods = group_runs([make_run("a", [1.0]), make_run("b", [1.0], seed=1), make_run("c", [1.0], label="still")])
    folders = [run.folder for method in methods for run in method.runs]
    traces = trace_methods(methods, dict(zip(folders, (rows, rows[:1], []), strict=True)))
    assert {label: list(seeds) for label, seeds in traces.items()} == {methods[0].label: [0, 1]}
    lines = format_economy(traces).splitlines()
    assert lines[0] == "method,seed,step,seconds,gradient_queries,target_score" and len(lines) == 5
    assert lines[4].startswith(f"{methods[0].label},1,0,1.5,4,0.4")
    old = {"step": 0, "identities": {"0": 0.2}}
    assert trace_methods(methods, dict(zip(folders, (rows, [old], []), strict=True))) == {}


def test_one_user_has_no_interval():
    (method,) = group_runs([make_run("a", [0.5])])
    assert method.summary["target_score"] == {"mean": 0.5, "ci95": [None, None], "n": 1}
    assert "| latent w | 0.50 | 1 |" in squeeze(format_table([method]))
    draw_bars([method])


def test_commands_have_no_path_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    argv = ["/home/me/bin/ganinv-latent-attack", f"--out={tmp_path}/runs/a", "--photos=/data/faces", "--seed=1"]
    text = "python scripts/latent_attack.py --world=toy --out=runs/a --photos=/path/to/faces --seed=1"
    assert format_command(argv, "toy") == text
    argv = ["scripts/pixel_attack.py", "--world", "lfw", "--target", "/home/me/mine.py:make", "--label=a b"]
    text = "python scripts/pixel_attack.py --world lfw --target /path/to/mine.py:make '--label=a b'"
    assert format_command(argv, "lfw") == text
    text = format_commands(group_runs([make_run("a", [0.5]), make_run("b", [0.5], seed=1)]))
    assert "## latent w\n" in text and "python scripts/latent_attack.py --world=toy --seed=1\n" in text
    assert "/home" not in text


def with_metric(name, values, metric="acc_at_1", **changes):
    """Returns a run whose metric has the values."""
    run = make_run(name, values, **changes)
    run.report["summary"][metric] = {}
    for row, value in zip(run.report["per_identity"], values, strict=True):
        row[metric] = value
    return run


def test_differences_are_paired_by_user_after_averaging_seeds():
    base = [with_metric("a", [0.0, 0.0, 1.0]), with_metric("b", [1.0, 0.0, 0.0], seed=1)]  # users 0.5, 0, 0.5
    other = with_metric("c", [1.0, 0.5, 1.0], space="z")
    third = with_metric("d", [0.5, 0.0, 0.5], space="w_plus")
    methods = group_runs([*base, other, third])
    first, second = pair_methods(methods, power=0.25)
    assert (first.method, first.other, first.metric, first.n) == ("latent z", "latent w", "acc_at_1", 3)
    assert first.mean == pytest.approx(0.5) and first.ci95 == [0.5, 0.5]
    assert (first.p, first.p_holm) == (0.25, 0.5)  # two of eight signs, and two tests
    assert (second.method, second.mean, second.p, second.p_holm) == ("latent w_plus", 0, 1, 1)
    assert first.users == 6  # no spread: as few as the test allows
    assert [one.mean for one in pair_methods(methods, "latent z")] == pytest.approx([-0.5, -0.5])
    assert pair_methods(methods[:1]) == [] and format_differences([]) == ""
    with pytest.raises(ValueError, match="expected a method among latent w, latent z, latent w_plus to compare with, got x"):
        pair_methods(methods, "x")


def test_a_metric_that_one_method_lacks_is_not_tested_and_one_that_a_run_lacks_is_absent():
    methods = group_runs([with_metric("a", [0.0, 1.0]), make_run("b", [0.5, 0.5], space="z")])
    assert pair_methods(methods) == []
    (method,) = group_runs([with_metric("a", [0.0, 1.0]), make_run("b", [0.5, 0.5], seed=1)])
    assert method.absent["acc_at_1"] == "some runs lack it" and method.summary.keys() == {"target_score"}


def test_the_table_of_differences_says_what_it_takes_to_read_it():
    methods = group_runs([with_metric("a", [0.0, 0.2]), with_metric("b", [0.5, 0.9], space="z")])
    text = squeeze(format_differences(pair_methods(methods, power=0.5), 0.5))
    assert "Differences to latent w, paired by user" in text
    assert "| latent z | acc_at_1 | 0.60 [0.50, 0.70] | 2 | 0.5 | 0.5 | 6 |" in text
    assert "at least 0.5 with 2 users" in text and "users to see 0.5" in text
    assert "users to see" not in format_differences(pair_methods(methods))
    (row,) = csv.DictReader(format_differences_csv(pair_methods(methods)).splitlines())
    assert (row["method"], row["other"], row["users"]) == ("latent z", "latent w", "") and float(row["p_holm"]) == 0.5


def test_a_single_user_has_a_difference_and_no_interval_or_power():
    methods = group_runs([with_metric("a", [0.0]), with_metric("b", [0.5], space="z")])
    (one,) = pair_methods(methods, power=0.1)
    assert (one.mean, one.ci95, one.n, one.p, one.users) == (0.5, [None, None], 1, 1, None)


def test_cells_hold_no_tag_no_line_and_no_formula():
    text = format_rows(["method", "n"], [["a\nb|c <script>\x1b[2J\u202e", "< 0.01"]])
    assert "a b/c &lt;script>?[2J?" in text and "< 0.01" in text and text.count("\n") == 3
    rows = [["=HYPERLINK(1)", "-0.5", -0.5, "+a", "@b", "c"]]
    assert format_csv_rows(rows) == "'=HYPERLINK(1),-0.5,-0.5,'+a,'@b,c\n"
