"""What the latent and the pixel attack share: load, invert, judge, report."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ganinv import cli
from ganinv.attack.checks import check_config
from ganinv.attack.config import AttackConfig, Augment, Optim
from ganinv.attack.invert import invert
from ganinv.attack.start import draw_pool
from ganinv.engine.precision import PROBED, Choice, choose_precision, keep_memory, ready_recognizer
from ganinv.engine.signals import StoppedError, held_signals
from ganinv.judging.independence import check_independent
from ganinv.judging.protocol import JudgingAssets, draw_controls, judge_pictures, print_report
from ganinv.worlds.world import Assets, load_assets


@dataclass(frozen=True, kw_only=True)
class AttackRun(AttackConfig):
    """An attack and where it happens."""

    world: str = "synthetic"  # name or folder: prior, target, judges and references that belong together
    identities: str = "0-4"  # users to reconstruct, such as 0-4,9
    seed: int = 0  # of candidates and transforms
    device: str = "auto"  # auto | cpu | cuda
    out: str = ""  # the run folder; "": runs/<method>-<world>-<NNN>
    wandb: str = "offline"  # offline | online | disabled
    wandb_artifacts: bool = False  # log report, configuration and latents as an artifact too
    target: str = ""  # FILE.safetensors, facenet:NAME, FILE.onnx, file.py:factory, ... (README); "": the world's
    photos: str = ""  # folder with photos of the users, for lpips and lpips_face; "": those are absent
    label: str = ""  # name in comparisons; "": by method
    resume: str = ""  # a run folder to go on with, as it was configured; takes no other option
    from_run: str = ""  # a run folder to repeat in a new one; takes only --out, --device and --wandb beside it
    save_every: int = 10  # steps between states, from which a killed run goes on
    optim: Optim = field(default_factory=Optim)
    augment: Augment = field(default_factory=Augment)


def apply_overrides(config, overrides: Mapping):
    """Returns a config with a sweep's values, "optim.lr" or {"optim": {"lr": ...}}; names that it lacks are passed over."""
    names = {f.name for f in dataclasses.fields(config)}
    nested: dict = {}
    for key, value in overrides.items():
        head, _, tail = key.partition(".")
        if head not in names:
            continue
        if tail or isinstance(value, Mapping):
            nested.setdefault(head, {}).update({tail: value} if tail else value)
        else:
            nested[head] = tuple(value) if isinstance(value, list) else value
    changes = {
        name: apply_overrides(getattr(config, name), value) if isinstance(value, Mapping) else value
        for name, value in nested.items()
    }
    return dataclasses.replace(config, **changes)


def recall(config: AttackRun, kinds: Mapping[str, type[AttackRun]] | None = None) -> AttackRun:
    """Returns the configuration that --resume or --from-run asks for; config itself without either.

    kinds: variant -> configuration type, for a method that has variants.
    Raises: ValueError when the folder holds no run of this method, or an option beside it would change that run.
    """
    place = config.resume or config.from_run
    if not place:
        return config
    name, free = ("resume", ()) if config.resume else ("from_run", ("out", "device", "wandb"))
    blank = dataclasses.replace(config, **{field: getattr(type(config)(), field) for field in (name, *free)})
    if blank != type(config)():
        raise ValueError(f"expected no other options beside --{name.replace('_', '-')}, got some; leave them out")
    file = Path(place) / "config.json"
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"expected a run folder with a config.json, got {place} ({error})") from error
    kind = (kinds or {}).get(stored.get("variant"), type(config)) if isinstance(stored, dict) else type(config)
    if not isinstance(stored, dict) or set(stored) != {f.name for f in dataclasses.fields(kind)}:
        raise ValueError(f"expected a run of this script and version in {place}, got another; see its config.json")
    recalled = apply_overrides(kind(), stored)
    if config.resume:
        return dataclasses.replace(recalled, out=place, resume=place)
    given = {field: getattr(config, field) for field in free if getattr(config, field) != getattr(type(config)(), field)}
    return dataclasses.replace(recalled, **({"out": ""} | given), from_run=place)


