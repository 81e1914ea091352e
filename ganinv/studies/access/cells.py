"""One attacker with one seed: templates recovered after so many queries, pictures made of them, and the judges' word."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ganinv import images as image_convention
from ganinv.attack.access import Queries, TargetAccess
from ganinv.attack.config import TEMPLATE, Optim, Recovery
from ganinv.attack.goals import TemplateGoal
from ganinv.attack.loop import Trial, minimise
from ganinv.attack.recovery import Pool, bind_making, make_pool, recover_from_decisions, recover_from_similarities
from ganinv.attack.spaces import SPACES, Origin, Whitening, fit_whitening
from ganinv.attack.transforms import RandomAffine
from ganinv.engine.batches import Batch
from ganinv.engine.checkpoint import load_state, save_state
from ganinv.engine.randomness import Streams
from ganinv.errors import FaultError
from ganinv.interfaces import Recognition
from ganinv.judging.leak import find_shipped, measure_leak
from ganinv.judging.recognitions import RecognitionCache
from ganinv.recognizers.gallery import Gallery, attach
from ganinv.studies.access.plan import ATTACKERS, CLASSES, GALLERY, Attacker, Cell
from ganinv.worlds.assets import Assets

BATCH = 20  # pictures that are searched at a time
MOST_SEEN = 50_000  # pictures whose embeddings are remembered


@dataclass
class Bench:
    """What all cells share: a world's assets, the users, and for each seed the pictures that can be shown."""

    assets: Assets
    spec: str  # of the target's network
    work: Path  # what was recovered so far
    identities: tuple[int, ...]
    pictures: int
    blends: int
    steps: int
    pools: dict[int, Pool]
    whitening: Whitening

    @classmethod
    def build(
        cls, assets: Assets, spec: str, work: Path, identities: Sequence[int], pictures: int, blends: int, steps: int
    ) -> Bench:
        """Returns the bench of a world and a target of either kind, see find_kind."""
        target = assets.target
        if find_kind(target) == GALLERY:
            gallery = Gallery(
                target.names, target.templates, target.metric, target.threshold, target.scale, target.num_photos
            )
            assets = dataclasses.replace(assets, target=attach(Remembered(target.network), gallery))
        whitening = fit_whitening(assets.generator, device=torch.device("cpu"))
        return cls(assets, spec, work, tuple(identities), pictures, blends, steps, {}, whitening)

    def pool(self, seed: int) -> Pool:
        """Returns the pictures of a seed, kept in the work folder for the next call."""
        if seed not in self.pools:
            file = self.work / f"shown-{self.pictures}-seed{seed}.safetensors"
            if file.is_file():
                kept = load_state(file)
                make = bind_making(self.assets.generator, self.assets.target)
                self.pools[seed] = Pool(kept["w"], kept["pictures"], kept["embeddings"], make)
                if isinstance(network := getattr(self.assets.target, "network", None), Remembered):
                    network.remember(kept["pictures"], kept["embeddings"])
            else:
                pool = self.pools[seed] = make_pool(self.assets.generator, self.assets.target, self.pictures, seed)
                save_state(file, {"w": pool.w, "pictures": pool.pictures, "embeddings": pool.embeddings})
        return self.pools[seed]

    def open_door(self, attacker: Attacker, queries: Queries) -> TargetAccess:
        """Returns the target as an attacker sees it, at the operator's threshold."""
        target = self.assets.target
        if attacker.far:
            gallery = Gallery(
                target.names, target.templates, target.metric, self.find_threshold(attacker), target.scale, target.num_photos
            )
            target = attach(target.network, gallery)
        return TargetAccess(target, attacker.access, queries=queries, options=attacker.operator)

    def load_public(self, spec: str) -> nn.Module:
        """Returns a public network, on which a copy of the target is fitted."""
        return self.assets.world.load(spec)

    def find_threshold(self, attacker: Attacker) -> float | None:
        """Returns the threshold at which an attacker's operator accepts.

        Raises: ValueError where the world has none at such a false-match rate: none of its judges is the target's network.
        """
        if not attacker.far:
            return self.assets.target.threshold
        judge = next((one for one in self.assets.world.judge_entries if one.recognizer == self.spec), None)
        limit = None if judge is None else find_shipped(judge, attacker.far)
        if limit is None:
            raise ValueError(
                f"expected a threshold of {self.spec} at FMR {attacker.far:g} in the world, got none; leave it out"
            )
        return limit


def find_kind(target: nn.Module) -> str:
    """Returns the kind of a target: GALLERY, or CLASSES of a network whose classes are the users."""
    return CLASSES if getattr(target, "templates", None) is None else GALLERY


