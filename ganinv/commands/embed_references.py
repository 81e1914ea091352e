"""Embed the users' reference photos with a world's judges, so that a run needs no photo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ganinv import cli
from ganinv.commands.opening import open_named


@dataclass(frozen=True, kw_only=True)
class EmbedReferences:
    """Write a world's references, photos as the judges embed them, and the judges' thresholds from held-out people.

    Example: --world=worlds/mine --photos=my_photos
    """

    world: str = "synthetic"  # whose judges and users
    photos: str = ""  # "": data/<world>; folder with private/, one sub-folder per user
    out: str = ""  # "": the world's own references file
    device: str = "auto"  # auto | cpu | cuda


def run(config: EmbedReferences) -> None:
    """Embeds and writes."""
    from ganinv import images
    from ganinv.photos import list_people
    from ganinv.training.recipes import HELD_OUT
    from ganinv.worlds.references import References
    from ganinv.worlds.thresholds import measure_thresholds
    from ganinv.worlds.world import load_public, load_references, load_world

    device = cli.choose_device(config.device)
    world = load_world(config.world, device)
    folder = config.photos or f"data/{world.name}"
    names = list_people(f"{folder}/{world.users}")
    photos, judges = load_references(world, folder), [world.load_judge(entry) for entry in world.judge_entries]
    # the average of thousands of people is nobody: a start for the white-box pixel attack
    mean = load_public(world, folder, (0.0, HELD_OUT[0]), most=5000).images().mean(0)
    strangers = None if config.out else load_public(world, folder, HELD_OUT)  # now: without any nothing is written
    out = Path(config.out or world.file("references"))
    out.parent.mkdir(parents=True, exist_ok=True)
    References.from_photos(photos, judges, device).save(out)
    images.save(mean, out.parent / "public_mean.png")
    if strangers is not None:
        world = world.register("references", out).register("public_mean", out.parent / "public_mean.png")
        world.with_thresholds({judge.name: measure_thresholds(judge, strangers) for judge in judges}).save()
    print(f"{out}: {len(photos)} photos of {len(names)} users, embedded by {', '.join(judge.name for judge in judges)}")


def main() -> None:
    """Parses the command line and runs."""
    cli.main(EmbedReferences, run, plan=open_named)
