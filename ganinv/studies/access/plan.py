"""What the study of access tries: attackers, each with what it sees, and the numbers of queries at which it is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ganinv.attack.config import Operator, Optim, Surrogate

FEW, MANY = (10, 30, 64, 100, 150, 300), (50, 100, 200, 400, 800, 1600, 2500)
LONG = (10, 30, 100, 300, 1000, 2000, 5000, 7000, 10_000, 30_000, 100_000)
GALLERY, CLASSES = "gallery", "classes"  # kinds of targets: templates and a network, or a network whose classes are the users


@dataclass(frozen=True)
class Attacker:
    """What somebody sees of a target's answers, and at how many queries a user the study looks.

    Of a gallery whose network is public, access is scores (then the similarity of the claimed user), decisions, or embeddings
    (the template itself, no query), and the template is recovered, then inverted. With a search the network is secret: the
    best of the first pictures that are shown for all users is moved by it, and shared queries count for every user.
    of: the kind of target, GALLERY or CLASSES; far: the operator's threshold is the one at which so many strangers pass, 0:
    its own; goal: class | template; objective: of the goal class; copy: of an attacker who searches a copy of the target.
    """

    words: str
    access: str
    queries: tuple[int, ...]
    operator: Operator = field(default_factory=Operator)
    far: float = 0.0
    of: str = GALLERY
    search: Optim | None = None
    goal: str = "class"
    objective: str = "max_margin"
    copy: Surrogate | None = None


def see_similarities(**options) -> Operator:
    """Returns the operator who answers a claim with the similarity."""
    return Operator(answers="similarities", claimed=True, **options)


def see_scores(words: str, **options) -> Attacker:
    """Returns the attacker who sees a secret network's scores, after what its operator does to them."""
    return Attacker(words, "scores", LONG, Operator(**options), of=CLASSES, search=CMA)


# the settings of the searches were tried on users 20 to 39: see results/access/tuning.md
CMA = Optim(optimizer="cma_es", transforms=1, pairs=8, sigma=0.5, coordinates=64)
MAP2V = Optim(optimizer="zeroth_order", transforms=1, pairs=8, sigma=0.1, lr=0.05)  # 16 directions, as published
MIRROR = Optim(optimizer="genetic", transforms=1, pairs=16, sigma=0.5)
BREP = Optim(optimizer="boundary", transforms=1, pairs=16, sigma=2.0)
ADAM = Optim(transforms=1)
COPY = Surrogate(network="dlib", pictures=2000, rounds=3, views=4)

ATTACKERS = {
    # a gallery whose network is public
    "template": Attacker("the stored template", "embeddings", (0,)),
    "distances": Attacker("distances of the claimed user", "scores", FEW, see_similarities()),
    "distances-2": Attacker("distances, two decimals", "scores", FEW, see_similarities(decimals=2)),
    "distances-1": Attacker("distances, one decimal", "scores", (*FEW, 1000), see_similarities(decimals=1)),
    "distances-noise": Attacker("distances with noise of 0.05", "scores", (*FEW, 1000), see_similarities(noise=0.05)),
    "decisions": Attacker("accept or reject", "decisions", MANY, Operator(claimed=True)),
    "decisions-strict": Attacker(
        "accept or reject, threshold at FMR 1e-3", "decisions", MANY, Operator(claimed=True), far=1e-3
    ),
    # a gallery whose network is secret and whose templates were stolen
    "embeddings": Attacker("the template, and embeddings", "embeddings", LONG, search=CMA, goal="template"),
    "embeddings-map2v": Attacker("the same, searched as MAP2V", "embeddings", LONG, search=MAP2V, goal="template"),
    # classes of a secret network
    "gradients": Attacker("the parameters", "gradients", (100, 1000, 1100, 1200), of=CLASSES, search=ADAM),
    "scores": see_scores("class scores"),
    "scores-2": see_scores("class scores, two decimals", decimals=2),
    "scores-1": see_scores("class scores, one decimal", decimals=1),
    "scores-top": see_scores("the highest class score alone", top=1),
    "scores-noise": see_scores("class scores with noise of 0.05", noise=0.05),
    "scores-mirror": Attacker("class scores, searched as MIRROR", "scores", LONG, of=CLASSES, search=MIRROR),
    "scores-copy": Attacker(
        "class scores, searched in a copy", "scores", (250, 1000, 2048), of=CLASSES, search=ADAM, copy=COPY
    ),
    "labels": Attacker("labels", "decisions", LONG, of=CLASSES, search=BREP, objective="confidence"),
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One attacker with one seed, on one target."""

    attacker: str
    seed: int
    target: str = ""

    @property
    def name(self) -> str:
        """Returns its name among files."""
        return f"{self.target}-{self.attacker}-seed{self.seed}".removeprefix("-")


def name_target(spec: str) -> str:
    """Returns what stands for a target among files: dlib, cnn, softmax of softmax.safetensors."""
    return spec.replace("\\", "/").rsplit("/", 1)[-1].split(":")[-1].removesuffix(".safetensors") or "target"


def list_cells(attackers: str, seeds: int, *, first: int = 0, target: str = "", kind: str = "") -> list[Cell]:
    """Returns the cells of a target, seed after seed, of some attackers, or of "all" that fit its kind.

    Raises: ValueError for an attacker that there is not, or that is of the other kind; kind "" fits all.
    """
    fitting = [name for name, attacker in ATTACKERS.items() if not kind or attacker.of == kind]
    names = fitting if attackers == "all" else [name for name in attackers.split(",") if name]
    unknown = [name for name in names if name not in fitting]
    if unknown or not names:
        of = f" of a target with {kind}" if kind else ""
        raise ValueError(f"expected attackers{of} among {', '.join(fitting)}, got {', '.join(unknown) or 'none'}")
    return [Cell(name, seed, target) for seed in range(first, first + seeds) for name in names]


def choose_judged(queries: Sequence[int], judged: str) -> list[int]:
    """Returns those of some numbers of queries at which pictures are made and judged: "all", or a list such as 0,150."""
    if judged == "all":
        return list(queries)
    try:
        wanted = [int(word) for word in judged.split(",") if word]
    except ValueError:
        raise ValueError(f"expected judged as all, or numbers of queries such as 0,150, got {judged}") from None
    return [count for count in queries if count in wanted]
