"""A panel of human raters: make the page that they answer, and score what they answered."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ganinv
from ganinv import cli
from ganinv.commands.compare import gather_runs

MOST_SIDE = 256  # px to which larger pictures are reduced: the page shows them at about 200 to 380
REFERENCE_SIDE = 160  # px of a reference photo, shown at about 50 to 110
MOST_REFERENCES = 4  # photos of a person; more do not fit a phone


@dataclass(frozen=True, kw_only=True)
class Make:
    """Make a page for human raters: panel.py make RUN ...; then: panel.py score --help."""

    runs: tuple[str, ...] = ()  # run folders, or folders of them; those of no step are controls
    photos: str = ""  # the users' photos, which go into the page; laid out as for the attacks
    out: str = ""  # the page, such as ~/panel.html, in no git checkout; its key lies beside it
    seed: int = 0  # of the choice of pictures, people and ids; tell it no rater
    pictures: int = 1  # of each method and user, from runs of different seeds
    people: int = 10  # stand to choice at least: other people of --photos join the users
    catch: int = 5  # real photos of them, to tell raters who do not look
    references: int = 3  # photos a person, from 1 to 4


@dataclass(frozen=True, kw_only=True)
class Score:
    """Score a panel: panel.py score --key=panel.key.json ANSWERS.json ..."""

    answers: tuple[str, ...] = ()  # the files that raters saved
    key: str = ""  # the key that lies beside the page
    out: str = ""  # folder for NAME.score.json and NAME.score.md; "": the key's
    catch_threshold: float = 0.8  # raters right in fewer of the catch trials are flagged


# ---- making


def make(config: Make) -> None:
    """Writes the page and its key. Raises: ValueError when a run, a photo or the place is not as it must be."""
    from ganinv.studies import panel
    from ganinv.worlds.world import find_world

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
    shown, held_out = split_references(config.photos, world, own_target)
    if max(users) >= len(shown):
        raise ValueError(f"expected photos of user {max(users)} in {config.photos}, got {len(shown)} people")
    pictures = {
        method.label: [{user: run.folder / "images" / f"{user}_0.png" for user in users} for run in method.runs]
        for method in methods
    }
    files = [file for runs_of_one in pictures.values() for run in runs_of_one for file in run.values()]
    rng = random.Random(f"{config.seed}/{hash_files(files)}")  # a rater who guesses the seed still knows no order
    others = [person for person in shown if person not in users]
    people = sorted([*users, *rng.sample(others, min(len(others), max(0, config.people - len(users))))])
    trials, absent = panel.plan_trials(
        pictures, controls, held_out, num_pictures=config.pictures, num_catch=config.catch, people=people, rng=rng
    )
    candidates = panel.choose_candidates(trials, people, rng)
    side = min(MOST_SIDE, max(map(shorter_side, files)))  # one for all, so that none stands out
    references = {
        person: [encode(file, min(REFERENCE_SIDE, shorter_side(file))) for file in shown[person][: config.references]]
        for person in people
    }
    page, key = panel.build_panel(
        trials, candidates, references, lambda file: encode(file, side), photographs=photographs, rng=rng
    )
    text = panel.format_page(page)
    key |= {
        "world": runs[0].report["world"], "seed": config.seed, "version": ganinv.__version__, "absent": absent,
        "page_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }  # fmt: skip
    write_files({page_file: text, key_file: json.dumps(key, indent=1) + "\n"})

    for name, count in Counter(trial.condition for trial in trials).items():
        print(f"{count:4d} {'control: ' if name in controls or name == panel.SWAPPED else ''}{name}")
    for name, reason in absent.items():
        print(f"   0 {name}: {reason}")
    twice = len(trials) - len({trial.file for trial in trials})
    print(f"{twice} of the pictures are shown twice" if twice else "no picture is shown twice")
    print(
        f"{page_file}: {len(trials)} pictures, {len(people)} people, {page_file.stat().st_size / 1e6:.1f} MB. "
        f"{'It contains photographs of people: give it to the raters alone, and commit it nowhere' if photographs else ''}"
    )
    print(f"{key_file}: the answers; keep it from the raters")


def check_make(config: Make) -> None:
    """Raises: ValueError when an option is missing or out of bounds."""
    from ganinv.studies.panel import CHOICES

    if not config.photos or not config.out:
        raise ValueError("expected --photos=FOLDER and --out=FILE.html, got one or none of them")
    bounds = {"pictures": (1, 100), "people": (CHOICES, 1000), "catch": (0, 1000), "references": (1, MOST_REFERENCES)}
    for name, (low, high) in bounds.items():
        if not low <= getattr(config, name) <= high:
            raise ValueError(f"expected --{name} from {low} to {high}, got {getattr(config, name)}")
    cli.check_seed(config.seed)


def read_methods(places: Iterable[str]) -> list:
    """Returns the comparison.Methods of runs. Raises: ValueError when they are not of the same users of one target."""
    from ganinv.commands.compare import find_runs, read_run
    from ganinv.reports.comparison import group_runs

    methods = group_runs([read_run(folder) for folder in find_runs(places)])
    targets = sorted({run.config.get("target") or "the world's own" for method in methods for run in method.runs})
    if len(targets) > 1:
        raise ValueError(f"expected runs against one target, whose users --photos shows, got {', '.join(targets)}")
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
        raise ValueError(f"expected --out to be a file NAME.html, got {out}")
    for file in (page, key):
        if file.exists():
            raise ValueError(f"expected a new --out, got {file}, which is there; choose another, or lose a panel's key")
    results = Path(ganinv.__file__).resolve().parents[1] / "results"
    if photographs and (page.is_relative_to(results) or is_committable(page)):
        raise ValueError(
            f"expected --out outside results/ and every git checkout, since the page has photographs, got {page}"
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


def check_photos(photos: str, world, own_target: bool, runs: Sequence) -> None:
    """Raises: ValueError when the photos are not those of the runs' users: other pictures, or in another order."""
    from ganinv.photos import list_people, load_photos
    from ganinv.recognizers.loading import load_recognizer
    from ganinv.worlds.references import Judge, References
    from ganinv.worlds.world import add_photos, load_references

    if not own_target:  # runs without photos have no hash of them, but the world has embeddings
        judge = Judge("verifier", load_recognizer(str(world.file("verifier")), "cpu"), sees_users=False)
        add_photos(References.load(world.file("references")), load_references(world, photos), judge)
        return
    from ganinv.photos import hash_photos

    known = {run.provenance["photos"] for run in runs if "photos" in run.provenance}
    if known and known != {hash_photos(load_photos(list_people(photos), world.resolution))}:
        raise ValueError(f"expected the photos that the runs were given, got others in {photos}")


