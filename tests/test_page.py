"""The page says what the numbers say, no more, and shows nobody who is real."""

from __future__ import annotations

import json
import re

import pytest
import torch

from ganinv import images
from ganinv.reports import answers, page
from tests.test_answers import make_leak, make_selection


def entry(mean, low=None, high=None, users=5):
    return {"mean": mean, "ci95": [mean if low is None else low, mean if high is None else high], "n": users}


def make_report(hits=1.0, likeness=0.6, *, difference=0.3, p=0.01, users=8, absent=None):
    """Returns a report of a run in which both judges' differences to the control are as given."""
    metrics = {"acc_at_1": hits, "identity_similarity": likeness, "target_score": 1.0, "judge_rank": 1.5}
    low = difference - 0.1
    return {
        "method": "latent",
        "world": "toy",
        "seed": 0,
        "identities": list(range(users)),
        "summary": {name: entry(value, value - 0.1, value, users) for name, value in metrics.items()},
        "per_identity": [{"identity": identity, **metrics} for identity in range(users)],
        "cost": {"seconds": 1.0, "verdict_seconds": 0.5},
        "absent": absent or {},
        "headline": [
            {"metric": name, "control": "best candidate", **entry(difference, low, difference + 0.1, users), "p": p}
            for name in ("acc_at_1", "identity_similarity")
        ],
        "controls": {"best candidate": {name: entry(value / 2, users=users) for name, value in metrics.items()}},
        "ceiling": {"acc_at_1": entry(0.875, users=users)},
        "judges": [{"name": "judge", "knows_users": True, "identities": 40}],
    }


def without(report, *metrics):
    """Returns a report in which metrics are absent."""
    for name in metrics:
        del report["summary"][name]
        report["absent"][name] = "no judge"
        for row in (*report["per_identity"], *report["controls"].values()):
            row.pop(name, None)
    report["headline"] = [line for line in report["headline"] if line["metric"] not in metrics]
    return report


@pytest.mark.parametrize(
    ("share", "users", "text"),
    [(1.0, 5, "all 5 users"), (0.8, 5, "4 of 5 users"), (0.0, 5, "0 of 5 users"), (0.5, 5, "on average 2.5 of 5 users"),
     (1.0, 1, "1 of 1 users")],
)  # fmt: skip
def test_shares_are_told_as_users(share, users, text):
    assert page.count_users(share, users) == text


# ---- the page


