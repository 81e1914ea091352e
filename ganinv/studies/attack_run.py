"""One attack from its configuration to its run folder: load, invert, judge, report."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ganinv import cli, images
from ganinv.attack.checks import check_config
from ganinv.attack.config import AttackConfig
from ganinv.attack.goals import make_goal
from ganinv.attack.invert import InTurn
from ganinv.attack.offline import attack as run_search
from ganinv.attack.result import AttackResult
from ganinv.attack.spread import Spread, check_spread
from ganinv.attack.start import draw_probes
from ganinv.attributes.probes import load_probes
from ganinv.engine.checkpoint import drop_state
from ganinv.engine.cluster import RayWorkers
from ganinv.engine.precision import Choice, choose_precision, ready_recognizer
from ganinv.engine.progress import open_bar
from ganinv.engine.signals import StoppedError, held_signals
from ganinv.interfaces import Goal
from ganinv.judging.independence import check_independent
from ganinv.judging.protocol import JudgingAssets, draw_controls, draw_means, judge_pictures
from ganinv.photos import hash_photos
from ganinv.priors.checks import check_prior
from ganinv.ranges import check_ranges
from ganinv.recognizers.adapters import names_code, weight_file
from ganinv.recognizers.checks import check_recognizer
from ganinv.reports.private_page import write_private
from ganinv.reports.provenance import describe_provenance, find_differences
from ganinv.reports.report_content import describe_search, describe_target
from ganinv.reports.report_file import read_report
from ganinv.reports.run_files import read_provenance
from ganinv.reports.run_folder import RunFolder, check_new, new_folder
from ganinv.reports.terminal import print_report
from ganinv.reports.tracking import MODES, Tracker, is_sweep
from ganinv.studies.attack_options import RunOptions, describe_config, name_code
from ganinv.studies.spreading import check_engine
from ganinv.weights.specs import hash_code
from ganinv.worlds.assets import Assets, load_assets
from ganinv.worlds.photo_check import PhotoCheck, try_photos
from ganinv.worlds.world import World

SCRIPTS = {"latent": "scripts/pixel_attack.py", "pixel": "scripts/latent_attack.py"}  # method -> that of the other spaces


@dataclass(frozen=True)
class Job:
    """An attack that was checked and loaded.

    start: first pictures [T,C,R,R] of an attack without a prior; again: the options that name its code, for a resume;
    photo_check: of a target of one's own and --photos, else None; surrogate: the network of --surrogate.network, else None.
    """

    method: str
    attack: AttackConfig
    goal: Goal
    options: RunOptions
    device: torch.device
    identities: tuple[int, ...]
    assets: Assets
    start: torch.Tensor | None
    provenance: dict
    again: str
    photo_check: PhotoCheck | None = None
    surrogate: object = None


def run_attack(config, method: str, *, photo_check: PhotoCheck | None = None) -> dict:
    """Returns the report of one attack, after writing its run folder.

    config: composed of `attack` (AttackConfig), `run` (RunOptions) and the method's own options: `generator` of the method
    "latent", `start` of "pixel". A sweep's values are put in first, before anything is loaded or checked. photo_check: an
    earlier one of the same target and photos, which is not repeated.
    """
    resumed = config.run.resume
    if resumed and (Path(resumed) / "report.json").is_file():
        report = read_report(resumed)
        drop_state(Path(resumed) / "state.safetensors")  # which a kill after the report left
        print_report(report, resumed)
        return report
    check_options(config, method)
    tracker, folder, report = Tracker(), None, None
    try:
        if is_sweep() and not resumed:
            folder = open_folder(config, method)
            config = cli.override(config, tracker.start(config.run.wandb, describe_config(config), folder.path))
            check_options(config, method)
        with open_schedule(config.run) as schedule:
            job = prepare(config, method, photo_check)
            if folder is None:
                folder = open_folder(config, method)
                tracker.start(config.run.wandb, describe_config(config), folder.path)
            report = judge_result(job, search(job, config, folder, tracker, schedule), folder, schedule)
    finally:
        tracker.finish(report, failed=report is None, artifacts=config.run.wandb_artifacts)
        if folder is not None:
            folder.close()
    print_report(report, folder.path)
    compare_with_source(config.run, report)
    return report


def check_attack(config, method: str) -> None:
    """Returns if an attack could begin: loads what it names, checks all of it, and writes nothing.

    Raises: ValueError, as run_attack does before it searches.
    """
    check_options(config, method)
    resumed = config.run.resume
    if resumed and (Path(resumed) / "report.json").is_file():
        read_report(resumed)
        return
    if config.run.out and not resumed:
        check_new(Path(config.run.out))
    prepare(config, method)


def check_options(config, method: str) -> None:
    """Raises: ValueError for options that cannot be run, whatever is loaded."""
    options, space = config.run, config.attack.space
    if (space == "pixels") != (method == "pixel"):
        spaces = "the space pixels" if method == "pixel" else "a space among z, w, w_plus"
        raise ValueError(f"expected {spaces}, got {space}; run {SCRIPTS[method]}")
    if options.wandb not in MODES:
        raise ValueError(f"expected a wandb mode among {', '.join(MODES)}, got {options.wandb}")
    if options.templates and options.gallery:
        raise ValueError("expected --templates or --gallery, got both; stored templates are a gallery")
    if options.templates and config.attack.goal != "template":
        raise ValueError(
            f"expected --goal=template beside --templates, got {config.attack.goal}"
            "; pass --goal=template, or leave --templates out"
        )
    check_engine(options)
    if options.engine != "local":
        check_spread(config.attack)
    if options.private_photos and not options.photos:
        raise ValueError("expected --photos=FOLDER beside --private-photos, got none; pass the folder of the users' photos")
    cli.choose_device(options.device)
    check_ranges(config)
    cli.parse_identities(options.identities)


def open_folder(config, method: str) -> RunFolder:
    """Returns the run folder: a new one, or that of the run which is resumed."""
    return RunFolder(config.run.out or new_folder(method, Path(config.run.world).name), resume=bool(config.run.resume))


def prepare(config, method: str, photo_check: PhotoCheck | None = None) -> Job:
    """Returns the job of a configuration after loading what it names and checking all of it. photo_check: see run_attack.

    Raises: ValueError for what cannot be run, or a resumed run whose weights or photos are others now.
    """
    attack, options = config.attack, config.run
    device, identities = cli.choose_device(options.device), cli.parse_identities(options.identities)
    prior = method == "latent"
    assets = load_assets(
        options.world, device=device, generator=config.generator if prior else "", target=options.target,
        photos=options.photos, prior=prior, identities=identities, gallery=options.gallery or options.templates,
        threshold=options.threshold, classes=options.classes, judges=[name for name in options.judge.split(",") if name],
    )  # fmt: skip
    assets = replace(assets, probes=load_probes(options.probes))
    check_recognizer(assets.target, assets.world.resolution, device=device)
    if assets.generator is not None:
        check_prior(assets.generator, device=device)
    goal = make_goal(attack, assets.target)
    check_config(attack, assets.target, identities, assets.generator is not None, goal)
    check_independent(assets.target, assets.judges)
    surrogate = load_surrogate(attack.surrogate.network, assets)
    if photo_check is None or (photo_check.problem and not options.force):
        photo_check = check_photos(assets, options)
    start = None if prior else load_start(config.start, identities, assets.world)
    provenance = describe_provenance(options.seed, device, assets.weight_files(), sys.argv)
    given = describe_config(config)
    if code := name_code(given):
        provenance["code"] = {option: [hash_code(spec) for spec in specs] for option, specs in code.items()}
    if assets.references is not None and assets.references.photos is not None:
        provenance["photos"] = hash_photos(assets.references.photos)
    if options.from_run or options.resume:
        provenance["precision"] = read_choice(options).describe()
        differences = find_differences(options.resume or options.from_run, provenance)
        print("\n".join(differences) or "environment: no difference", file=sys.stderr)
        if options.resume and any(line.startswith(("weights", "photos", "code")) for line in differences):
            raise ValueError(f"expected the weights, photos and code that {options.resume} began with, got others (above)")
    again = "".join(f" --{option}={given[option]}" for option in code)
    return Job(method, attack, goal, options, device, identities, assets, start, provenance, again, photo_check, surrogate)


def load_surrogate(spec: str, assets: Assets):
    """Returns the public network on which a copy of the target is fitted, noted among the run's weights; None for "".

    Raises: ValueError for code, or a network that judges.
    """
    if not spec:
        return None
    if names_code(spec):
        raise ValueError(f"expected a published network or NAME.safetensors for surrogate.network, got {spec}")
    if spec in [judge.name for judge in assets.judges]:
        others = ",".join(judge.name for judge in assets.judges if judge.name != spec) or "NAME"
        raise ValueError(f"expected judges that take no part, got {spec}, which the copy is fitted on; pass --judge={others}")
    network = assets.world.load(spec)
    assets.files["surrogate"] = weight_file(spec)
    return network


def check_photos(assets: Assets, options) -> PhotoCheck | None:
    """Returns what a target of one's own says of --photos, after printing it; None for the world's, or without photos.

    options: with photos, target, gallery and force. Raises: ValueError where it is fed wrongly, or its users have other
    numbers, unless force.
    """
    photos = assets.references.photos if assets.references is not None else None
    own = options.target or options.gallery or getattr(options, "templates", "")
    if not (options.photos and own) or photos is None:
        return None
    check = try_photos(assets.target, photos, assets.names)
    print(check, file=sys.stderr)
    return check if options.force else check.require()


def load_start(start: str, identities: Sequence[int], world: World) -> torch.Tensor:
    """Returns the first pictures [T,C,R,R] of a pixel attack: one channel in a world of greyscale photos.

    start: "grey", "public-mean", a file, or a folder with <identity>.png. Raises: ValueError for a missing or broken file.
    """
    channels, side = 1 if world.grey else 3, world.resolution
    if start == "grey":
        return torch.zeros(len(identities), channels, side, side)
    place = world.folder / "public_mean.png" if start == "public-mean" else Path(start)
    files = [place / f"{identity}.png" for identity in identities] if place.is_dir() else [place] * len(identities)
    pictures = torch.cat([images.load(file, side) for file in files])
    return pictures.mean(1, keepdim=True) if world.grey else pictures


# ---- the search


def search(job: Job, config, folder: RunFolder, tracker: Tracker, schedule: InTurn) -> AttackResult:
    """Returns the result of a job after writing it; a killed job can be resumed from its folder."""
    attack, options = job.attack, job.options
    state = folder.load_state() if options.resume else None
    target = ready_recognizer(job.assets.target, job.assets.world.resolution, job.device)
    choice = choose_forms(job, target)
    if not options.resume:
        folder.write_json("provenance.json", job.provenance | {"precision": choice.describe()})
        folder.write_json("config.json", describe_config(config))  # last: what has it can be resumed
    # the candidates' pictures are kept as float32 makes them
    prior = job.provenance["weights"].get("prior", {}).get("sha256", "") if attack.precision == "float32" else ""
    if prior and (key := getattr(job.assets.generator, "key", "")):  # moved into the world's frame, or to its size
        prior = hashlib.sha256(f"{prior} {key}".encode()).hexdigest()
    with show_search(job, folder, tracker, state) as callbacks:
        result = run_search(
            job.assets.generator, target, job.identities, attack, seed=options.seed, start=job.start, device=job.device,
            prior=prior, searched=choice.apply(job.assets.generator, target), goal=job.goal, state=state, schedule=schedule,
            surrogate=job.surrogate, **callbacks,
        )  # fmt: skip
    folder.write_result(result)
    return result


@contextmanager
def open_schedule(options: RunOptions):
    """Gives the schedule of --engine: invert.InTurn, or one that spreads the work over workers, which begin to start."""
    if options.engine == "local":
        yield InTurn()
        return
    gpu = cli.choose_device(options.device).type == "cuda"
    with RayWorkers(options.address, options.workers, gpu=gpu, ahead=True) as workers:
        yield Spread(workers)


@contextmanager
def show_search(job: Job, folder: RunFolder, tracker: Tracker, state: Mapping | None):
    """Gives invert's callbacks: they write, log and show its rows, and save its state now and then, or when a signal came."""
    asked, first, scored = 0, state["steps"] if state else 0, None
    with (
        held_signals() as signalled,
        open_bar(desc=f"{job.method} {job.attack.space}", initial=first, disable=job.attack.steps == 0) as bar,
    ):

        def on_scored(done: int, count: int) -> None:
            nonlocal scored
            scored = scored or open_bar(desc="candidates", total=count, leave=False)
            scored.update(done - scored.n)
            if done == count:
                scored.close()

        def on_step(row: dict) -> None:
            folder.append_step(row)
            tracker.log_step(row)
            bar.update(row["step"] + 1 - bar.n)
            bar.set_postfix(target_score=f"{row['target_score']:.3f}")

        def on_state(describe: Callable[[], dict]) -> None:
            nonlocal asked
            number = signalled()
            if number or asked % job.options.save_every == 0:
                folder.save_state(described := describe())
                bar.total = described["of"]
            asked += 1
            if number:
                raise StoppedError(number, f"stopped and saved; go on with --resume={folder.path}{job.again}")

        def on_answers(describe: Callable[[], dict]) -> None:
            number = signalled()
            folder.save_state(describe())  # each time: an answer that is lost would have to be asked for again
            if number:
                raise StoppedError(number, f"stopped and saved; go on with --resume={folder.path}{job.again}")

        yield {"on_step": on_step, "on_state": on_state, "on_scored": on_scored, "on_answers": on_answers}


