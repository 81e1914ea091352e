"""Search the latent space of a face GAN for the users of a recognizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ganinv import cli
from ganinv.attack.config import LATENT, AttackConfig
from ganinv.studies.attack_options import RunOptions, describe_config, read_run_config


@dataclass(frozen=True, kw_only=True)
class LatentAttack:
    """Reconstruct a recognizer's users by searching the latent space of a public face GAN."""

    attack: Annotated[AttackConfig, cli.FLAT] = LATENT
    run: Annotated[RunOptions, cli.FLAT] = RunOptions()
    generator: str = ""  # people, StyleGAN2 (.pkl, .pt, models/NAME), module:factory or file.py:factory; "": the world's


def run(config: LatentAttack) -> dict:
    """Runs the attack."""
    from ganinv.studies.attack_run import run_attack

    return run_attack(read_run_config(config, LatentAttack()), "latent")


def main() -> None:
    """Parses the command line and runs."""
    cli.main(LatentAttack, run, plan=lambda config: describe_config(read_run_config(config, LatentAttack())))
