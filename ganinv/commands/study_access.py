"""What does an attacker with this access get after how many queries, and which rate limit would have kept the users?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ganinv import cli
from ganinv.commands.opening import open_named


@dataclass(frozen=True, kw_only=True)
class StudyAccess:
    """Let attackers with more and more answers make pictures of a target's users, and count the queries that it took.

    Example: --attackers=distances,decisions --identities=0-4 --judged=150,1600
    """

    world: str = "faces"  # whose prior and judges are used
    target: str = ""  # another one, such as cnn or softmax.safetensors, or sface with --gallery; "": the world's
    gallery: str = ""  # users of a target that embeds: a folder of photos or a file of templates; "": the world's
    judge: str = ""  # who judges, such as sface,mobilefacenet; "": the world's, of a target with classes without dlib
    identities: str = "0-19"  # users to recover, such as 0-4,9
    attackers: str = "all"  # that fit the target, or some in order, such as template,distances,decisions or scores,labels
    seed: int = 0  # of the pictures that are shown, and of the search: the first one
    seeds: int = 1  # so many, one after the other
    most: int = 10_000  # queries a user at most; the plan goes on to 100 000
    judged: str = "all"  # numbers of queries at which pictures are made and judged, such as 0,150; all; "": none
    pictures: int = 3000  # samples of the prior that the attacker can show
    blends: int = 3000  # most pictures that are blended of them for one user, from accept or reject
    steps: int = 50  # of each search for a recovered template, or in a copy
    work: Path = Path("runs/access")  # states of what is on its way, templates and pictures
    out: Path = Path("results/access")  # cells/, of which none is made twice; table.md, table.csv, curves.png, curves.json
    engine: str = "local"  # local | ray: this process, or a cell on each worker of a Ray cluster (docs/clusters.md)
    address: str = ""  # host:port or ray://host:port of the cluster; "": one of this machine's own
    workers: int = 0  # of the engine ray; 0: one a CPU
    table_only: bool = False  # write the tables and figures from the cells


def run(config: StudyAccess) -> None:
    """Runs the study."""
    from ganinv.studies.access.running import run_study

    run_study(config)


def main() -> None:
    """Parses the command line and runs."""
    cli.main(StudyAccess, run, plan=open_named)
