"""An attack on a gallery whose network is public: its templates are recovered from answers, then inverted at home."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from ganinv.attack.access import Queries, TargetAccess
from ganinv.attack.checks import check_config
from ganinv.attack.config import AttackConfig, Operator
from ganinv.attack.goals import make_goal
from ganinv.attack.invert import ignore, invert
from ganinv.attack.recovery import make_pool, recover_from_decisions, recover_from_similarities
from ganinv.attack.result import AttackResult, Cost
from ganinv.interfaces import Generator, Recognizer


def attack(
    generator: Generator | None, recognizer: Recognizer, identities: tuple[int, ...], config: AttackConfig, **options
) -> AttackResult:
    """Returns what invert finds; of a public network, after its templates were recovered. Takes what invert takes."""
    run = invert_offline if config.network == "public" else invert
    return run(generator, recognizer, identities, config, **options)


def invert_offline(
    generator: Generator,
    recognizer: Recognizer,
    identities: tuple[int, ...],
    config: AttackConfig,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    state: Mapping | None = None,
    on_state: Callable[[Callable[[], dict]], None] = ignore,
    goal: object = None,
    **options,
) -> AttackResult:
    """Returns the pictures found for users whose templates only answers of the target tell of; takes what invert takes.

    The network is the attacker's own copy, of which nothing is counted as a query: result.queries and result.cost are of
    the answers, and queries["own_copy"] says how many pictures went through the copy. With the access "embeddings" the
    templates are those of the gallery, as if stolen, and nothing is asked. A state holds the templates once all are
    recovered; a call that is stopped before begins anew, asks the same, and gets the same answers.
    Raises: ValueError, see invert; FaultError where a user's template cannot be recovered.
    """
    began = time.perf_counter()
    check_config(config, recognizer, identities, generator is not None, make_goal(config, recognizer))
    queries = Queries(max(identities) + 1, device)
    if state:
        templates, seconds = state["recovered"].to(device), state["recovery_seconds"]
        queries.set_state(state["asked"])
    else:
        templates = recover(generator, recognizer, identities, config, queries, seed, device)
        seconds = time.perf_counter() - began
    known = {"recovered": templates, "recovery_seconds": seconds, "asked": queries.get_state()}
    result = invert(
        generator, recognizer, identities, replace(config, network="secret", access="gradients", operator=Operator()),
        seed=seed, device=device, state=state, goal=make_goal(config, recognizer, templates),
        on_state=lambda describe: on_state(lambda: describe() | known), **options,
    )  # fmt: skip
    own = result.cost.images_evaluated
    cost = Cost(result.cost.seconds + seconds, queries.answers, 0, queries.answers)
    return replace(result, cost=cost, queries=queries.describe() | {"own_copy": own}, config=config)


def recover(
    generator: Generator,
    recognizer: Recognizer,
    identities: tuple[int, ...],
    config: AttackConfig,
    queries: Queries,
    seed: int,
    device: torch.device | str = "cpu",
) -> torch.Tensor:
    """Returns templates [T,D], those of the identities as far as the access tells of them; no other row means anything."""
    if config.access == "embeddings":
        return recognizer.templates
    wanted, access = config.recovery, TargetAccess(recognizer, config.access, queries=queries, options=config.operator)
    pool = make_pool(generator, recognizer, wanted.pictures, seed, device=device)
    if config.access == "scores":
        found = recover_from_similarities(access, pool, identities, wanted.queries)
    else:
        found = recover_from_decisions(
            access, pool, identities, wanted.queries, recognizer.threshold, seed=seed, blends=wanted.blends,
            known=wanted.knows_threshold,
        )  # fmt: skip
    templates = torch.ones(max(identities) + 1, found.templates.shape[1])  # rows of nobody are read by nobody
    templates[list(identities)] = found.templates
    return templates.to(device)
