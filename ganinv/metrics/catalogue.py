"""Every metric once: its name in a report, which direction is better, and its words. Whoever shows metrics asks here.

How a metric is measured stands in judging.measures, under the same name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

MAXIMISED = "What the attack maximised"
KNOWS_USERS = "Judge that knows the users"
NEVER_MET = "Judge that never met the users"
BOTH = "Both judges"
SURVIVES = "What survives"
MEMORY = "What the prior remembers"
PICTURE = "The picture"
TRUTH = "The truth, of rendered people"
SETS = "All pictures against all photos"  # one number of all pictures, without an interval


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One number of pictures. A report's summary has it under `name`, or `absent` says why not.

    direction: "higher" or "lower", which of them means more of the user, or a better picture; group: the heading that it
    stands under; words: what it is. tested: differences of it are tested; compared: it is a column where runs are
    compared; headline: its difference to the strongest control is reported; printed: it is among the lines at the end of
    a run; tracked: it is a column of every table that goes to Weights & Biases, even where it is absent; tile, card: its
    words on the report's first screen and beside each user's pictures, "" where it is not there. range, formula, source:
    for the guide, which says what the letters mean; docs/generate.py makes its tables of them.
    """

    name: str
    direction: str
    group: str
    words: str = ""
    tested: bool = False
    compared: bool = False
    headline: bool = False
    printed: bool = False
    tracked: bool = False
    tile: str = ""
    card: str = ""
    range: str = ""
    formula: str = ""
    source: str = ""

    def __post_init__(self):
        if self.direction not in ("higher", "lower"):
            raise ValueError(f"expected the direction higher or lower of the metric {self.name}, got {self.direction!r}")


CATALOGUE: dict[str, Metric] = {}


def add_metric(metric: Metric) -> Metric:
    """Returns a metric after adding it behind those there are. Raises: ValueError when there is one of its name."""
    if metric.name in CATALOGUE:
        raise ValueError(f"expected a new metric, got a second {metric.name}; give it another name")
    CATALOGUE[metric.name] = metric
    return metric


def find_metric(name: str) -> Metric:
    """Returns a metric by its name. Raises: ValueError with the names there are."""
    if name not in CATALOGUE:
        raise ValueError(f"expected a metric among {', '.join(CATALOGUE)}, got {name}")
    return CATALOGUE[name]


def name_rate(far: float, sees_users: bool) -> str:
    """Returns the metric's name of the share that the judge which sees users, or the other, accepts at a rate."""
    return "accepted_at_far_" + f"{far:.0e}".replace("e-0", "e-") + ("_judge" if sees_users else "")


FARS = (1e-2, 1e-3, 1e-4)  # false-accept rates; one that the references have too few pairs for is absent


def list_rates(*, sees_users: bool) -> Iterator[Metric]:
    """Yields the metrics of acceptance of one judge."""
    for far in FARS:
        passes = f"1 in {1 / far:.0f} strangers passes"
        words = "share of the user's photos accepted as the same person" if far == FARS[0] else "the same"
        yield Metric(
            name=name_rate(far, sees_users), direction="higher", group=KNOWS_USERS if sees_users else NEVER_MET,
            words=f"{words}; {passes}", compared=not sees_users, printed=not sees_users and far == 1e-3,
            range=SHARE, formula=f"share of r in R with cos(x, r) > T, T exceeded by {far:g} of pairs of different people",
            source="ISO/IEC 19795-1",
        )  # fmt: skip


SHARE, COSINE, SQUARED = "0 to 1", "-1 to 1", "0 to 4"
KHOSRAVY, PLUG, PLAIN = "Khosravy et al. 2021", "Struppek et al. 2022", "of this package"
MILD = "x and its JPEG 50, blur, crop to 0.9 and noise of 0.1"

