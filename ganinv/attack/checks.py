"""What of a configuration can be run."""

from __future__ import annotations

from ganinv.attack.config import AttackConfig
from ganinv.attack.objectives import OBJECTIVES
from ganinv.attack.searchers import SEARCHERS
from ganinv.attack.spaces import SPACES
from ganinv.engine.batches import parse_memory
from ganinv.engine.precision import PRECISIONS
from ganinv.interfaces import RUNGS, Goal, Recognizer

LEAST = {"steps": 0, "candidates": 0, "restarts": 1, "keep": 1, "final_transforms": 1, "image_every": 1, "batch": 0} | {
    "log_every": 0,
    "together": 0,
}
LEAST_OPTIM = {"transforms": 1, "average_last": 0, "pairs": 1}
RANGES = {"psi": (0.0, 2.0), "bound": (0.0, 100.0), "blur_sigma": (0.0, 5.0), "contrast": (0.0, 10.0)}


def check_config(
    config: AttackConfig, recognizer: Recognizer, identities: tuple[int, ...], has_prior: bool, goal: Goal | None = None
) -> None:
    """Returns if a configuration can be run. goal: what is wanted; None: a class of the target.

    Raises: ValueError for anything that cannot.
    """
    if SPACES.find(config.space).needs_prior and not has_prior:
        raise ValueError(f"expected a generator for the space {config.space}, got none; pass --generator")
    templates = getattr(goal, "templates", None)
    if templates is None and not recognizer.num_identities:
        raise ValueError(
            "expected a target with identities (logits), got one that only embeds; enrol users with --gallery=FOLDER"
        )
    count = recognizer.num_identities if templates is None else len(templates)
    unknown = [identity for identity in identities if not 0 <= identity < count]
    if unknown or not identities:
        raise ValueError(f"expected identities from 0 to {count - 1}, got {', '.join(map(str, unknown)) or 'none'}")
    parse_memory(config.memory)
    for part, prefix, least in ((config, "", LEAST), (config.optim, "optim.", LEAST_OPTIM)):
        for name, value in least.items():
            if getattr(part, name) < value:
                raise ValueError(f"expected {prefix}{name} of at least {value}, got {getattr(part, name)}")
    if config.precision not in PRECISIONS:
        raise ValueError(f"expected a precision among {', '.join(PRECISIONS)}, got {config.precision}")
    OBJECTIVES.find(config.objective)
    for name, (low, high) in RANGES.items():
        if not low <= getattr(config, name) <= high:
            raise ValueError(f"expected {name} from {low} to {high}, got {getattr(config, name)}")
    check_search(config)
    check_access(config, goal)
    if config.keep > config.restarts:
        raise ValueError(f"expected to keep at most the {config.restarts} restarts, got {config.keep}")
    if SPACES[config.space].needs_prior and 0 < config.candidates < config.restarts:
        raise ValueError(f"expected at most {config.candidates} restarts (the candidates), got {config.restarts}")


def check_search(config: AttackConfig) -> None:
    """Raises: ValueError for a search that cannot be run."""
    optim = config.optim
    SEARCHERS.find(optim.optimizer)
    if optim.patience < 0 or not optim.lr > 0 or not optim.sigma > 0:
        raise ValueError(
            "expected optim.patience of at least 0 and optim.lr and optim.sigma above 0, got "
            f"{optim.patience}, {optim.lr} and {optim.sigma}"
        )
    if not all(0 < share < 1 for share in optim.halve_at) or not 0 <= optim.leave_at <= 1:
        raise ValueError(
            "expected optim.halve_at of shares between 0 and 1 and optim.leave_at from 0 to 1, got "
            f"{list(optim.halve_at)} and {optim.leave_at}"
        )
    if optim.average_last and optim.patience:
        raise ValueError("expected optim.average_last or optim.patience, got both: one returns a mean, the other the best")


def check_access(config: AttackConfig, goal: Goal | None) -> None:
    """Raises: ValueError for a search or a goal that asks for more than the access shows."""
    if config.access not in RUNGS:
        raise ValueError(f"expected an access among {', '.join(RUNGS)}, got {config.access}")
    if SEARCHERS[config.optim.optimizer].gradients and config.access != "gradients":
        without = ", ".join(name for name, searcher in SEARCHERS.items() if not searcher.gradients)
        raise ValueError(
            f"expected a search without gradients for the access {config.access}, got {config.optim.optimizer}; "
            f"pass --optim.optimizer={without}"
        )
    if goal is not None and goal.reads == "embeddings" and config.access not in ("gradients", "embeddings"):
        raise ValueError(f"expected access to embeddings for this goal, got {config.access}; pass --access=embeddings")
