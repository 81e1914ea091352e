"""What does an attacker with this access get after how many queries, and which rate limit would have kept the users?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ganinv import cli


@dataclass(frozen=True, kw_only=True)
class StudyAccess:
    """Recover a gallery's templates from fewer and fewer answers, invert them, and count the queries that it took.

    Example: --attackers=distances,decisions --identities=0-4 --judged=150,1600
    """

    world: str = "faces"  # its target is a gallery; its prior and judges are used
    target: str = ""  # another embedding network, such as sface; "": the world's
    gallery: str = ""  # its users: a folder of photos or a file of templates; "": the world's
    judge: str = ""  # who judges, such as sface,mobilefacenet; "": the world's
    identities: str = "0-19"  # users to recover, such as 0-4,9
    attackers: str = "all"  # some of them in order, such as template,distances,distances-2,decisions
    seeds: int = 1  # of the pictures that are shown, and of the search
    judged: str = "all"  # numbers of queries at which pictures are made and judged, such as 0,150; all; "": none
    pictures: int = 3000  # samples of the prior that the attacker can show
    blends: int = 640  # most pictures that are blended of them for one user, from accept or reject
    steps: int = 50  # of each search for a recovered template
    work: Path = Path("runs/access")  # what was recovered and judged; what is there is not made again
    out: Path = Path("results/access")  # table.md, table.csv, curves.png, curves.json
    table_only: bool = False  # write these from what is finished


def run(config: StudyAccess) -> None:
    """Runs the study."""
    from ganinv.studies.access.running import run_study

    run_study(config)


def main() -> None:
    """Parses the command line and runs."""
    cli.main(StudyAccess, run)