METRICS = (
    Metric(name="target_score_transformed", direction="higher", group=MAXIMISED,
           words="the attacked recognizer's own score of the user, mean over random crops, turns and mirrors",
           range=SHARE, formula="mean over transforms t of p(u; t(x))", source=PLUG),
    Metric(name="target_score", direction="higher", group=MAXIMISED,
           words="the attacked recognizer's own score of the user, 0 to 1", compared=True, printed=True,
           card="attacked recognizer's score",
           range=SHARE, formula="p(u; x)", source=KHOSRAVY),
    Metric(name="judge_score", direction="higher", group=KNOWS_USERS, words="its score of the user, 0 to 1", compared=True,
           range=SHARE, formula="p(u; x) of the judge", source=KHOSRAVY),
    Metric(name="target_judge_gap", direction="lower", group=MAXIMISED,
           words="by how much it exceeds the score of the judge that knows the users",
           range=COSINE, formula="target_score - judge_score", source=PLAIN),
    Metric(name="judge_rank", direction="lower", group=KNOWS_USERS, words="the user's rank among all users, 1 is best",
           card="place among the users, 1 is first",
           range="1 to users", formula="1 + number of other users v with p(v; x) >= p(u; x)", source=PLAIN),
    Metric(name="acc_at_1", direction="higher", group=KNOWS_USERS, words="share of pictures in which the user ranks first",
           tested=True, compared=True, headline=True, printed=True, tile="named right by a judge that knows the users",
           range=SHARE, formula="1 where judge_rank = 1, else 0", source="Zhang et al. 2020"),
    Metric(name="acc_at_5", direction="higher", group=KNOWS_USERS, words="share in which the user is among the first five",
           compared=True,
           range=SHARE, formula="1 where judge_rank <= 5, else 0", source="Zhang et al. 2020"),
    Metric(name="identity_similarity", direction="higher", group=NEVER_MET,
           words="mean cosine to the user's photos, -1 to 1", tested=True, compared=True, headline=True, printed=True,
           tracked=True, card="likeness to own photos, -1 to 1",
           range=COSINE, formula="mean over r in R of cos(x, r)", source=PLAIN),
    Metric(name="identity_similarity_judge", direction="higher", group=KNOWS_USERS,
           words="mean cosine to the user's photos, -1 to 1", compared=True,
           range=COSINE, formula="mean over r in R of cos(x, r)", source=PLAIN),
    *list_rates(sees_users=False),
    *list_rates(sees_users=True),
    Metric(name="taken_for_user", direction="higher", group=BOTH, tested=True, compared=True, printed=True,
           words="share of pictures that both take for the user, by a rule that 1 in 100 strangers passes",
           tile="taken for the user by both judges",
           range=SHARE, formula="1 where, for both, the mean of cos(x, r) over R exceeds that of 0.99 of photos of others",
           source=PLAIN),
    Metric(name="judges_agree", direction="higher", group=BOTH, words="share of pictures on which they agree",
           range=SHARE, formula="1 where both take x for u, or neither does", source=PLAIN),
    Metric(name="acc_at_1_perturbed", direction="higher", group=SURVIVES, compared=True,
           words="user first in the picture and after JPEG, blur, crop and noise",
           range=SHARE, formula=f"lowest acc_at_1 over {MILD}", source=PLAIN),
    Metric(name="identity_similarity_perturbed", direction="higher", group=SURVIVES, words="the lowest cosine over the same",
           compared=True,
           range=COSINE, formula=f"lowest identity_similarity over {MILD}", source=PLAIN),
    Metric(name="acc_at_1_projected", direction="higher", group=SURVIVES, tested=True, compared=True, printed=True,
           words="user first after a prior of faces drew the picture anew",
           tile="still named right when a face model draws it anew",
           range=SHARE, formula="acc_at_1 of G(w*), w* the nearest to x in pixels that Adam finds from the mean face",
           source=PLAIN),
    Metric(name="identity_similarity_projected", direction="higher", group=SURVIVES, words="cosine after the same",
           tested=True, compared=True, card="the same, drawn anew",
           range=COSINE, formula="identity_similarity of G(w*)", source=PLAIN),
    Metric(name="projection_error", direction="lower", group=SURVIVES,
           words="how far the prior's drawing is from the picture, root mean square of pixels in [-1,1]",
           range="0 to 2", formula="root of the mean of (G(w*) - x)^2", source=PLAIN),
    Metric(name="delta_eval", direction="lower", group=KNOWS_USERS, compared=True,
           words="squared distance to the nearest photo of the user, 0 to 4, less is nearer",
           range=SQUARED, formula="least over r in R of the squared distance of x and r: 2 - 2 max cos(x, r)",
           source=f"{PLUG}, section 4 (there not of unit norm)"),
    Metric(name="delta_face", direction="lower", group=NEVER_MET, compared=True,
           words="squared distance to the nearest photo of the user, 0 to 4, less is nearer",
           range=SQUARED, formula="least over r in R of the squared distance of x and r: 2 - 2 max cos(x, r)",
           source=f"{PLUG}, section 4 (there not of unit norm)"),
    Metric(name="nearest_own", direction="higher", group=MEMORY, words="cosine to the nearest photo of the user",
           range=COSINE, formula="max over r in R of cos(x, r)", source=PLAIN),
    Metric(name="nearest_training", direction="lower", group=MEMORY,
           words="cosine to the nearest photo that the prior was trained on", card="likeness to a training photo",
           range=COSINE, formula="max over training photos q of cos(x, q)", source=PLAIN),
    Metric(name="copies", direction="lower", group=MEMORY, words="share of pictures that copy such a photo",
           range=SHARE, formula="1 where nearest_training exceeds that of 0.99 of the photos in R of all users",
           source=PLAIN),
    Metric(name="knowledge_extraction", direction="higher", group=NEVER_MET, compared=True,
           words="share of the user's photos named right by what learnt from the pictures alone",
           range=SHARE, formula="share of r in R that are nearest to the mean direction of the pictures of u",
           source="Struppek et al. 2024, section 5 (there a network learns)"),
    Metric(name="precision", direction="higher", group=PICTURE, words="share of pictures within reach of the user's photos",
           range=SHARE, formula="share of pictures no further from some r in R than its 3rd neighbour in R",
           source="Kynkaanniemi et al. 2019, Eq. 1"),
    Metric(name="recall", direction="higher", group=PICTURE, words="share of the user's photos within reach of the pictures",
           range=SHARE, formula="share of r in R no further from some picture than its 3rd neighbour among the pictures",
           source="Kynkaanniemi et al. 2019, Eq. 2"),
    Metric(name="density", direction="higher", group=PICTURE, words="how densely the user's photos reach the pictures",
           range="0 and up", formula="mean over pictures of the number of r in R whose 5th neighbour is no nearer, over 5",
           source="Naeem et al. 2020, Eq. 4"),
    Metric(name="coverage", direction="higher", group=PICTURE, words="share of the user's photos that reach a picture",
           range=SHARE, formula="share of r in R whose 5th neighbour in R is no nearer than some picture",
           source="Naeem et al. 2020, Eq. 5"),
    Metric(name="lpips", direction="lower", group=PICTURE, compared=True, tracked=True,
           words="perceptual distance to the nearest photo of the user (LPIPS), less is nearer",
           range="0 and up", formula="least over r in R of LPIPS(x, r)", source="Zhang et al. 2018"),
    Metric(name="lpips_face", direction="lower", group=PICTURE, compared=True,
           words="the same over a trunk trained on faces, not to be compared with LPIPS",
           range="0 and up", formula="the same over a trunk trained on faces, without learned heads",
           source="after Zhang et al. 2018"),
    Metric(name="face_detected", direction="higher", group=PICTURE, words="a face detector's probability of a face",
           compared=True, printed=True,
           range=SHARE, formula="highest probability among the faces that MTCNN finds in x, 0 where it finds none",
           source="Zhang et al. 2016"),
    Metric(name="factor_recovery", direction="higher", group=TRUTH, tested=True, compared=True, printed=True,
           words="share of the person's true factors in the picture, 1 is all",
           range="up to 1", formula="1 - sum of (a - b)^2 / sum of b^2; a read off x, b true, in spreads from the average",
           source=PLAIN),
    Metric(name="fid", direction="lower", group=SETS, words="Frechet distance of all pictures to all photos",
           range="0 and up", formula="|m - n|^2 + Tr(A + B - 2 (A^1/2 B A^1/2)^1/2) of means m, n and covariances A, B",
           source="Heusel et al. 2017, Eq. 6 (there Inception features)"),
    Metric(name="kid", direction="lower", group=SETS, words="kernel distance of all pictures to all photos",
           range="about 0 and up", formula="unbiased squared maximum mean discrepancy under (x.y / D + 1)^3",
           source="Binkowski et al. 2018 (there Inception features)"),
)  # fmt: skip
for metric in METRICS:
    add_metric(metric)
