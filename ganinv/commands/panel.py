"""A panel of human raters: make the page that they answer, and score what they answered."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from tyro.conf import Positional

from ganinv import cli
from ganinv.commands.opening import open_named


@dataclass(frozen=True, kw_only=True)
class Make:
    """Make a page for human raters: panel.py make RUN ...; then: panel.py score --help.

    Example: make runs/latent-synthetic-000 --photos=data/synthetic --out=~/panel.html
    """

    runs: Positional[tuple[str, ...]] = ()  # run folders, or folders of them; those of no step are controls
    photos: str = ""  # the users' photos, which go into the page; laid out as for the attacks
    out: str = ""  # the page, such as ~/panel.html, in no git checkout; its key lies beside it
    seed: int = 0  # of the choice of pictures, people and ids; keep it from raters
    pictures: int = 1  # of each method and user, from runs of different seeds
    people: int = 10  # to choose from, at least: other people of --photos join the users
    catch: int = 5  # real photos of them, which find raters who do not look
    references: int = 3  # photos a person, from 1 to 4


@dataclass(frozen=True, kw_only=True)
class Score:
    """Score a panel: panel.py score --key=panel.key.json ANSWERS.json ...

    Example: score --key=panel.key.json answers-1.json answers-2.json
    """

    answers: Positional[tuple[str, ...]] = ()  # the files that raters saved
    key: str = ""  # the key that lies beside the page
    out: str = ""  # folder for NAME.score.json and NAME.score.md; "": the key's
    catch_threshold: float = 0.8  # raters right in fewer of the catch trials are flagged


def make(config: Make) -> None:
    """Writes the page and its key. Raises: ValueError when a run, a photo or the place is not as it must be."""
    from ganinv.studies.panel.making import make_panel

    make_panel(config)


def score(config: Score) -> None:
    """Prints the score and writes it as Markdown and JSON. Raises: ValueError when the key or an answer file is bad."""
    from ganinv.studies.panel.score_files import score_answers

    score_answers(config)


def main() -> None:
    """Parses the command line and runs; without a verb it makes."""
    verb, *argv = sys.argv[1:] if sys.argv[1:2] in (["make"], ["score"]) else ["make", *sys.argv[1:]]
    if verb == "score":
        cli.main(Score, score, argv, plan=open_named)
    else:
        cli.main(Make, make, argv, plan=open_named)
