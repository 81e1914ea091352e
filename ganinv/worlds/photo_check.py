"""The target tried on its owner's photos, before any attack: is it fed as it was trained, and are its users in this order?

An attack on a recognizer that is fed wrongly, or whose users have other numbers, says nothing of the one that is deployed.
Three things are no accident, and are refused:

- It names less than half of its users' photos (LEAST). A recognizer that does its work names more, chance far fewer, and
  what it would give away of people whom it does not know itself is no answer to anybody's question.
- Fed in another usual way it names clearly more: a tenth of the photos or more (WORTH), and a paired test of the same photos
  says that chance is no explanation (P, divided by the number of ways that were tried). So a milder mistake is found too:
  swapped channels, or another mean, may cost a good network a few photos in ten alone.
- Users stand in each other's places: most photos of one are named as the next, and so on back to the first.

And of an enrolled target: at its threshold it accepts less than half of the photos. Such a door keeps its own users out.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ganinv.engine.progress import open_bar
from ganinv.interfaces import Recognizer
from ganinv.metrics.statistics import exact_interval, mcnemar_p
from ganinv.photos import Photos
from ganinv.recognizers.preprocessing import CHANNELS, IMAGENET, Preprocessing
from ganinv.recognizers.recognize import BATCH, find_device
from ganinv.weights.quoting import show
from ganinv.worlds.assets import load_own_photos

LEAST = 0.5
WORTH = 0.1
P = 0.01
MOST = 10  # photos of a user that are shown: 40 users give 400, whose share is known to 5 per cent
MOST_AGAIN = 100  # photos that are shown once more, fed in another way
PLACED = 0.9  # of the people: as so many different users they must be named, for their order to be what is wrong
FEW = 3  # photos of a user, below which most of them says little of whom they are named as
RANGES = {  # how other people feed their networks: words -> range, mean, std
    "values in [-1,1]": ((-1.0, 1.0), 0.0, 1.0),
    "values in [0,1]": ((0.0, 1.0), 0.0, 1.0),
    "values in [0,255]": ((0.0, 255.0), 0.0, 1.0),
    "ImageNet's mean and std": (IMAGENET.range, IMAGENET.mean, IMAGENET.std),
}
SIZES = (64, 112, 160, 224)


@dataclass(frozen=True, kw_only=True)
class UserCheck:
    """One user's photos: how many there were, how many were named right, and accepted (None without a threshold)."""

    identity: int
    name: str
    photos: int
    named: int
    accepted: int | None = None


@dataclass(frozen=True, kw_only=True)
class PhotoCheck:
    """What a target says of its owner's photos. Printed, it is one line.

    people: users of the target, of whom guessing names one; threshold: of an enrolled target; problem: what is wrong, ""
    where nothing is; advice: what to do then.
    """

    users: tuple[UserCheck, ...]
    people: int
    threshold: float | None = None
    problem: str = ""
    advice: str = ""

    @property
    def photos(self) -> int:
        """Returns how many photos were shown."""
        return sum(user.photos for user in self.users)

    @property
    def named(self) -> int:
        """Returns how many were named right."""
        return sum(user.named for user in self.users)

    @property
    def accepted(self) -> int | None:
        """Returns how many were accepted as their user, None where nobody set a threshold."""
        return None if self.threshold is None else sum(user.accepted or 0 for user in self.users)

    def __str__(self) -> str:
        least = min(self.users, key=lambda user: user.named / user.photos)
        text = f"your target names {self.named} of {self.photos} photos of {len(self.users)} users"
        if least.named < least.photos:
            name = f" ({least.name})" if least.name else ""
            text += f", fewest of user {least.identity}{name}: {least.named} of {least.photos}"
        if self.accepted is not None:
            text += f"; it accepts {self.accepted} at its threshold {self.threshold:g}"
        return text

    def describe(self) -> dict:
        """Returns the entry of report.json."""
        counts = {"photos": self.photos, "named": self.named, "accepted": self.accepted, "threshold": self.threshold}
        share = {"share": self.named / self.photos, "ci95": list(exact_interval(self.named, self.photos))}
        users = [dataclasses.asdict(user) for user in self.users]
        return counts | share | {"chance": 1 / self.people, "problem": self.problem, "users": users}

    @classmethod
    def recall(cls, entry: Mapping) -> PhotoCheck:
        """Returns the check of an entry that describe gave, without the advice."""
        users = tuple(UserCheck(**user) for user in entry["users"])
        people = round(1 / entry["chance"])
        return cls(users=users, people=people, threshold=entry["threshold"], problem=entry["problem"])

    def require(self) -> PhotoCheck:
        """Returns the check. Raises: ValueError where it found something wrong."""
        if self.problem:
            raise ValueError(
                f"expected a target that names its users' photos, got this: {self.problem}; {self.advice}, or go on all the "
                "same with --force (force=True)"
            )
        return self


