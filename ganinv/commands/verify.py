"""Check a run folder: its files against their hashes, its pictures against its latents, its report against both."""

from __future__ import annotations

from dataclasses import dataclass

from ganinv import cli
from ganinv.errors import FaultError


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Check that a run folder is whole and that its numbers follow from its latents.

    Example: --run=runs/latent-synthetic-000
    """

    run: str = ""  # the run folder
    photos: str = ""  # folder with photos of the users; "": as in the run
    target: str = ""  # code or exported program that the run names, typed again; likewise generator and judge
    generator: str = ""  # see target
    judge: str = ""  # see target
    device: str = "auto"  # auto | cpu | cuda


def read_typed(config: Verify) -> dict[str, str]:
    """Returns option -> code that the caller would run."""
    return {"target": config.target, "generator": config.generator, "judge": config.judge}


def plan(config: Verify) -> dict:
    """Returns nothing, once the run that is named is read."""
    from ganinv.studies.verification import open_run

    if config.run:
        open_run(config.run, read_typed(config))
    return {}


def run(config: Verify) -> None:
    """Prints one line a check. Raises: ValueError when the folder holds no run; FaultError when a check fails."""
    from ganinv.studies.verification import check_run

    failed = 0
    for name, problem in check_run(config.run, config.photos, config.device, read_typed(config)):
        print(f"{name}: {problem or 'as reported'}", flush=True)
        failed += bool(problem)
    if failed:
        raise FaultError(f"{config.run} does not hold: {failed} of its checks failed, see above")


def main() -> None:
    """Parses the command line and runs."""
    cli.main(Verify, run, plan=plan)
