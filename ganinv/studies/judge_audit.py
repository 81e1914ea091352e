"""The judges of a world of rendered people against its truth: how often they see a user where the factors do not."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from ganinv import cli, images
from ganinv.engine.files import clear_errors, write_atomically
from ganinv.interfaces import AbsentError
from ganinv.judging.comparisons import hits_within, take_for_user
from ganinv.judging.protocol import JudgingAssets
from ganinv.judging.robustness import Projection, with_projection
from ganinv.recognizers.recognize import recognize
from ganinv.reports.comparison import find_label
from ganinv.reports.markdown import format_rows
from ganinv.studies.run_comparison import find_runs, read_run
from ganinv.worlds.assets import load_assets
from ganinv.worlds.truth import audit_judge, distance, passing_distance

AFTER = ", after the Type-I test"


def audit_judges(config) -> None:
    """Reads the pictures, asks judges and factors, and writes both."""
    device = cli.choose_device(config.device)
    out = Path(config.out or f"results/{Path(config.world).name}")
    runs = [read_run(folder) for folder in find_runs(config.runs or [f"runs/{Path(config.world).name}"])]
    runs = [one for one in runs if one.report["world"] == config.world]
    if not runs:
        raise ValueError(f"expected runs of the world {config.world}, got none; see --world")
    users = sorted({identity for one in runs for identity in one.report["identities"]})
    assets = load_assets(config.world, device=device, prior=False, identities=users)
    if assets.truth is None:
        raise ValueError(f"expected a world of rendered people, whose truth is known, got {config.world}")
    pictures, owners, attacks = [], [], []
    for one in runs:
        for file in sorted((one.folder / "images").glob("*_*.png")):
            owners.append(int(file.stem.split("_")[0]))
            attacks.append(find_label(one))
            pictures.append(images.load(file, assets.world.resolution))
    pictures, owners = torch.cat(pictures).to(device), torch.tensor(owners)

    photos = assets.references.photos
    own = distance(*assets.truth.compare(photos.images().to(device), photos.person))
    limit = passing_distance(own)
    # each user's photos as the next user's: whom the factors would take for somebody else
    position = {user: place for place, user in enumerate(users)}
    strangers = torch.tensor([users[(position[person] + 1) % len(users)] for person in photos.person.tolist()])
    passing = (distance(*assets.truth.compare(photos.images().to(device), strangers)) <= limit).double().mean().item()
    is_user = distance(*assets.truth.compare(pictures, owners)) <= limit
    prior = JudgingAssets.of_run(assets, device).prior
    changes = with_projection(Projection(prior, device) if prior else None)
    said, absent = decide(assets, pictures, owners, changes)
    found = {name: audit_judge(says, is_user) for name, says in said.items()}
    by_attack = {}
    for label in dict.fromkeys(attacks):
        rows = torch.tensor([attack == label for attack in attacks])
        by_attack[label] = {name: audit_judge(says[rows], is_user[rows]) for name, says in said.items()}
    report = {
        "world": config.world, "runs": len(runs), "users": users, "limit": limit, "own_photos": len(own),
        "strangers_photos_within_limit": passing, "type_i": list(changes), "judges": found, "attacks": by_attack,
        "absent": absent,
    }  # fmt: skip
    with clear_errors(out, ValueError):
        out.mkdir(parents=True, exist_ok=True)
        write_atomically(out / "judges.json", json.dumps(report, indent=2) + "\n")
        write_atomically(out / "judges.md", format_table(report))
    print(format_table(report))


def decide(assets, pictures, owners, changes) -> tuple[dict, dict[str, str]]:
    """Returns judge and rule -> whether it says "this is the user" [N], before and after the Type-I test, which makes
    `changes`, and rule -> why it is absent."""
    changed = [pictures, *(change(pictures) for change in changes.values())]
    words, absent = {}, {}
    for judge in sorted(assets.judges, key=lambda judge: not judge.sees_users):
        found = [recognize(judge.recognizer, images) for images in changed]
        rules = {"by its embedding": lambda one, judge=judge: take_for_user(one, owners, judge, assets.references)}
        if judge.sees_users:
            rules = {"ranks the user first": lambda one: hits_within(one, owners, 1).bool()} | rules
        for rule, decide_one in rules.items():
            try:
                words[f"{judge.name}, {rule}"] = torch.stack([decide_one(one) for one in found])
            except AbsentError as error:
                absent[f"{judge.name}, {rule}"] = str(error)
    if not absent and len(assets.judges) > 1:
        by_embedding = [words[f"{judge.name}, by its embedding"] for judge in assets.judges]
        words["both, by their embeddings"] = torch.stack(by_embedding).all(0)
    said = {}
    for name, word in words.items():
        said |= {name: word[0], name + AFTER: word.all(0)}
    return said, absent


def format_table(report: dict) -> str:
    """Returns the audit as a Markdown table."""

    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    head = ["judge and rule", "pictures", "the user, by the judge", "the user, by the factors"]
    rows = [
        [name, *(str(row[key]) for key in ("pictures", "user_by_judge", "user_by_factors"))]
        + [share(row["false_positive_rate"]), share(row["false_negative_rate"])]
        for name, row in report["judges"].items()
    ]
    text = format_rows([*head, "false-positive rate", "false-negative rate"], rows)
    rules = [name for name in report["judges"] if not name.endswith(AFTER)]
    rows = []
    for label, found in report["attacks"].items():
        rates = ((share(found[name + end]["false_positive_rate"]) for end in ("", AFTER)) for name in rules)
        first = found[rules[0]]
        rows.append([label, str(first["pictures"]), str(first["user_by_factors"]), *map(" to ".join, rates)])
    text += "\n" + format_rows(["false-positive rate by attack", "pictures", "the user, by the factors", *rules], rows)
    return text + (
        f"\n{report['runs']} runs of the world {report['world']}, users {', '.join(map(str, report['users']))}. "
        f'The factors say "the user" where a picture is within {report["limit"]:.2f} (root mean square, in spreads) of '
        f"the user's true factors, as 95 % of {report['own_photos']} of the users' own photos are, and "
        f"{report['strangers_photos_within_limit']:.0%} of the photos of another user. False-positive rate: of the pictures "
        "that are not the user by the factors, the share that the judge takes for the user; false-negative rate: of those "
        f"that are, the share that it does not. The Type-I test: {', '.join(report['type_i'])}; by attack, the rate "
        "before it to the rate after it.\n"
        + "".join(f"\n- {name}: absent: {reason}\n" for name, reason in report["absent"].items())
    )