def choose_forms(job: Job, target) -> Choice:
    """Returns the forms of the networks for the search: those of the run that is resumed or repeated, else by --precision.

    What was taken is said in one line, float32 apart.
    """
    attack, generator = job.attack, job.assets.generator
    if job.options.resume or job.options.from_run:
        return read_choice(job.options)
    probes = draw_probes(generator, job.start, attack, job.options.seed, job.device)
    choice = choose_precision(attack.precision, generator, target, probes)
    if attack.precision != "float32":
        print(choice.line, file=sys.stderr)
    return choice


def read_choice(options: RunOptions) -> Choice:
    """Returns the forms that the run which is resumed or repeated took. Raises: ValueError when it does not say them."""
    return Choice.recall(read_provenance(options.resume or options.from_run).get("precision"))


# ---- the verdict


def judge_result(job: Job, result: AttackResult, folder: RunFolder, schedule: InTurn) -> dict:
    """Returns the report on a result, after writing it."""
    attack, options = job.attack, job.options
    print(f"judging the pictures of {len(job.identities)} users", file=sys.stderr)  # it takes as long as some searches
    judging = JudgingAssets.of_run(job.assets, job.device)
    controls = draw_controls(judging, result.images, job.identities, psi=attack.psi, seed=options.seed)
    first = "start picture" if attack.space == "pixels" or not attack.candidates else "best candidate"
    judgement = judge_pictures(
        judging, result.images, job.identities, {first: result.first[:, None]} | controls, seed=options.seed,
        choice_scores=result.scores, photos=options.photos,
        means=draw_means(job.assets.generator, result.latents, len(job.identities)), workers=schedule.workers,
    )  # fmt: skip
    report = folder.write_report(
        method=job.method,
        world=options.world,
        seed=options.seed,
        goal=attack.goal,
        queries=result.queries,
        identities=job.identities,
        judgement=judgement,
        cost=result.cost,
        beside=describe_search(result) | describe_target(job.assets.names, job.identities, job.photo_check),
    )
    if options.private_photos:
        known = job.assets.references.photos
        file = write_private(folder.path, list(job.identities), known, report.get("names", {}))
        print(f"{file}: PRIVATE, with photographs of the users; do not pass it on", file=sys.stderr)
    folder.drop_state()
    return report


def compare_with_source(options: RunOptions, report: Mapping) -> None:
    """Prints whether a repeated run came to the same results."""
    source = options.from_run
    if source and (Path(source) / "report.json").is_file():
        before = read_report(source)
        same = all(before[key] == report[key] for key in ("summary", "per_identity", "files") if key in before)
        print(f"{source}: {'the same results' if same else 'other results; compare the two report.json'}")
