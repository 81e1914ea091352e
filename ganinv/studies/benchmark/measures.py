"""What is measured: each measure times its sides in turn and returns rows of one form.

A row: {"what", "unit", "against", "times": {side: Spread}, "ratios": {side: Spread}, "notes": {...}}, where a ratio is how
many times faster a side is than `against`, round by round.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ganinv.attack.access import TargetAccess
from ganinv.attack.config import AttackConfig, Augment, Optim
from ganinv.attack.goals import ClassGoal
from ganinv.attack.invert import FORWARD, invert
from ganinv.attack.selection import score_flipped, score_transformed
from ganinv.engine.checkpoint import append_jsonl
from ganinv.engine.randomness import Streams
from ganinv.images import from_uint8
from ganinv.studies.benchmark import networks
from ganinv.studies.benchmark.networks import IDENTITIES, TRANSFORM, Pair, Route, choose_precision, make_step
from ganinv.studies.benchmark.timing import Turns, fit_slope, interleave, ratio, summarise, time_once, wait_for
from ganinv.weights.specs import freeze

SMALL, DEEP, WIDE = "mobilenet_v3_small", "resnet18", "inception_resnet_v1"
PAIRS = ((16, SMALL), (16, WIDE), (8, SMALL), (8, DEEP))
STOCK, PUBLISHED_SIDE, PUBLISHED_BATCH = "stock", 224, 25  # side and batch of Plug & Play's selections
STILL = Augment(flip=0.0, degrees=0.0, scale=(1.0, 1.0), shift=0.0)


@dataclass(frozen=True)
class Bench:
    """Where and how long is measured. quick: the smallest sizes and one round, which say nothing of speed."""

    device: torch.device
    folder: Path  # for weights and logs
    seconds: float = 60.0  # of this measure
    quick: bool = False

    @property
    def batch(self) -> int:
        return 2 if self.quick else 16

    @property
    def side(self) -> int:
        return 32 if self.quick else 64

    @property
    def pairs(self) -> Sequence[tuple[int, str]]:
        return ((2, SMALL),) if self.quick else PAIRS

    def pair(self, capacity: int, target: str) -> Pair:
        """Returns a prior and a target on both sides; built once a process."""
        return cached_pair(
            2 if self.quick else capacity, SMALL if self.quick else target, self.folder, self.device, self.side
        )

    def interleave(self, functions: Mapping[str, Callable], parts: int = 1) -> dict[str, list[float]]:
        """Returns seconds in turns, of one of `parts` comparisons that share the time of this measure."""
        rounds = {"least": 1, "most": 1} if self.quick else {}
        return interleave(functions, seconds=self.seconds / parts, device=self.device, **rounds)

    def count_steps(self, others: Mapping[str, Callable[[], object]], parts: int) -> int:
        """Returns for how many steps others can take turns with a loop, whose steps take as long as the shortest of them."""
        if self.quick:
            return 3
        times = interleave(others, seconds=0.0, device=self.device, least=1, most=1)
        took = sum(seconds for (seconds,) in times.values()) + min(seconds for (seconds,) in times.values())
        return min(40, max(5, int(self.seconds / parts / took)))


cached_pair = functools.cache(
    lambda capacity, target, folder, device, side: networks.build_pair(capacity, target, folder, device, side=side)
)


def make_row(
    what: str, unit: str, against: str, times: Mapping[str, Sequence[float]], *, units: Mapping[str, float] | float = 1.0,
    notes: Mapping | None = None, turns: Mapping[str, Sequence[float]] | None = None,
) -> dict:  # fmt: skip
    """Returns a row of the seconds that `against` and other sides took, round by round.

    units: of work that one call does, by side; turns: the seconds of `against` that a side took turns with, where these
    are not times[against].
    """
    of = {side: units[side] if isinstance(units, Mapping) else units for side in times}
    ours = [side for side in times if side != against]
    quotients = {side: ratio((turns or {}).get(side, times[against]), times[side]) for side in ours}
    scales = {side: of[side] / of[against] for side in ours}
    return {
        "what": what,
        "unit": unit,
        "against": against,
        "times": {side: dataclasses.asdict(summarise([1000 * v / of[side] for v in times[side]])) for side in times},
        "ratios": {
            side: {key: value if key == "rounds" else value * scales[side] for key, value in dataclasses.asdict(q).items()}
            for side, q in quotients.items()
        },
        "notes": dict(notes or {}),
    }


# ---- the engine against the stock modules


def measure_steps(bench: Bench) -> Iterator[dict]:
    """Yields forward+backward to the latent, one random transform included: stock modules, float32 and auto."""
    for capacity, target in bench.pairs:
        pair = bench.pair(capacity, target)
        auto, taken = choose_precision(pair.engine, bench.batch, bench.device)
        sides = {STOCK: pair.stock, "float32": pair.engine, "auto": auto}
        steps = {name: make_step(side, bench.batch, bench.device) for name, side in sides.items()}
        times = bench.interleave(steps, len(bench.pairs))
        notes = {"auto": taken, "differences": networks.compare_sides(pair, bench.device, 2)}
        yield make_row(f"step, {pair.name}", "ms per candidate and step", STOCK, times, units=bench.batch, notes=notes)


def measure_selection(bench: Bench) -> Iterator[dict]:
    """Yields the initial and the final selection, against the way of Struppek et al. 2022 over the stock modules."""
    pair = bench.pair(8, SMALL)
    auto, taken = choose_precision(pair.engine, bench.batch, bench.device)
    pool, wanted = 2 * bench.batch if bench.quick else 256, torch.arange(5, device=bench.device)
    sides = {"float32": pair.engine, "auto": auto}

    @torch.no_grad()
    def start(route: Route) -> torch.Tensor:
        z = torch.randn(pool, route.generator.z_dim, device=bench.device)
        pictures = route.generator.synthesize(route.generator.map(z, 0.8)).clamp(-1, 1)
        return score_flipped(TargetAccess(route.recognizer), ClassGoal(), pictures, wanted)

    times = bench.interleave(
        {STOCK: lambda: start_published(pair.stock, bench.device)}
        | {name: functools.partial(start, route) for name, route in sides.items()},
        2,
    )
    units = {STOCK: PUBLISHED_BATCH, "float32": pool, "auto": pool}
    yield make_row(f"initial selection, {pair.name}", "ms per latent", STOCK, times, units=units, notes={"auto": taken})

    with torch.no_grad():
        w = networks.draw_latents(pair.stock.generator, bench.batch, bench.device)
        pictures = pair.stock.generator.synthesize(w).clamp(-1, 1)
    identities, count = torch.arange(bench.batch, device=bench.device), 1 if bench.quick else 8

    def finish(route: Route) -> torch.Tensor:
        draws = Streams((("final", index) for index in range(bench.batch)), bench.device).take()
        return score_transformed(
            TargetAccess(route.recognizer), ClassGoal(), pictures, identities, TRANSFORM, draws, count,
            batch=FORWARD * bench.batch,
        )  # fmt: skip

    published = make_published_choice(pair.stock, pictures, identities, 1)
    times = bench.interleave(
        {STOCK: published} | {name: functools.partial(finish, route) for name, route in sides.items()}, 2
    )
    units = {STOCK: bench.batch, "float32": bench.batch * count, "auto": bench.batch * count}
    yield make_row(
        f"final selection, {pair.name}", "ms per candidate and transform", STOCK, times, units=units, notes={"auto": taken}
    )


@torch.no_grad()
def start_published(route: Route, device: torch.device) -> torch.Tensor:
    """Returns the confidences [N,C] of a batch of latents as Plug & Play attacks score them: at 224 px, with the mirror.

    Source: Struppek et al. 2022, attacks/initial_selection.py of their code, whose centre crop a 64 px prior does not need.
    """
    from torchvision.transforms.v2.functional import resize

    z = torch.randn(PUBLISHED_BATCH, route.generator.z_dim, device=device)
    images = route.generator.synthesize(route.generator.map(z, 0.7)).clamp(-1, 1)
    images = resize(images, [PUBLISHED_SIDE, PUBLISHED_SIDE], antialias=True)
    return sum(recognize_as_given(route, view).softmax(1) / 2 for view in (images, images.flip(3)))


def make_published_choice(
    route: Route, pictures: torch.Tensor, identities: torch.Tensor, count: int
) -> Callable[[], torch.Tensor]:
    """Returns a function that scores pictures [N,3,R,R] over transforms as Plug & Play attacks do: always at 224 px.

    Source: Struppek et al. 2022, attacks/final_selection.py of their code and its default transforms.
    """
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.RandomResizedCrop((PUBLISHED_SIDE, PUBLISHED_SIDE), scale=(0.5, 0.9), ratio=(0.8, 1.2), antialias=True),
            v2.RandomHorizontalFlip(0.5),
        ]
    )

    @torch.no_grad()
    def choose() -> torch.Tensor:
        views = (transform(pictures) for _ in range(count))
        return sum(recognize_as_given(route, view).softmax(1).gather(1, identities[:, None]) for view in views) / count

    return choose


def recognize_as_given(route: Route, images: torch.Tensor) -> torch.Tensor:
    """Returns the logits of the stock classifier at the pictures' own size."""
    recognizer = route.recognizer
    return recognizer.network(dataclasses.replace(recognizer.preprocessing, size=None)(images))


