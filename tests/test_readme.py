"""The README and the guide say what is there: size, links, scripts, flags; and the README's Python runs."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision

import ganinv
from ganinv import images
from ganinv.cli.composed import list_options
from ganinv.recognizers.preprocessing import Preprocessing

ROOT = Path(__file__).resolve().parents[1]
MOST_BYTES = 9216  # of the README: what somebody reads who has never heard of us
PATTERNS = ("*.md", "docs/*.md", "results/*/README.md")
PAGES = sorted(path.relative_to(ROOT).as_posix() for pattern in PATTERNS for path in ROOT.glob(pattern))
EVERYWHERE = {"--help", "--help-verbose", "--dry-run"}
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def read(page: str) -> str:
    """Returns a page's text, without comments."""
    return re.sub(r"<!--.*?-->", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


@functools.cache
def list_flags(command: str) -> frozenset[str]:
    """Returns the flags of a script, those of all its verbs together."""
    module = importlib.import_module(f"ganinv.commands.{command}")
    configs = [value for value in vars(module).values() if isinstance(value, type) and dataclasses.is_dataclass(value)]
    own = [config for config in configs if config.__module__ == module.__name__]
    return frozenset(name for config in own for name, *_ in list_options(config) if name.startswith("--")) | EVERYWHERE


def list_commands() -> list[str]:
    """Returns the names of all scripts."""
    return sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))


def split_commands(line: str) -> Iterator[tuple[str, list[str]]]:
    """Yields (script, flags) of each call of a script or of `ganinv VERB` in a line of shell; other commands are left out."""
    words, part = shlex.split(line, comments=True), []
    for word in [*words, "&&"]:
        if word not in ("&&", "||", "|", ";"):
            part.append(word)
            continue
        script = next((word for word in part if re.fullmatch(r"(scripts/)?\w+\.py", word)), "")
        if part[:1] == ["ganinv"] and len(part) > 1 and not part[1].startswith("-"):
            script = part[1].replace("-", "_")
        if script:
            yield Path(script).stem, [word.partition("=")[0] for word in part if word.startswith("--")]
        part = []


def find_wrong_commands(text: str) -> list[str]:
    """Returns what a page's code names and nobody knows: scripts, and flags of their command or of any."""
    lines = [line for language, block in FENCED.findall(text) if language == "sh" for line in block.splitlines()]
    inline = INLINE.findall(FENCED.sub("", text))
    lines += [code for code in inline if re.match(r"(python scripts/|\w+\.py |ganinv )", code)]
    wrong = []
    for line in lines:
        for command, flags in split_commands(line):
            if command not in list_commands():
                wrong.append(command)
            else:
                wrong += [f"{command} {flag}" for flag in flags if flag not in list_flags(command)]
    known = frozenset().union(*map(list_flags, list_commands()))
    alone = [re.split(r"[=\s]", code)[0] for code in inline if code.startswith("--")]
    wrong += [flag for flag in alone if flag not in known]
    return wrong + [file for file in re.findall(r"scripts/[\w/]+\.(?:py|yaml)", text) if not (ROOT / file).is_file()]


def find_broken_links(page: str, text: str) -> list[str]:
    """Returns the relative links of a page to files or headings that are not there."""
    broken = []
    for link in LINK.findall(text):
        path, _, heading = link.partition("#")
        if re.match(r"\w+:", link):
            continue
        file = (ROOT / page).parent / path if path else ROOT / page
        if not file.exists() or (heading and heading not in list_anchors(file.read_text(encoding="utf-8"))):
            broken.append(link)
    return broken


def list_anchors(text: str) -> list[str]:
    """Returns the anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.*)$", FENCED.sub("", text), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def test_the_readme_is_short_and_names_the_test_command():
    assert (ROOT / "README.md").stat().st_size <= MOST_BYTES
    assert 'pip install -e ".[test]"\npython -m pytest -q\n' in read("README.md")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_names_links_scripts_and_flags_that_are_there(page):
    text = read(page)
    assert find_broken_links(page, text) == []
    assert find_wrong_commands(text) == []


def test_the_map_leads_to_every_page():
    reached = {(ROOT / "docs" / link.partition("#")[0]).resolve() for link in LINK.findall(read("docs/index.md"))}
    pages = {path.resolve() for pattern in ("docs/*.md", "results/*/README.md") for path in ROOT.glob(pattern)}
    assert pages - reached == {ROOT / "docs" / "index.md"}


def test_what_is_wrong_is_found():
    text = (
        "`--wordl=lfw`\n```sh\npython scripts/latent_attack.py --step=3 --extra && python scripts/run.py\n"
        'ganinv run-sweep A --extra="--identities=5-9"  # --no-flag\npip install --no-deps x\n```\n'
    )
    assert find_wrong_commands(text) == [
        "latent_attack --step", "latent_attack --extra", "run", "--wordl", "scripts/run.py"
    ]  # fmt: skip
    links = (
        "[a](docs/none.md) [b](LICENSE) [c](docs/index.md#nothing) [d](docs/index.md#what-was-measured) [e](https://x.org)"
    )
    assert find_broken_links("README.md", links) == ["docs/none.md", "docs/index.md#nothing"]


@torch.no_grad()
def teach(network, photos):
    """Returns a ResNet whose head names photos [N,3,R,R], one of each class: by the direction of their features."""
    network.eval()
    network.fc, head = torch.nn.Identity(), network.fc
    feed = Preprocessing(size=224, range=(0.0, 1.0), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    features = network(feed(photos))
    middle = features.mean(0)
    head.weight.copy_(50 * torch.nn.functional.normalize(features - middle, dim=1))
    head.bias.copy_(-head.weight @ middle)
    network.fc = head
    return network


@pytest.mark.slow
def test_the_readmes_python_runs(tmp_path, monkeypatch, capsys):
    """As it stands, but for a search of one step on two users, whose photos are noise."""
    code = next(block for language, block in FENCED.findall(read("README.md")) if language == "python")
    assert len([line for line in code.splitlines() if line]) <= 8 and "range(10)" in code
    photos = torch.rand(40, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.save(teach(torchvision.models.resnet18(num_classes=40), photos).state_dict(), tmp_path / "my_weights.pt")
    for person, photo in enumerate(photos):
        (tmp_path / "my_faces" / f"{person:02d}").mkdir(parents=True)
        images.save(photo, tmp_path / "my_faces" / f"{person:02d}" / "0.png")
    brief = functools.partial(ganinv.LatentAttack, steps=1, candidates=4, restarts=1, final_transforms=1)
    monkeypatch.setattr(ganinv, "LatentAttack", brief, raising=False)
    monkeypatch.chdir(tmp_path)
    exec(compile(code.replace("range(10)", "range(2)"), "README.md", "exec"), {})
    assert "Does it leak? " in capsys.readouterr().out
