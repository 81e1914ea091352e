"""The form in which an attack's networks run: batch norms folded, layout, and the precision of prior and target.

The target's form changes last bits only. Another precision than float32 is asked for (`--precision`), serves the start
choice and the search alone, and lies around one network at a time, never around the objective. Final choice, pictures,
judges and metrics are float32.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from ganinv.interfaces import Generator, Recognition, Recognizer

PRECISIONS = ("float32", "auto", "bfloat16")
TOLERANCE = 0.02  # of the target's scores: mean over candidates of the largest change of any user's; see measure_change
FASTER = 0.95  # of float32's time: less gain is not worth another precision, and may be chance
PROBED = 32  # candidates whose scores are compared; the mean over fewer says little
TIMED = 8  # of them: enough that a step is mostly arithmetic, few enough for a second in all
PROBE_S = 0.5  # for timing each network, once its kernels are built
WARM_UP_S = 90.0  # for building kernels, a minute where there are none; forms that come later are not tried
FOLD_TOLERANCE = 1e-4  # of the largest logit or embedding; trained networks stay within 1e-6
ROUNDING = 3.0  # times a network's own float32 rounding, where that is more: random networks magnify it to 3e-4
FOLDED = {nn.Conv2d: (nn.BatchNorm2d, fuse_conv_bn_eval), nn.Linear: (nn.BatchNorm1d, fuse_linear_bn_eval)}
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}

log = logging.getLogger(__name__)


# ---- the target's form


@torch.no_grad()
def ready_recognizer(recognizer: Recognizer, resolution: int, device: torch.device | str = "cpu") -> Recognizer:
    """Returns a recognizer that answers the same faster: batch norms in the layers before them, channels last in memory.

    recognizer: frozen, eval; it is left as it is. Batch norms that cannot be folded stay, and so does what is no Module,
    or a program. The answers on random images [4,3,R,R] are compared; where they differ by more than the recognizer itself
    rounds, it comes back as it is, with one line in the log.
    """
    if not isinstance(recognizer, nn.Module) or any(
        isinstance(part, torch.jit.ScriptModule) for part in recognizer.modules()
    ):
        return recognizer
    try:
        ready = copy.deepcopy(recognizer)
        left = fold_batch_norms(ready)
        ready = ready.requires_grad_(False).to(memory_format=torch.channels_last)
        images = torch.rand(4, 3, resolution, resolution, generator=torch.Generator().manual_seed(0)).to(device) * 2 - 1
        difference, allowed = compare_forms(recognizer, ready, images)
    except Exception as error:  # whatever a user's module raises when it is copied or fed another layout
        log.warning("the target runs as it is: its faster form failed (%s: %.100s)", type(error).__name__, error)
        return recognizer
    if not difference <= allowed:  # NaN too
        log.warning("the target runs as it is: its faster form answers otherwise by %.2g", difference)
        return recognizer
    if left:
        log.warning("%d batch norms of the target are not folded: no convolution stands right before them", left)
    return ready


def compare_forms(recognizer: Recognizer, ready: Recognizer, images: torch.Tensor) -> tuple[float, float]:
    """Returns by how much the answers of a recognizer's faster form differ from its own, and how much is rounding.

    Both are measured against the recognizer in float64, whose rounding is nothing: a network that magnifies small
    differences does so to its own, too. Where it cannot run so they are compared with each other.
    """
    own, found = recognizer(images.clone()), ready(images.clone())
    try:
        exact = copy.deepcopy(recognizer).double()(images.double())
        rounding = compare_answers(exact, own)
    except RuntimeError:  # its code asks for float32 somewhere
        return compare_answers(own, found), FOLD_TOLERANCE
    return compare_answers(exact, found), max(FOLD_TOLERANCE, ROUNDING * rounding)


def compare_answers(first: Recognition, second: Recognition) -> float:
    """Returns the largest difference of embeddings or logits, as a share of the largest value."""
    pairs = [(first.embeddings, second.embeddings)]
    if first.logits is not None:
        pairs.append((first.logits, second.logits))
    return max(((one - other).abs().max() / one.abs().max().clamp_min(1e-6)).item() for one, other in pairs)


def fold_batch_norms(network: nn.Module) -> int:
    """Folds batch norms into the layers before them, in place; returns how many are left.

    network: eval. Only weights change and batch norms become identities: the code that runs is the network's own.
    """
    for layer, norm in find_foldable(network):
        before = network.get_submodule(layer)
        fuse = FOLDED[type(before)][1]
        network.set_submodule(layer, fuse(before, network.get_submodule(norm)))
        network.set_submodule(norm, nn.Identity())
    return sum(isinstance(part, _BatchNorm) for part in network.modules())


def find_foldable(network: nn.Module, prefix: str = "") -> list[tuple[str, str]]:
    """Returns (layer, batch norm) names such that nothing but this norm sees the layer's output, each run once.

    What torch.fx cannot trace is looked at child by child.
    """
    try:
        nodes = fx.Tracer().trace(network).nodes
    except Exception:  # of any type: the network's own code runs on stand-ins
        children = network.named_children()
        return [pair for name, child in children for pair in find_foldable(child, f"{prefix}{name}.")]
    parts, calls = dict(network.named_modules(remove_duplicate=False)), [node for node in nodes if node.op == "call_module"]
    times = {id(parts[node.target]): 0 for node in calls}
    for node in calls:
        times[id(parts[node.target])] += 1
    found = []
    for node in calls:
        norm, before = parts[node.target], node.args[0] if node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        layer = parts[before.target]
        known = FOLDED.get(type(layer), (None,))[0] is type(norm) and norm.running_mean is not None
        if known and times[id(layer)] == times[id(norm)] == 1:
            found.append((prefix + before.target, prefix + node.target))
    return found


# ---- precision


def computes_bfloat16(device: torch.device | str) -> bool:
    """Returns whether a device computes in bfloat16; one that only imitates it takes ten times as long as in float32."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