def check_photos(
    target: Recognizer, photos: str | Path, identities: Sequence[int] = (), *, resolution: int = 64
) -> PhotoCheck:
    """Returns what a target says of its owner's photos, before an attack; nothing is raised for what it finds: see require.

    photos: a folder with a sub-folder for each of the target's users, in order, or for those of identities where the target
    knows names (of a gallery). resolution: side of the pictures, that of the attack's.

    >>> check = ganinv.check_photos(target, "my_faces")  # doctest: +SKIP
    >>> print(check, check.problem)  # doctest: +SKIP
    your target names 113 of 120 photos of 20 users, fewest of user 3 (Ada): 4 of 6

    Raises: ValueError for a target without users, another number of sub-folders, or a user without one.
    """
    if not target.num_identities:
        raise ValueError("expected a target with users, got one that only embeds; enrol users first: target.enroll(folder)")
    own = load_own_photos(photos, resolution, target.num_identities, getattr(target, "names", ()), identities)
    return try_photos(target, own, own.names)


def try_photos(target: Recognizer, photos: Photos, names: Sequence[str] = ()) -> PhotoCheck:
    """Returns what a target says of its owner's photos, at most MOST of each user.

    target: with users; photos.person are their numbers; names: of all its users, () where they have none.
    """
    rows = choose_rows(photos.person, MOST)
    said = ask(target, photos, rows, desc="the target on the users' photos")
    person, threshold = photos.person[rows], getattr(target, "threshold", None)
    accepted = None if threshold is None else said["accepted"]
    users = tuple(
        UserCheck(
            identity=one,
            name=show(names[one]) if one < len(names) else "",
            photos=int((person == one).sum()),
            named=int((said["named"][person == one] == one).sum()),
            accepted=None if accepted is None else int(accepted[person == one].sum()),
        )
        for one in person.unique().tolist()
    )
    check = PhotoCheck(users=users, people=target.num_identities, threshold=threshold)
    problem, advice = find_problem(check, target, photos, rows, said["named"], names)
    return dataclasses.replace(check, problem=problem, advice=advice)


def find_problem(
    check: PhotoCheck, target: Recognizer, photos: Photos, rows: torch.Tensor, named: torch.Tensor, names: Sequence[str]
) -> tuple[str, str]:
    """Returns what is wrong and what to do, "" and "" where nothing is. named [n]: users, as which the rows were named."""
    person, few = photos.person[rows], check.named < LEAST * check.photos
    counts = f"your target names {check.named} of {check.photos} photos" + (
        f" (by chance {check.photos / check.people:.0f})" if few else ""
    )
    better = find_feeding(target, photos, rows, named)
    if better is not None:
        words, hits, shown, before = better
        told = f"of {shown} photos it names {before} as it is fed now, and {hits} if fed {words}"
        return f"{counts}: preprocessing is wrong, {told}", advise(target, words)
    if order := find_order(person, named, names, of_all=few):
        return f"{counts}: the order of people is wrong, {order}", "name them in the target's order with --classes=FILE"
    if few:
        return (
            f"{counts}: preprocessing or the order of people is wrong, or it does not know them",
            f"{advise_mending(target)}, or pass --classes=FILE",
        )
    if check.accepted is not None and check.accepted < LEAST * check.photos:
        told = f"accepts {check.accepted} at its threshold {check.threshold:g}: threshold or preprocessing is wrong"
        return f"{counts}, and {told}", "pass the operator's --threshold, a cosine or a distance"
    return "", ""


