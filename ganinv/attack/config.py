"""What one attack does: its configuration, and the presets of the latent and the pixel attacks. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True, kw_only=True)
class Optim:
    """How the search steps. Adam's short memory (Struppek et al. 2022 use betas 0.1, 0.1) suits few, noisy steps."""

    # adam | gradient_descent | langevin | gaussian; without gradients antithetic | zeroth_order | cma_es | genetic | boundary
    optimizer: str = "adam"
    lr: float = 0.05
    betas: tuple[float, float] = (0.9, 0.99)
    decay: bool = True  # the learning rate follows a half cosine to a tenth
    transforms: int = 2  # random transforms of every sample in every step
    patience: int = 0  # stop a sample after this many steps without improvement, and return its best; 0: never
    threshold: float = 0.0  # stop a sample whose objective is at or below this; needs patience
    halve_at: tuple[float, ...] = ()  # shares of the steps after which the worse half of each user's samples is dropped
    leave_at: float = 0.0  # stop a sample that the target has scored at least this in 10 steps running; 0: never
    average_last: int = 0  # return the mean of the latents after so many last steps (ALSUV); 0: the last
    pairs: int = 8  # of points that a search without gradients measures in a step
    sigma: float = 0.1  # how far from the sample they lie, at first
    coordinates: int = 64  # of the search cma_es: those in which the prior varies most
    temperature: float = 0.01  # of langevin and gaussian: what a difference in the loss is worth; low: near the best alone


@dataclass(frozen=True, kw_only=True)
class Augment:
    """The random transform of every view."""

    flip: float = 0.5  # probability of a mirror image
    degrees: float = 5.0  # largest rotation
    scale: tuple[float, float] = (0.95, 1.1)  # smallest and largest magnification
    shift: float = 0.04  # largest shift, as a share of the side


@dataclass(frozen=True, kw_only=True)
class Operator:
    """What whoever runs the target does to its answers, below the access gradients. The attacker is taken to know it."""

    answers: str = "scores"  # scores | similarities: of a gallery the cosine or minus the distance, in place of the softmax
    decimals: int | None = None  # answers are rounded to so many; None: not
    top: int | None = None  # only so many users are named, those of the highest scores; None: all
    claimed: bool = False  # every query claims to be one user, and only that user's score or acceptance is told
    noise: float = 0.0  # standard deviation of what is added to every answer: each picture's own, always the same
    noise_seed: int = 0  # of that
    faces: bool = False  # a picture in which MTCNN finds no face gets the lowest answer
    limit: int | None = None  # queries answered for each user; None: any number
    budget: int | None = None  # queries answered in all; None: any number


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """How the templates of a public network's gallery are recovered from its answers, before a search without the target."""

    queries: int | None = None  # most pictures shown for each user; None: 300, of accept or reject alone 2000
    enough: float = 0.25  # of accept or reject alone: stop where a template is known to so much of the threshold; 0: do not
    pictures: int = 3000  # seeded samples of the prior among which those are chosen; nobody is asked for these
    blends: int = 3000  # most that are blended of them for one user, where the target only accepts or rejects
    knows_threshold: bool = True  # the attacker knows at which threshold it accepts

    def count(self, access: str) -> int:
        """Returns the most pictures shown for each user at an access."""
        return self.queries or (2000 if access == "decisions" else 300)


@dataclass(frozen=True, kw_only=True)
class Surrogate:
    """How a secret network with scores is searched in a local copy, fitted on a public network to what it answers."""

    network: str = ""  # the public network, which is no judge then: dlib | sface | ... or NAME.safetensors; "": no copy
    pictures: int = 2000  # samples of the prior that the target scores, once for all users
    rounds: int = 3  # of search in the copy, return to the target with all restarts, and fitting it anew
    views: int = 4  # random transforms of each picture that the target scores on a return, the picture itself among them


@dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """What one attack does; everything but the models, the identities and the seed."""

    goal: str = "class"  # class | template: the target's score of a user, or the embedding that its gallery stores
    space: str = "w_plus"  # z | w | w_plus | pixels
    objective: str = "max_margin"  # max_margin | logit | cross_entropy | poincare | confidence: of the goal class
    access: str = "gradients"  # gradients | embeddings | scores | decisions: what the attack may see of the target
    network: str = "secret"  # secret | public: of a gallery, the attacker has the network and asks only for the templates
    contrast: float = 0.0  # of the goal template: aim so far past it, away from the prior's mean, as a share of the way
    tv: float = 0.0  # weight of total variation
    l2: float = 0.0  # weight of the squared pixels
    steps: int = 100  # of the search alone: --candidates sets the time before it, --final-transforms the time after
    candidates: int = 2000  # seeded latents scored by the target for the start; 0: random ones, unscored
    restarts: int = 4  # best candidates per identity that are optimised
    keep: int = 1  # results kept per identity
    psi: float = 1.0  # truncation of the start; 1: none
    bound: float = 1.0  # standard deviations of the prior that w may leave its mean
    final_transforms: int = 64  # random transforms in the final choice
    batch: int = 0  # most candidates that share a batch, which changes last bits alone; 0: 40, on CUDA as --memory says
    together: int = 0  # users searched together, a unit of work of --engine; changes last bits alone; 0: a few batches full
    memory: str = "4GiB"  # most memory to take, for which the batch is planned
    blur_sigma: float = 0.0  # pixels: smoothing between steps
    log_every: int = 0  # steps between rows of steps.jsonl; 0: 1, on CUDA 10
    image_every: int = 25  # steps between pictures for Weights & Biases
    precision: str = "float32"  # float32 | bfloat16 | auto: the fastest that leaves the target's scores
    optim: Optim = field(default_factory=Optim)
    augment: Augment = field(default_factory=Augment)
    operator: Operator = field(default_factory=Operator)
    recovery: Recovery = field(default_factory=Recovery)
    surrogate: Surrogate = field(default_factory=Surrogate)


# halving is on ten tuning users of an earlier world as good as none dropped: acc_at_1 1.00 both, identity similarity 0.52
# and 0.51. A bound of 1 gives a face in every picture on three kinds of head, for 0.01 of similarity at most; with one of 2
# the search may run away from a plain softmax to black and white: results/faces/tuning.md
LATENT = AttackConfig(optim=Optim(halve_at=(0.2, 0.4)))

# on users 20 to 39 of faces, SFace's similarity is 0.015 [0.003, 0.027] higher with a contrast of 0.5 than without; means of
# the last latents are no better than the last, and means over restarts worse; a distance has an end, so that no search runs
# away, and a bound of 1 takes 0.016 [0.000, 0.036] of similarity: results/faces/tuning.md
TEMPLATE = AttackConfig(goal="template", contrast=0.5, bound=2.0, optim=Optim(halve_at=(0.2, 0.4)))
LATENT_GOALS = {"class": LATENT, "template": TEMPLATE}

# Khosravy et al. 2021, after Fredrikson et al. 2015, Algorithm 1, whose stop rule this is: no improvement for `patience`
# steps, or 1 - p at or below `threshold`; the best picture on the way is returned
GRAY_BOX = AttackConfig(
    space="pixels",
    objective="confidence",
    steps=1000,
    restarts=1,
    final_transforms=1,
    optim=Optim(optimizer="gradient_descent", lr=10.0, decay=False, transforms=1, patience=100, threshold=0.01),
    augment=Augment(flip=0.0, degrees=0.0, scale=(1.0, 1.0), shift=0.0),
)
MODERN = AttackConfig(
    space="pixels", steps=300, tv=50.0, l2=0.1, restarts=2, optim=Optim(lr=0.05, transforms=2)
)  # a strong search: Adam, total variation, L2, random transforms
PIXEL_VARIANTS = {  # name -> (configuration, start picture)
    "gray-box": (GRAY_BOX, "grey"),
    "white-box": (GRAY_BOX, "public-mean"),  # partial information on the user, given as a start picture
    "modern": (MODERN, "grey"),
}
# how steep the distance to a template is beside the margin of a gallery's scores, which are distances times about 16
FLATTER = 0.04


def suit_goal(attack: AttackConfig, goal: str) -> AttackConfig:
    """Returns a pixel search for a goal: to a template, the terms of the picture weigh less, as the distance does."""
    if goal != "template":
        return replace(attack, goal=goal)
    return replace(attack, goal=goal, tv=FLATTER * attack.tv, l2=FLATTER * attack.l2)
