"""Your own torch module as a recognizer, in one call: ganinv.wrap(module, size=112, mean=0.5, std=0.5)."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ganinv.interfaces import Recognition
from ganinv.recognizers.callable import OUTPUTS, ask, to_logits
from ganinv.recognizers.checks import has_gradient
from ganinv.recognizers.gallery import Enrollable
from ganinv.recognizers.preprocessing import CHANNELS, Preprocessing, draw_faces, probe_preprocessing

log = logging.getLogger(__name__)

SAME = 1e-3  # of the answer's size: by how much an image's answer may differ between batches, as some kernels' rounding does


class WrappedModule(Enrollable, nn.Module):
    """A module as a recognizer, frozen; made by wrap, which says what the arguments mean."""

    def __init__(self, module: nn.Module, preprocessing: Preprocessing, output: str, scale: float):
        super().__init__()
        self.module, self.preprocessing, self.output, self.scale = module, preprocessing, output, scale
        self.num_identities: int | None = None
        self.embedding_dim, self.only_classifies = 0, False

    def forward(self, images: torch.Tensor) -> Recognition:
        """Returns unit embeddings [N,D], and logits [N,C] or None, of images [N,3,H,W] in [-1,1].

        Of a classifier that gives nothing else, the direction of its logits is the embedding.
        """
        first, second = split_answer(self.module(self.preprocessing(images)), len(images))
        if self.output == "embeddings":
            return Recognition(F.normalize(first.float(), dim=1), None)
        embeddings, answer = (first, first) if second is None else (first, second)
        logits = to_logits(answer.float(), self.output, self.scale)
        return Recognition(F.normalize(embeddings.float(), dim=1), logits)


def wrap(
    module: nn.Module,
    *,
    size: int | tuple[int, int] | None = None,
    mean: float | Sequence[float] = 0.5,
    std: float | Sequence[float] = 0.5,
    channels: str = "RGB",
    value_range: tuple[float, float] = (0.0, 1.0),
    output: str | None = None,
    scale: float = 64.0,
) -> WrappedModule:
    """Returns a torch module as a frozen recognizer, after the checks that targets on the command line go through.

    module: in eval mode, on one device; images [N,C,size,size] -> logits [N,users], or embeddings [N,D], or
    (embeddings, logits). It is frozen in place: no parameter asks for a gradient afterwards.
    size: side of its input in pixels, or (height, width); None: as the pictures are.
    mean, std: of its input, one number or one for each channel, in the units of value_range: what torchvision calls
    Normalize(mean, std) on pictures in [0,1]. channels: "RGB", "BGR" or "L" (greyscale, one channel).
    output: what its one tensor is: "logits", "probabilities" (after a softmax), "cosines" (times scale: logits) or
    "embeddings" (then enroll users before an attack). None: logits, and refused where they look like something else.

    >>> import torch, ganinv
    >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 5)).eval()
    >>> target = ganinv.wrap(network, size=8, output="logits")
    >>> target.num_identities
    5

    Raises: ValueError when the module is in training mode, lies on several devices, answers in another form, with a value
    that is not finite, without a gradient to the picture, or for an image by what else is in its batch.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(f"expected a torch.nn.Module, got {type(module).__name__}; a function needs a Module around it")
    if training := [name or type(module).__name__ for name, part in module.named_modules() if part.training]:
        raise ValueError(f"expected a module in eval mode, got training mode of {training[0]}; call module.eval() first")
    device = find_only_device(module)
    if output is not None and output not in OUTPUTS:
        raise ValueError(f"expected an output among {', '.join(OUTPUTS)}, got {output!r}")
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"expected a scale above 0, got {scale}")
    if channels not in CHANNELS:
        raise ValueError(f"expected channels among {', '.join(CHANNELS)}, got {channels!r}")
    per_channel = [
        tuple(numbers.tolist()) if numbers.ndim else (numbers.item(),) * CHANNELS[channels]
        for numbers in (torch.as_tensor(value, dtype=torch.float64) for value in (mean, std))
    ]
    preprocessing = Preprocessing(size=size, range=value_range, mean=per_channel[0], std=per_channel[1], channels=channels)
    wrapped = WrappedModule(module.requires_grad_(False), preprocessing, output or "logits", scale).eval()
    side = 64 if size is None else max(size) if isinstance(size, tuple) else size
    images = draw_faces(4, side).to(device)
    found = ask_checked(wrapped, images)
    if output is None:
        refuse_other_outputs(found.logits)
    wrapped.embedding_dim = found.embeddings.shape[1]
    wrapped.num_identities = None if found.logits is None else found.logits.shape[1]
    with torch.no_grad():
        alone = split_answer(module(preprocessing(images)), len(images))[1] is None
    wrapped.only_classifies = alone and output != "embeddings"
    if line := probe_preprocessing(wrapped, preprocessing, resolution=side):
        log.warning("%s: %s", type(module).__name__, line)
    return wrapped