@dataclass(frozen=True)
class Form:
    """How one network runs. dtype: float32 | bfloat16; layout of its weights, None: as it is."""

    dtype: str = "float32"
    layout: str | None = None

    def __str__(self) -> str:
        return f"{self.dtype} {self.layout.replace('_', ' ')}" if self.layout else self.dtype


@dataclass(frozen=True)
class Choice:
    """The forms in which prior and target choose the start and search. line: what was taken and why, for the user."""

    prior: Form = Form()
    target: Form = Form()
    line: str = ""

    def describe(self) -> str | dict:
        """Returns what provenance.json holds: "float32", or the form of each network."""
        plain = self.prior == self.target == Form()
        return "float32" if plain else {"prior": asdict(self.prior), "target": asdict(self.target)}

    @classmethod
    def recall(cls, said: str | Mapping) -> Choice:
        """Returns the choice that describe told. Raises: ValueError for anything else."""
        if said == "float32":
            return cls()
        try:
            choice = cls(*(Form(**said[name]) for name in ("prior", "target")))
        except (TypeError, KeyError) as error:
            raise ValueError(f"expected a precision as provenance.json tells it, got {said!r}; begin the run anew") from error
        for form in (choice.prior, choice.target):
            if form.dtype not in ("float32", "bfloat16") or form.layout not in (None, *LAYOUTS):
                raise ValueError(f"expected a precision as provenance.json tells it, got {said!r}; begin the run anew")
        return choice

    def apply(self, generator: Generator | None, recognizer: Recognizer) -> tuple[Generator | None, Recognizer]:
        """Returns the networks in their forms; those given where that is float32 as it is."""
        return (generator and in_form(generator, self.prior)), in_form(recognizer, self.target)


class CastGenerator:
    """A prior whose synthesis runs under autocast. Images are float32; map is the prior's own."""

    def __init__(self, generator: Generator, dtype: torch.dtype):
        self.generator, self.dtype = generator, dtype

    def __getattr__(self, name: str):
        return getattr(self.generator, name)

    def synthesize(self, w: torch.Tensor) -> torch.Tensor:
        """Returns images [N,3,R,R] of w [N,num_ws,w_dim]."""
        with torch.autocast(w.device.type, self.dtype):
            return self.generator.synthesize(w).to(w.dtype)


class CastRecognizer:
    """A recognizer that runs under autocast. Embeddings and logits are float32."""

    def __init__(self, recognizer: Recognizer, dtype: torch.dtype):
        self.recognizer, self.dtype = recognizer, dtype

    def __getattr__(self, name: str):
        return getattr(self.recognizer, name)

    def __call__(self, images: torch.Tensor) -> Recognition:
        """Returns the recognition of images [N,3,H,W] in [-1,1]."""
        with torch.autocast(images.device.type, self.dtype):
            found = self.recognizer(images)
        return Recognition(found.embeddings.float(), None if found.logits is None else found.logits.float())


def in_form(network, form: Form):
    """Returns a prior or recognizer in a form; the network itself is left as it is."""
    if form.layout and isinstance(network, nn.Module):
        network = copy.deepcopy(network).to(memory_format=LAYOUTS[form.layout])
    if form.dtype == "float32":
        return network
    cast = CastGenerator if hasattr(network, "synthesize") else CastRecognizer
    return cast(network, getattr(torch, form.dtype))