# ---- the whole loop


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


# ---- training


@dataclass(frozen=True)
class RandomPhotos:
    """data.Photos of noise, [N,3,R,R], whose reader lets others take a turn before every step of train_gan."""

    pixels: torch.Tensor
    take_turn: Callable[[], None]

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self, index: torch.Tensor) -> torch.Tensor:
        """Returns images [n,3,R,R] in [-1,1]."""
        self.take_turn()
        return from_uint8(self.pixels[index])


def measure_training(bench: Bench) -> Iterator[dict]:
    """Yields a training step of the prior against one of stylegan2-pytorch, penalties spread as each spreads them."""
    from ganinv.cli import choose_training_precision
    from ganinv.recognizers.cosine import CosineRecognizer
    from ganinv.training.frozen_features import RecognizerFeatures
    from ganinv.training.gan import GanTraining, train_gan

    batch, capacity, skipped = (2, 2, 0) if bench.quick else (16, 8, 2)  # kernels are built in the first steps
    # the penalty comes every second step, so that few steps time both kinds; then its share is that of the defaults
    config = GanTraining(
        resolution=bench.side, capacity=capacity, batch=batch, alone=0.0, r1_every=2, steps=3 if bench.quick else 9,
        save_every_s=math.inf, precision=choose_training_precision("auto", bench.device),
    )  # fmt: skip
    pixels = torch.randint(0, 256, (64, 3, bench.side, bench.side), dtype=torch.uint8)
    features = CosineRecognizer("vgg_trunk", num_identities=0)
    networks.calibrate(features.backbone, from_uint8(pixels))
    stock, turn, clock = StockTraining(config.resolution, capacity, batch, bench.device), itertools.count(), []
    times: dict[str, list[float]] = {STOCK: [], "default": []}

    def take_turn() -> None:
        wait_for(bench.device)
        now, number = time.perf_counter(), next(turn)
        if clock:
            times["default"].append(now - clock.pop())
        if skipped <= number < config.steps - 1:  # after the last there is no step of ours that ends with a turn
            times[STOCK].append(time_once(lambda: stock.step(penalty=number % 2 == 0), bench.device))
        elif number == 0:
            stock.step(penalty=False)
        clock.append(time.perf_counter())

    folder = Path(tempfile.mkdtemp(dir=bench.folder))
    eye = RecognizerFeatures(freeze(features, bench.device))
    train_gan(config, RandomPhotos(pixels, take_turn), folder, device=bench.device, features=eye)
    every = {STOCK: StockTraining.penalty_every, "default": GanTraining().r1_every}
    times["default"] = times["default"][skipped:]
    times = {side: spread_penalty(values, every[side]) for side, values in times.items()}
    notes = {"default": f"{config.precision}; with encoder and face distance", "steps between penalties": every}
    yield make_row(f"training step, capacity {capacity}, batch {batch}", "ms per step", STOCK, times, notes=notes)


