"""The whole loop against published ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from ganinv.attack.config import AttackConfig, Optim
from ganinv.attack.invert import invert
from ganinv.engine.checkpoint import append_jsonl
from ganinv.studies.benchmark.bench import DEEP, SMALL, STILL, WIDE, Bench, make_row
from ganinv.studies.benchmark.networks import IDENTITIES, Route, choose_precision, make_step
from ganinv.studies.benchmark.timing import Turns


def measure_loop(bench: Bench) -> Iterator[dict]:
    """Yields a step of invert, its log included, against bare forward+backward of the same networks; 1 is no overhead."""
    transforms, targets = Optim().transforms, (SMALL,) if bench.quick else (SMALL, DEEP)
    for target in targets:
        pair = bench.pair(8, target)
        bare = {"bare": make_step(pair.engine, bench.batch, bench.device, transforms=transforms)}
        config = AttackConfig(
            candidates=0, restarts=1, batch=bench.batch, final_transforms=1, steps=bench.count_steps(bare, len(targets))
        )
        log, turns = bench.folder / "steps.jsonl", Turns(bare, bench.device)

        def on_step(row: dict, log: Path = log) -> None:
            append_jsonl(log, {key: value for key, value in row.items() if key != "images"})

        invert(
            pair.engine.generator, pair.engine.recognizer, tuple(range(bench.batch)), config, device=bench.device,
            on_step=on_step, on_state=turns,
        )  # fmt: skip
        times = {"bare": turns.times["bare"], "float32": turns.times["loop"]}
        yield make_row(
            f"whole loop, {pair.name}", "ms per candidate and step", "bare", times, units=bench.batch,
            notes={"transforms": transforms},
        )  # fmt: skip


def measure_pixels(bench: Bench) -> Iterator[dict]:
    """Yields a pixel step of 16 users in one batch against MIFace of the Adversarial Robustness Toolbox, class by class."""
    for target in (SMALL,) if bench.quick else (SMALL, DEEP, WIDE):
        pair = bench.pair(8, target)
        try:
            attack = build_miface(pair.stock, bench.side)
        except ImportError:
            yield {"what": f"pixel step, {target}", "absent": "needs pip install -e '.[benchmark]'"}
            continue
        start, labels = torch.zeros(1, 3, bench.side, bench.side), iter(range(10**9))
        others = {"MIFace": lambda attack=attack, start=start, labels=labels: run_miface(attack, start, next(labels))}
        auto, taken = choose_precision(pair.engine, bench.batch, bench.device)
        times: dict[str, list[float]] = {"MIFace": []}
        paired: dict[str, list[float]] = {}
        for name, route in {"float32": pair.engine, "auto": auto}.items():
            config = AttackConfig(
                space="pixels", objective="confidence", restarts=1, batch=bench.batch, final_transforms=1, augment=STILL,
                optim=Optim(optimizer="gradient_descent", lr=10.0, decay=False, transforms=1),
                steps=bench.count_steps(others, 6),
            )  # fmt: skip
            turns = Turns(others, bench.device)
            invert(
                None, route.recognizer, tuple(range(bench.batch)), config, start=start.expand(bench.batch, -1, -1, -1),
                device=bench.device, on_state=turns,
            )  # fmt: skip
            times[name] = turns.times["loop"]
            paired[name] = turns.times["MIFace"]
            times["MIFace"] += paired[name]
        units = {"MIFace": 1, "float32": bench.batch, "auto": bench.batch}
        yield make_row(
            f"pixel step, {target}", "ms per user and step", "MIFace", times, units=units, notes={"auto": taken}, turns=paired
        )


def build_miface(route: Route, side: int):
    """Returns the toolbox's attack on a stock target, one iteration a call. Raises: ImportError without the toolbox."""
    from art.attacks.inference.model_inversion import MIFace
    from art.estimators.classification import PyTorchClassifier

    recognizer = route.recognizer

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.recognizer = recognizer

        def forward(self, images):
            return self.recognizer(images).logits

    classifier = PyTorchClassifier(
        Logits(), torch.nn.CrossEntropyLoss(), (3, side, side), IDENTITIES, clip_values=(-1.0, 1.0),
        device_type="gpu" if next(recognizer.parameters()).is_cuda else "cpu",
    )  # fmt: skip
    # a cost is at most 1: with this threshold no class stops before its iteration
    return MIFace(classifier, max_iter=1, threshold=1.0, verbose=False)


def run_miface(attack, start: torch.Tensor, label: int) -> None:
    """Runs the attack on one class, with the gradients of the weights that a loaded model has."""
    import numpy as np

    module = attack.estimator.model
    module.requires_grad_(True)
    attack.infer(start.numpy(), np.array([label % IDENTITIES]))
    module.requires_grad_(False).zero_grad(set_to_none=True)