def choose_rows(person: torch.Tensor, most: int) -> torch.Tensor:
    """Returns the rows [n] of at most so many photos of each person, the first of them."""
    kept = [torch.where(person == one)[0][:most] for one in person.unique().tolist()]
    return torch.cat(kept).sort().values


@torch.no_grad()
def ask(target: Recognizer, photos: Photos, rows: torch.Tensor, desc: str = "", feed: Callable | None = None) -> dict:
    """Returns {"named": users [n], "accepted": bool [n] or None} of photos. feed: what changes them before."""
    device, named, accepted = find_device(target), [], []
    for part in open_bar(rows.split(BATCH), desc, disable=not desc):
        images = photos.images(part).to(device)
        found = target(images if feed is None else feed(images))
        named.append(found.logits.argmax(1).cpu())
        if getattr(target, "threshold", None) is not None:
            accepted.append(target.accept(found, photos.person[part].to(device)).cpu())
    return {"named": torch.cat(named), "accepted": torch.cat(accepted) if accepted else None}


# ---- the order of people


def find_order(person: torch.Tensor, named: torch.Tensor, names: Sequence[str], *, of_all: bool) -> str:
    """Returns in which other order people stand, in words; "" where they do not.

    person, named [n]: whose photos they are, and as whom they are named; of_all: most are named wrongly.
    """
    if of_all and (text := sorted(names)) != list(names):
        place = torch.tensor([text.index(name) for name in names])  # as torchvision's ImageFolder numbers them
        if (place[person] == named).float().mean() >= LEAST:
            return f"they are named right in the order of their names as text: {', '.join(map(show, text[:3]))}, ..."
    known = dict(enumerate(map(show, names)))
    mostly = {}
    for one in person.unique().tolist():
        said = named[person == one]
        other = int(said.mode().values)
        if len(said) >= FEW and int((said == other).sum()) * 2 > len(said):
            mostly[one] = other
    if of_all:  # one order must explain them: nearly everybody has a place of their own
        explained = sum(int((named[person == one] == other).sum()) for one, other in mostly.items())
        alone = len(set(mostly.values())) >= PLACED * len(person.unique())
        moved = [one for one, other in mostly.items() if other != one] if alone and explained >= LEAST * len(person) else []
    else:
        moved = [one for one in find_cycles(mostly) if mostly[one] != one]
    if not moved:
        return ""
    first = moved[0]
    called = [f"user {one}" + (f" ({known[one]})" if one in known else "") for one in (first, mostly[first])]
    more = f", and {len(moved) - 1} more users so" if len(moved) > 1 else ""
    return f"the photos of {called[0]} are named as {called[1]}{more}"


def find_cycles(mostly: Mapping[int, int]) -> list[int]:
    """Returns whoever is led back to by following whom photos are mostly named as."""
    found = []
    for start in mostly:
        one = mostly[start]
        for _ in range(len(mostly)):
            if one == start or one not in mostly:
                break
            one = mostly[one]
        if one == start:
            found.append(start)
    return found


# ---- how it is fed


