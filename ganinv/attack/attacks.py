"""The attacks as objects: settings first, then models and users. The one loop behind them is invert.invert."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch

from ganinv.attack.config import LATENT, LATENT_GOALS, PIXEL_VARIANTS, AttackConfig, suit_goal
from ganinv.attack.goals import make_goal
from ganinv.attack.invert import ignore
from ganinv.attack.offline import attack as run_search
from ganinv.attack.result import AttackResult
from ganinv.attack.spread import Spread, Workers
from ganinv.attack.start import draw_probes
from ganinv.engine.allocation import keep_memory
from ganinv.engine.precision import choose_precision, ready_recognizer
from ganinv.interfaces import Generator, Recognizer
from ganinv.recognizers.recognize import find_device
from ganinv.worlds.photo_check import check_photos


class LatentAttack:
    """The search of a prior's latent space for the pictures that a target takes for its users.

    settings: fields of AttackConfig by name, such as space="w_plus", steps=100, restarts=4, access="gradients"; those of
    its parts as dicts, optim={"lr": 0.05}. What is not named is as in scripts/latent_attack.py, which has other values for
    goal="template": that of a user's stored embedding, not of the score.

    >>> import ganinv
    >>> ganinv.LatentAttack(steps=50, optim={"transforms": 1})
    LatentAttack(steps=50, optim.transforms=1)

    Raises: ValueError for a name that is no setting; a value that cannot be run is refused when the attack is called.
    """

    defaults = LATENT

    def __init__(self, **settings: object):
        self.defaults = LATENT_GOALS.get(settings.get("goal"), LATENT)
        self.config = configure(self.defaults, settings)

    def __call__(
        self,
        prior: Generator,
        target: Recognizer,
        identities: Iterable[int] = range(10),
        *,
        templates: torch.Tensor | None = None,
        seed: int = 0,
        photos: str | Path | None = None,
        force: bool = False,
        surrogate: Recognizer | None = None,
        on_step: Callable[[dict], None] = ignore,
        workers: Workers | None = None,
    ) -> AttackResult:
        """Returns the pictures found for the identities, users of the target by number.

        templates [T,D]: embeddings to reach instead of the users' scores; identity i is then row i. The attack runs where
        the target's weights are. photos: a folder of photos of the users, on which the target is tried before the attack,
        which sees none of them; force: go on whatever it says of them. on_step gets a row a step: "step", "objective", ...
        workers: an open ganinv.RayWorkers, over which the work is spread; None: this process. surrogate: a public network
        on which a copy of the target is fitted to its scores, and searched in its place.
        Raises: ValueError, see invert.invert; where the photos say that the target is fed wrongly.
        """
        identities = try_first(target, identities, photos, prior.resolution, force)
        config = self.config
        if surrogate is not None and not config.surrogate.network:
            config = dataclasses.replace(config, surrogate=dataclasses.replace(config.surrogate, network="of one's own"))
        return search(config, prior, target, identities, templates, seed, None, prior.resolution, on_step, workers, surrogate)

    def __repr__(self) -> str:
        changed = list_changes(self.config, self.defaults)
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in changed.items())})"


class PixelAttack(LatentAttack):
    """The paper's search in pixel space on the same target and users. variant: "gray-box", "white-box" or "modern".

    Source: Khosravy et al. 2021; "modern" is a strong search of today, with Adam, total variation and random transforms.
    Raises: ValueError for another variant, or a name that is no setting.
    """

    def __init__(self, variant: str = "gray-box", **settings: object):
        if variant not in PIXEL_VARIANTS:
            raise ValueError(f"expected a variant among {', '.join(PIXEL_VARIANTS)}, got {variant!r}")
        self.variant, self.defaults = variant, suit_goal(PIXEL_VARIANTS[variant][0], str(settings.get("goal", "class")))
        self.config = configure(self.defaults, settings)

    def __call__(
        self,
        target: Recognizer,
        identities: Iterable[int] = range(10),
        *,
        resolution: int = 64,
        start: torch.Tensor | None = None,
        templates: torch.Tensor | None = None,
        seed: int = 0,
        photos: str | Path | None = None,
        force: bool = False,
        on_step: Callable[[dict], None] = ignore,
        workers: Workers | None = None,
    ) -> AttackResult:
        """Returns the pictures found for the identities.

        resolution: their side. start [T,C,R,R] in [-1,1]: the first pictures, one for each identity (C=1: greyscale);
        None: mid-grey, in colour. For the rest see LatentAttack.
        Raises: ValueError, see LatentAttack; for the variant "white-box" without a start picture.
        """
        identities = try_first(target, identities, photos, resolution, force)
        if start is None and self.variant == "white-box":
            raise ValueError(
                "expected start pictures for the variant white-box, which tell something of the user, got none"
                "; pass start=, one picture for each identity"
            )
        if start is None:
            start = torch.zeros(len(identities), 3, resolution, resolution)
        return search(self.config, None, target, identities, templates, seed, start, start.shape[-1], on_step, workers)


def try_first(
    target: Recognizer, identities: Iterable[int], photos: str | Path | None, resolution: int, force: bool
) -> tuple[int, ...]:
    """Returns the identities after trying the target on photos, where there are any. Raises: ValueError, see require."""
    try:
        identities = tuple(int(identity) for identity in identities)
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected identities as numbers of users, such as [0, 1], got {identities!r}") from error
    if photos is not None and not force:
        check_photos(target, photos, identities, resolution=resolution).require()
    return identities


def search(
    config: AttackConfig,
    prior: Generator | None,
    target: Recognizer,
    identities: Iterable[int],
    templates: torch.Tensor | None,
    seed: int,
    start: torch.Tensor | None,
    resolution: int,
    on_step: Callable[[dict], None],
    workers: Workers | None,
    surrogate: Recognizer | None = None,
) -> AttackResult:
    """Returns what invert finds, with the target in its faster, equal form."""
    keep_memory()
    device = find_device(target)
    config = config if templates is None else dataclasses.replace(config, goal="template")
    goal = make_goal(config, target, templates)
    fast = ready_recognizer(target, resolution, device)
    identities = tuple(int(identity) for identity in identities)
    probes = draw_probes(prior, start, config, seed, device)
    searched = choose_precision(config.precision, prior, fast, probes).apply(prior, fast)
    return run_search(
        prior, fast, identities, config, seed=seed, start=start, device=device, searched=searched, goal=goal,
        on_step=on_step, schedule=Spread(workers) if workers else None, surrogate=surrogate,
    )  # fmt: skip


def configure(defaults: AttackConfig, settings: Mapping[str, object]) -> AttackConfig:
    """Returns defaults with settings, whose parts may be dicts. Raises: ValueError for a name that is no setting."""
    names = [field.name for field in dataclasses.fields(defaults)]
    changes = {}
    for name, value in settings.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {near[0]}?" if near else f" among {', '.join(names)}"
            raise ValueError(f"expected a setting of the attack, got {name}{hint}")
        part = getattr(defaults, name)
        changes[name] = configure(part, value) if isinstance(value, Mapping) and dataclasses.is_dataclass(part) else value
    return dataclasses.replace(defaults, **changes)


def list_changes(config: object, defaults: object, prefix: str = "") -> dict[str, object]:
    """Returns name -> value of the settings that are not the default, those of parts as part.name."""
    changed: dict[str, object] = {}
    for field in dataclasses.fields(config):
        value, default = getattr(config, field.name), getattr(defaults, field.name)
        if dataclasses.is_dataclass(value):
            changed |= list_changes(value, default, f"{prefix}{field.name}.")
        elif value != default:
            changed[prefix + field.name] = value
    return changed
