"""What of a configuration can be run."""

from __future__ import annotations

from ganinv.attack.config import AttackConfig
from ganinv.attack.loop import OPTIMIZERS
from ganinv.attack.objectives import OBJECTIVES
from ganinv.attack.spaces import SEARCH_SPACES
from ganinv.engine.batches import parse_memory
from ganinv.engine.precision import PRECISIONS
from ganinv.interfaces import Recognizer


def check_config(config: AttackConfig, recognizer: Recognizer, identities: tuple[int, ...], has_prior: bool) -> None:
    """Raises: ValueError for anything in a configuration that cannot be run."""
    if config.space not in SEARCH_SPACES:
        raise ValueError(f"expected a space among {', '.join(SEARCH_SPACES)}, got {config.space}")
    if config.space != "pixels" and not has_prior:
        raise ValueError(f"expected a generator for the space {config.space}, got none; pass --generator")
    if not recognizer.num_identities:
        raise ValueError("expected a target with identities (logits), got one that only embeds")
    unknown = [identity for identity in identities if not 0 <= identity < recognizer.num_identities]
    if unknown or not identities:
        last = recognizer.num_identities - 1
        raise ValueError(f"expected identities from 0 to {last}, got {', '.join(map(str, unknown)) or 'none'}")
    parse_memory(config.memory)
    least = {"steps": 0, "candidates": 0, "restarts": 1, "keep": 1, "final_transforms": 1, "image_every": 1}
    least |= {"batch": 0, "log_every": 0}
    for name, value in least.items():
        if getattr(config, name) < value:
            raise ValueError(f"expected {name} of at least {value}, got {getattr(config, name)}")
    if config.precision not in PRECISIONS:
        raise ValueError(f"expected a precision among {', '.join(PRECISIONS)}, got {config.precision}")
    if config.objective not in OBJECTIVES:
        raise ValueError(f"expected an objective among {', '.join(OBJECTIVES)}, got {config.objective}")
    ranges = {"psi": (0.0, 2.0), "bound": (0.0, 100.0), "blur_sigma": (0.0, 5.0)}
    for name, (low, high) in ranges.items():
        if not low <= getattr(config, name) <= high:
            raise ValueError(f"expected {name} from {low} to {high}, got {getattr(config, name)}")
    if config.optim.patience < 0 or not config.optim.lr > 0:
        raise ValueError(
            f"expected optim.patience of at least 0 and optim.lr above 0, got {config.optim.patience} and {config.optim.lr}"
        )
    if config.optim.optimizer not in OPTIMIZERS:
        raise ValueError(f"expected an optimizer among {', '.join(OPTIMIZERS)}, got {config.optim.optimizer}")
    if not all(0 < share < 1 for share in config.optim.halve_at) or not 0 <= config.optim.leave_at <= 1:
        raise ValueError(
            "expected optim.halve_at of shares between 0 and 1 and optim.leave_at from 0 to 1, got "
            f"{list(config.optim.halve_at)} and {config.optim.leave_at}"
        )
    if config.optim.transforms < 1:
        raise ValueError(f"expected optim.transforms of at least 1, got {config.optim.transforms}")
    if config.keep > config.restarts:
        raise ValueError(f"expected to keep at most the {config.restarts} restarts, got {config.keep}")
    if config.space != "pixels" and 0 < config.candidates < config.restarts:
        raise ValueError(f"expected at most {config.candidates} restarts (the candidates), got {config.restarts}")
