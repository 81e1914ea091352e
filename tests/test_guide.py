"""The guide: its generated tables are as the code has them, every weight file has a card, and Sphinx builds it."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ganinv
from ganinv.metrics.catalogue import CATALOGUE
from ganinv.worlds.world import PRETRAINED

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted(ROOT.glob("examples/*.py"))


def load_generate():
    """Returns docs/generate.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = load_generate()


def test_every_metric_has_a_range_a_formula_and_a_source():
    lacking = [name for name, metric in CATALOGUE.items() if not (metric.range and metric.formula and metric.source)]
    assert lacking == []


def test_the_page_of_the_metrics_is_as_the_catalogue_has_them():
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert generate.update_metrics(page) == page, "run: python docs/generate.py"
    assert all(f"| `{name}` |" in page for name in CATALOGUE)


def test_every_shipped_weight_file_has_a_page_that_says_what_it_is_for(tmp_path):
    names = generate.write_models(tmp_path)
    cards = [path for path in PRETRAINED.glob("*/*.json") if path.name != "world.json"]
    assert sorted(names) == sorted(f"{path.parent.name}-{path.stem}" for path in cards)
    for name in names:
        page = (tmp_path / f"{name}.md").read_text(encoding="utf-8")
        assert all(part in page for part in ("| trained on |", "| SHA-256 |", "## Intended use", "## Limits")), name
        world, _, role = name.partition("-")
        assert role in generate.USES and role in generate.LIMITS and role in generate.TITLES, f"{role}: say what it is for"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_a_notebook_in_percent_format_that_ci_can_shorten(path):
    text = path.read_text(encoding="utf-8")
    cells = re.split(r"^# %%", text, flags=re.MULTILINE)
    assert not cells[0] and cells[1].startswith(" [markdown]\n# # ")
    assert 'QUICK = os.environ.get("GANINV_EXAMPLES") == "quick"' in text and ast.parse(text)
    assert f"({path.name})" in (ROOT / "examples" / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_guide_is_built_without_a_warning(tmp_path):
    """Without running the examples, which .ci/run does."""
    for package in ("sphinx", "furo", "myst_nb", "jupytext"):
        pytest.importorskip(package, reason='the guide needs pip install -e ".[docs]"')
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs", "-d", str(tmp_path / "trees")]
    environment = os.environ | {"GANINV_EXAMPLES": "off"}
    done = subprocess.run([*command, ".", str(tmp_path / "site")], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    site = tmp_path / "site"
    assert "docs/index.html" in (site / "index.html").read_text(encoding="utf-8")
    assert (site / "examples" / f"{EXAMPLES[0].stem}.ipynb").is_file()
    shown = (site / "docs" / "api.html").read_text(encoding="utf-8")
    assert [name for name in ganinv.__all__ if f'id="ganinv.{name}"' not in shown] == []


def test_the_version_is_in_one_place_and_the_citation_names_it():
    assert f"\nversion: {ganinv.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {ganinv.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
