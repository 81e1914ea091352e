"""The recognition of many images, in batches."""

from __future__ import annotations

import torch

from ganinv.interfaces import Recognition, Recognizer

BATCH = 64  # images recognised at once; changes speed alone


@torch.no_grad()
def recognize(recognizer: Recognizer, images: torch.Tensor) -> Recognition:
    """Returns the recognition of images [N,3,H,W], on the CPU, computed in batches."""
    parts = [recognizer(part) for part in images.split(BATCH)]
    embeddings = torch.cat([part.embeddings.float().cpu() for part in parts])
    logits = None if parts[0].logits is None else torch.cat([part.logits.float().cpu() for part in parts])
    return Recognition(embeddings, logits)
