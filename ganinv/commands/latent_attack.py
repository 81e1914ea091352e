"""Search the latent space of a face GAN for the users of a recognizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ganinv import cli
from ganinv.attack.config import LATENT, LATENT_GOALS, AttackConfig
from ganinv.studies.attack_options import RunOptions, describe_config, find_goal, read_run_config


@dataclass(frozen=True, kw_only=True)
class LatentAttack:
    """Reconstruct a recognizer's users by searching the latent space of a public face GAN.

    Example: --world=synthetic --identities=0-9 --out=runs/first
    """

    attack: Annotated[AttackConfig, cli.FLAT] = LATENT
    run: Annotated[RunOptions, cli.FLAT] = RunOptions()
    generator: str = ""  # people, StyleGAN2 (.pkl, .pt, models/NAME), module:factory or file.py:factory; "": the world's


def choose_defaults(config: LatentAttack) -> LatentAttack:
    """Returns the defaults of a configuration's goal. Raises: ValueError for an unknown goal."""
    goal = find_goal(config)
    if goal not in LATENT_GOALS:
        raise ValueError(f"expected a goal among {', '.join(LATENT_GOALS)}, got {goal or 'none'}")
    return LatentAttack(attack=LATENT_GOALS[goal])


def read_config(config: LatentAttack) -> LatentAttack:
    """Returns the configuration, that of the run to resume or to repeat where it names one."""
    return read_run_config(config, choose_defaults(config))


def run(config: LatentAttack) -> dict:
    """Runs the attack."""
    from ganinv.studies.attack_run import run_attack

    return run_attack(read_config(config), "latent")


def plan(config: LatentAttack) -> dict:
    """Returns what --dry-run says, once all that the attack would load is loaded and checked."""
    from ganinv.studies.attack_run import check_attack

    config = read_config(config)
    check_attack(config, "latent")
    return describe_config(config)


def main() -> None:
    """Parses the command line and runs."""
    cli.main(LatentAttack, run, plan=plan, choose_defaults=choose_defaults)
