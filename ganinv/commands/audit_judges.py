"""Audit the judges against the truth: how often they see a user where the true factors do not."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional

from ganinv import cli
from ganinv.commands.opening import open_named


@dataclass(frozen=True, kw_only=True)
class AuditJudges:
    """Audit the judges of rendered people against their true factors: audit_judges.py [RUN ...].

    Example: runs/synthetic
    """

    runs: Positional[tuple[str, ...]] = ()  # run folders, or folders of them; []: runs/<world>
    world: str = "synthetic"  # of the runs
    out: str = ""  # folder for judges.md and judges.json; "": results/<world>
    device: str = "auto"  # auto | cpu | cuda


def run(config: AuditJudges) -> None:
    """Reads the pictures, asks judges and factors, and writes both."""
    from ganinv.studies.judge_audit import audit_judges

    audit_judges(config)


def main() -> None:
    """Parses the command line and runs."""
    cli.main(AuditJudges, run, plan=open_named)