class Remembered(nn.Module):
    """A network that looks at each picture once: every attacker shows the same ones. Gradients are computed anew."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.embedding_dim, self.seen = network, network.embedding_dim, {}
        self.metric, self.num_identities = getattr(network, "metric", "cosine"), None

    def remember(self, pictures: torch.Tensor, embeddings: torch.Tensor) -> None:
        """Takes in embeddings [N,D] of pictures uint8 [N,3,R,R] that were looked at in an earlier call."""
        self.seen |= dict(zip(map(image_convention.digest, image_convention.from_uint8(pictures)), embeddings, strict=True))

    def forward(self, images: torch.Tensor) -> Recognition:
        """Returns the embeddings [N,D]."""
        if images.requires_grad:
            return self.network(images)
        keys = [image_convention.digest(image) for image in images]
        new = [row for row, key in enumerate(keys) if key not in self.seen]
        if new:
            found = self.network(images[new]).embeddings
            fresh = {keys[row]: embedding for row, embedding in zip(new, found, strict=True)}
            if len(self.seen) < MOST_SEEN:
                self.seen |= fresh
            return Recognition(torch.stack([fresh[key] if key in fresh else self.seen[key] for key in keys]), None)
        return Recognition(torch.stack([self.seen[key] for key in keys]), None)


def recover_templates(bench: Bench, cell: Cell) -> dict[int, dict]:
    """Returns queries a user -> {"templates" [T,D], "asked" {user: pictures}, "failed" [users]}, all of one attacker."""
    attacker, target = ATTACKERS[cell.attacker], bench.assets.target
    own = target.templates[list(bench.identities)].cpu()
    if attacker.access == "embeddings":
        return {0: {"templates": own, "asked": {}, "failed": []}}
    pool, found = bench.pool(cell.seed), {}
    if attacker.access == "scores":
        for count in attacker.queries:
            queries = Queries(target.num_identities)
            access = bench.open_door(attacker, queries)
            recovered = recover_from_similarities(access, pool, bench.identities, count)
            found[count] = {"templates": recovered.templates, "asked": queries.describe()["per_identity"], "failed": []}
        return found
    return recover_by_decisions(bench, cell, pool)


def recover_by_decisions(bench: Bench, cell: Cell, pool: Pool) -> dict[int, dict]:
    """Returns the same of who sees accept or reject: one run a user, looked at on the way and kept when it has ended.

    A user as whom nothing was ever accepted has failed; the template is then what the rejections leave.
    """
    attacker = ATTACKERS[cell.attacker]
    found: dict[int, dict] = {count: {"templates": [], "asked": {}, "failed": []} for count in attacker.queries}
    for user in bench.identities:
        file = bench.work / f"{cell.name}-user{user}.safetensors"
        if not file.is_file():
            save_state(file, recover_user(bench, attacker, pool, user, cell.seed))
        kept = load_state(file)
        for count, entry in found.items():
            entry["templates"].append(kept["templates"][count])
            entry["asked"][user] = min(count, kept["spent"])
            entry["failed"] += [user] if kept["failed"] else []
    return {count: entry | {"templates": torch.stack(entry["templates"])} for count, entry in found.items()}


def recover_user(bench: Bench, attacker: Attacker, pool: Pool, user: int, seed: int) -> dict:
    """Returns {"templates" {queries: [D]}, "spent", "failed"} of one user."""
    queries, seen, latest = Queries(bench.assets.target.num_identities), {}, []

    def look(identity: int, asked: int, template: Callable) -> None:
        latest[:] = [template]
        if asked in attacker.queries:
            seen[asked] = torch.from_numpy(template()).float()

    try:
        last = recover_from_decisions(
            bench.open_door(attacker, queries), pool, (user,), attacker.queries[-1], bench.find_threshold(attacker),
            seed=seed, blends=bench.blends, on_query=look, enough=Recovery().enough,
        ).templates[0]  # fmt: skip
        failed = False
    except FaultError:  # nothing was accepted, maybe of all the pictures that there are
        last, failed = torch.from_numpy(latest[0]()).float(), True
    templates = {count: seen.get(count, last) for count in attacker.queries}
    return {"templates": templates, "spent": int(queries.each[user]), "failed": failed}


def invert_templates(bench: Bench, templates: torch.Tensor, seed: int) -> torch.Tensor:
    """Returns pictures [T,3,R,R] of templates [T,D], one a user, searched through the attacker's own copy of the network.

    A short form of template inversion: the start is the nearest picture of the pool, moved in w_plus for `steps` steps,
    one transform a step, without a choice among several.
    """
    target, generator, pool = bench.assets.target, bench.assets.generator, bench.pool(seed)
    config = dataclasses.replace(TEMPLATE, optim=Optim(transforms=1))
    goal = TemplateGoal(templates, metric=target.metric).aim_past(pool.embeddings, config.contrast)
    near = torch.cdist(templates, pool.embeddings).argmin(1)
    space = SPACES["w_plus"].begin(
        Origin(config, generator, torch.zeros(len(near), generator.z_dim), lambda: bench.whitening)
    )
    with torch.no_grad():
        space.v.copy_(bench.whitening.to_v(pool.w[near]))
    space.project_()
    trial = Trial(TargetAccess(target), goal, RandomAffine(), 1)
    streams = Streams((seed, "access", user) for user in bench.identities)
    rows = torch.arange(len(templates))
    minimise(space, trial, rows, streams, steps=bench.steps, optim=config.optim, batch=Batch(BATCH), log_every=bench.steps)
    with torch.no_grad():
        pictures = torch.cat([image_convention.to_uint8(space(part)) for part in rows.split(BATCH)])
    return image_convention.from_uint8(pictures)


def judge_pictures(bench: Bench, pictures: torch.Tensor) -> list[dict]:
    """Returns of each user {"identity", "given_away", "accepted" {judge: bool}, "named" {judge: bool}}."""
    shown = pictures[:, None]
    controls = {"another user's reconstruction": shown.roll(1, 0)} if len(shown) > 1 else {}
    leak = measure_leak(
        shown, bench.identities, controls, bench.assets.judges, bench.assets.references, RecognitionCache(pictures)
    )
    return list(leak.users)


def measure(bench: Bench, found: Mapping) -> dict:
    """Returns {"distance" [T], "asked", "failed"} of what was recovered: how far each template is from the true one."""
    own = bench.assets.target.templates[list(bench.identities)].cpu()
    if bench.assets.target.metric == "cosine":
        own = torch.nn.functional.normalize(own, dim=1)
    distance = (found["templates"] - own).norm(dim=1)
    return {"distance": [round(float(value), 5) for value in distance], "asked": found["asked"], "failed": found["failed"]}
