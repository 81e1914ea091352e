"""Any callable as a recognizer, asked so that its errors are one line."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from ganinv.interfaces import Recognition


class CallableRecognizer(nn.Module):
    """Any callable images [N,3,R,R] -> Recognition | logits [N,C] | (embeddings [N,D], logits [N,C] or None).

    Where there are only logits, their direction is the embedding. Called once with sample images, to learn C and D.
    """

    def __init__(self, recognize: Callable, sample: torch.Tensor):
        super().__init__()
        self.recognize = recognize
        with torch.no_grad():
            found = ask(self, sample)
        self.embedding_dim = found.embeddings.shape[1]
        self.num_identities = None if found.logits is None else found.logits.shape[1]

    def forward(self, images: torch.Tensor) -> Recognition:
        """Returns unit embeddings [N,D] and logits [N,C] or None. Raises: ValueError for an answer of another form."""
        answer = self.recognize(images)
        if isinstance(answer, Recognition):
            embeddings, logits = answer.embeddings, answer.logits
        elif isinstance(answer, torch.Tensor):
            embeddings, logits = answer, answer
        elif isinstance(answer, tuple) and len(answer) == 2:
            embeddings, logits = answer
        else:
            raise ValueError(
                "expected a Recognition, logits [N,C] or (embeddings, logits) from the recognizer, "
                f"got {type(answer).__name__}"
            )
        for name, value in (("embeddings", embeddings), ("logits", logits)):
            if name == "logits" and value is None:
                continue
            if not isinstance(value, torch.Tensor) or value.ndim != 2 or len(value) != len(images):
                got = list(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
                raise ValueError(f"expected {name} of shape [{len(images)},...] from the recognizer, got {got}")
        return Recognition(F.normalize(embeddings.float(), dim=1), logits)


def ask(recognizer: Callable, images: torch.Tensor):
    """Returns the recognizer's answer. Raises: ValueError in one line, with the place, for whatever its code raises.

    What says that memory is short passes unchanged.
    """
    try:
        return recognizer(images)
    except (ValueError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if "DefaultCPUAllocator" in str(error):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise ValueError(
            f"expected an answer for images {list(images.shape)}, got {type(error).__name__} ({brief(error)}) "
            f"from the recognizer, at {place.filename}:{place.lineno}"
        ) from error


def brief(error: BaseException) -> str:
    """Returns the last line of an error, where torch says what went wrong, cut to 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:200]
