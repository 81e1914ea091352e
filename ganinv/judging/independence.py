"""Who the judges are: what their cards say they were trained on, whom they share with target and prior, or "unknown"."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import nn

from ganinv.weights.cards import find_card, read_hash_range, read_photos
from ganinv.worlds.references import Judge

SMALL = 4096  # numbers; a smaller tensor (a bias, a count) may be equal by chance


def declare_judges(judges: Sequence[Judge], files: Mapping[str, Path]) -> list[dict]:
    """Returns one entry a judge: name, knows_users, identities, architecture, seed, sha256, trained_on and overlap.

    files: role -> weight file, of the judges by their names and of "target" and "prior"; a role may be missing, or its
    file be without a card. identities: how many it has as classes, None where it only compares. trained_on: as the judge's
    card says it. overlap: "target_users", "target_photos_of_users", "target_public_people" and "prior_people", each
    {"share": of them that the judge was trained on, None where nobody said it, "why"}. What no card says is None, never
    taken for nothing. declared: what the judge's publisher says of its training, where anybody does.
    """
    cards = {role: find_card(files.get(role)) for role in ("target", "prior", *(judge.name for judge in judges))}
    entries = []
    for judge in judges:
        card = cards[judge.name]
        overlap = {
            "target_users": share_users(card, cards["target"]),
            "target_photos_of_users": share_photos(card, cards["target"]),
            "target_public_people": share_public(card, cards["target"], "the target"),
            "prior_people": share_public(card, cards["prior"], "the prior"),
        }
        identities = getattr(judge.recognizer, "num_identities", None)
        entry = {"name": judge.name, "knows_users": judge.sees_users, "identities": identities}
        entry |= {key: card.get(key) for key in ("architecture", "seed", "sha256")}
        said = {"declared": judge.declared} if judge.declared else {}
        entries.append(entry | {"trained_on": trained_on(card), "overlap": overlap} | said)
    return entries


def trained_on(card: Mapping) -> dict[str, str] | None:
    """Returns {"public": ..., "users": ...} of a card, as far as it has them; None when it does not say."""
    said = {who: read_photos(card, who).get("words") for who in ("public", "users")}
    return {who: str(words) for who, words in said.items() if words} or None


def known_share(share: float | None, why: str) -> dict:
    """Returns an entry of an overlap."""
    return {"share": share, "why": why}


def share_users(judge: Mapping, target: Mapping) -> dict:
    """Returns the share of the target's users that a judge was trained on, by their names on the two cards."""
    users, data = target.get("identities"), trained_on(judge)
    if not users:
        return known_share(None, "unknown: the target has no card that lists its users")
    if data is None:
        return known_share(None, "unknown: the judge has no card that says what it was trained on")
    if "users" not in data:
        return known_share(0.0, f"none of the target's {len(users)} users: by its card it was trained on other people only")
    shared = len(set(users) & set(judge.get("identities") or ()))
    return known_share(shared / len(users), f"{shared} of the target's {len(users)} users are among its classes")


def share_photos(judge: Mapping, target: Mapping) -> dict:
    """Returns the share of the target's training photos of its users that a judge was trained on."""
    users = share_users(judge, target)
    if not users["share"]:
        return users
    ours, theirs = (read_photos(card, "users") for card in (judge, target))
    if users["share"] == 1 and ours == theirs:
        return known_share(1.0, f"the same: {ours['words']}")
    return known_share(None, "unknown: the cards name other sets of photos, and not which they share")


def share_public(judge: Mapping, other: Mapping, name: str) -> dict:
    """Returns the share of the public people that another network was trained on that a judge was trained on too."""
    ranges = [read_hash_range(card) for card in (judge, other)]
    if None in ranges:
        whose = "the judge" if ranges[0] is None else name
        return known_share(None, f"unknown: {whose} has no card that says which public people it was trained on")
    (low, high), (first, last) = ranges
    share = max(0.0, min(high, last) - max(low, first)) / (last - first)
    return known_share(share, f"{share:.0%} of the public people that {name} was trained on, chosen by the same hash")


def check_independent(target: object, judges: Sequence[Judge]) -> None:
    """Raises ValueError when a judge holds weights of the target, whose own opinion would be measured, or of another judge.

    Two judges must agree that a user is given away, and one that is named twice always agrees with itself.
    Compared are the values of all tensors but small ones, so that a copy under another name, or a new head on the
    target's trunk, is found. Code that is no module has no tensors to compare.
    """
    theirs = hash_weights(target)
    before: list[tuple[Judge, set[str]]] = []
    for judge in judges:
        ours = hash_weights(judge.recognizer)
        for other, held in before:
            if judge.name == other.name:
                raise ValueError(f"expected judges of different names, got {judge.name} twice; name each once")
            if ours & held:
                raise ValueError(
                    f"expected judges that share no weights, got {other.name} and {judge.name}, which are one network or "
                    "parts of it; name one of them, or judge by networks trained apart"
                )
        before.append((judge, ours))
        if shared := len(ours & theirs):
            raise ValueError(
                f"expected judges that share no weights with the target, got {shared} of {len(ours)} weight tensors of "
                f"the {judge.name} that are the target's; pass another target, or judge by a network trained apart"
            )


def hash_weights(model: object) -> set[str]:
    """Returns a SHA-256 of the float32 values of each tensor of a module that is neither small nor constant."""
    tensors = model.state_dict().values() if isinstance(model, nn.Module) else ()
    large = [tensor.detach().float().cpu() for tensor in tensors if tensor.numel() >= SMALL and tensor.is_floating_point()]
    varied = [tensor.contiguous() for tensor in large if tensor.min() < tensor.max()]
    return {hashlib.sha256(memoryview(tensor.numpy()).cast("B")).hexdigest() for tensor in varied}