def choose_precision(
    precision: str, generator: Generator | None, recognizer: Recognizer, latents: torch.Tensor | None
) -> Choice:
    """Returns the forms for `--precision`: float32 and bfloat16 are taken at their word, auto probes each network.

    latents: w [N,num_ws,w_dim] of the run's own first candidates, without a generator pictures [N,3,R,R]; only auto needs
    them. PROBED are used, and forward and backward of TIMED are timed. Of the forms that are at least a twentieth faster
    than float32, the fastest is taken under which the target's scores stay within TOLERANCE of float32's on these
    candidates: first the prior's, then, on the pictures of the prior in its form, the target's.
    Raises: ValueError for another precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"expected a precision among {', '.join(PRECISIONS)}, got {precision}")
    if precision == "float32":
        return Choice(line="precision: float32")
    if precision == "bfloat16":
        both = Form("bfloat16")
        return Choice(both if generator is not None else Form(), both, "precision: bfloat16 in start choice and search")
    latents, dtypes = latents[:PROBED].detach(), ["float32"]
    if computes_bfloat16(latents.device):
        dtypes.append("bfloat16")
    with torch.no_grad():
        pictures = latents if generator is None else generator.synthesize(latents).clamp(-1, 1)
        answers = recognizer(pictures.clone())

    def change(prior: Generator | None, target: Recognizer) -> float:
        with torch.no_grad():
            seen = latents if prior is None else prior.synthesize(latents).clamp(-1, 1)
            return measure_change(answers, target(seen.clone()))

    form, prior, told = Form(), generator, []
    if generator is not None:
        forms = [Form(dtype) for dtype in dtypes]
        form, prior, gain = take_fastest(
            forms, generator, lambda network: network.synthesize, latents, lambda network: change(network, recognizer)
        )
        told.append(f"prior {form} ({gain:.1f} times as fast)")
        with torch.no_grad():
            pictures = prior.synthesize(latents).clamp(-1, 1)
    layouts = (None, "contiguous") if isinstance(recognizer, nn.Module) else (None,)
    forms = [Form(dtype, layout) for dtype in dtypes for layout in layouts]
    own, target, gain = take_fastest(
        forms, recognizer, lambda network: lambda x: pick_answer(network(x)), pictures, lambda network: change(prior, network)
    )
    told.append(f"target {own} ({gain:.1f})")
    tf32 = f"; tf32 {'on' if torch.backends.cudnn.allow_tf32 else 'off'} in convolutions" if latents.is_cuda else ""
    untried = "" if len(dtypes) > 1 else "; bfloat16 not tried, which this processor does not compute in"
    difference = change(prior, target)
    line = f"precision: {', '.join(told)}; scores differ by {difference:.3f} in the mean, at most {TOLERANCE} allowed"
    line += tf32 + untried
    return Choice(form, own, line)


def pick_answer(found: Recognition) -> torch.Tensor:
    """Returns the logits [N,C], of a target that only embeds its embeddings [N,D]."""
    return found.embeddings if found.logits is None else found.logits


def measure_change(before: Recognition, after: Recognition) -> float:
    """Returns the mean over images of the largest change of any user's softmax score.

    Of a target that only embeds: of how far its embedding moves, and no distance to a template moves further.
    """
    if before.logits is None:
        return (after.embeddings - before.embeddings).norm(dim=1).mean().item()
    return (after.logits.softmax(1) - before.logits.softmax(1)).abs().amax(1).mean().item()


def take_fastest(
    forms: list[Form], network, call: Callable, inputs: torch.Tensor, change: Callable[[object], float]
) -> tuple[Form, object, float]:
    """Returns the form taken, the network in it, and how many times as fast it is as forms[0], which is float32."""
    began, ready, inputs = time.perf_counter(), [], inputs[:TIMED]
    for form in forms:
        if ready and time.perf_counter() - began > WARM_UP_S:
            break
        candidate = in_form(network, form)
        try:
            seconds = time_step(call(candidate), inputs)
        except RuntimeError:  # an operator that has no such precision
            if not ready:
                raise
            continue
        if not ready and seconds > PROBE_S:  # a slow network: fewer candidates say as much
            inputs = inputs[: max(1, int(TIMED * PROBE_S / seconds))]
        ready.append((form, candidate))
    least, began = {form: float("inf") for form, _ in ready}, time.perf_counter()
    for turn in range(8):
        if turn and time.perf_counter() - began > PROBE_S:
            break
        for form, candidate in ready:  # in turns, so that another process's load hits all alike
            least[form] = min(least[form], time_step(call(candidate), inputs))
    plain, slowest = forms[0], least[forms[0]]
    for form, candidate in sorted(ready, key=lambda pair: least[pair[0]]):
        if form == plain or (least[form] < FASTER * slowest and change(candidate) <= TOLERANCE):
            return form, candidate, slowest / least[form]
    raise AssertionError("float32 is always among the forms")


def time_step(call: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor) -> float:
    """Returns the seconds of one forward and backward pass."""
    if inputs.is_cuda:
        torch.cuda.synchronize(inputs.device)
    began = time.perf_counter()
    inputs = inputs.detach().requires_grad_()
    torch.autograd.grad(call(inputs.clone()).float().sum(), inputs)  # a copy, which a target may change
    if inputs.is_cuda:
        torch.cuda.synchronize(inputs.device)
    return time.perf_counter() - began