def spread_penalty(times: Sequence[float], every: int) -> list[float]:
    """Returns the seconds of a step with its share of a penalty that comes every `every` steps.

    times: of steps with and without the penalty, in turn.
    """
    return [plain + max(0.0, penalised - plain) / every for penalised, plain in zip(times[::2], times[1::2], strict=False)]


class StockTraining:
    """stylegan2-pytorch's own training step: its networks, hinge losses, and gradient penalty on both sides.

    Source: Trainer.train of stylegan2-pytorch 1.9, without augmentation and the path penalty, both off at first there.
    """

    penalty_every = 4

    def __init__(self, resolution: int, capacity: int, batch: int, device: torch.device):
        from ganinv.priors.stylegan2_pytorch import build_networks, import_stylegan2_pytorch

        self.package = import_stylegan2_pytorch()
        self.mapping, self.synthesis = (net.to(device) for net in build_networks(resolution, capacity))
        self.critic = self.package.Discriminator(resolution, capacity).to(device)
        self.photos = torch.rand(batch, 3, resolution, resolution, device=device)
        generator = [*self.mapping.parameters(), *self.synthesis.parameters()]
        self.optimizers = [torch.optim.Adam(p, 2e-4, betas=(0.5, 0.9)) for p in (generator, self.critic.parameters())]

    def draw(self) -> torch.Tensor:
        """Returns generated pictures."""
        batch, device, network = len(self.photos), self.photos.device, self.synthesis
        w = self.mapping(torch.randn(batch, network.latent_dim, device=device))
        noise = torch.rand(batch, network.image_size, network.image_size, 1, device=device)
        return network(w[:, None].expand(-1, network.num_layers, -1), noise)

    def step(self, *, penalty: bool) -> None:
        """Trains the discriminator, then the generator."""
        fake, photos = self.draw().detach().clone(), self.photos.clone()
        for images in (fake, photos):
            images.requires_grad_(penalty)
        fake_logits, logits = self.critic(fake)[0], self.critic(photos)[0]
        loss = self.package.hinge_loss(fake_logits, logits)
        if penalty:
            loss = loss + self.package.gradient_penalty(photos, logits) + self.package.gradient_penalty(fake, fake_logits)
        self.optimizers[1].zero_grad()
        loss.backward()
        self.optimizers[1].step()
        self.optimizers[0].zero_grad()
        self.package.gen_hinge_loss(self.critic(self.draw())[0], None).backward()
        self.optimizers[0].step()


