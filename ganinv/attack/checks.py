"""What of a configuration can be run."""

from __future__ import annotations

from ganinv.attack.config import AttackConfig, Operator
from ganinv.attack.objectives import OBJECTIVES
from ganinv.attack.operator import check_operator
from ganinv.attack.posteriors import SEARCHERS
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
        raise ValueError(
            f"expected identities from 0 to {count - 1}, got {', '.join(map(str, unknown)) or 'none'}"
            "; pass --identities among these"
        )
    check_ranges(config)
    parse_memory(config.memory)
    if config.precision not in PRECISIONS:
        raise ValueError(f"expected a precision among {', '.join(PRECISIONS)}, got {config.precision}")
    OBJECTIVES.find(config.objective)
    if templates is None and count == 1 and config.steps and config.objective != "logit":
        raise ValueError(
            f"expected two users or more for the objective {config.objective}, which weighs one against the others, got one"
            "; pass --objective=logit"
        )
    check_search(config)
    check_access(config, goal)
    check_limits(config, recognizer, len(identities))
    if config.keep > config.restarts:
        raise ValueError(
            f"expected to keep at most the {config.restarts} restarts, got {config.keep}; lower --keep or raise --restarts"
        )
    if SPACES[config.space].needs_prior and 0 < config.candidates < config.restarts:
        raise ValueError(
            f"expected at most {config.candidates} restarts (the candidates), got {config.restarts}"
            "; lower --restarts, or raise --candidates"
        )


def check_search(config: AttackConfig) -> None:
    """Raises: ValueError for a search that cannot be run."""
    optim = config.optim
    SEARCHERS.find(optim.optimizer)
    if optim.average_last and optim.patience:
        raise ValueError(
            "expected optim.average_last or optim.patience, got both: one returns a mean, the other the best"
            "; set one of them to 0"
        )


def check_access(config: AttackConfig, goal: Goal | None) -> None:
    """Raises: ValueError for a search or a goal that asks for more than the access shows."""
    if config.access not in RUNGS:
        raise ValueError(f"expected an access among {', '.join(RUNGS)}, got {config.access}")
    if config.network == "public":
        return
    if config.surrogate.network:
        check_surrogate(config)
        return
    if SEARCHERS[config.optim.optimizer].gradients and config.access != "gradients":
        without = " or ".join(name for name, searcher in SEARCHERS.items() if not searcher.gradients)
        raise ValueError(
            f"expected a search without gradients for the access {config.access}, got {config.optim.optimizer}; "
            f"pass --optim.optimizer={without}"
        )
    if goal is not None and goal.reads == "embeddings" and config.access not in ("gradients", "embeddings"):
        raise ValueError(
            f"expected access to embeddings for this goal, got {config.access}; pass "
            "--access=embeddings, or --network=public where the attacker has the network"
        )


def check_surrogate(config: AttackConfig) -> None:
    """Raises: ValueError for a search in a copy of the target that cannot be run."""
    got = f"--access={config.access}, --goal={config.goal}, the optimizer {config.optim.optimizer}"
    if config.access != "scores" or config.goal != "class" or not SEARCHERS[config.optim.optimizer].gradients:
        raise ValueError(
            f"expected --access=scores, --goal=class and an optimizer with gradients beside --surrogate.network, got {got}; "
            "a copy is fitted to scores and searched with gradients of its own"
        )
    if config.operator.claimed or not SPACES[config.space].needs_prior:
        raise ValueError(
            "expected an operator that shows all users' scores, and a space of a prior, beside --surrogate.network, got "
            f"operator.claimed={config.operator.claimed} and the space {config.space}"
        )


def check_limits(config: AttackConfig, recognizer: Recognizer, users: int) -> None:
    """Raises: ValueError for operator's options that cannot be, or that answer fewer queries than the search may take."""
    options = config.operator
    check_operator(options, config.access, recognizer)
    if config.network == "public":
        check_recovery(config, recognizer)
        needed = 0 if config.access == "embeddings" else config.recovery.count(config.access)
        check_answered(options, needed, needed * users, "--recovery.queries")
        return
    if options.answers == "similarities":
        raise ValueError("expected --network=public beside operator.answers=similarities, got a secret network")
    if config.network != "secret":
        raise ValueError(f"expected a network among secret, public, got {config.network}")
    check_answered(
        options, *count_queries(config, users), "--steps, --candidates, --restarts, --optim.transforms or --final-transforms"
    )


def check_recovery(config: AttackConfig, recognizer: Recognizer) -> None:
    """Raises: ValueError for a recovery of templates that cannot be run."""
    if config.goal != "template" or getattr(recognizer, "templates", None) is None:
        raise ValueError(
            f"expected --goal=template and a target with a gallery beside --network=public, got the goal {config.goal}"
        )
    if config.access == "gradients":
        raise ValueError("expected an access below gradients beside --network=public, got gradients; leave --network out")
    if config.access == "scores" and config.operator.answers != "similarities":
        raise ValueError(
            "expected --operator.answers=similarities beside --network=public and --access=scores, got scores; of a softmax "
            "no template is recovered"
        )
    if config.access == "decisions" and getattr(recognizer, "threshold", None) is None:
        raise ValueError("expected a threshold to accept or reject by, got none; pass --threshold")
    pictures, asked = config.recovery.pictures, config.recovery.count(config.access)
    if config.access == "scores" and asked > pictures:
        raise ValueError(f"expected recovery.queries of at most the {pictures} of recovery.pictures, got {asked}")


def check_answered(options: Operator, each: int, together: int, lower: str) -> None:
    """Raises: ValueError where an operator answers less than is asked. lower: what to do about it."""
    for name, needed in (("limit", each), ("budget", together)):
        answered = getattr(options, name)
        if answered is not None and answered < needed:
            raise ValueError(
                f"expected operator.{name} of at least {needed}, the queries that this attack may take, got {answered}; "
                f"lower {lower}"
            )


def count_queries(config: AttackConfig, users: int) -> tuple[int, int]:
    """Returns the queries that a search may take for one user, and those for all together, of users by number.

    The few pictures on which the batch is measured are left out; a searcher that does not say how many points it asks about
    in a step counts as one.
    """
    if config.surrogate.network:
        wanted = config.surrogate
        each = wanted.rounds * wanted.views * config.restarts
        return each, users * each + wanted.pictures
    optim, searcher = config.optim, SEARCHERS[config.optim.optimizer]
    points = getattr(searcher, "count_points", lambda optim: 1)(optim)
    halvings, alive, each = {round(share * config.steps) for share in optim.halve_at}, config.restarts, 0
    for step in range(config.steps):
        if step and step in halvings:
            alive = max(config.keep, -(-alive // 2))
        each += alive * points * optim.transforms
    each += alive * config.final_transforms
    shared = 2 * config.candidates if SPACES[config.space].needs_prior else 0
    if config.operator.claimed:
        each, shared = each + shared, 0
    return each, users * each + shared
