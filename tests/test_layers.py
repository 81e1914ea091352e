"""The package's shape: one idea a package, imports only downward, no circle."""

from __future__ import annotations

import ast
from pathlib import Path

import ganinv

ROOT = Path(ganinv.__file__).parent
# from the top: a package may import those that stand below it, and its own modules without a circle
LAYERS = (
    *("commands", "studies", "training", "reports", "judging", "attack", "worlds", "attributes", "priors", "recognizers"),
    *("rendered", "metrics", "cli", "engine", "weights", "photos", "images", "interfaces", "json_data", "ranges", "errors"),
)


def read_imports(file: Path) -> set[str]:
    """Returns the modules of this package that a file imports anywhere, indented imports too: "attack.loop", "images"."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ganinv":
            for alias in node.names:
                names = [*node.module.split(".")[1:], alias.name]
                while names and not (ROOT.joinpath(*names).with_suffix(".py").is_file() or ROOT.joinpath(*names).is_dir()):
                    names.pop()
                found.add(".".join(names))
        elif isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("ganinv.") for alias in node.names if alias.name.startswith("ganinv.")}
    return found - {""}


def list_modules() -> dict[str, set[str]]:
    """Returns module -> modules that it imports, of the whole package but its public interface."""
    files = {file: ".".join(file.relative_to(ROOT).with_suffix("").parts) for file in ROOT.rglob("*.py")}
    return {name.removesuffix(".__init__"): read_imports(file) for file, name in files.items() if name != "__init__"}


def find_circle(modules: dict[str, set[str]]) -> list[str]:
    """Returns the modules of one circle of imports, [] where there is none."""
    done: set[str] = set()

    def walk(name: str, above: list[str]) -> list[str]:
        if name in above:
            return [*above[above.index(name) :], name]
        if name in done:
            return []
        for other in sorted(modules.get(name, ())):
            if circle := walk(other, [*above, name]):
                return circle
        done.add(name)
        return []

    return next((circle for name in sorted(modules) if (circle := walk(name, []))), [])


def find_upward(modules: dict[str, set[str]]) -> list[str]:
    """Returns the arrows that point up, "metrics.scores -> attack.loop"."""
    level = {package: row for row, package in enumerate(LAYERS)}
    return [
        f"{name} -> {other}"
        for name, others in sorted(modules.items())
        for other in sorted(others)
        if level[other.split(".")[0]] < level[name.split(".")[0]]
    ]


def test_imports_point_downward_and_never_in_a_circle():
    modules = list_modules()
    assert {name.split(".")[0] for name in modules} == set(LAYERS)
    assert find_upward(modules) == []
    assert find_circle(modules) == []


def test_an_upward_arrow_and_a_circle_are_found():
    assert find_upward({"metrics.scores": {"attack.loop", "images"}}) == ["metrics.scores -> attack.loop"]
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
