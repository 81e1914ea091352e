"""Several attacks in one table: the worst stands first."""

from __future__ import annotations

import pytest

from ganinv.reports.combined import combine_reports, write_combined
from tests.test_answers import make_leak, make_selection


def report_of(hits, n=10, images=100, **changes):
    report = {"identities": list(range(n)), "leak": make_leak(hits, n), "selection": make_selection()}
    return report | {"cost": {"images_evaluated": images, "seconds": 1.0}} | changes


def test_the_worst_attack_stands_first_and_the_unknown_last():
    reports = {
        "nobody": report_of(0, leak={"absent": "no judge"}),
        "pixels": report_of(0),
        "class, slow": report_of(8, images=900),
        "few": report_of(5),
        "class": report_of(8),
        "template": report_of(10),
    }
    rows = combine_reports(reports, {"template": "embeddings", "class": "scores"})
    assert [row.attack for row in rows] == ["template", "class", "class, slow", "few", "pixels", "nobody"]
    assert [row.answer for row in rows] == ["shown", "shown", "shown", "suggested", "not shown", "unknown"]
    assert rows[0].access == "embeddings" and rows[0].null == 0 and rows[-1].reason == "no judge"
    first, second, last = write_combined(rows)
    assert "Yes: the worst of 6 attacks, template, gives away all 10 users (95 % interval 69 % to 100 %)" in first
    assert second == "To whom? It is shown for attackers who hold embeddings, scores, gradients." and "may find more" in last
    assert "Not shown with 10 users: the worst of 2 attacks, pixels, gives away 0 of 10" in write_combined(rows[4:])[0]
    assert "Not shown with 10 users: each of 2 attacks gives away 0 of 10 users" in write_combined([rows[4], rows[4]])[0]
    assert "Not answered: no judge" in write_combined(rows[5:])[0]


def test_reports_of_other_users_are_refused():
    with pytest.raises(ValueError, match="expected reports of the same users, got .* in a and .* in b"):
        combine_reports({"a": report_of(1), "b": report_of(1, n=5)})
    with pytest.raises(ValueError, match="expected at least one report"):
        combine_reports({})