def split_references(photos: str, world, own_target: bool) -> tuple[dict[int, list[Path]], dict[int, list[Path]]]:
    """Returns (person -> photos to show, person -> photos for catch trials), each in the order of their hashes.

    No recognizer of the world was trained on either. Photos for a target of one's own are all new: a fifth is held out.
    """
    from ganinv.photos import choose_photos, list_people

    people = list(list_people(photos if own_target else Path(photos) / world.users).values())
    held_out = {person: choose_photos(files, "test") for person, files in enumerate(people)}
    shown = {person: choose_photos(files, "all" if own_target else "references") for person, files in enumerate(people)}
    return {person: [file for file in files if file not in held_out[person]] for person, files in shown.items()}, held_out


def hash_files(files: Iterable[Path]) -> str:
    """Returns the SHA-256 over what files hold. Raises: ValueError when one cannot be read."""
    from ganinv.engine.files import clear_errors

    digest = hashlib.sha256()
    for file in files:
        with clear_errors(file, ValueError, "read"):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def shorter_side(file: Path) -> int:
    """Returns the shorter side of a picture in pixels. Raises: ValueError when it cannot be read."""
    from PIL import Image

    try:
        with Image.open(file) as picture:
            return min(picture.size)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"expected a readable picture, got {file} ({error}); repair or remove the file") from error


def encode(file: Path, side: int) -> str:
    """Returns a picture as a data: URI of a PNG of side x side without any metadata: all are alike but for what they show."""
    from PIL import Image

    from ganinv.images import load_pixels
    from ganinv.studies.panel import data_uri

    png = io.BytesIO()
    Image.fromarray(load_pixels(file, side)).save(png, format="PNG")
    return data_uri(png.getvalue())


def write_files(contents: Mapping[Path, str]) -> None:
    """Writes text files, each under a temporary name first. Raises: ValueError or FaultError when one cannot be written."""
    from ganinv.engine.files import clear_errors

    for file, text in contents.items():
        temporary = file.with_name(f"{file.name}.tmp")
        with clear_errors(file, ValueError):
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, file)


# ---- scoring


def score(config: Score) -> None:
    """Prints the score and writes it as Markdown and JSON. Raises: ValueError when the key or an answer file is bad."""
    from ganinv.studies import panel

    if not config.key:
        raise ValueError("expected --key=NAME.key.json, the file beside the page, got none")
    if not 0 <= config.catch_threshold <= 1:
        raise ValueError(f"expected --catch-threshold from 0 to 1, got {config.catch_threshold:g}")
    key_file = Path(config.key).expanduser()
    key = panel.check_key(read_json(key_file), key_file)
    answers = [panel.check_answers(read_json(file), key, file) for file in config.answers]
    panel.check_raters(answers, config.answers)
    result = panel.score_panel(key, answers, config.catch_threshold)
    text = panel.format_score(result)
    stem = key_file.name.removesuffix(".json").removesuffix(".key")
    folder = Path(config.out or key_file.parent).expanduser()
    files = {folder / f"{stem}.score.md": text, folder / f"{stem}.score.json": json.dumps(result, indent=2) + "\n"}
    write_files(files)
    print(text)
    print(*files, sep="\n")


def read_json(file: str | Path) -> object:
    """Returns what a JSON file holds. Raises: ValueError naming it."""
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON in {file}, got {error}; ask for the file again") from error


def main() -> None:
    """Parses the command line and runs; without a verb it makes."""
    verb, *argv = sys.argv[1:] if sys.argv[1:2] in (["make"], ["score"]) else ["make", *sys.argv[1:]]
    if verb == "score":
        cli.main(Score, score, gather_runs(argv, "--answers"))
    else:
        cli.main(Make, make, gather_runs(argv))
