"""Every attack on one target, one report: does it leak, and to whom."""

from __future__ import annotations

import dataclasses
import signal
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ganinv.attack.attacks import LatentAttack, PixelAttack
from ganinv.engine.files import clear_errors
from ganinv.engine.signals import StoppedError
from ganinv.interfaces import Generator, Recognizer
from ganinv.reports.audit_page import write_audit
from ganinv.reports.combined import AttackRow, combine_reports, write_combined
from ganinv.reports.report import Report, judge
from ganinv.reports.report_file import read_report
from ganinv.reports.run_files import read_config
from ganinv.reports.terminal import WIDTH
from ganinv.studies.attack_options import describe_config
from ganinv.studies.attack_run import check_options, prepare, run_attack
from ganinv.worlds.photo_check import PhotoCheck, check_photos
from ganinv.worlds.references import Judge, References
from ganinv.worlds.world import World

FREE = ("out", "resume", "device", "wandb", "wandb_artifacts", "label", "save_every", "force")  # change no result
FREE += ("engine", "address", "workers")


def run_audit(out: Path, attacks: Mapping[str, tuple[str, object]], run: Callable[..., dict] = run_attack) -> dict:
    """Returns the audit after writing out/audit.html and audit.json, beside one run folder for each attack.

    attacks: name -> (method, configuration), as run_attack takes them, whose run folder is out/NAME. An attack whose folder
    holds a report is not repeated, and one that was killed goes on: the same command, given again, ends an audit. The check
    of the target on its owner's photos is made in the first, and holds for all.
    Raises: ValueError for a configuration that cannot be run, or a folder that holds an audit with other options.
    """
    folders, reports, checked = {}, {}, {}
    with clear_errors(out, ValueError):
        out.mkdir(parents=True, exist_ok=True)
    for number, (name, (method, config)) in enumerate(attacks.items(), 1):
        folders[name] = folder = out / name.replace(" ", "-")
        begun = check_begun(out, folder, config)
        print(f"{number} of {len(attacks)}: {name}", file=sys.stderr)
        if (folder / "report.json").is_file():
            report = read_report(folder)
        else:
            options = {"out": str(folder), "resume": str(folder) if begun else ""}
            try:
                report = run(dataclasses.replace(config, run=dataclasses.replace(config.run, **options)), method, **checked)
            except KeyboardInterrupt as error:  # the attack's own hint is of the attack alone
                number = getattr(error, "signal", signal.SIGINT)
                raise StoppedError(number, "stopped and saved; the same command goes on from here") from error
        reports[name] = report
        if found := report.get("photo_check"):
            checked = {"photo_check": PhotoCheck.recall(found)}
    with clear_errors(out):
        audit = write_audit(out, folders, reports)
    remarks = [f"{name}: {remark}" for name, report in reports.items() for remark in report.get("remarks", [])]
    for sentence in [*remarks, *audit["verdict"]]:
        print(textwrap.fill(sentence, WIDTH, subsequent_indent="  "))
    print(f"\n{out}/audit.html")
    return audit


def check_audit(out: Path, attacks: Mapping[str, tuple[str, object]]) -> None:
    """Returns if an audit could begin. What the last attack would load is loaded: it asks the most of a target.

    Raises: ValueError, as run_audit does before it searches.
    """
    for name, (method, config) in attacks.items():
        check_begun(out, out / name.replace(" ", "-"), config)
        check_options(config, method)
    prepare(config, method)


def check_begun(out: Path, folder: Path, config) -> bool:
    """Says whether an attack's run folder holds a run. Raises: ValueError where that was begun with other options."""
    stored = read_config(folder) if (folder / "config.json").is_file() else {}
    now = describe_config(config) if stored else {}
    other = [option for option in stored if option not in FREE and option in now and stored[option] != now[option]]
    if other:
        raise ValueError(
            f"expected the options that {out} was begun with, got another {', '.join(sorted(other))}; repeat the command as "
            "it was, or choose another --out"
        )
    return bool(stored)


@dataclass(frozen=True)
class AuditResult:
    """What several attacks on one target gave: attack's name -> its report. Printed, it is the verdict, then a line each."""

    reports: Mapping[str, Report]

    @property
    def rows(self) -> list[AttackRow]:
        """Returns one row an attack, the worst first."""
        contents = {name: report.content for name, report in self.reports.items()}
        return combine_reports(contents, {name: report.result.config.access for name, report in self.reports.items()})

    @property
    def verdict(self) -> list[str]:
        """Returns the verdict in sentences."""
        return write_combined(self.rows)

    def save(self, path: str | Path) -> Path:
        """Writes audit.html, audit.json and a run folder for each attack. Returns the folder.

        Raises: ValueError when a run folder already holds a run; FaultError when the disk is full.
        """
        out = Path(path)
        folders = {name: report.save(out / name.replace(" ", "-")) for name, report in self.reports.items()}
        write_audit(out, folders, {name: report.content for name, report in self.reports.items()})
        return out

    def __str__(self) -> str:
        lines = [
            f"{row.attack}: {row.answer}"
            + (
                f", {row.given_away['hits']} of {row.given_away['n']} users given away"
                if row.given_away
                else f", {row.reason}"
            )
            for row in self.rows
        ]
        remarks = [
            f"{name}: {remark}" for name, report in self.reports.items() for remark in report.content.get("remarks", [])
        ]
        return "\n".join([*remarks, *self.verdict, "", *lines])


def audit(
    target: Recognizer,
    prior: Generator,
    identities: Iterable[int] = range(10),
    *,
    judges: Sequence[Judge | str] | None = None,
    references: References | str | Path | None = None,
    world: World | None = None,
    attacks: Mapping[str, LatentAttack] | None = None,
    seed: int = 0,
    force: bool = False,
) -> AuditResult:
    """Returns what every attack on a target gives: the pixel search, the class score and, of a gallery, its templates.

    attacks: name -> attack, in place of these; an attack whose name is "template inversion" is given the target's
    templates. judges, references, world: see ganinv.judge; references that are a folder are first shown to the target, once,
    which must name them unless force.
    Raises: ValueError, see ganinv.judge and LatentAttack.
    """
    photos = references if isinstance(references, str | Path) else None
    identities, templates = tuple(int(identity) for identity in identities), getattr(target, "templates", None)
    check = None
    if photos is not None and (target.num_identities or not force):
        check = check_photos(target, photos, identities, resolution=prior.resolution)
        check = check if force else check.require()
    if attacks is None:
        attacks = {"pixel search": PixelAttack(), "class score": LatentAttack()}
        attacks |= {"template inversion": LatentAttack(goal="template")} if templates is not None else {}
    reports = {}
    for name, attack in attacks.items():
        wanted = {"templates": templates} if name == "template inversion" else {}
        if isinstance(attack, PixelAttack):
            result = attack(target, identities, resolution=prior.resolution, seed=seed, **wanted)
        else:
            result = attack(prior, target, identities, seed=seed, **wanted)
        reports[name] = judge(
            result, target, judges=judges, references=references, world=world, prior=prior, seed=seed, force=force,
            photo_check=check,
        )  # fmt: skip
    return AuditResult(reports)
