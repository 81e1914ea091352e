"""Train recognizers of rising capacity, invert each for the same users, and draw what that gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ganinv import cli
from ganinv.commands.opening import open_named


@dataclass(frozen=True, kw_only=True)
class StudyCapacity:
    """Invert recognizers of rising depth, size, data and users: does capacity make one safe?

    Example: --axes=users --users=10,100,1000
    """

    world: str = "synthetic"  # of rendered people: its prior, judges and truth
    axes: str = "depth,parameters,photos,users"  # which are swept, one at a time
    grid: str = "small"  # small | full: the values of the axes
    depth: str = ""  # architectures such as linear,resnet34; "": the grid's
    parameters: str = ""  # widths of a ResNet-18, such as 0.25,1; "": the grid's
    photos_per_user: str = ""  # such as 2,50; "": the grid's
    users: str = ""  # such as 10,3000; "": the grid's
    centre: str = "resnet18"  # architecture of the axes photos_per_user and users
    seeds: int = 1  # trainings and attacks of each cell
    steps: int = 300  # of each training
    steps_per_users: int = 0  # a target of more users than this takes more steps in proportion; 0: all take the same
    batch: int = 64  # photos a step, half of them of users
    precision: str = "float32"  # float32 | bfloat16, of the trainings: faster where the processor computes in it
    public: int = 1000  # public people, of whom the targets are trained on four fifths, with 3 photos each
    methods: str = "latent,gray-box"  # latent, gray-box, white-box, modern
    candidates: int = 400  # of the latent search
    restarts: int = 1  # of the latent search
    attack_steps: int = 60  # of the latent search
    engine: str = "local"  # local | ray: this process, or a cell on each worker of a Ray cluster (docs/clusters.md)
    address: str = ""  # host:port or ray://host:port of the cluster; "": one of this machine's own
    workers: int = 0  # of the engine ray; 0: one a CPU, or a GPU on --device=cuda
    part: str = "1/1"  # 2/3: the second of three parts, for several machines
    photos: str = ""  # a folder of prepare_people.py with such photos; "": all are rendered
    work: Path = Path("runs/capacity")  # cells, targets and rendered photos; what is there is not made again
    out: Path = Path("results/capacity")  # table.md, table.csv, curves.png
    table_only: bool = False  # write these from what is finished
    device: str = "auto"  # auto | cpu | cuda


def plan(config: StudyCapacity) -> dict:
    """Returns what --dry-run says beside the configuration."""
    from ganinv.studies.capacity.plan import describe_plan

    return describe_plan(config) | open_named(config)


def run(config: StudyCapacity) -> None:
    """Makes the cells of this part that are not there yet, and writes table and curves of all that are."""
    from ganinv.studies.capacity.running import run_study

    run_study(config)


def main() -> None:
    """Parses the command line and runs."""
    cli.main(StudyCapacity, run, plan=plan)