def run_attack(
    config: AttackRun,
    method: str,
    *,
    generator: str | None = None,
    make_start: Callable[[AttackRun, Assets], torch.Tensor] | None = None,
) -> dict:
    """Returns the report of one attack, after writing its run folder.

    generator: a spec, "" for the world's own, None for an attack without a prior; make_start: first pictures [T,C,R,R].
    """
    from tqdm import tqdm

    from ganinv.recognizers.checks import check_recognizer
    from ganinv.reports.provenance import describe_provenance, find_differences
    from ganinv.reports.report_file import read_report
    from ganinv.reports.run_folder import RunFolder, new_folder
    from ganinv.reports.tracking import MODES, Tracker

    if config.resume and (Path(config.resume) / "report.json").is_file():
        report = read_report(config.resume)
        print_report(report, config.resume)
        return report
    if config.wandb not in MODES:  # before there is a run folder
        raise ValueError(f"expected a wandb mode among {', '.join(MODES)}, got {config.wandb}")
    device = cli.choose_device(config.device)
    cli.check_seed(config.seed)
    if config.save_every < 1:
        raise ValueError(f"expected save_every of at least 1, got {config.save_every}")
    identities = cli.parse_identities(config.identities)
    assets = load_assets(
        config.world, device=device, generator=generator or "", target=config.target, photos=config.photos,
        prior=generator is not None, identities=identities,
    )  # fmt: skip
    check_recognizer(assets.target, assets.world.resolution, device=device)
    check_config(config, assets.target, identities, assets.generator is not None)
    check_independent(assets.target, assets.judges)
    start = make_start(config, assets) if make_start else None
    provenance = describe_provenance(config.seed, device, assets.weight_files(), sys.argv)
    if assets.references is not None and assets.references.photos is not None:
        provenance["photos"] = hash_photos(assets.references.photos)
    if config.from_run or config.resume:
        provenance["precision"] = recall_choice(config).describe()
        differences = find_differences(config.resume or config.from_run, provenance)
        print("\n".join(differences) or "environment: no difference", file=sys.stderr)
        if config.resume and any(line.startswith(("weights", "photos")) for line in differences):
            raise ValueError(f"expected the weights and photos that {config.resume} was begun with, got others (above)")
    folder = RunFolder(config.out or new_folder(method, assets.world.name), resume=bool(config.resume))
    state = folder.load_state() if config.resume else None
    tracker, report = Tracker(), None
    try:
        overrides = tracker.start(config.wandb, dataclasses.asdict(config), folder.path)
        if not config.resume:
            config = apply_overrides(config, overrides)
        keep_memory()
        target = ready_recognizer(assets.target, assets.world.resolution, device)
        choice = take_precision(config, assets.generator, target, start, device)
        if not config.resume:
            folder.write_json("provenance.json", provenance | {"precision": choice.describe()})
            folder.write_config(config)  # last: what has it can be resumed
        first = state["steps"] if state else 0
        with (
            held_signals() as signalled,
            tqdm(initial=first, desc=f"{method} {config.space}", disable=config.steps == 0) as bar,
        ):
            asked = 0

            def on_step(row: dict) -> None:
                folder.append_step(row)
                tracker.log_step(row)
                bar.update(row["step"] + 1 - bar.n)
                bar.set_postfix(target_score=f"{row['target_score']:.3f}")

            def on_state(describe: Callable[[], dict]) -> None:
                nonlocal asked
                number = signalled()
                if number or asked % config.save_every == 0:
                    folder.save_state(described := describe())
                    bar.total = described["of"]
                asked += 1
                if number:
                    raise StoppedError(number, f"stopped and saved; go on with --resume={folder.path}")

            result = invert(
                assets.generator, target, identities, config, seed=config.seed, start=start, device=device,
                # the candidates' pictures are kept as float32 makes them
                prior=provenance["weights"].get("prior", {}).get("sha256", "") if config.precision == "float32" else "",
                searched=choice.apply(assets.generator, target), on_step=on_step, state=state, on_state=on_state,
            )  # fmt: skip
        folder.write_result(result)

        judging = JudgingAssets.of_run(assets, device)
        controls = draw_controls(judging, result.images, identities, psi=config.psi, seed=config.seed)
        start = "start picture" if config.space == "pixels" or not config.candidates else "best candidate"
        judgement = judge_pictures(
            judging, result.images, identities, {start: result.first[:, None]} | controls, seed=config.seed,
            choice_scores=result.scores, photos=config.photos,
        )  # fmt: skip
        report = folder.write_report(
            method=method,
            world=config.world,
            seed=config.seed,
            identities=identities,
            judgement=judgement,
            cost=result.cost,
        )
        folder.drop_state()
    finally:
        tracker.finish(report, failed=report is None, artifacts=config.wandb_artifacts)
        folder.close()
    print_report(report, folder.path)
    if config.from_run and (Path(config.from_run) / "report.json").is_file():
        before = read_report(config.from_run)
        same = all(before[key] == report[key] for key in ("summary", "per_identity", "files") if key in before)
        print(f"{config.from_run}: {'the same results' if same else 'other results; compare the two report.json'}")
    return report


def take_precision(config: AttackRun, generator, target, start: torch.Tensor | None, device: torch.device) -> Choice:
    """Returns the forms of the networks for the search: those of the run that is resumed or repeated, else by --precision.

    start: first pictures of an attack without a prior. What was taken is said in one line, float32 apart.
    """
    if config.resume or config.from_run:
        return recall_choice(config)
    if config.precision == "float32" or generator is None:
        latents = start if start is None else start.expand(-1, 3, -1, -1).to(device)
    else:
        z = draw_pool(generator, dataclasses.replace(config, candidates=PROBED), config.seed).to(device)
        with torch.no_grad():
            latents = generator.map(z, config.psi)
    choice = choose_precision(config.precision, generator, target, latents)
    if config.precision != "float32":
        print(choice.line, file=sys.stderr)
    return choice


def recall_choice(config: AttackRun) -> Choice:
    """Returns the forms that the run which is resumed or repeated took. Raises: ValueError when it does not say them."""
    file = Path(config.resume or config.from_run) / "provenance.json"
    try:
        return Choice.recall(json.loads(file.read_text(encoding="utf-8")).get("precision"))
    except (OSError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"expected a provenance.json in {file.parent}, got none that can be read ({error})") from error


def hash_photos(photos) -> str:
    """Returns the SHA-256 over the pixels of data.Photos, in their order."""
    return hashlib.sha256(photos.pixels.contiguous().numpy().tobytes()).hexdigest()
