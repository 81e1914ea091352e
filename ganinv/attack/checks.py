"""What of a configuration can be run."""

from __future__ import annotations

from ganinv.attack.config import AttackConfig
from ganinv.attack.objectives import OBJECTIVES
from ganinv.attack.searchers import SEARCHERS
from ganinv.attack.spaces import SPACES
from ganinv.engine.batches import parse_memory
from ganinv.engine.precision import PRECISIONS
from ganinv.interfaces import RUNGS, Goal, Recognizer
from ganinv.ranges import check_ranges


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
    check_ranges(config)
    parse_memory(config.memory)
    if config.precision not in PRECISIONS:
        raise ValueError(f"expected a precision among {', '.join(PRECISIONS)}, got {config.precision}")
    OBJECTIVES.find(config.objective)
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
