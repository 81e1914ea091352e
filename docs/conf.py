"""How Sphinx builds the guide: pip install -e ".[docs]" && sphinx-build -W -c docs . build/site

The source folder is the repository's root, so that a link means the same here and where the Markdown is read as it stands.
The gallery is run: GANINV_EXAMPLES=quick shortens its searches, GANINV_EXAMPLES=off leaves its pages without pictures.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
from pathlib import Path

import jupytext

import ganinv

sys.path.insert(0, str(Path(__file__).parent))
import generate

ROOT = Path(__file__).resolve().parents[1]
NAVIGATION = {
    "Start": ["/README", "how-it-works", "recognizers", "verdict", "/examples/README", "faq"],
    "Bring your own": ["priors", "worlds", "extending"],
    "Run": ["access", "attributes", "running", "tracking", "clusters", "panel"],
    "Reference": ["metrics", "glossary", "api", "models", "comparison"],
    "Results": [f"/results/{path.parent.name}/README" for path in sorted(ROOT.glob("results/*/README.md"))],
    "Project": ["responsible-use", "/SECURITY", "/CONTRIBUTING", "/CHANGELOG"],
}
API = {  # heading -> names of ganinv.__all__
    "Load and wrap": ["load_world", "load_prior", "load_recognizer", "wrap"],
    "Attack": ["LatentAttack", "PixelAttack", "AttackResult"],
    "Judge": ["judge", "audit", "Report", "AuditResult", "Judge", "World"],
}

FIRST = """<!doctype html>
<meta charset="utf-8">
<meta http-equiv="refresh" content="0; url=docs/index.html">
<title>ganinv</title>
"""

project = "ganinv"
author = "ganinv contributors"
version = release = ganinv.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_copybutton"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**", "results/**/*.md", "examples/*.py", "examples/README.md"]
exclude_patterns = ["build", "runs", "data", "pretrained", "ganinv", "tests", "scripts", "**/__pycache__", "docs/*.py"]
nitpicky = False

html_theme = "furo"
html_title = f"ganinv {version}"
html_static_path = ["static"]
html_css_files = ["guide.css"]
html_theme_options = {"navigation_with_keys": True}
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
copybutton_prompt_text = "$ "

myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]
smartquotes = False  # the API quotes code
autodoc_typehints = "none"  # they stand in the signature
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"

mode = os.environ.get("GANINV_EXAMPLES", "")
nb_custom_formats = {".py": "generate.read_notebook"}
nb_execution_mode = "off" if mode == "off" else "cache"
nb_execution_cache_path = str(ROOT / "build" / f"examples-{mode or 'full'}")
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = -1  # CI sets its own limit
nb_merge_streams = True
nb_output_stderr = "remove"  # progress


def list_pages() -> str:
    """Returns the tables of contents that the map has in the guide, and not where it is read as Markdown."""
    parts = []
    for title, pages in NAVIGATION.items():
        found = [page for page in pages if page.startswith("/") or (ROOT / "docs" / f"{page}.md").is_file()]
        parts.append(f"```{{toctree}}\n:hidden:\n:caption: {title}\n\n" + "\n".join(found) + "\n```\n")
    return "\n".join(parts)


def list_interface() -> str:
    """Returns the directives that document every public name; those of no heading come last."""
    named = {name for names in API.values() for name in names}
    parts = []
    for title, names in (API | {"More": [name for name in ganinv.__all__ if name not in named]}).items():
        parts += [f"## {title}\n"] if names else []
        for name in (name for name in names if name in ganinv.__all__):
            kind = "class" if inspect.isclass(getattr(ganinv, name)) else "function"
            members = "   :members:\n   :special-members: __call__\n" if kind == "class" else ""
            parts.append(f"```{{eval-rst}}\n.. auto{kind}:: ganinv.{name}\n{members}```\n")
    return "\n".join(parts)


def extend_page(app, name: str, source: list[str]) -> None:
    """Adds to a page what only the guide can show."""
    if name == root_doc:
        source[0] += "\n" + list_pages()
    elif name == "docs/api":
        source[0] += "\n" + list_interface()
    elif name == "docs/models":
        pages = "\n".join(
            f"generated/{page}" for page in sorted(path.stem for path in (ROOT / "docs/generated").glob("*.md"))
        )
        source[0] += f"\n```{{toctree}}\n:maxdepth: 1\n\n{pages}\n```\n"
    elif name == "examples/README":
        pages = "\n".join(sorted(path.stem for path in ROOT.glob("examples/*.py")))
        source[0] += f"\n```{{toctree}}\n:hidden:\n\n{pages}\n```\n"
    elif name.startswith("results/") and not name.endswith("/README"):  # tables that commands wrote
        _, *folders, stem = name.split("/")
        title = "" if source[0].lstrip().startswith("# ") else f"# {' '.join(folders)}: {stem}\n\n"
        source[0] = f"---\norphan: true\n---\n{title}{source[0]}"
    elif name.startswith("examples/"):
        link = f'<a href="{name.partition("/")[2]}.ipynb" download>This page as a notebook</a>'
        source[0] += f"\n# %% [markdown]\n# {link}\n"


def list_extended(app, env, added, changed, removed) -> list[str]:
    """Returns the pages that are read again whenever there is another page, since they list what is there."""
    return [name for name in (root_doc, "docs/api", "docs/models", "examples/README") if name in env.found_docs]


def quote_docstring(app, what, name, thing, options, lines: list[str]) -> None:
    """Makes reStructuredText of docstrings that are plain text: nothing in them is markup but `code` and doctests.

    A line that begins with a parameter's name and a colon, or with Raises: or Source:, begins a paragraph.
    """
    called = thing.__init__ if inspect.isclass(thing) else thing
    known = {*(inspect.signature(called).parameters if callable(called) else ()), "Raises", "Source"}
    quoted, fenced = [], False
    for line in lines:
        stripped = line.strip()
        if stripped.startswith(">>>") and not fenced:
            quoted.append("")
        fenced = bool(stripped) and (fenced or stripped.startswith(">>>"))
        if not fenced:
            line = re.sub(r"([*|\\])", r"\\\1", line)
            line = re.sub(r"(\w)_(?=\W|$)", r"\1\\_", line)
            line = re.sub(r"`([^`]+)`", r"``\1``", line)
            head = re.match(r"(\w+(?:, \w+)*)((?: \[[^\]]*\])*:)", line)
            if head and set(head[1].split(", ")) <= known:
                quoted.append("")
                line = f"**{head[1]}**{line[head.end(1) :]}"
        quoted.append(line)
    lines[:] = quoted


def write_extras(app, error) -> None:
    """Writes what no page is: the notebooks, and a first page that leads to the map."""
    if error or app.builder.format != "html":
        return
    for path in ROOT.glob("examples/*.py"):
        notebook = generate.read_notebook(path.read_text(encoding="utf-8"))
        (Path(app.outdir) / "examples").mkdir(exist_ok=True)
        jupytext.write(notebook, Path(app.outdir) / "examples" / f"{path.stem}.ipynb", fmt="ipynb")
    (Path(app.outdir) / "index.html").write_text(FIRST, encoding="utf-8")


def setup(app) -> dict:
    app.connect("builder-inited", lambda app: generate.write_models(ROOT / "docs" / "generated"))
    app.connect("source-read", extend_page)
    app.connect("env-get-outdated", list_extended)
    app.connect("autodoc-process-docstring", quote_docstring)
    app.connect("build-finished", write_extras)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
