"""Judge pictures that any other tool made, under the protocol of the attacks here."""

from __future__ import annotations

from dataclasses import dataclass

from ganinv import cli


@dataclass(frozen=True, kw_only=True)
class JudgePictures:
    """Judge pictures of a target's users that were made elsewhere: the same judges, controls and report.

    Example: --pictures=my_pictures --world=synthetic
    """

    pictures: str = ""  # folder with a sub-folder per identity number, or files <identity>_<k>.png
    world: str = "synthetic"  # name or folder: prior, target, judges and references that belong together
    target: str = ""  # the recognizer that was attacked, as for the attacks; "": the world's
    gallery: str = ""  # users to enrol in a target that embeds: a folder of photos, or .safetensors, .npz, .json
    threshold: float | None = None  # of the gallery, a cosine or a distance; None: the network's own
    classes: str = ""  # file with the users' names in the order that numbers them; "": the card's, or the folders' order
    photos: str = ""  # folder with new photos of the users, for judges and the check of the target; "": the world's
    force: bool = False  # go on though the check of the target on --photos finds it fed wrongly
    candidates: int = 2000  # of the control "best candidate", scored by the target; 0: without it
    psi: float = 1.0  # truncation of the controls from the prior
    seed: int = 0  # of the controls
    device: str = "auto"  # auto | cpu | cuda
    out: str = ""  # the report's folder; "": runs/judged-<world>-<NNN>
    label: str = ""  # name in comparisons; "": the folder's name


def run(config: JudgePictures) -> dict:
    """Returns the report, after writing it with the pictures as they were judged."""
    from ganinv.studies.outside_pictures import judge_folder

    return judge_folder(config)


def plan(config: JudgePictures) -> dict:
    """Returns nothing, once all that would be judged, and whatever judges it, is loaded and checked."""
    from ganinv.studies.outside_pictures import prepare_judging

    if config.pictures:
        prepare_judging(config)
    return {}


def main() -> None:
    """Parses the command line and runs."""
    cli.main(JudgePictures, run, plan=plan)
