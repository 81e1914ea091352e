"""Audit the judges against the truth: how often they see a user where the true factors do not."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from ganinv import cli

AFTER = ", after the Type-I test"


@dataclass(frozen=True, kw_only=True)
class AuditJudges:
    """Audit the judges of rendered people against their true factors: audit_judges.py [RUN ...]."""

    runs: tuple[str, ...] = ()  # run folders, or folders of them; []: runs/<world>
    world: str = "synthetic"  # of the runs
    out: str = ""  # folder for judges.md and judges.json; "": results/<world>
    device: str = "auto"  # auto | cpu | cuda


def run(config: AuditJudges) -> None:
    """Reads the pictures, asks judges and factors, and writes both."""
    import torch

    from ganinv import images
    from ganinv.commands.compare import find_runs, read_run
    from ganinv.engine.files import clear_errors
    from ganinv.judging.protocol import JudgingAssets
    from ganinv.judging.robustness import Projection, with_projection
    from ganinv.reports.comparison import find_label
    from ganinv.worlds.truth import audit_judge, distance, passing_distance
    from ganinv.worlds.world import load_assets

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
        (out / "judges.json").write_text(json.dumps(report, indent=2) + "\n")
        (out / "judges.md").write_text(format_table(report))
    print(format_table(report))


def decide(assets, pictures, owners, changes) -> tuple[dict, dict[str, str]]:
    """Returns judge and rule -> whether it says "this is the user" [N], before and after the Type-I test, which makes
    `changes`, and rule -> why it is absent."""
    import torch

    from ganinv.interfaces import AbsentError
    from ganinv.judging.comparisons import hits_within, take_for_user
    from ganinv.judging.verdict import find_judge
    from ganinv.recognizers.recognize import recognize

    judge, verifier = (find_judge(assets.judges, sees_users=sees) for sees in (True, False))
    changed = [pictures, *(change(pictures) for change in changes.values())]
    rules = {
        "judge, ranks the user first": lambda images: hits_within(recognize(judge.recognizer, images), owners, 1).bool(),
        "judge, by its embedding": lambda images: take_for_user(
            recognize(judge.recognizer, images), owners, judge, assets.references
        ),
        "verifier, by its embedding": lambda images: take_for_user(
            recognize(verifier.recognizer, images), owners, verifier, assets.references
        ),
    }
    words, absent = {}, {}
    for name, rule in rules.items():
        try:
            words[name] = torch.stack([rule(images) for images in changed])
        except AbsentError as error:
            absent[name] = str(error)
    if len(words) == len(rules):
        words["both, by their embeddings"] = words["judge, by its embedding"] & words["verifier, by its embedding"]
    said = {}
    for name, word in words.items():
        said |= {name: word[0], name + AFTER: word.all(0)}
    return said, absent


def format_table(report: dict) -> str:
    """Returns the audit as a Markdown table."""

    def share(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    lines = [
        "| judge and rule | pictures | the user, by the judge | the user, by the factors | false-positive rate "
        "| false-negative rate |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {name} | {row['pictures']} | {row['user_by_judge']} | {row['user_by_factors']} "
        f"| {share(row['false_positive_rate'])} | {share(row['false_negative_rate'])} |"
        for name, row in report["judges"].items()
    ]
    rules = [name for name in report["judges"] if not name.endswith(AFTER)]
    lines += ["", f"| false-positive rate by attack | pictures | the user, by the factors | {' | '.join(rules)} |"]
    lines.append("|---|" + "---:|" * (2 + len(rules)))
    for label, found in report["attacks"].items():
        rates = ((share(found[name + end]["false_positive_rate"]) for end in ("", AFTER)) for name in rules)
        first = found[rules[0]]
        cells = (label, str(first["pictures"]), str(first["user_by_factors"]), *map(" to ".join, rates))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + (
        f"\n\n{report['runs']} runs of the world {report['world']}, users {', '.join(map(str, report['users']))}. "
        f'The factors say "the user" where a picture is within {report["limit"]:.2f} (root mean square, in spreads) of '
        f"the user's true factors, as 95 % of {report['own_photos']} of the users' own photos are, and "
        f"{report['strangers_photos_within_limit']:.0%} of the photos of another user. False-positive rate: of the pictures "
        "that are not the user by the factors, the share that the judge takes for the user; false-negative rate: of those "
        f"that are, the share that it does not. The Type-I test: {', '.join(report['type_i'])}; by attack, the rate "
        "before it to the rate after it.\n"
        + "".join(f"\n- {name}: absent: {reason}\n" for name, reason in report["absent"].items())
    )


def main() -> None:
    """Parses the command line and runs."""
    from ganinv.commands.compare import gather_runs

    cli.main(AuditJudges, run, gather_runs(sys.argv[1:]))
