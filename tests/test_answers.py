"""The sentences say what the numbers say, no more; "not shown" is never "no"."""

from __future__ import annotations

import re

import pytest

from ganinv.judging.leak import Rate
from ganinv.metrics.statistics import least_p, mcnemar_p
from ganinv.reports import answers, assessment, terminal


def make_leak(hits=4, n=5, null=0, answer=None, needed=2, far=1e-3):
    """Returns an entry "leak" in which so many of n users are given away, and of the random faces `null`."""
    p = mcnemar_p(max(0, hits - null), max(0, null - hits))
    answer = answer or ("not shown" if hits <= null or p > 0.1 else "shown" if p <= 0.05 else "suggested")
    ours, theirs = Rate(hits, n).describe(), Rate(null, n).describe()
    names = ("sface", "dlib")[:needed]
    judge = {"sees_users": False, "metric": "cosine", "far": far, "threshold": 0.4, "basis": "1000 pairs", "people": 40}
    judge |= {"accepted": ours, "named": ours, "strangers": Rate(1, 900).describe()}
    row = {"accepted": dict.fromkeys(names, theirs), "named": dict.fromkeys(names, theirs), "given_away": theirs}
    row |= {"control": "random sample of the prior", "only_pictures": hits, "only_control": null, "p": p}
    users = [{"identity": user, "given_away": user < hits, "accepted": {}, "named": {}} for user in range(n)]
    return {
        "answer": answer, "given_away": ours, "needed": needed, "judges": [judge | {"judge": name} for name in names],
        "nulls": [row], "selection": row | {"control": "best candidate"}, "p": p, "least_p": least_p(n), "users": users,
    }  # fmt: skip


def make_selection(answer="shown", mean=0.3, low=0.2, p=0.01, n=8):
    difference = {"mean": mean, "ci95": [low, mean + 0.1], "n": n, "p": p}
    users = {"given_away": Rate(1, n).describe()}
    return {"answer": answer, "control": "best candidate", "metric": "identity_similarity", "difference": difference,
            "least_p": least_p(n), "users": users}  # fmt: skip


def test_the_first_answer_by_hand():
    assert answers.write_leak(make_leak(hits=8, n=8)) == (
        "Does it leak? Yes. Two recognizers that took no part (sface, dlib) accept the picture and name the right person "
        "for all 8 users (95 % interval 63 % to 100 %), at a false-match rate of 1 in 1000. The same holds of random faces "
        "for 0 (p = 0.0078 against the strongest of these)."
    )


def test_the_second_answer_by_hand():
    assert answers.write_selection(make_selection()) == (
        "Does the search add to mere selection? Yes. The pictures are more like the users' photos than the best of many "
        "random faces by the target's own score, by +0.30 on a scale of -1 to 1 (95 % interval 0.20 to 0.40, p = 0.01). Of "
        "these 1 of 8 give their user away."
    )
    text = answers.write_selection(make_selection("not shown", -0.1, -0.2, 0.5))
    assert "Not shown with 8 users" in text and "no more" not in text
    assert "are not shown to be more like" in text


