from __future__ import annotations

from ganinv.engine.progress import open_bar


def test_a_log_gets_one_line_per_ten_per_cent_from_the_start(capsys):
    with open_bar(desc="steps", total=200) as bar:
        for step in range(200):
            bar.set_postfix(score=f"{step / 200:.2f}")
            bar.update()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 11 and lines[0] == "steps: 0 % (0/200)"
    assert lines[1] == "steps: 10 % (20/200), score=0.10" and lines[-1].startswith("steps: 100 % (200/200)")


def test_items_are_counted_and_a_total_may_come_later(capsys):
    assert list(open_bar([3, 4], "things")) == [3, 4]
    bar = open_bar(desc="search", initial=5)
    bar.total = 10
    bar.update(5)
    with open_bar(desc="silent", total=3, disable=True) as silent:
        silent.update(3)
    shown = ["things: 0 % (0/2)", "things: 50 % (1/2)", "things: 100 % (2/2)", "search: begun", "search: 100 % (10/10)"]
    assert capsys.readouterr().err.splitlines() == shown
