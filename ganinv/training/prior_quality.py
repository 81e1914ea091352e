"""How good a prior is, in the features of a recognizer that was trained on other public people."""

from __future__ import annotations

from pathlib import Path

import torch

from ganinv import images
from ganinv.engine.randomness import seeded
from ganinv.metrics.scores import nearest_similarity
from ganinv.metrics.sets import frechet_distance
from ganinv.photos import Photos, unit_hash
from ganinv.training.recipes import HELD_OUT, NEW_TO_THE_EYE
from ganinv.training.recognizer import embed_photos
from ganinv.worlds.world import World, load_public


@torch.no_grad()
def measure_prior(generator, eye, world: World, photos: str, out: Path, *, count: int = 2000, seed: int = 0) -> dict:
    """Returns how samples (psi 1) compare with real photos; also writes out/samples.png, 64 samples in order of seed.

    frechet_ratio: Frechet distance of `count` samples to `count` held-out photos, over that between those and as many
    photos that the prior was trained on (the eye knows neither). similarity_excess: mean cosine of two samples, less
    that of photos of two different people. copies: the share of samples nearer to a training photo than all but a
    thousandth of held-out photos are.
    """
    device = next(eye.parameters()).device
    z = torch.randn(count, generator.z_dim, generator=seeded(seed, "quality")).to(device)
    samples = torch.cat([images.to_uint8(generator.synthesize(generator.map(part))).cpu() for part in z.split(100)])
    images.save(images.grid(images.from_uint8(samples[:64]), 16), out / "samples.png")
    held_out = take(load_public(world, photos, HELD_OUT), count)
    seen = take(load_public(world, photos, NEW_TO_THE_EYE), count)
    bank = load_public(world, photos, (0.0, HELD_OUT[0]))
    drawn = embed_photos(eye, Photos(samples, torch.arange(count), tuple(map(str, range(count))), ()))
    real, others, known = (embed_photos(eye, photos) for photos in (held_out, seen, bank))
    between, halves = frechet_distance(drawn, real), frechet_distance(real, others)
    apart = held_out.person[:, None] != held_out.person[None, :]
    similarity = {"samples": mean_off_diagonal(drawn), "people": (real @ real.T)[apart].mean().item()}
    nearest_real, nearest_drawn = nearest_similarity(real, known), nearest_similarity(drawn, known)
    return {
        "samples": count,
        "frechet_samples_to_held_out": between,
        "frechet_held_out_to_training": halves,
        "frechet_ratio": between / halves,
        "similarity_of_samples": similarity["samples"],
        "similarity_of_people": similarity["people"],
        "similarity_excess": similarity["samples"] - similarity["people"],
        "nearest_training_photo_of_samples": nearest_drawn.mean().item(),
        "nearest_training_photo_of_held_out": nearest_real.mean().item(),
        "copies": (nearest_drawn > nearest_real.quantile(0.999)).float().mean().item(),
    }


def take(photos: Photos, count: int) -> Photos:
    """Returns `count` photos, the first by a hash of their names. Raises: ValueError when there are fewer."""
    if len(photos) < count:
        raise ValueError(f"expected at least {count} photos of people that the eye does not know, got {len(photos)}")
    order = sorted(range(len(photos)), key=lambda index: unit_hash(photos.files[index]))[:count]
    return Photos(photos.pixels[order], photos.person[order], photos.names, tuple(photos.files[i] for i in order))


def mean_off_diagonal(embeddings: torch.Tensor) -> float:
    """Returns the mean cosine of two different rows of embeddings [N,D] of unit norm."""
    count = len(embeddings)
    total = embeddings.double().sum(0).square().sum() - embeddings.double().square().sum()
    return (total / (count * (count - 1))).item()
