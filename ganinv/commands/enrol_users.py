"""Make a world of real people around a network that embeds: users enrolled, judges with thresholds, references embedded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from ganinv import cli
from ganinv.commands.opening import open_named

OPERATING_RATE = 1e-3  # of false matches, at which a network of one's own accepts


@dataclass(frozen=True, kw_only=True)
class EnrolUsers:
    """Enrol users in a network that embeds, and write templates, thresholds and references into a world; no photo.

    Example: --world=worlds/mine --photos=my_photos
    """

    world: str = ""  # a folder: a new one, or a world whose target, judges and references these become
    photos: str = ""  # folder with users/ and public/, one sub-folder per person
    network: str = "dlib"  # dlib | sface | mobilefacenet | NAME.safetensors, of train_recognizer.py: where users are enrolled
    judges: str = "sface,mobilefacenet,dlib"  # published networks that judge, but for the target; "": the world's own
    resolution: int = 64  # of the world's pictures, where it is new
    grey: bool = False  # its photos are greyscale, where it is new
    device: str = "auto"  # auto | cpu | cuda


def run(config: EnrolUsers) -> None:
    """Enrols and writes; then measures the judges and embeds the references, as embed_references.py does."""
    from ganinv.commands import embed_references
    from ganinv.photos import list_people
    from ganinv.recognizers.adapters import PUBLISHED
    from ganinv.recognizers.gallery import Gallery
    from ganinv.recognizers.published.frame import WORLD
    from ganinv.weights.cards import describe_photos, read_card, read_photos
    from ganinv.worlds.world import open_world

    if not config.world or not config.photos:
        raise ValueError("expected --world=FOLDER and --photos=FOLDER, got one or none of them; pass both")
    judges = [name.strip() for name in config.judges.split(",") if name.strip()]
    is_file = config.network.endswith(".safetensors")
    for name in (*judges, *(() if is_file else (config.network,))):
        if name not in PUBLISHED:
            raise ValueError(f"expected a network among {', '.join(PUBLISHED)}, got {name}")
    world = open_world(config.world)
    if not (world.roles or world.judge_entries):
        told = {"resolution": config.resolution, "grey": config.grey, "users": "users", "frame": WORLD.points}
        world = dataclasses.replace(world, **told)
    world = dataclasses.replace(world, device=cli.choose_device(config.device))
    people = list_people(Path(config.photos) / world.users)
    network = world.load(config.network)
    target = network.enroll(people, split="train", threshold=measure_threshold(world, network, config) if is_file else None)
    gallery = Gallery(target.names, target.templates.cpu(), target.metric, target.threshold, target.scale, target.num_photos)
    trained = read_photos(read_card(config.network), "public").get("words", "") if is_file else network.facts.training
    card = {
        "role": "gallery",
        "command": cli.name_command("enrol_users"),
        "network": "target.safetensors" if is_file else config.network,
        "data": {"users": describe_photos(gallery.photos, len(people), split="train")},
        "network_trained_on": trained,
    }
    world.folder.mkdir(parents=True, exist_ok=True)
    gallery.save(world.folder / "gallery.safetensors", card)
    world = world.register("target", config.network).register("gallery", world.folder / "gallery.safetensors")
    for name in judges:
        world = world.register(name, name, sees_users=False)
    print(f"{world.folder}: {len(people)} users enrolled in {config.network}, scale {gallery.scale:g}")
    told = embed_references.EmbedReferences(world=str(world.folder), photos=config.photos, device=config.device)
    embed_references.run(told)


def measure_threshold(world, network, config: EnrolUsers) -> float:
    """Returns the cosine that one in a thousand pairs of held-out strangers passes, the operator's threshold.

    Raises: ValueError where there are too few of them.
    """
    from ganinv.training.recipes import HELD_OUT
    from ganinv.worlds.references import Judge
    from ganinv.worlds.thresholds import measure_thresholds
    from ganinv.worlds.world import load_public

    strangers = load_public(world, config.photos, HELD_OUT)
    found, _ = measure_thresholds(Judge("target", network, sees_users=False), strangers)
    if OPERATING_RATE not in found:
        raise ValueError(f"expected 142 held-out people or more in {config.photos}, got {len(strangers.names)}; add people")
    return found[OPERATING_RATE]


def main() -> None:
    """Parses the command line and runs."""
    cli.main(EnrolUsers, run, plan=open_named)
