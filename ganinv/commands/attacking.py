"""What the latent and the pixel attack share: load, invert, judge, report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from ganinv import command_line
from ganinv.attack import AttackConfig, Augment, check_config, invert
from ganinv.optimization import Optim
from ganinv.worlds import Assets, load_assets

SHOWN = ("target_score", "judge_score", "acc_at_1", "acc_at_5", "identity_similarity", "face_detected", "lpips", "lpips_face")


@dataclass(frozen=True, kw_only=True)
class AttackRun(AttackConfig):
    """An attack and where it happens."""

    world: str = "lfw"  # prior, target, judges and references that belong together
    identities: str = "0-4"  # users to reconstruct, such as 0-4,9
    seed: int = 0  # of candidates and transforms
    device: str = "auto"  # auto | cpu | cuda
    out: str = ""  # the run folder; "": runs/<method>-<world>-<NNN>
    wandb: str = "offline"  # offline | online | disabled
    target: str = ""  # FILE.safetensors, module:factory or file.py:factory; "": the world's
    photos: str = ""  # folder with photos of the users, for lpips and lpips_face; "": those are absent
    label: str = ""  # name in comparisons; "": by method
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

    from ganinv.loading import check_recognizer
    from ganinv.report import RunFolder, new_folder
    from ganinv.tracking import MODES, Tracker
    from ganinv.verdict import evaluate

    if config.wandb not in MODES:  # before there is a run folder
        raise ValueError(f"expected a wandb mode among {', '.join(MODES)}, got {config.wandb}")
    device = command_line.choose_device(config.device)
    command_line.check_seed(config.seed)
    identities = command_line.parse_identities(config.identities)
    assets = load_assets(
        config.world, device=device, generator=generator or "", target=config.target, photos=config.photos,
        prior=generator is not None,
    )  # fmt: skip
    check_recognizer(assets.target, assets.world.resolution, device=device)
    check_config(config, assets.target, identities, assets.generator is not None)
    start = make_start(config, assets) if make_start else None
    folder = RunFolder(config.out or new_folder(method, config.world))
    tracker, report = Tracker(), None
    try:
        config = apply_overrides(config, tracker.start(config.wandb, dataclasses.asdict(config), folder.path))
        folder.write_config(config)
        folder.write_provenance(seed=config.seed, device=device, weights=assets.weight_files())
        batches = -(-len(identities) * config.restarts // config.batch)
        with tqdm(total=config.steps * batches, desc=f"{method} {config.space}", disable=config.steps == 0) as bar:

            def on_step(row: dict) -> None:
                folder.append_step(row)
                tracker.log_step(row)
                bar.update()
                bar.set_postfix(target_score=f"{row['target_score']:.3f}")

            result = invert(
                assets.generator, assets.target, identities, config, seed=config.seed, start=start, device=device,
                on_step=on_step,
            )  # fmt: skip
        folder.write_result(result)
        verdict = evaluate(
            result.images.to(device), identities, assets.target, assets.judges, assets.references, seed=config.seed,
            face_trunk=assets.world.file("lpips_face"),
        )  # fmt: skip
        report = folder.write_report(
            method=method, world=config.world, seed=config.seed, identities=identities, verdict=verdict, cost=result.cost
        )
    finally:
        tracker.finish(report, failed=report is None)
    print_report(report, folder.path)
    return report


def print_report(report: dict, path) -> None:
    """Prints the summary, a line a metric, what is absent and why, and where the files are."""
    for name in SHOWN:
        if name in report["summary"]:
            entry = report["summary"][name]
            low, high = entry["ci95"]
            interval = f"   95% interval {low:.3f} to {high:.3f}" if low is not None else ""
            print(f"{name:20s} {entry['mean']:7.3f}{interval}   n {entry['n']}")
    for name, reason in report["absent"].items():
        print(f"{name:20s}  absent: {reason}")
    cost = report["cost"]
    print(f"{cost['seconds']:.0f} s, {cost['images_evaluated']} images through the target")
    print(f"{path}/images/grid.png", flush=True)