def write_run(folder, report, kept=1, label="mine"):
    (folder / "images").mkdir(parents=True)
    for identity in report["identities"]:
        for k in range(kept):
            images.save(torch.full((3, 8, 8), identity / 10), folder / "images" / f"{identity}_{k}.png")
    (folder / "config.json").write_text(json.dumps({"label": label, "optim": {"lr": 0.1}}))
    (folder / "provenance.json").write_text(json.dumps({"version": "1", "weights": {"prior": {"file": "p", "sha256": "ab"}}}))
    rows = [{"step": step, "identities": {str(user): step / 9 for user in report["identities"]}} for step in range(10)]
    (folder / "steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def full_report(**changes):
    report = make_report(**changes)
    share = {"share": None, "why": "unknown: no card"}
    overlap = dict.fromkeys(("target_users", "target_photos_of_users", "target_public_people", "prior_people"), share)
    report["judges"] = [
        {"name": "judge", "knows_users": True, "identities": 40, "architecture": None, "seed": None, "sha256": None,
         "trained_on": None, "overlap": overlap}
    ]  # fmt: skip
    report["pictures"] = [
        {"identity": user, "k": 0, "taken_by": {"judge": True, "verifier": user > 0}, "disagreement": user == 0}
        for user in report["identities"]
    ]
    report["absent"] = {"lpips": "no <trunk>"}
    report["sets"] = {"kid": {"value": 0.1, "pictures": 8, "references": 9, "features": "of the verifier"}}
    report["memory"] = {"rule": "near", "pictures": [
        {"identity": 0, "k": 0, "photo": 4711, "similarity": 0.5, "own": 0.6, "copy": True}]}  # fmt: skip
    report["leak"], report["selection"] = make_leak(hits=6, n=8), make_selection()
    report["sar"] = {"rows": [
        {"system": "target", "type": "I", "at": "operator", "threshold": 0.6, "pictures": "the attack", "share": 0.75,
         "ci95": [0.3, 0.9], "interval": "exact", "users": 8, "comparisons": 8}]}  # fmt: skip
    report["verdict"] = answers.write_verdict(report)
    report["type_i"] = {"changes": ["jpeg"], "projection": {"steps": 40, "distance": "pixels"}}
    report["factors"] = {"nose": {"recovery": 0.5, "ceiling": 0.9}}
    return report


def test_the_page_is_one_file_that_runs_and_fetches_nothing(tmp_path):
    report = full_report()
    text = page.render_page(write_run(tmp_path / "run", report, kept=2), report)
    assert "<script" not in text and "http" not in text.replace("http-equiv", "")
    assert "default-src 'none'" in text and not re.findall(r"{[{%]|[}%]}", text)
    sources = re.findall(r'src="([^"]*)"', text)
    assert len(sources) == 8 + 16 and all(source.startswith("data:image/png;base64,") for source in sources)
    for shown in (
        "both judges take",
        "accepted and named right by two judges",
        "6 of 8",
        "exact McNemar test",
        "operator",
        "OWASP AISVS 1.0, C11.4",
        "EDPB Opinion 28/2024",
        "nobody has said whether these judges have met the users: judge",
        "unknown: no card",
        "number 4711",
        "nose",
        "kid",
        "optim.lr",
        "Photographs of the users are not",
    ):
        assert shown.lower() in text.lower(), shown
    assert text == page.render_page(tmp_path / "run", report)


def test_the_leak_is_answered_before_anything_else(tmp_path):
    report = full_report() | {"attributes": {"absent": "needs a probe"}}
    text = page.render_page(write_run(tmp_path / "run", report), report)
    said = ("Does it leak?", "Does the search add", "What was recovered", '<ul class="tiles">')
    places = [text.index(words) for words in said]
    assert places == sorted(places)


def test_a_photo_is_shown_only_where_it_is_given(tmp_path):
    report = full_report(users=2)
    run = write_run(tmp_path / "run", report)
    assert "a photo of user" not in page.render_page(run, report)
    text = page.render_page(run, report, {0: torch.zeros(3, 8, 8)})
    assert text.count("a photo of user 0, who does not exist") == 1 and "a photo of user 1" not in text


def test_what_a_file_says_is_text_and_never_markup(tmp_path):
    report = full_report()
    report["world"] = "<img src=x onerror=alert(1)>"
    report["controls"] = {"<b>bold</b>": report["controls"]["best candidate"]}
    for line in report["headline"]:
        line["control"] = "<b>bold</b>"
    text = page.render_page(write_run(tmp_path / "run", report, label="<script>alert(1)</script>"), report)
    for raw in ("<script>", "<img src=x", "<b>bold", "no <trunk>"):
        assert raw not in text
    assert "&lt;script&gt;" in text and "no &lt;trunk&gt;" in text


def test_a_report_of_an_earlier_version_and_a_bare_folder_have_a_page(tmp_path):
    report = make_report()
    for key in ("headline", "controls", "ceiling", "judges"):
        del report[key]
    text = page.render_page(tmp_path, report)  # no pictures, configuration or steps either
    assert (
        "Nobody could judge" in text
        and "Not measured: it is not in the report" in text
        and "polyline" not in text.partition("</style>")[2]
    )


def test_the_curve_goes_from_the_first_to_the_last_step():
    rows = [{"step": step, "identities": {"3": step / 999}} for step in range(1000)]
    chart = page.draw_curves(rows)
    points = chart["curves"]["3"].split(" ")
    width, height = page.CHART
    assert points[0] == f"0.0,{height:.1f}" and points[-1] == f"{width:.1f},0.0" and len(points) <= page.LONGEST_CURVE + 2
    assert chart["last"] == 999 and page.draw_curves(rows[:1]) is None


def test_numbers_are_short():
    shown = [page.show_number(value) for value in (-0.001, 0.125, 1234.5, None, True, "a")]
    assert shown == ["0.00", "0.12", "1234", "-", "True", "a"]
    assert [page.show_count(value) for value in (1.0, 2.5, 12.0)] == ["1", "2.5", "12"]