# ---- growth


def measure_growth(bench: Bench) -> Iterator[dict]:
    """Yields {"along", "sizes", "seconds", "slope"}: whole short inversions on a small prior, and how their time grows."""
    folder, device = bench.folder, bench.device
    side, sides = (16, (16, 32)) if bench.quick else (32, (32, 64, 128))
    routes = {r: cached_pair(2, SMALL, folder, device, r).engine for r in sides}
    batch = 2 if bench.quick else 8
    short = {"space": "z", "final_transforms": 1, "candidates": 0, "steps": 1 if bench.quick else 3}

    def run(users: int, resolution: int = side, **options) -> Callable[[], object]:
        config = AttackConfig(**(short | {"restarts": 1, "batch": batch} | options))
        route = routes[resolution]
        return lambda: invert(route.generator, route.recognizer, tuple(range(users)), config, device=device)

    doubled = [batch * factor for factor in ((1, 2) if bench.quick else (1, 2, 4, 8))]
    growths = {
        "users": {n: run(n) for n in doubled},
        "restarts (candidates that are optimised)": {n: run(batch // 2, restarts=n) for n in doubled},
        "pool (candidates that are scored)": {n: run(1, candidates=n, steps=0) for n in [64 * n for n in doubled]},
        "resolution (side)": {r: run(batch, r) for r in sides},
        "batch, the same work": {n: run(doubled[-1], batch=n) for n in [doubled[0] // 2, *doubled]},
    }
    for along, functions in growths.items():
        times = bench.interleave({str(size): function for size, function in functions.items()}, len(growths))
        seconds = [summarise(values).median for values in times.values()]
        yield {"along": along, "sizes": list(functions), "seconds": seconds, "slope": fit_slope(list(functions), seconds)}


# ---- profile


def measure_profile(bench: Bench) -> Iterator[dict]:
    """Yields where the engine's step spends its time.

    {"profile", "ms", "shares": {kind of operator: share}, "convolutions": GFLOP/s of them, "best": of the fastest
    convolution, "operators": [{"name", "share", "ms", "calls"}]}: so much of the step is arithmetic, as fast as that.
    """
    from torch.profiler import ProfilerActivity, profile
    from torch.utils.flop_counter import FlopCounterMode

    best = {dtype: time_convolution(bench, getattr(torch, dtype)) for dtype in ("float32", "bfloat16")}
    for capacity, target in bench.pairs:
        pair = bench.pair(capacity, target)
        auto, taken = choose_precision(pair.engine, bench.batch, bench.device)
        for precision, route in {"float32": pair.engine, f"auto ({taken})": auto}.items():
            step = make_step(route, bench.batch, bench.device)
            with FlopCounterMode(display=False) as counted:
                step()
            with profile(activities=[ProfilerActivity.CPU]) as profiled:
                step()
            events = sorted(profiled.key_averages(), key=lambda event: -event.self_cpu_time_total)
            shares = dict.fromkeys(("convolutions", "matrix products", "all else"), 0.0)
            total = sum(event.self_cpu_time_total for event in events)
            for event in events:
                shares[classify_operator(event.key)] += event.self_cpu_time_total / total
            operators = [
                {
                    "name": event.key,
                    "share": event.self_cpu_time_total / total,
                    "ms": event.self_cpu_time_total / 1000,
                    "calls": event.count,
                }
                for event in events[:12]
            ]
            flops = sum(value for op, value in counted.get_flop_counts()["Global"].items() if "convolution" in str(op))
            yield {
                "profile": f"step, {pair.name}, {precision}",
                "ms": total / 1000,
                "shares": shares,
                "convolutions": flops / 1000 / (total * shares["convolutions"]),
                "best": best["float32" if precision == "float32" else "bfloat16"],
                "operators": operators,
            }


def classify_operator(name: str) -> str:
    """Returns of what kind an operator of the profiler is."""
    if "convolution" in name:
        return "convolutions"
    return "matrix products" if name.endswith(("mm", "linear")) else "all else"


@torch.no_grad()
def time_convolution(bench: Bench, dtype: torch.dtype) -> float:
    """Returns the GFLOP/s of a convolution whose shape suits a processor: 3x3, 256 to 256 channels, at 32 px."""
    count, channels, side = bench.batch, 16 if bench.quick else 256, 32
    x = torch.randn(count, channels, side, side, device=bench.device, dtype=dtype)
    weight = torch.randn(channels, channels, 3, 3, device=bench.device, dtype=dtype)
    x, weight = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (x, weight))
    times = bench.interleave({"best": lambda: torch.nn.functional.conv2d(x, weight, padding=1)})["best"]
    return 2 * 9 * count * channels**2 * side**2 / min(times) / 1e9


# ---- memory


def use_memory(bench: Bench, case: str) -> dict:
    """Runs what a case of MEMORY names; for a process of its own, whose peak is then read."""
    what, _, count = case.rpartition(" ")
    pair = bench.pair(8, DEEP)
    before = read_peak(bench.device)
    if what == "users":
        config = AttackConfig(candidates=0, restarts=1, batch=bench.batch, final_transforms=1, steps=2)
        invert(pair.engine.generator, pair.engine.recognizer, tuple(range(int(count))), config, device=bench.device)
    else:
        step = make_step({"stock": pair.stock, "engine": pair.engine}[what], int(count), bench.device)
        for _ in range(2):
            step()
    after = read_peak(bench.device)
    return {"case": f"{case}, {pair.name}", "peak_mib": after, "rise_mib": after - before}


def read_peak(device: torch.device) -> float:
    """Returns the most memory that the process has had, in MiB: on the CPU all of it, on a GPU what torch allocated."""
    import resource

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts in KiB


MEMORY = ("stock 16", "engine 16", "users 16", "users 64")
