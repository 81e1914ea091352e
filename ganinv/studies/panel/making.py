"""A panel made of runs and photos: what is checked and chosen before there is a page, and where it may lie."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import ganinv
from ganinv.reports.comparison import group_runs
from ganinv.studies.panel.page import build_panel, format_page
from ganinv.studies.panel.pictures import (
    MOST_SIDE,
    REFERENCE_SIDE,
    check_photos,
    encode,
    hash_files,
    shorter_side,
    split_references,
)
from ganinv.studies.panel.score_files import write_files
from ganinv.studies.panel.trials import SWAPPED, choose_candidates, plan_trials
from ganinv.studies.run_comparison import find_runs, read_run
from ganinv.worlds.world import find_world


def make_panel(config) -> None:
    """Writes the page and its key. Raises: ValueError when a run, a photo or the place is not as it must be."""
    check_make(config)
    methods = read_methods(config.runs)
    runs = [run for method in methods for run in method.runs]
    world, target = find_world(runs[0].report["world"]), runs[0].config.get("target", "")
    own_target = bool(target or runs[0].config.get("gallery")) and not world.knows(target, runs[0].report["identities"])
    photographs = own_target or not world.shows_references
    page_file, key_file = check_place(config.out, photographs)
    controls = {method.label for method in methods if is_control(method.runs[0].config)}
    if len(controls) == len(methods):
        raise ValueError(f"expected a run that searched, got {', '.join(sorted(controls))} alone; name one more run")

    users = runs[0].report["identities"]
    check_photos(config.photos, world, own_target, runs)
    shown, held_out = split_references(config.photos, world, own_target, runs)
    if missing := [user for user in users if user not in shown]:
        raise ValueError(
            f"expected photos of user {missing[-1]} in {config.photos}, got {len(shown)} people; pass the folder of the runs"
        )
    pictures = {
        method.label: [{user: run.folder / "images" / f"{user}_0.png" for user in users} for run in method.runs]
        for method in methods
    }
    files = [file for runs_of_one in pictures.values() for run in runs_of_one for file in run.values()]
    rng = random.Random(f"{config.seed}/{hash_files(files)}")  # a rater who guesses the seed still knows no order
    others = [person for person in shown if person not in users]
    people = sorted([*users, *rng.sample(others, min(len(others), max(0, config.people - len(users))))])
    trials, absent = plan_trials(
        pictures, controls, held_out, num_pictures=config.pictures, num_catch=config.catch, people=people, rng=rng
    )
    candidates = choose_candidates(trials, people, rng)
    side = min(MOST_SIDE, max(map(shorter_side, files)))  # one for all, so that none stands out
    references = {
        person: [encode(file, min(REFERENCE_SIDE, shorter_side(file))) for file in shown[person][: config.references]]
        for person in people
    }
    page, key = build_panel(trials, candidates, references, lambda file: encode(file, side), photographs=photographs, rng=rng)
    text = format_page(page)
    key |= {
        "world": runs[0].report["world"], "seed": config.seed, "version": ganinv.__version__, "absent": absent,
        "names": runs[0].report.get("names", {}), "page_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }  # fmt: skip
    write_files({page_file: text, key_file: json.dumps(key, indent=1) + "\n"})

    for name, count in Counter(trial.condition for trial in trials).items():
        print(f"{count:4d} {'control: ' if name in controls or name == SWAPPED else ''}{name}")
    for name, reason in absent.items():
        print(f"   0 {name}: {reason}")
    twice = len(trials) - len({trial.file for trial in trials})
    print(f"{twice} of the pictures are shown twice" if twice else "no picture is shown twice")
    print(
        f"{page_file}: {len(trials)} pictures, {len(people)} people, {page_file.stat().st_size / 1e6:.1f} MB. "
        f"{'It contains photographs of people: give it to the raters alone, and commit it nowhere' if photographs else ''}"
    )
    print(f"{key_file}: the answers; keep it from the raters")


def check_make(config) -> None:
    """Raises: ValueError when an option is missing or out of bounds."""
    if not config.photos or not config.out:
        raise ValueError("expected --photos=FOLDER and --out=FILE.html, got one or none of them; pass both")


def read_methods(places: Iterable[str]) -> list:
    """Returns the comparison.Methods of runs. Raises: ValueError when they are not of the same users of one target."""
    methods = group_runs([read_run(folder) for folder in find_runs(places)])
    targets = sorted({run.config.get("target") or "the world's own" for method in methods for run in method.runs})
    if len(targets) > 1:
        raise ValueError(
            f"expected runs against one target, whose users --photos shows, got {', '.join(targets)}; name runs of one target"
        )
    return methods


def is_control(config: Mapping) -> bool:
    """Says whether a run of this configuration searched for nobody: it took no step."""
    return config.get("steps") == 0


def check_place(out: str, photographs: bool) -> tuple[Path, Path]:
    """Returns the files of the page and of its key.

    Raises: ValueError when one is there already, or the page has photographs and lies where git would take it.
    """
    page = Path(out).expanduser().resolve()
    key = page.with_suffix(".key.json")
    if page.suffix != ".html":
        raise ValueError(f"expected --out to be a file NAME.html, got {out}; choose such a name")
    for file in (page, key):
        if file.exists():
            raise ValueError(f"expected a new --out, got {file}, which is there; choose another, or lose a panel's key")
    results = Path(ganinv.__file__).resolve().parents[1] / "results"
    if photographs and (page.is_relative_to(results) or is_committable(page)):
        raise ValueError(
            f"expected --out outside results/ and every git checkout, since the page has photographs, got {page}"
            "; choose a place outside"
        )
    return page, key


def is_committable(file: Path) -> bool:
    """Says whether a file would lie in a git checkout that does not ignore it; yes where git cannot be asked."""
    folder = next(parent for parent in file.parents if parent.is_dir())
    if not any((parent / ".git").exists() for parent in (folder, *folder.parents)):
        return False
    try:
        return (
            subprocess.run(["git", "-C", folder, "check-ignore", "-q", file], capture_output=True, timeout=30).returncode != 0
        )
    except (OSError, subprocess.SubprocessError):
        return True