def find_feeding(
    target: Recognizer, photos: Photos, rows: torch.Tensor, named: torch.Tensor
) -> tuple[str, int, int, int] | None:
    """Returns (words, photos named right if fed so, photos shown, named right as it is) of the best other way to feed a
    target, None where none is clearly better. rows, named [n]: photos and as whom they are named now."""
    person = photos.person[rows]
    right = person == named
    if right.float().mean() > 1 - WORTH:
        return None  # nothing can be clearly better
    kept = choose_rows(person, max(1, MOST_AGAIN // len(person.unique())))
    rows, right = rows[kept], right[kept]
    best, ways = None, list_feedings(target)
    for words, feed in open_bar(ways.items(), "fed in other ways", disable=not ways):
        try:
            now = feed(rows, photos) == photos.person[rows]
        except (ValueError, RuntimeError):  # it takes no such size, or no such values
            continue
        gained, lost = int((now & ~right).sum()), int((right & ~now).sum())
        better = gained - lost >= WORTH * len(rows) and mcnemar_p(gained, lost) <= P / len(ways)
        if better and (best is None or int(now.sum()) > best[1]):
            best = words, int(now.sum()), len(rows), int(right.sum())
    return best


def list_feedings(target: Recognizer) -> dict[str, Callable[[torch.Tensor, Photos], torch.Tensor]]:
    """Returns words -> function of rows and photos that gives as whom they are named, the target being fed otherwise.

    Where its preprocessing is known another takes its place; before code, which owns its own, the pictures are changed.
    None for a published network, which is fed as its publishers say.
    """
    holder = find_holder(target)
    if holder is None:
        if is_published(target):
            return {}
        return {
            words: lambda rows, photos, feed=feed: ask(target, photos, rows, feed=feed)["named"]
            for words, feed in vary(Preprocessing()).items()
        }

    def feed_with(preprocessing: Preprocessing, rows: torch.Tensor, photos: Photos) -> torch.Tensor:
        before = holder.preprocessing
        try:
            holder.preprocessing = preprocessing
            return ask(target, photos, rows)["named"]
        finally:
            holder.preprocessing = before

    return {
        words: lambda rows, photos, feed=feed: feed_with(feed, rows, photos)
        for words, feed in vary(holder.preprocessing).items()
    }


def advise(target: Recognizer, words: str) -> str:
    """Returns how to feed a target in a way of list_feedings from now on."""
    holder = find_holder(target)
    if holder is None:
        return "mend its code"
    now, other = (dataclasses.asdict(one) for one in (holder.preprocessing, vary(holder.preprocessing)[words]))
    said = json.dumps({name: value for name, value in other.items() if value != now[name]})
    return f'say {{"preprocessing": {said}}} on the card beside its weights, or so in ganinv.wrap'


def advise_mending(target: Recognizer) -> str:
    """Returns what to mend where a target is fed wrongly, nobody knows how."""
    if is_published(target):
        return "cut the faces out as align_faces.py does"
    place = "in its code" if find_holder(target) is None else "on its card, or in ganinv.wrap"
    return f"mend size, range, mean and std {place}"


def is_published(target: Recognizer) -> bool:
    """Says whether a target is, or enrols users in, a published network, which is fed as its publishers say."""
    return getattr(getattr(target, "network", target), "facts", None) is not None


def find_holder(target: Recognizer) -> object | None:
    """Returns the part of a target that holds its preprocessing; None for code and for published networks."""
    network = getattr(target, "network", target) if hasattr(target, "templates") else target
    if getattr(network, "facts", None) is not None:
        return None
    parts = (network, getattr(network, "recognize", None))
    return next((part for part in parts if isinstance(getattr(part, "preprocessing", None), Preprocessing)), None)


def vary(now: Preprocessing) -> dict[str, Preprocessing]:
    """Returns words -> preprocessing that differs from that of now in one thing: channels, range with mean and std, size."""
    found = {}
    if now.channels in ("RGB", "BGR"):
        other = "BGR" if now.channels == "RGB" else "RGB"
        found[f"{other} in place of {now.channels}"] = dataclasses.replace(now, channels=other)
    count = CHANNELS[now.channels]
    for words, (ends, mean, std) in RANGES.items():
        if isinstance(mean, tuple) and len(mean) != count:
            continue
        mean, std = (value if isinstance(value, tuple) else (value,) * count for value in (mean, std))
        varied = dataclasses.replace(now, range=ends, mean=mean, std=std)
        if not feeds_alike(varied, now):
            found[words] = varied
    if now.size is not None:
        found |= {f"pictures of {side} px": dataclasses.replace(now, size=side) for side in SIZES if side != now.size}
    return found


def feeds_alike(first: Preprocessing, second: Preprocessing) -> bool:
    """Says whether two differ in nothing but size."""
    grey = torch.linspace(-1, 1, 3).expand(1, 3, 1, 3)
    return torch.allclose(*(dataclasses.replace(one, size=None)(grey) for one in (first, second)), atol=0.02, rtol=0.01)
