"""The page says what the numbers say, no more, and shows nobody who is real."""

from __future__ import annotations

import json
import re

import pytest
import torch

from ganinv import images
from ganinv.reports import page


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


# ---- sentences


def test_the_sentences_by_hand():
    first, second, third = page.write_sentences(make_report(hits=0.75))
    assert first == (
        "A recognizer of the same users, which took no part in the attack, named the right one of 40 people from the "
        "pictures of 6 of 8 users (95 % interval 65% to 75%); from the best of many random faces it did so for 3 of 8, and "
        "from the users' own photos 88% of the time."
    )
    assert second == (
        "A second recognizer, which has never met the users, finds the pictures more like their photos than the best of many "
        "random faces, by 0.30 on a scale from -1 to 1 (95 % interval 0.20 to 0.40), more than chance explains (p = 0.01)."
    )
    assert third == (
        "This does not prove that a human being would know anybody in these pictures, which are no photographs and no "
        "evidence of anything about anybody; much of them is the prior's work, and 8 users speak for few others."
    )


CASES = {
    "shown": ({}, "The pictures carry something of the users", "more than chance explains", "does not prove that a human"),
    "few users": (
        {"users": 5, "p": 0.0625},
        "Some sign of the users, from too few of them to be sure",
        "but 5 users are too few to rule out chance (p = 0.062)",
        "5 users speak for few others",
    ),
    "chance": (
        {"difference": 0.05, "p": 0.4},
        "The pictures show no more of the users than the controls do",
        "does not find the pictures more like their photos than the best of many random faces: the difference is +0.05",
        "This does not prove the attacked recognizer safe",
    ),
    "worse": (
        {"difference": -0.5, "p": 0.01},
        "The pictures show no more of the users than the controls do",
        "the difference is -0.50 (95 % interval -0.60 to -0.40), which is no leak",
        "This does not prove the attacked recognizer safe",
    ),
    "sure and small": ({"difference": 0.11, "p": 0.05}, "The pictures carry something", "by 0.11 on a scale", "human being"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_words_follow_the_numbers(name):
    changes, heading, second, third = CASES[name]
    report = make_report(**changes)
    assert page.write_heading(report).startswith(heading)
    sentences = page.write_sentences(report)
    assert len(sentences) == 3 and second in sentences[1] and third in sentences[2]
    # one full stop each, at its end: points between digits are no stops
    assert all(len(re.findall(r"\.(?!\d)", sentence)) == 1 and sentence.endswith(".") for sentence in sentences)


def test_judges_that_differ_are_said_to():
    report = make_report()
    report["headline"][0] |= {"mean": 0.0, "ci95": [-0.1, 0.1], "p": 1.0}
    assert page.write_heading(report) == "The judges differ on whether the pictures show the users"


def test_without_judges_nothing_is_claimed():
    report = without(make_report(), "acc_at_1", "identity_similarity")
    assert page.write_heading(report) == "Nobody could judge the pictures"
    first, second, third = page.write_sentences(report)
    assert "No recognizer that knows the users could name them in these pictures (no judge)" in first
    assert "proves nothing" in first and "(no judge)" in second and "does not prove the attacked recognizer safe" in third


def test_one_user_has_no_interval_and_no_chance():
    report = make_report(users=1, p=1.0)
    for place in (*report["summary"].values(), *report["headline"]):
        place["ci95"] = [None, None]
    first, second, third = page.write_sentences(report)
    assert "interval" not in first + second and "one user tells nothing of chance" in second
    assert "one user speaks for no other" in third and "carry" not in page.write_heading(report)


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
        "unknown: no card",
        "number 4711",
        "nose",
        "kid",
        "optim.lr",
        "Photographs of the users are not",
    ):
        assert shown.lower() in text.lower(), shown
    assert text == page.render_page(tmp_path / "run", report)


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
    assert "Nobody could judge" in text and "polyline" not in text.partition("</style>")[2]


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
