"""The recognition of many images, in batches."""

from __future__ import annotations

import torch
from torch import nn

from ganinv.interfaces import Recognition, Recognizer

BATCH = 64  # images recognised at once; changes speed alone


def find_device(model: object) -> torch.device:
    """Returns the device of a model's parameters; the CPU for one without."""
    parameters = model.parameters() if isinstance(model, nn.Module) else iter(())
    return next((parameter.device for parameter in parameters), torch.device("cpu"))


@torch.no_grad()
def recognize(recognizer: Recognizer, images: torch.Tensor) -> Recognition:
    """Returns the recognition of images [N,3,H,W], on the CPU, computed in batches."""
    parts = [recognizer(part.clone()) for part in images.split(BATCH)]  # which may change it in place
    embeddings = torch.cat([part.embeddings.float().cpu() for part in parts])
    logits = None if parts[0].logits is None else torch.cat([part.logits.float().cpu() for part in parts])
    return Recognition(embeddings, logits)