CASES = {
    "yes": ({"hits": 8, "n": 8}, "gives its users away", r"leak\? Yes\.", "human being"),
    "few users": (
        {"hits": 5, "n": 5},
        "Signs",
        r"With 5 users no p can be below 0.062\. At this share 6 users",
        "human being",
    ),
    "few hits": (
        {"hits": 2, "n": 10},
        "No leak was shown, which does not mean that there is none",
        r"Not shown with 10 users\. .* \(p = 0\.5 .*\)\. Chance alone may give as many; at this share 30 users would show it",
        "is safe",
    ),
    "one of twenty": ({"hits": 1, "n": 20}, "No leak was shown", r"\(p = 1 .* at this share 120 users would show", "is safe"),
    "above a null": (
        {"hits": 3, "n": 20, "null": 1},
        "No leak was shown",
        r"at this share \d+ users would show it",
        "is safe",
    ),
    "nothing": ({"hits": 0, "n": 5}, "No leak was shown", r"Not shown with 5 users\. .* up to 52 % of its users", "is safe"),
    "as the null": ({"hits": 3, "n": 8, "null": 3}, "No leak was shown", "Not shown with 8 users", "does not say that the"),
    "one judge": (
        {"hits": 8, "n": 8, "needed": 1},
        "gives",
        r"The one recognizer .* \(sface\) accepts",
        "human",
    ),
    "looser": ({"hits": 8, "n": 8, "far": 1e-2}, "gives", "1 in 100, the strictest that the photos allow", "human"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_words_follow_the_numbers(name):
    changes, heading, first, last = CASES[name]
    report = {"leak": make_leak(**changes), "selection": make_selection()}
    assert heading in answers.write_heading(report)
    sentences = answers.write_verdict(report)
    assert len(sentences) == 3 and re.search(first, sentences[0]) and last in sentences[2]
    assert all(sentence.endswith(".") and "no more" not in sentence for sentence in sentences)


def test_without_judges_nothing_is_claimed():
    report = {"leak": {"absent": "no judge"}, "selection": {"absent": "no control"}}
    assert answers.write_heading(report) == "Nobody could judge the pictures"
    first, second, third = answers.write_verdict(report)
    assert "Not answered: no judge" in first and "Nobody could say: no control" in second and "is safe" in third


def test_a_judge_that_is_left_out_is_named_with_its_reason():
    weak = {"judge": "mine", "reason": "accepts 11% of the users' own photos at a false-match rate of 1 in 1000"}
    text = answers.write_leak(make_leak(needed=1) | {"left_out": [weak]})
    assert text.endswith(f"Left out: mine ({weak['reason']}).") and "The one recognizer" in text


def test_judges_of_different_rates_are_named():
    leak = make_leak()
    leak["judges"][1] |= {"far": 1e-2}
    assert "false-match rates of 1 in 1000 (sface), 1 in 100 (dlib), each the strictest" in answers.write_leak(leak)


def make_run():
    report = {
        "method": "latent",
        "world": "toy",
        "identities": [0, 1],
        "leak": make_leak(1, 2),
        "selection": make_selection(),
    }
    report |= {"verdict": ["Does it leak?"], "summary": {}, "absent": {}, "judges": []}
    report["cost"] = {"seconds": 9.0, "images_evaluated": 100, "gradient_queries": 80, "verdict_seconds": 1.0}
    return report


def test_an_assessment_names_what_was_attacked_held_found_and_left_out():
    provenance = {"weights": {"target": {"file": "t.safetensors", "sha256": "abc"}}}
    found = assessment.describe_assessment(make_run(), {"access": "scores", "space": "w"}, provenance)
    assert "SHA-256 abc" in found["What was attacked"][0] and "by number: 0, 1" in found["What was attacked"][1]
    held = " ".join(found["What the attacker held"])
    assert "scores for pictures" in held and "no picture of any user" in held and "100 pictures shown" in held
    assert found["What was found"] == ["Does it leak?", "users given away: 0"]
    assert "other access than scores: gradients, embeddings, decisions" in found["What was not tried"]
    assert "C11.4" in found["References"][0] and "28/2024" in found["References"][1]
    judged = assessment.describe_assessment(make_run() | {"method": "judged"}, {}, {})
    assert judged["What the attacker held"] == ["unknown: the pictures were made elsewhere"]


def test_who_did_not_move_is_said_first_and_queries_by_user(capsys):
    queries = {"gradients": 6, "answers": 4, "shared": 3, "per_identity": {"0": 3, "1": 4}}
    report = make_run() | {"stuck": [1], "names": {"0": "Ada", "1": "Bob"}, "queries": queries}
    report["remarks"] = answers.write_remarks(report)
    terminal.print_report(report, "runs/a")
    out = capsys.readouterr().out
    assert out.startswith("The search did not move for user 1 (Bob): the picture") and "(3 to 4 for each user)" in out
    held = assessment.describe_assessment(report, {}, {})["What the attacker held"]
    assert held[-1].endswith("(3 to 4 for each user)")
    assert "Given away: user 0 (Ada)." in out
    assert answers.name_users({"names": {"3": "\x1b[2J"}}, [3]) == "user 3 ('\\x1b[2J')"  # nothing that a terminal would obey
    found = assessment.describe_assessment(report, {}, {})
    assert found["What was found"][-1] == "users given away: 0 (Ada)"
    assert found["What was attacked"][1].endswith("by number: 0 (Ada), 1 (Bob)")
    assert "for any of the users:" in answers.write_remarks(report | {"stuck": [0, 1]})[0]
    assert answers.write_remarks(make_run()) == []  # of an earlier version
    assert "\n9 s of attack, 100 pictures shown to the target (3 to 4 for each user); then 1 s for the verdict" in out


def test_a_short_search_is_the_likely_reason_that_it_did_not_move():
    report = make_run() | {"stuck": [1]}
    for steps, said, direction, longer in (
        (1, "most likely because it had only 1 step.", False, True), (9, "only 9 steps.", False, True),
        (10, "perhaps because it had only 10 steps, or since the target gave no", True, True),
        (100, "sees, since the target", True, False),
    ):  # fmt: skip
        (remark,) = answers.write_remarks(report | {"steps": steps})
        assert said in remark and "This says nothing of the recognizer" in remark
        assert ("direction" in remark, "for longer (--steps)" in remark) == (direction, longer)
    assert "gave no direction" in answers.write_remarks(report)[0]  # of an earlier version, which kept no steps


def test_the_end_of_a_run_is_the_verdict_the_page_and_ten_lines(capsys):
    report = make_run() | {"absent": {f"metric_{number}": "no" for number in range(30)}}
    entry = {"mean": 0.5, "ci95": [0.4, 0.6], "n": 2}
    report["summary"] = dict.fromkeys([name for name, metric in terminal.CATALOGUE.items()], entry)
    terminal.print_report(report, "runs/a")
    out = capsys.readouterr().out
    verdict, _, rest = out.partition("\nruns/a/report.html\n")
    lines = rest.splitlines()
    assert verdict.startswith("Does it leak?") and len(lines) == terminal.MOST_LINES
    assert lines[0].startswith("target_score ") and "95% interval 0.400 to 0.600   n 2" in lines[0]
    assert lines[-2].startswith("30 absent") and "100 pictures" in lines[-1] and max(map(len, lines)) < 100
