"""Audit what a face recognizer gives away about its users, and to whom.

    >>> import ganinv
    >>> world = ganinv.load_world("synthetic")                       # people who do not exist
    >>> attack = ganinv.LatentAttack(steps=2, candidates=8, restarts=1)
    >>> result = attack(world.prior, world.target, identities=[0, 1])
    >>> result.images.shape                                          # [users, kept, 3, R, R] in [-1,1]
    torch.Size([2, 1, 3, 64, 64])

Names are loaded when they are first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.2.0"

HOMES = {  # public name -> where it is defined
    "load_world": "worlds.world:load_world",
    "load_prior": "priors.loading:load_generator",
    "load_recognizer": "recognizers.loading:load_recognizer",
    "wrap": "recognizers.wrapped:wrap",
    "check_photos": "worlds.photo_check:check_photos",
    "judge": "reports.report:judge",
    "probe": "studies.probing:probe",
    "audit": "studies.audit:audit",
    "AuditResult": "studies.audit:AuditResult",
    "Judge": "worlds.references:Judge",
    "Report": "reports.report:Report",
    "LatentAttack": "attack.attacks:LatentAttack",
    "PixelAttack": "attack.attacks:PixelAttack",
    "AttackResult": "attack.result:AttackResult",
    "RayWorkers": "engine.cluster:RayWorkers",
    "World": "worlds.world:World",
}
__all__ = [
    "AttackResult",
    "AuditResult",
    "Judge",
    "LatentAttack",
    "PixelAttack",
    "RayWorkers",
    "Report",
    "World",
    "audit",
    "check_photos",
    "judge",
    "load_prior",
    "load_recognizer",
    "load_world",
    "probe",
    "wrap",
]

if TYPE_CHECKING:
    from ganinv.attack.attacks import LatentAttack, PixelAttack
    from ganinv.attack.result import AttackResult
    from ganinv.engine.cluster import RayWorkers
    from ganinv.priors.loading import load_generator as load_prior
    from ganinv.recognizers.loading import load_recognizer
    from ganinv.recognizers.wrapped import wrap
    from ganinv.reports.report import Report, judge
    from ganinv.studies.audit import AuditResult, audit
    from ganinv.studies.probing import probe
    from ganinv.worlds.photo_check import check_photos
    from ganinv.worlds.references import Judge
    from ganinv.worlds.world import World, load_world


def __getattr__(name: str):
    """Returns a public name, from its module."""
    if name not in HOMES:
        raise AttributeError(f"module 'ganinv' has no attribute {name!r}; it has {', '.join(HOMES)}")
    module, attribute = HOMES[name].split(":")
    return getattr(importlib.import_module(f"ganinv.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
