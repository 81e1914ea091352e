"""The paper's pixel-space attack on the same target and users, in three variants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ganinv import cli
from ganinv.attack.config import GRAY_BOX, PIXEL_VARIANTS, AttackConfig, suit_goal
from ganinv.studies.attack_options import RunOptions, describe_config, find_goal, read_run_config


@dataclass(frozen=True, kw_only=True)
class PixelAttack:
    """Reconstruct a recognizer's users by searching pixels, without a prior, in three variants.

    Example: --variant=modern --identities=0-9
    """

    attack: Annotated[AttackConfig, cli.FLAT] = GRAY_BOX
    run: Annotated[RunOptions, cli.FLAT] = RunOptions()
    variant: str = "gray-box"  # gray-box | white-box | modern: what stands where another option is not given
    start: str = "grey"  # grey | public-mean | FILE | FOLDER with <identity>.png


def choose_defaults(config: PixelAttack) -> PixelAttack:
    """Returns the defaults of a configuration's variant and goal. Raises: ValueError for an unknown variant."""
    if config.variant not in PIXEL_VARIANTS:
        raise ValueError(f"expected a variant among {', '.join(PIXEL_VARIANTS)}, got {config.variant or 'none'}")
    attack, start = PIXEL_VARIANTS[config.variant]
    return PixelAttack(attack=suit_goal(attack, find_goal(config)), variant=config.variant, start=start)


def read_config(config: PixelAttack) -> PixelAttack:
    """Returns the configuration, that of the run to resume or to repeat where it names one."""
    return read_run_config(config, choose_defaults(config))


def run(config: PixelAttack) -> dict:
    """Runs the attack."""
    from ganinv.studies.attack_run import run_attack

    return run_attack(read_config(config), "pixel")


def plan(config: PixelAttack) -> dict:
    """Returns what --dry-run says, once all that the attack would load is loaded and checked."""
    from ganinv.studies.attack_run import check_attack

    config = read_config(config)
    check_attack(config, "pixel")
    return describe_config(config)


def main() -> None:
    """Parses the command line and runs."""
    cli.main(PixelAttack, run, plan=plan, choose_defaults=choose_defaults)
