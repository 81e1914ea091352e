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
from ganinv.attack.surrogate import invert_by_copy
from ganinv.attack.transcript import Transcript
from ganinv.interfaces import Generator, Recognizer


def attack(
    generator: Generator | None, recognizer: Recognizer, identities: tuple[int, ...], config: AttackConfig, *,
    on_answers: Callable[[Callable[[], dict]], None] = ignore, surrogate: Recognizer | None = None, **options,
) -> AttackResult:  # fmt: skip
    """Returns what invert finds; of a public network, after its templates were recovered. Takes what invert takes.

    on_answers: see invert_offline. surrogate: a public network on which a copy of the target is fitted and searched.
    Raises: ValueError where the configuration names one and none is given.
    """
    if config.network == "public":
        return invert_offline(generator, recognizer, identities, config, on_answers=on_answers, **options)
    if config.surrogate.network:
        if surrogate is None:
            raise ValueError(f"expected the network {config.surrogate.network} for the copy, got none; pass surrogate=")
        return invert_by_copy(
            generator, recognizer, identities, config, surrogate=surrogate, on_answers=on_answers, **options
        )
    return invert(generator, recognizer, identities, config, **options)


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
    on_answers: Callable[[Callable[[], dict]], None] = ignore,
    goal: object = None,
    **options,
) -> AttackResult:
    """Returns the pictures found for users whose templates only answers of the target tell of; takes what invert takes.

    The network is the attacker's own copy, of which nothing is counted as a query: result.queries and result.cost are of
    the answers, and queries["own_copy"] says how many pictures went through the copy. With the access "embeddings" the
    templates are those of the gallery, as if stolen, and nothing is asked. on_answers gets, after every answer and before
    it is used, a function that describes the work so far, as on_state does: with such a state, too, a later call goes on from
    there, ends in the same result, and asks nothing again.
    Raises: ValueError, see invert; FaultError where a user's template cannot be recovered.
    """
    began = time.perf_counter()
    check_config(config, recognizer, identities, generator is not None, make_goal(config, recognizer))
    queries, state = Queries(max(identities) + 1, device), state or {}
    if state:
        queries.set_state(state["asked"])
    if "recovered" in state:
        templates, seconds = state["recovered"].to(device), state["recovery_seconds"]
    else:
        before = state.get("recovery_seconds", 0.0)

        def describe(recovery: Mapping) -> dict:
            seconds = before + time.perf_counter() - began
            return {"recovery": recovery, "recovery_seconds": seconds, "asked": queries.get_state(), "steps": 0}

        templates = recover(
            generator, recognizer, identities, config, queries, seed, device, state=state.get("recovery"),
            on_answers=lambda recovery: on_answers(lambda: describe(recovery())),
        )  # fmt: skip
        seconds, state = before + time.perf_counter() - began, None
    known = {"recovered": templates, "recovery_seconds": seconds, "asked": queries.get_state()}
    result = invert(
        generator, recognizer, identities, replace(config, network="secret", access="gradients", operator=Operator()),
        seed=seed, device=device, state=state, goal=make_goal(config, recognizer, templates),
        on_state=lambda describe: on_state(lambda: describe() | known), **options,
    )  # fmt: skip
    own = result.cost.images_evaluated
    cost = Cost(result.cost.seconds + seconds, queries.answers, 0, queries.answers, result.cost.search_seconds)
    return replace(result, cost=cost, queries=queries.describe() | {"own_copy": own}, config=config)


def recover(
    generator: Generator,
    recognizer: Recognizer,
    identities: tuple[int, ...],
    config: AttackConfig,
    queries: Queries,
    seed: int,
    device: torch.device | str = "cpu",
    *,
    state: Mapping | None = None,
    on_answers: Callable[[Callable[[], dict]], None] = ignore,
) -> torch.Tensor:
    """Returns templates [T,D], those of the identities as far as the access tells of them; no other row means anything.

    state, on_answers: see invert_offline; a user whose template is there is not worked out again.
    """
    if config.access == "embeddings":
        return recognizer.templates
    wanted, access = config.recovery, TargetAccess(recognizer, config.access, queries=queries, options=config.operator)
    alone = access.claims or config.access == "decisions"
    groups = [(identity,) for identity in identities] if alone else [identities]
    finished, kept = (list(state["finished"]), state["answers"]) if state else ([], None)
    pool = make_pool(generator, recognizer, wanted.pictures, seed, device=device) if len(finished) < len(groups) else None

    def recover_group(users: tuple[int, ...], kept: Mapping | None) -> torch.Tensor:
        asked = Transcript(
            access, users, kept, lambda: on_answers(lambda: {"finished": finished, "answers": asked.get_state()})
        )
        if config.access == "scores":
            return recover_from_similarities(asked, pool, users, wanted.count(config.access)).templates
        return recover_from_decisions(
            asked, pool, users, wanted.count(config.access), recognizer.threshold, seed=seed, blends=wanted.blends,
            known=wanted.knows_threshold, enough=wanted.enough,
        ).templates  # fmt: skip

    for users in groups[len(finished) :]:
        finished.append(recover_group(users, kept))
        kept = None  # it was of the user who was asked for when the call stopped
    templates = torch.ones(max(identities) + 1, finished[0].shape[1])  # rows of nobody are read by nobody
    templates[list(identities)] = torch.cat(finished)
    return templates.to(device)
