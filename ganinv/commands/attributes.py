"""Say what runs give away of their users' attributes, and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional

from ganinv import cli
from ganinv.commands.opening import open_named


@dataclass(frozen=True, kw_only=True)
class ReportAttributes:
    """What is given away of users' attributes: attributes.py RUN [RUN ...] --tune=RUN_OF_OTHER_USERS.

    Example: runs/reported --tune=runs/tuning
    """

    runs: Positional[tuple[str, ...]] = ()  # run folders; several pictures a user (--keep) say how sure
    tune: str = ""  # run of other users of the same target, on whom intervals are calibrated; "": the world's calibration
    labels: str = ""  # CSV with the users' values, by `person`; "": true factors, or what a judge reads off own photos
    names: str = ""  # of the values of choices, as for probe.py: "gender=man,woman;glasses=no,yes"
    probes: str = ""  # folder of probes that probe.py wrote, beside the world's own
    target: str = ""  # target, generator, judge: as in the runs, where they name code, which is run only if typed
    generator: str = ""  # likewise
    judge: str = ""  # likewise
    device: str = "auto"  # auto | cpu | cuda
    out: str = ""  # folder of attributes.md, attributes.json and calibration.safetensors; "": runs/attributes


def run(config: ReportAttributes) -> dict:
    """Reads the runs, calibrates, and writes. Raises: ValueError when they cannot be read together."""
    from ganinv.studies.attribute_runs import report_runs

    return report_runs(config)


def main() -> None:
    """Parses the command line and runs."""
    cli.main(ReportAttributes, run, plan=open_named)
