"""A user's stored template from what a recognizer answers about pictures that the attacker knows.

The network is public, so that the attacker knows the embedding x of each picture shown, and only the template t is secret.
The squared distance |x|^2 - 2 x.t + |t|^2 is linear in (t, |t|^2): every answer, a similarity, a rounded one, or accept or
reject by a threshold, says between which two numbers a linear function of the unknown lies. Before anything is asked, t is
as the embeddings of the prior's own faces are. Cosines are distances of vectors of length 1.

Similarities are asked of pictures that together say most (greedy D-optimal design: Fedorov 1972). A yes or a no says most
where it is uncertain, and of a direction that is unknown; pictures near a threshold are blended for it, offline.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import log_ndtr

from ganinv import images as image_convention
from ganinv.attack.belief import Belief
from ganinv.engine.randomness import seeded
from ganinv.interfaces import Access, FaultError, Generator, Recognizer, require

PSI = 1.0  # of the pictures that are shown: the more they differ, the more they say
TOGETHER = 64  # pictures drawn and embedded at a time
ROUND = 10  # decisions between two choices of what to ask
LOOK_BACK = 100  # decisions between two looks at all earlier answers
BLENDS = 40  # pictures blended at a time, where those there are say too little
PAIRS = 600  # pairs of pictures among which those to blend are chosen
SAYS_LITTLE = 2.0  # standard deviations from the threshold at which the best picture's answer is as good as known
THRESHOLD_SPREAD = 0.05  # standard deviation of a squared threshold that is not known, about the network's own


@dataclass(frozen=True)
class Pool:
    """Pictures that the attacker can show, as 8-bit files hold them [M,3,R,R], with their latents w [M,num_ws,w_dim].

    embeddings [M,D]: by the attacker's own copy of the network; nobody is asked for them. make: w -> pictures, embeddings.
    All are kept in main memory; device: where pictures are shown.
    """

    w: torch.Tensor
    pictures: torch.Tensor
    embeddings: torch.Tensor
    make: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
    device: torch.device | str = "cpu"

    def show(self, rows: list[int]) -> torch.Tensor:
        """Returns the pictures [n,3,R,R] in [-1,1], on the device."""
        return image_convention.from_uint8(self.pictures[rows].to(self.device))

    def blend(self, first: list[int], second: list[int], shares: np.ndarray) -> Pool:
        """Returns the pool with pictures between pairs of others: w1 + share * (w2 - w1)."""
        w = torch.lerp(self.w[first], self.w[second], torch.from_numpy(shares).to(self.w)[:, None, None])
        pictures, embeddings = self.make(w)
        grown = (self.w, w), (self.pictures, pictures), (self.embeddings, embeddings)
        return Pool(*map(torch.cat, grown), self.make, self.device)


def bind_making(generator: Generator, network: Recognizer, device: torch.device | str = "cpu") -> Callable:
    """Returns the function `make` of a pool."""

    @torch.no_grad()
    def make(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pictures, rows = [], []
        for part in w.split(TOGETHER):
            pictures.append(image_convention.to_uint8(generator.synthesize(part.to(device))).cpu())
            rows.append(network(image_convention.from_uint8(pictures[-1]).to(device)).embeddings.float().cpu())
        return torch.cat(pictures), torch.cat(rows)

    return make


@torch.no_grad()
def make_pool(
    generator: Generator, network: Recognizer, count: int, seed: int, *, device: torch.device | str = "cpu"
) -> Pool:
    """Returns a pool of seeded samples of a prior. network: the attacker's own copy of the public network."""
    make = bind_making(generator, network, device)
    z = torch.randn(count, generator.z_dim, generator=seeded(seed, "shown"))
    w = torch.cat([generator.map(part.to(device), PSI).cpu() for part in z.split(TOGETHER)])
    return Pool(w, *make(w), make, device)


@dataclass(frozen=True)
class Recovered:
    """templates [T,D], and how uncertain they are: spread [T], the expected distance to the true one. pool: grown or not."""

    templates: torch.Tensor
    spread: torch.Tensor


