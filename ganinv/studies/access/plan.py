"""What the study of access tries: attackers, each with what it sees, and the numbers of queries at which it is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ganinv.attack.config import Operator

FEW, MANY = (10, 30, 64, 100, 150, 300), (50, 100, 200, 400, 800, 1600, 2500)


@dataclass(frozen=True)
class Attacker:
    """What somebody sees of a gallery's answers, and at how many queries a user the study looks.

    access: scores (then the similarity of the claimed user), decisions, or embeddings (the template itself, no query);
    far: the operator's threshold is the one at which so many strangers pass, 0: its own.
    """

    words: str
    access: str
    queries: tuple[int, ...]
    operator: Operator = field(default_factory=Operator)
    far: float = 0.0


def see_similarities(**options) -> Operator:
    """Returns the operator who answers a claim with the similarity."""
    return Operator(answers="similarities", claimed=True, **options)


ATTACKERS = {
    "template": Attacker("the stored template", "embeddings", (0,)),
    "distances": Attacker("distances of the claimed user", "scores", FEW, see_similarities()),
    "distances-2": Attacker("distances, two decimals", "scores", FEW, see_similarities(decimals=2)),
    "distances-1": Attacker("distances, one decimal", "scores", (*FEW, 1000), see_similarities(decimals=1)),
    "distances-noise": Attacker("distances with noise of 0.05", "scores", (*FEW, 1000), see_similarities(noise=0.05)),
    "decisions": Attacker("accept or reject", "decisions", MANY, Operator(claimed=True)),
    "decisions-strict": Attacker(
        "accept or reject, threshold at FMR 1e-3", "decisions", MANY, Operator(claimed=True), far=1e-3
    ),
}


@dataclass(frozen=True)
class Cell:
    """One attacker with one seed."""

    attacker: str
    seed: int

    @property
    def name(self) -> str:
        """Returns its name among files."""
        return f"{self.attacker}-seed{self.seed}"


def list_cells(attackers: str, seeds: int) -> list[Cell]:
    """Returns the cells, seed after seed, of "all" or of some. Raises: ValueError for an attacker that there is not."""
    names = list(ATTACKERS) if attackers == "all" else [name for name in attackers.split(",") if name]
    unknown = [name for name in names if name not in ATTACKERS]
    if unknown or not names:
        raise ValueError(f"expected attackers among {', '.join(ATTACKERS)}, got {', '.join(unknown) or 'none'}")
    return [Cell(name, seed) for seed in range(seeds) for name in names]


def choose_judged(queries: Sequence[int], judged: str) -> list[int]:
    """Returns those of some numbers of queries at which pictures are made and judged: "all", or a list such as 0,150."""
    if judged == "all":
        return list(queries)
    try:
        wanted = [int(word) for word in judged.split(",") if word]
    except ValueError:
        raise ValueError(f"expected judged as all, or numbers of queries such as 0,150, got {judged}") from None
    return [count for count in queries if count in wanted]
