"""The console command `ganinv VERB`: the verbs of scripts/, each of which is loaded only when it is asked for."""

from __future__ import annotations

import importlib
import sys

from ganinv import cli

GROUPS: dict[str, dict[str, str]] = {  # what one wants -> verb, whose module is named alike -> what it does
    "audit a recognizer": {
        "audit": "every attack on one recognizer, one report: does it leak, and to whom",
        "latent-attack": "reconstruct users by searching the latent space of a face GAN",
        "pixel-attack": "reconstruct users by searching pixels, without a prior",
        "judge": "judge pictures that another tool made",
        "probe": "what a recognizer's embedding says of people: age, gender, any labels",
        "attributes": "what runs give away of that, and how sure it is",
    },
    "read and check results": {
        "compare": "put runs side by side: table, figures, commands",
        "verify": "check that a run's files and numbers hold",
        "panel": "ask human raters, and score their answers",
        "audit-judges": "how often the judges see a user where the truth does not",
    },
    "run many": {
        "run-sweep": "run a sweep's file on this machine",
        "study-capacity": "do depth, size, photos or users make a recognizer safe?",
        "study-access": "what an attacker with this access gets after how many queries",
        "benchmark": "time the engine",
    },
    "prepare photos": {
        "align-faces": "cut the faces out of photos",
        "prepare-lfw": "crop Labeled Faces in the Wild",
        "prepare-people": "render photos of people who do not exist",
    },
    "make a world": {
        "train-gan": "train the prior",
        "refine-prior": "bring the samples of a prior to where photos lie, in minutes",
        "measure-prior": "how good a prior is, in the eyes of networks that nobody here trained",
        "train-recognizer": "train a target, a judge or a trunk of features",
        "train-factors": "train the regressor of a rendered person's factors",
        "enrol-users": "enrol users in a published network, and measure its judges",
        "embed-references": "embed the users' reference photos with the judges, and measure these",
    },
}
VERBS = [verb for verbs in GROUPS.values() for verb in verbs]


def format_verbs() -> str:
    """Returns what `ganinv` alone prints."""
    width = max(map(len, VERBS))
    lines = ["usage: ganinv VERB [--option=value ...]; ganinv VERB --help lists the options"]
    for group, verbs in GROUPS.items():
        lines += ["", group, *(f"  {verb.ljust(width)}  {text}" for verb, text in verbs.items())]
    lines += ["", "For a first look: ganinv latent-attack. It needs no photo and no network, and writes a page to open."]
    return "\n".join(lines)


def main() -> None:
    """Runs the command that the first word names."""
    verb, *rest = sys.argv[1:] or ["--help"]
    if verb in ("-h", "--help"):
        print(format_verbs())
        return
    if verb not in VERBS:
        error = ValueError(f"expected a verb among {', '.join(VERBS)}, got {verb}; ganinv alone says what each does")
        cli.stop(2, str(error), error)
    sys.argv = [f"ganinv {verb}", *rest]
    importlib.import_module(f"ganinv.commands.{verb.replace('-', '_')}").main()