class Frame:
    """How a metric's answers say something linear: rows . theta + offset is the squared distance, theta = (t, |t|^2)."""

    def __init__(self, metric: str):
        self.cosine = metric == "cosine"

    def lift(self, embeddings: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Returns rows [M,P] and offsets [M] of embeddings [M,D]."""
        x = embeddings.double().numpy()
        if self.cosine:
            x = x / np.linalg.norm(x, axis=1, keepdims=True)
            return -2 * x, np.full(len(x), 2.0)
        return np.concatenate([-2 * x, np.ones((len(x), 1))], 1), (x * x).sum(1)

    def start(self, embeddings: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Returns the mean [P] and the covariance [P,P] of theta before anything is known."""
        x = embeddings.double().numpy()
        x = x / np.linalg.norm(x, axis=1, keepdims=True) if self.cosine else np.column_stack([x, (x * x).sum(1)])
        covariance = np.atleast_2d(np.cov(x.T))
        return x.mean(0), covariance + 1e-3 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))

    def square(self, similarity: float) -> float:
        """Returns the squared distance of a similarity: of a cosine, or of minus a distance, which is at most 0."""
        return 2 - 2 * similarity if self.cosine else min(similarity, 0.0) ** 2

    def finish(self, belief: Belief) -> tuple[np.ndarray, float]:
        """Returns the template [D] and its spread."""
        if self.cosine:
            return belief.mean / np.linalg.norm(belief.mean), float(np.sqrt(max(np.trace(belief.covariance), 0.0)))
        return belief.mean[:-1], float(np.sqrt(max(np.trace(belief.covariance[:-1, :-1]), 0.0)))


def choose_most_telling(frame: Frame, pool: Pool, count: int, noise: float) -> list[int]:
    """Returns the numbers of the pictures whose similarities, together, say most of a template; greedy."""
    rows, _ = frame.lift(pool.embeddings)
    mean, covariance = frame.start(pool.embeddings)
    left = rows @ covariance  # [M,P]: covariance of each picture's value with theta
    variance, chosen = (left * rows).sum(1), []
    for _ in range(count):
        best = int(variance.argmax())
        chosen.append(best)
        shared = left @ rows[best]
        left = left - np.outer(shared, left[best]) / (max(variance[best], 0.0) + noise)
        variance = (left * rows).sum(1)
        variance[chosen] = -np.inf
    return chosen


def recover_from_similarities(access: Access, pool: Pool, identities: tuple[int, ...], queries: int) -> Recovered:
    """Returns the templates of users by the similarities that an access shows of the same pictures for all of them.

    queries: pictures shown, for each user where a query claims one, else for all together; one of them is shown twice, to
    see whether answers repeat. Pictures that the operator refuses say nothing.
    Raises: ValueError where answers do not repeat, or there are fewer pictures than queries.
    """
    frame, options = Frame(access.metric), access.options
    check_queries(pool, queries)
    half = 0.5 * 10.0**-options.decimals if options.decimals is not None else 1e-6  # of float32
    wide = half**2 / 3 + options.noise**2
    typical = float(np.median(np.abs(frame.lift(pool.embeddings)[0]).sum(1)))
    chosen = choose_most_telling(frame, pool, queries - 1, max(wide, 1e-8 * typical))
    rows, offsets = frame.lift(pool.embeddings[chosen])
    shared = None if access.claims else ask(access, pool, chosen, identities)
    found = []
    for number, identity in enumerate(identities):
        answers = shared[:, number] if shared is not None else ask(access, pool, chosen, (identity,))[:, 0]
        belief = Belief(*frame.start(pool.embeddings), noise=(2 * options.noise) ** 2)
        for row, offset, answer in zip(rows, offsets, answers, strict=True):
            if np.isfinite(answer):
                ends = sorted(frame.square(answer + side * half) - offset for side in (-1, 1))
                belief.learn(row, *ends)
        belief.reconsider(2)
        found.append(frame.finish(belief))
    return gather(found)


def check_queries(pool: Pool, queries: int) -> None:
    """Raises: ValueError for a number of queries that cannot be asked of a pool."""
    if not 2 <= queries <= len(pool.embeddings):
        raise ValueError(f"expected 2 to {len(pool.embeddings)} queries, the pictures there are to show, got {queries}")