def find_only_device(module: nn.Module) -> torch.device:
    """Returns the device of a module's tensors, the CPU where it has none. Raises: ValueError when there are several."""
    devices = sorted({str(tensor.device) for tensor in (*module.parameters(), *module.buffers())})
    if len(devices) > 1:
        raise ValueError(f"expected a module on one device, got {' and '.join(devices)}; call module.to(device) first")
    return torch.device(devices[0] if devices else "cpu")


def split_answer(answer: object, count: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Returns a module's tensor and None, or its (embeddings, logits). Raises: ValueError for another form."""
    parts = answer if isinstance(answer, tuple) else (answer,)
    if not 1 <= len(parts) <= 2 or not all(isinstance(part, torch.Tensor) for part in parts):
        kinds = ", ".join(type(part).__name__ for part in parts)
        raise ValueError(f"expected one tensor, or (embeddings, logits), from the module, got {kinds}; wrap its forward")
    for part in parts:
        if part.ndim != 2 or len(part) != count or not part.is_floating_point():
            raise ValueError(
                f"expected floating-point numbers [{count},C], a row per image, from the module, got {part.dtype} "
                f"{list(part.shape)}; return logits or embeddings"
            )
    return parts[0], parts[1] if len(parts) == 2 else None


def ask_checked(recognizer: WrappedModule, images: torch.Tensor) -> Recognition:
    """Returns the recognition of images [N,3,R,R]. Raises: ValueError, see wrap."""
    together = ask(recognizer, images.clone().requires_grad_())
    answer = together.embeddings if together.logits is None else together.logits
    if not torch.isfinite(answer).all():
        raise ValueError("expected finite numbers for pictures in [-1,1], got NaN or infinity; check mean, std and size")
    with torch.no_grad():
        alone = ask(recognizer, images[:1])
    single = alone.embeddings if alone.logits is None else alone.logits
    if not torch.allclose(single, answer[:1].detach(), rtol=SAME, atol=SAME):
        raise ValueError(
            "expected the same answer for a picture in any batch, got others: some layer mixes the pictures of a batch; "
            "call module.eval(), or take it out"
        )
    check_gradient(recognizer, images)
    return Recognition(together.embeddings.detach(), None if together.logits is None else together.logits.detach())


def check_gradient(recognizer: WrappedModule, images: torch.Tensor) -> None:
    """Raises ValueError unless the answer changes with the pictures by a finite gradient."""
    leaf = images.clone().requires_grad_()
    if has_gradient(ask(recognizer, leaf), leaf):
        return
    raise ValueError(
        "expected a module that is differentiable, got no gradient to the picture; run it without torch.no_grad, numpy or "
        "PIL inside, or search with access='scores'"
    )


def refuse_other_outputs(answer: torch.Tensor) -> None:
    """Raises ValueError when answers [N,C] that nobody has named are no logits by their looks."""
    sums = answer.sum(1)
    hint = "; say output='logits' if they are logits all the same"
    if answer.min() >= 0 and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        raise ValueError(f"expected logits, got rows that sum to 1: pass output='probabilities'{hint}")
    low, high = answer.min().item(), answer.max().item()
    if low >= -1 and high <= 1 and answer.shape[1] > 1:
        raise ValueError(
            f"expected logits, got numbers from {low:.2f} to {high:.2f}: pass output='cosines' (with scale), 'probabilities' "
            f"or 'embeddings'{hint}"
        )
