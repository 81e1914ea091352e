"""Checks that a recognizer keeps the convention of interfaces.py."""

from __future__ import annotations

import torch

from ganinv.interfaces import Recognition, Recognizer
from ganinv.recognizers.callable import ask
from ganinv.recognizers.recognize import find_device


@torch.no_grad()
def check_recognizer(recognizer: Recognizer, resolution: int, *, device: torch.device | str | None = None) -> None:
    """Asks a recognizer twice about the same images [4,3,R,R]; returns if it keeps the convention of interfaces.py.

    device: of the images; by default that of the recognizer's parameters, else the CPU.
    Raises: ValueError saying what came, when shapes, norms or values are not as agreed, the two answers differ,
        or an answer depends on what else is in the batch.
    """
    if device is None:
        device = find_device(recognizer)
    images = torch.rand(4, 3, resolution, resolution, generator=torch.Generator().manual_seed(0)).to(device) * 2 - 1
    first, second = (ask(recognizer, images) for _ in range(2))
    if not isinstance(first, Recognition):
        raise ValueError(
            f"expected a Recognition from the recognizer, got {type(first).__name__}"
            "; return ganinv.interfaces.Recognition(embeddings, logits)"
        )
    check_answer("embeddings", first.embeddings, second.embeddings, [4, recognizer.embedding_dim])
    norms = first.embeddings.norm(dim=1)
    raw = getattr(recognizer, "metric", "cosine") == "euclidean"  # whose distances a change of norm would change
    if not raw and not torch.allclose(norms, torch.ones_like(norms), atol=1e-3):
        raise ValueError(
            f"expected embeddings of norm 1, got norms of {norms.min():.3g} to {norms.max():.3g}"
            "; divide them by their norm, or state metric = 'euclidean'"
        )
    if recognizer.num_identities is not None:
        check_answer("logits", first.logits, second.logits, [4, recognizer.num_identities])
    elif first.logits is not None:
        raise ValueError("expected no logits of a recognizer with num_identities None, got some; set num_identities")
    alone = ask(recognizer, images[:1])
    for name in ("embeddings", "logits"):
        one, among = getattr(alone, name), getattr(first, name)
        if among is not None and not torch.allclose(one, among[:1], rtol=1e-2, atol=1e-3 * among.abs().max().item()):
            raise ValueError(f"expected the same {name} for an image in any batch, got others; call eval() on the recognizer")


def check_answer(name: str, first: torch.Tensor | None, second: torch.Tensor | None, shape: list[int]) -> None:
    """Raises ValueError unless both are finite tensors of the shape and the same to float32's rounding."""
    for value in (first, second):
        got = list(value.shape) if isinstance(value, torch.Tensor) else value
        if got != shape:
            raise ValueError(
                f"expected {name} of shape {shape} for images [{shape[0]},3,R,R], got {got}; give one row per image"
            )
        if not torch.isfinite(value).all():
            raise ValueError(f"expected finite {name} for images in [-1,1], got NaN or infinity; check its preprocessing")
    # some GPU kernels add in no fixed order, hence a tolerance
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-4):
        raise ValueError(f"expected the same {name} twice for the same images, got others; call eval() on the recognizer")


def has_gradient(found: Recognition, images: torch.Tensor) -> bool:
    """Says whether an answer for images [N,3,R,R] that require gradients changes with them by a finite gradient."""
    answer = found.embeddings if found.logits is None else found.logits
    if not answer.requires_grad:
        return False
    weights = torch.linspace(1, 2, answer.numel(), device=answer.device)  # a softmax's plain sum would be flat
    (gradient,) = torch.autograd.grad((answer.flatten() * weights).sum(), images, allow_unused=True)
    return gradient is not None and bool(torch.isfinite(gradient).all() and gradient.abs().max() > 0)