def ask(access: Access, pool: Pool, chosen: list[int], identities: tuple[int, ...]) -> np.ndarray:
    """Returns the similarities [n,T] of pictures of a pool, NaN where one is refused or hidden; the first is shown twice.

    Raises: ValueError where that gets another answer.
    """
    answers = []
    for first in range(0, len(chosen) + 1, TOGETHER):
        rows = [*chosen, chosen[0]][first : first + TOGETHER]
        claimed = torch.full((len(rows),), identities[0], device=pool.device) if access.claims else None
        answers.append(require(access(pool.show(rows), claimed), "logits")[:, list(identities)].double().cpu())
    found = torch.cat(answers).numpy()
    change = np.nanmax(np.abs(found[-1] - found[0]), initial=0.0)
    if change > 1e-5 and not access.options.noise:
        raise ValueError(
            f"expected a target that gives a picture one answer, got two that differ by {change:.2g}; if its answers are "
            "blurred, say how much: --operator.noise"
        )
    return found[:-1]


def gather(found: list[tuple[np.ndarray, float]]) -> Recovered:
    """Returns what was found of each user."""
    templates, spread = zip(*found, strict=True)
    return Recovered(torch.from_numpy(np.stack(templates)).float(), torch.tensor(spread))


# ---- accept or reject


def recover_from_decisions(
    access: Access, pool: Pool, identities: tuple[int, ...], queries: int, threshold: float | None, *, seed: int = 0,
    blends: int = 600, known: bool = True, enough: float = 0.0, on_user: Callable[[int, Pool], None] = lambda *_: None,
    on_query: Callable[[int, int, Callable[[], np.ndarray]], None] = lambda *_: None,
) -> Recovered:  # fmt: skip
    """Returns the templates of users by what is accepted and rejected as each of them.

    queries: for each user. threshold: of the metric, the operator's or, where it is not known, about it. blends: most
    pictures that are made for one user. enough: where the expected distance to the true template is below this share of
    the threshold's, nothing more is asked. on_query(identity, asked, look) is called after each of the decisions.
    Raises: FaultError where no picture is accepted; ValueError without a threshold.
    """
    if threshold is None:
        raise ValueError("expected a threshold to accept or reject by, got none; pass --threshold")
    if queries < 2:
        raise ValueError(f"expected at least 2 queries, got {queries}")
    frame = Frame(access.metric)
    limit = frame.square(threshold if frame.cosine else -threshold)
    found = []
    for identity in identities:
        hunt = DecisionHunt(access, pool, frame, identity, limit, seed, blends, known)
        found.append(hunt.run(queries, enough, on_query))
        on_user(identity, pool)
    return gather(found)


