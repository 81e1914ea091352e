"""Run every attack on one recognizer and write one report: does it leak, and to whom."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from ganinv import cli
from ganinv.attack.config import GRAY_BOX, LATENT, LATENT_GOALS
from ganinv.commands.latent_attack import LatentAttack
from ganinv.commands.pixel_attack import PixelAttack
from ganinv.commands.study_access import StudyAccess
from ganinv.studies.attack_options import RunOptions

PIXEL, CLASS, TEMPLATE = "pixel search", "class score", "template inversion"


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Attack a recognizer in pixel space, by its class scores and by its templates; one report, the worst attack first.

    Example: --world=faces --target=dlib --gallery=enrolled --photos=my_faces
    """

    world: str = "synthetic"  # name or folder: prior, target, judges and references that belong together
    identities: str = "0-9"  # users to reconstruct, such as 0-4,9; of five no p can be below 0.06
    target: str = ""  # torchvision:NAME:FILE, my_model.py:build, dlib, FILE.onnx, ... (docs/recognizers.md); "": the world's
    gallery: str = ""  # users to enrol in a target that embeds: a folder of photos, or .safetensors, .npz, .json
    threshold: float | None = None  # of the gallery, a cosine or a distance; None: the network's own
    classes: str = ""  # file with the users' names in the order that numbers them; "": the card's, or the folders' order
    generator: str = ""  # the prior: a checkpoint or file.py:factory; "": the world's
    photos: str = ""  # folder with new photos of the users, for judges and the check of the target; "": the world's
    force: bool = False  # go on though the check of the target on --photos finds it fed wrongly
    private_photos: bool = False  # also write private.html, which shows --photos beside the pictures; it stays here
    judge: str = ""  # who judges, such as sface,dlib: judges of the world, or what --target takes; "": the world's
    probes: str = ""  # folder that probe.py wrote: what target and judges know of attributes of your own; "": the world's
    steps: int = 0  # of every search, after its candidates are scored; 0: each attack's own number
    seed: int = 0  # of candidates and transforms
    ladder: bool = False  # also: what a gallery gives away after how many answers, as study_access.py; minutes to hours
    device: str = "auto"  # auto | cpu | cuda
    out: str = "runs/audit"  # folder of audit.html and the run folders; one that was begun is gone on with
    wandb: str = "offline"  # offline | online | disabled


def list_attacks(config: Audit, templates: bool) -> dict[str, tuple[str, object]]:
    """Returns the name of each attack -> (method, configuration). templates: the target stores an embedding of each user."""
    shared = {field.name for field in dataclasses.fields(RunOptions)} & {field.name for field in dataclasses.fields(config)}
    run = RunOptions(**{name: getattr(config, name) for name in shared - {"out"}})

    def shorten(attack):
        return dataclasses.replace(attack, steps=config.steps) if config.steps else attack

    attacks: dict[str, tuple[str, object]] = {
        PIXEL: ("pixel", PixelAttack(attack=shorten(GRAY_BOX), run=run)),
        CLASS: ("latent", LatentAttack(attack=shorten(LATENT), run=run, generator=config.generator)),
    }
    if templates:
        attacks[TEMPLATE] = (
            "latent",
            LatentAttack(attack=shorten(LATENT_GOALS["template"]), run=run, generator=config.generator),
        )
    return attacks


def has_templates(config: Audit) -> bool:
    """Says whether the target stores an embedding of each user. Raises: ValueError where none is, beside --ladder."""
    from ganinv.worlds.world import find_world

    templates = bool(config.gallery) or (not config.target and find_world(config.world).has("gallery"))
    if config.ladder and not templates:
        raise ValueError("expected a target with a gallery beside --ladder, got one without; pass --gallery")
    return templates


def plan(config: Audit) -> dict:
    """Returns what --dry-run says beside the configuration, once what the attacks would load is loaded and checked."""
    from ganinv.studies.audit import check_audit

    attacks = list_attacks(config, has_templates(config))
    check_audit(Path(config.out).expanduser(), attacks)
    return {"attacks": list(attacks)}


def run(config: Audit) -> dict:
    """Runs the attacks and writes the report."""
    from ganinv.reports.combined import LADDER
    from ganinv.studies.audit import run_audit

    templates = has_templates(config)
    out = Path(config.out).expanduser()
    if config.ladder:
        climb_ladder(config, out / LADDER)
    return run_audit(out, list_attacks(config, templates))


def climb_ladder(config: Audit, out: Path) -> None:
    """Runs the study of access on the audit's target and users, into a folder beside the attacks'."""
    from ganinv.studies.access.plan import ATTACKERS, GALLERY
    from ganinv.studies.access.running import run_study

    quick = ",".join(name for name, attacker in ATTACKERS.items() if attacker.of == GALLERY and not attacker.search)
    shared = {name: getattr(config, name) for name in ("world", "target", "gallery", "judge", "identities")}
    run_study(StudyAccess(**shared, attackers=quick, work=out / "work", out=out))


def main() -> None:
    """Parses the command line and runs."""
    cli.main(Audit, run, plan=plan)
