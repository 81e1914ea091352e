"""The pages of docs/: every Python block runs, from top to bottom of its page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ganinv.attack.objectives import IMAGE_TERMS, OBJECTIVES
from ganinv.attack.searchers import SEARCHERS
from ganinv.attack.spaces import SPACES
from ganinv.judging import measures
from ganinv.metrics import catalogue

DOCS = Path(__file__).resolve().parents[1] / "docs"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


PAGES = sorted(path.name for path in DOCS.glob("*.md") if BLOCK.search(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_a_page_runs(page, monkeypatch):
    for table in (OBJECTIVES, IMAGE_TERMS, SPACES, SEARCHERS):
        monkeypatch.setattr(table, "entries", dict(table.entries))  # what a page adds is gone after it
    monkeypatch.setattr(catalogue, "CATALOGUE", dict(catalogue.CATALOGUE))
    monkeypatch.setattr(measures, "MEASURES", dict(measures.MEASURES))
    text, names = (DOCS / page).read_text(encoding="utf-8"), {"__name__": "page"}
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(1))
        exec(compile("\n" * line + block[1], str(DOCS / page), "exec"), names)  # an error names the line of the page