class DecisionHunt:
    """One user's template on its way, from yes and no alone."""

    def __init__(
        self, access: Access, pool: Pool, frame: Frame, identity: int, limit: float, seed: int, blends: int, known: bool
    ):
        self.access, self.pool, self.frame, self.identity, self.limit = access, pool, frame, identity, limit
        mean, covariance = frame.start(pool.embeddings)
        if not known:
            covariance[-1, -1] += THRESHOLD_SPREAD**2
        self.belief = Belief(mean, covariance)
        self.blends, self.random = blends, np.random.default_rng([seed, identity])
        self.rows, self.offsets = frame.lift(pool.embeddings)
        self.shown, self.accepted = [], []

    def run(self, queries: int, enough: float, on_query: Callable) -> tuple[np.ndarray, float]:
        """Asks so many times, or until the spread is enough; returns the template and its spread."""
        near = enough * np.sqrt(self.limit)
        while len(self.shown) < queries and not (self.accepted and self.frame.finish(self.belief)[1] < near):
            chosen = self.choose(min(ROUND, queries - len(self.shown)))
            if not chosen:
                break
            for number, answers in zip(chosen, self.ask(chosen), strict=True):
                self.learn(number, answers)
                on_query(self.identity, len(self.shown), lambda: self.frame.finish(self.belief)[0])
                if len(self.shown) % LOOK_BACK == 0:
                    self.belief.reconsider()
        if not self.accepted:
            raise FaultError(
                f"none of {len(self.shown)} pictures was accepted as user {self.identity}, so that no boundary was found; "
                "ask for more, or show other pictures"
            )
        self.belief.reconsider(2)
        return self.frame.finish(self.belief)

    def ask(self, chosen: list[int]) -> torch.Tensor:
        """Shows some pictures; returns [n,C], bool: as whom each was accepted."""
        claimed = torch.full((len(chosen),), self.identity, device=self.pool.device)
        return (require(self.access(self.pool.show(chosen), claimed), "logits").exp() > 0.5).cpu()

    def learn(self, number: int, answers: torch.Tensor) -> None:
        """Takes in as whom one picture was accepted."""
        bound = self.limit - self.offsets[number]
        self.shown.append(number)
        if answers[self.identity]:
            self.accepted.append(number)
            self.belief.learn(self.rows[number], -np.inf, bound)
        elif not answers.any():  # where another user is named, this one may have been near enough too
            self.belief.learn(self.rows[number], bound, np.inf)

    def weigh(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns how much each picture's answer is expected to say [M], and its standard deviations past the threshold."""
        middle, variance = self.belief.predict(self.rows)
        far = (middle + self.offsets - self.limit) / np.sqrt(variance)
        worth = np.log(variance) - far * far - log_ndtr(far) - log_ndtr(-far)  # of the expected fall of variance
        worth[self.shown] = -np.inf
        return worth, far

    def choose(self, count: int) -> list[int]:
        """Returns the pictures to show next, no two of which say the same; [] where nothing there is says anything."""
        worth, far = self.weigh()
        if self.accepted and abs(far[worth.argmax()]) > SAYS_LITTLE and self.blends >= 2 * BLENDS:
            self.add_blends(far)
            worth, far = self.weigh()
        if abs(far[worth.argmax()]) > 3 * SAYS_LITTLE and self.blends < 2 * BLENDS:
            return []
        return spread_out(self.rows, self.belief.covariance, worth, min(count, int(np.isfinite(worth).sum())))

    def add_blends(self, far: np.ndarray) -> None:
        """Blends accepted pictures with others where the way from one to the other should cross the threshold.

        Of many pairs those are taken whose crossings say most, were embeddings to move straight; then the crossings are
        corrected once by where the blends' embeddings really lie.
        """
        outside = np.flatnonzero(far > 0)
        first = self.random.choice(self.accepted, PAIRS)
        second = self.random.choice(outside if len(outside) else np.arange(len(far)), PAIRS)
        middle, _ = self.belief.predict(self.rows)
        beyond = middle + self.offsets - self.limit  # squared distance past the threshold
        x = self.pool.embeddings.double().numpy()
        bend = ((x[first] - x[second]) ** 2).sum(1)
        shares = cross(beyond[first], beyond[second], bend)
        straight, _ = self.frame.lift(torch.from_numpy(x[first] + shares[:, None] * (x[second] - x[first])))
        worth = np.log(self.belief.predict(straight)[1])
        best = spread_out(straight, self.belief.covariance, worth, BLENDS)
        first, second, shares = first[best], second[best], shares[best]
        self.grow(first, second, shares)
        middle, _ = self.belief.predict(self.rows[-BLENDS:])
        there = middle + self.offsets[-BLENDS:] - self.limit
        low, high = np.where(there > 0, 0.0, shares), np.where(there > 0, shares, 1.0)  # between which it crosses
        at, to = np.where(there > 0, beyond[first], there), np.where(there > 0, there, beyond[second])
        again = low + (high - low) * cross(at, to, bend[best] * (high - low) ** 2)
        self.grow(first, second, again)
        self.blends -= 2 * BLENDS

    def grow(self, first: np.ndarray, second: np.ndarray, shares: np.ndarray) -> None:
        """Adds blends to the pool."""
        self.pool = self.pool.blend(first.tolist(), second.tolist(), shares)
        self.rows, self.offsets = self.frame.lift(self.pool.embeddings)


def cross(at: np.ndarray, to: np.ndarray, bend: np.ndarray) -> np.ndarray:
    """Returns the shares of the way at which a parabola of second derivative 2 * bend from `at` to `to` is 0, no end."""
    slope = to - at - bend
    root = (-slope + np.sqrt(np.maximum(slope**2 - 4 * bend * at, 0))) / np.maximum(2 * bend, 1e-12)
    return np.clip(np.where(np.isfinite(root), root, 0.5), 0.02, 0.98)


def spread_out(rows: np.ndarray, covariance: np.ndarray, worth: np.ndarray, count: int) -> list[int]:
    """Returns the rows of most worth, each taken down by how much what it says is said by those taken before."""
    left, worth, chosen = rows @ covariance, worth.copy(), []
    variance = np.maximum((left * rows).sum(1), 1e-14)
    for _ in range(count):
        best = int(worth.argmax())
        chosen.append(best)
        alike = (left @ rows[best]) ** 2 / (variance * variance[best])
        worth = worth + np.log1p(-0.64 * np.clip(alike, 0, 1))  # so much of the variance a yes or no takes on average
        worth[best] = -np.inf
    return chosen
