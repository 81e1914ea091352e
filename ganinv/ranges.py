"""The range of every number of every configuration, checked in one place, before anything is loaded or written."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

# option -> its interval, "(" and ")" without the end; those of one command as Command.option. The upper ends are far beyond
# what anybody needs: they keep a typing mistake from filling the memory, or from overflowing in a library below
RANGES = {
    # an attack
    "steps": "[0, 1e7]",
    "candidates": "[0, 1e7]",
    "restarts": "[1, 1e4]",
    "keep": "[1, 1e4]",
    "final_transforms": "[1, 1e5]",
    "batch": "[0, 1e6]",
    "together": "[0, 1e6]",
    "workers": "[0, 1e4]",
    "psi": "[0, 2]",
    "bound": "[0, 100]",
    "contrast": "[0, 10]",
    "blur_sigma": "[0, 5]",
    "tv": "[0, 1e6]",
    "l2": "[0, 1e6]",
    "log_every": "[0, 1e9]",
    "image_every": "[1, 1e9]",
    "save_every": "[1, 1e9]",
    "seed": "[0, 9223372036854775807]",
    "threshold": "[-1e6, 1e6]",
    "optim.lr": "(0, 1e6]",
    "optim.betas": "[0, 1)",
    "optim.transforms": "[1, 1000]",
    "optim.patience": "[0, 1e9]",
    "optim.threshold": "[-1e6, 1e6]",
    "optim.halve_at": "(0, 1)",
    "optim.leave_at": "[0, 1]",
    "optim.average_last": "[0, 1e7]",
    "optim.pairs": "[1, 1e5]",
    "optim.sigma": "(0, 1e3]",
    "optim.coordinates": "[2, 1e5]",
    "optim.temperature": "(0, 1e6]",
    "augment.flip": "[0, 1]",
    "augment.degrees": "[0, 360]",
    "augment.scale": "[0.1, 10]",
    "augment.shift": "[0, 1]",
    "Operator.decimals": "[0, 12]",
    "Operator.top": "[1, 1e9]",
    "Operator.noise": "[0, 1e6]",
    "Operator.noise_seed": "[0, 9223372036854775807]",
    "Operator.limit": "[1, 1e12]",
    "Operator.budget": "[1, 1e12]",
    "Recovery.queries": "[2, 1e6]",
    "Recovery.enough": "[0, 1]",
    "Recovery.pictures": "[2, 1e6]",
    "Surrogate.pictures": "[16, 1e6]",
    "Surrogate.rounds": "[1, 1e4]",
    "Surrogate.views": "[1, 1e5]",
    # trainings
    "TrainGan.steps": "[1, 1e9]",
    "TrainGan.batch": "[1, 1e6]",
    "TrainGan.seed": "[0, 9223372036854775807]",
    "RefinePrior.steps": "[1, 1e9]",
    "RefinePrior.batch": "[2, 1e6]",
    "GanTraining.steps": "[1, 1e9]",
    "GanTraining.batch": "[1, 1e6]",
    "RecognizerTraining.steps": "[1, 1e9]",
    "RecognizerTraining.batch": "[1, 1e6]",
    "TrainRecognizer.seed": "[-1, 9223372036854775807]",
    "TrainFactors.steps": "[1, 1e9]",
    "resolution": "[0, 4096]",
    "minutes": "[0, 1e6]",
    "capacity": "[1, 1024]",
    "alone": "[0, 1]",
    "perceptual": "[0, 1000]",
    "divergence": "[0, 1000]",
    "identity": "[0, 1000]",
    "adversarial": "[0, 1000]",
    "lr": "(0, 1e6]",
    "sample_every": "[1, 1e9]",
    # photos, studies, tools
    "users": "[1, 1000]",
    "public": "[1, 99000]",
    "photos_per_user": "[1, 1000]",
    "photos_per_public": "[1, 1000]",
    "shift": "[-10, 10]",
    "min_photos": "[1, 1e6]",
    "size": "[16, 4096]",
    "margin": "[0, 2]",
    "count": "[0, 1e6]",
    "MeasurePrior.count": "[1, 1e6]",
    "psis": "(0, 1.5]",
    "jobs": "[1, 1000]",
    "StudyCapacity.steps": "[1, 1e7]",
    "StudyCapacity.batch": "[8, 1e6]",
    "StudyCapacity.public": "[10, 99000]",
    "StudyAccess.pictures": "[2, 1e6]",
    "StudyAccess.most": "[1, 1e9]",
    "blends": "[0, 1e6]",
    "attack_steps": "[0, 1e7]",
    "seeds": "[1, 1000]",
    "steps_per_users": "[0, 1e6]",
    "threads": "[0, 1024]",
    "Benchmark.minutes": "(0, 1440]",
    "Benchmark.users": "[1, 1e9]",
    "power": "[0, 1e6]",
    "pictures": "[1, 100]",
    "ProbeAttributes.people": "[1, 1e9]",
    "share": "[0, 1]",
    "people": "[5, 1000]",
    "catch": "[0, 1000]",
    "references": "[1, 4]",
    "catch_threshold": "[0, 1]",
}


def check_ranges(config) -> None:
    """Returns if every number of a configuration lies in its range; one without a range must be finite.

    config: a dataclass, of parts that are dataclasses. Raises: ValueError naming the first that does not.
    """
    for name, value, interval in list_numbers(config):
        if (isinstance(value, float) and not math.isfinite(value)) or (interval and not lies_in(value, interval)):
            raise ValueError(f"expected {name} in {interval or 'the finite numbers'}, got {value}")


def list_numbers(config, part: str = "") -> Iterator[tuple[str, float, str]]:
    """Yields (option, number, its interval or "") of a configuration and its parts; the numbers of a tuple one by one."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from list_numbers(value, field.name)
            continue
        names = (f"{type(config).__name__}.{field.name}", f"{part}.{field.name}", field.name)
        found = next((name for name in names if name in RANGES), field.name)
        shown = found.removeprefix(f"{type(config).__name__}.")
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not isinstance(number, bool):
                yield shown, number, RANGES.get(found, "")


def lies_in(value: float, interval: str) -> bool:
    """Says whether a number lies in an interval such as "(0, 1]"."""
    low, high = (float(end) if "." in end or "e" in end else int(end) for end in interval[1:-1].split(", "))
    return (low < value if interval[0] == "(" else low <= value) and (value < high if interval[-1] == ")" else value <= high)
