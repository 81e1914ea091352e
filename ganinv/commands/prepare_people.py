"""Render photos of people who do not exist, into the folders that the training scripts read."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from ganinv import cli
from ganinv.engine.allocation import keep_memory


@dataclass(frozen=True, kw_only=True)
class PreparePeople:
    """Render the users and the public people of the world synthetic.

    Example: --out=data/synthetic
    """

    out: Path = Path("data/synthetic")  # new, or of an interrupted run
    users: int = 100  # registered users, people 0 and on
    photos_per_user: int = 50  # 60 % to train on, 20 % references, 20 % test
    public: int = 4000  # people who are none of them, people 1000 and on: at most 99 000
    photos_per_public: int = 3  # photos each
    shift: float = 0.0  # of the public people's factors, in spreads, for studies of a prior of other people
    resolution: int = 64  # px; a multiple of 8, 64 to 256
    jobs: int = 2  # processes, of one thread each
    device: str = "auto"  # auto | cpu | cuda


def run(config: PreparePeople) -> None:
    """Writes the folders, a person at a time; goes on where it was interrupted."""
    from ganinv.engine.progress import open_bar
    from ganinv.photos import claim_folder
    from ganinv.rendered.factors import FACTORS, FIRST_PUBLIC, check_shift
    from ganinv.rendered.photos import check_resolution

    check_resolution(config.resolution)
    check_shift(config.shift, FACTORS)
    device = cli.choose_device(config.device)
    settings = {name: value for name, value in asdict(config).items() if name not in ("out", "device", "jobs")}
    claim_folder(config.out, settings)
    work = [("private", seed, config.photos_per_user, 0.0) for seed in range(config.users)]
    public = range(FIRST_PUBLIC, FIRST_PUBLIC + config.public)
    work += [("public", seed, config.photos_per_public, config.shift) for seed in public]
    write = partial(write_person, config, str(device))
    with ProcessPoolExecutor(config.jobs, get_context("spawn"), use_one_thread) as pool:
        for _ in open_bar(pool.map(write, work), "people", len(work)):
            pass
    print(f"{config.out}: {config.users} users of {config.photos_per_user} photos, {config.public} public people")


def use_one_thread() -> None:
    """Keeps a process among several to one thread, and to the memory that it has taken once."""
    import torch

    torch.set_num_threads(1)
    keep_memory()


def write_person(config: PreparePeople, device: str, work: tuple[str, int, int, float]) -> None:
    """Writes the photos of one person (group, seed, number of photos, shift), all or none."""
    from ganinv import images
    from ganinv.rendered.photos import make_photos, name_person

    group, seed, count, shift = work
    folder = config.out / group / name_person(seed)
    if folder.is_dir():
        return
    photos = make_photos([seed], count, config.resolution, shift, device=device)
    temporary = folder.parent / f".{folder.name}"  # not listed as a person
    temporary.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        images.save(photos.images(slice(number, number + 1))[0], temporary / Path(photos.files[number]).name)
    temporary.replace(folder)


def main() -> None:
    """Parses the command line and runs."""
    cli.main(PreparePeople, run)
