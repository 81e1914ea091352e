"""Train a recognizer of a world: its target, a judge, the verifier, or a trunk of features."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from ganinv import cli
from ganinv.commands.opening import open_named
from ganinv.commands.training_output import claim_output, register_output, shown

FURTHER_TARGETS = ("cnn", "softmax", "mlp")
WORLD_ROLES = ("target", "judge", "verifier", "lpips_face", *FURTHER_TARGETS)  # a critic is of use to a training alone


@dataclass(frozen=True, kw_only=True)
class TrainRecognizer:
    """Train a recognizer on photos of users and of public people.

    Example: --world=worlds/mine --photos=my_photos --role=target
    """

    role: str = "target"  # target | judge | verifier | lpips_face | critic | cnn | softmax | mlp
    users: str = (
        "classes"  # classes: users are among a target's and a judge's | gallery: they are enrolled, by enrol_users.py
    )
    world: str = "synthetic"  # name or folder; a folder of your own gets the weights too
    photos: str = ""  # "": data/<world>; folder of private/ and public/; for a role that meets no user also a zip
    out: str = ""  # folder of state, log and weights; "": runs/<world>-<role>
    architecture: str = ""  # a torchvision classifier; "": the role's own
    steps: int = 0  # 0: the role's own
    seed: int = -1  # -1: the role's own
    precision: str = "auto"  # auto | bfloat16 | float32; auto: bfloat16 where the device computes in it
    device: str = "auto"  # auto | cpu | cuda
    resume: bool = False  # go on from the state in out
    wandb: str = "offline"  # offline | online | disabled


def run(config: TrainRecognizer) -> None:
    """Trains, measures what the weights that are kept can do, and writes weights and card."""
    from tqdm import tqdm

    from ganinv.commands.measure_prior import find_source
    from ganinv.photos import list_people, load_photos
    from ganinv.recognizers.loading import load_recognizer, save_recognizer
    from ganinv.training import recognizer as training
    from ganinv.training.pictures import load_pictures
    from ganinv.training.recipes import HELD_OUT, MEASURED, PHOTOS_PER_USER, USERS
    from ganinv.worlds.world import open_world

    if config.users not in USERS:
        raise ValueError(f"expected --users among {', '.join(USERS)}, got {config.users}")
    recipes = USERS[config.users]
    if config.role not in recipes:
        raise ValueError(f"expected a role among {', '.join(recipes)}, got {config.role}")
    recipe, world = recipes[config.role], open_world(config.world)
    photos = config.photos or f"data/{world.name}"
    device = cli.choose_device(config.device)
    changes = {"precision": cli.choose_training_precision(config.precision, device)}
    changes |= {name: value for name in ("architecture", "steps") if (value := getattr(config, name))}
    changes |= {"seed": config.seed} if config.seed >= 0 else {}
    settings = dataclasses.replace(recipe.training, **changes)
    out = Path(config.out or f"runs/{world.name}-{config.role}")
    weights = out / f"{config.role}.safetensors"
    cli.check_training(settings)
    claim_output(out, weights, resume=config.resume)

    people = list_people(Path(photos) / world.users) if recipe.sees_users else None
    users = load_photos(people, world.resolution, split="train", most=PHOTOS_PER_USER) if people else None
    if users is not None and (unseen := sorted({*range(len(people))} - {*users.person.tolist()})):
        name = users.names[unseen[0]]
        raise ValueError(f"expected 3 photos or more of each user, got {len(people[name])} of {name}; add photos")
    source = Path(photos) / world.public if recipe.sees_users else find_source(photos, world)
    public = load_pictures(source, world.resolution, recipe.public) if recipe.public else None
    # now: none of them must not cost a training
    held_out = load_pictures(source, world.resolution, HELD_OUT)
    few = held_out.person < MEASURED
    held_out = dataclasses.replace(held_out, pixels=held_out.pixels[few], person=held_out.person[few])
    with shown(config, settings.steps, config.role, out) as on_step:
        model = training.train_recognizer(
            settings, users, public, out, device=device, resume=config.resume, on_step=on_step, on_plan=tqdm.write
        )
    model.mirror = recipe.mirror
    card = {
        "role": config.role,
        "command": cli.name_command("train_recognizer"),
        "data": describe_data(recipe, users, public, PHOTOS_PER_USER),
        "training": dataclasses.asdict(settings),
        "seed": settings.seed,
        "frame": world.frame,
        "identities": list(users.names) if users is not None else [],
        "metrics": {},
    }
    save_recognizer(model, weights, card)
    model = load_recognizer(str(weights), device)  # measured as it is kept, rounded
    told = {"photos": len(held_out), "people": int(held_out.person[-1]) + 1}
    if told["photos"] > told["people"] > 1:  # with one photo each there is no pair to accept; of one person, none to refuse
        told |= training.verification(training.embed_photos(model, held_out), held_out.person)
    card["metrics"]["unseen_people"] = told
    if people:
        test = load_photos(people, world.resolution, split="test")
        card["metrics"]["users_top1"] = training.top1(model, test)
        card["metrics"]["users_test_photos"] = len(test)
    save_recognizer(model, weights, card)
    if config.role in WORLD_ROLES:
        sees_users = recipe.sees_users if config.role in ("judge", "verifier") else None
        register_output(world, config.role, weights, sees_users=sees_users, is_target=config.role in FURTHER_TARGETS)
    print(f"{weights}: {card['metrics']}")


def describe_data(recipe, users, public, most: int) -> dict:
    """Returns what a recognizer was trained on, as its card says it."""
    from ganinv.weights.cards import describe_photos

    described = {}
    if public is not None:
        described["public"] = describe_photos(len(public), len(public.names), hash_range=recipe.public)
    if users is not None:
        described["users"] = describe_photos(len(users), len(users.names), split="train", most=most)
    return described


def main() -> None:
    """Parses the command line and runs."""
    cli.main(TrainRecognizer, run, plan=open_named)
