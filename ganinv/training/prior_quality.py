"""How good a prior is, in the features of recognizers that took no part in its training.

Sources: Heusel et al. 2017 (Frechet distance), Kynkaanniemi et al. 2019 (precision, recall), Naeem et al. 2020 (density,
coverage); there on Inception features, here on those of recognizers, which see what matters in a face.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from ganinv import images
from ganinv.engine import cache
from ganinv.engine.progress import open_bar
from ganinv.engine.randomness import seeded
from ganinv.interfaces import AbsentError, Generator, Recognizer
from ganinv.metrics.faces import detect_faces
from ganinv.metrics.scores import nearest_similarity
from ganinv.metrics.sets import density_coverage, frechet_distance, precision_recall
from ganinv.photos import Photos, hash_photos, unit_hash

LEAST = 6  # photos a side: a row needs five others for its density and coverage
FOUND = 0.9  # probability from which MTCNN is taken to have found a face
DETECTED = 500  # samples that it looks at, one at a time
BATCH = 100
PROBED = 8  # photos by whose embeddings a network is known again
SHEET = 64  # samples on the sheet
PAIRS, STEPS = 8, 9  # of the interpolation sheet: rows, and pictures from one latent to the other


@dataclass(frozen=True)
class RealPhotos:
    """Photos to compare samples with. held_out: of people whom nothing was trained on; seen: as many that the prior was
    trained on, of people new to the recognizers; bank: all that the prior was trained on."""

    held_out: Photos
    seen: Photos
    bank: Photos


def check_real(photos: RealPhotos, source: object) -> None:
    """Raises: ValueError when nothing can be measured with photos of a source: too few, or most of the held-out in it too."""
    count, people = len(photos.held_out), len(photos.held_out.person.unique())
    if count < LEAST or people < 2:
        got = f"{count} a side, of {people} held-out people"
        raise ValueError(f"expected {LEAST} photos or more a side to measure a prior, of 2 people, got {got}; add people")
    known = {digest_pixels(one) for one in photos.bank.pixels}
    same = [photos.held_out.files[row] for row, one in enumerate(photos.held_out.pixels) if digest_pixels(one) in known]
    if 2 * len(same) > count:
        got = f"{len(same)} of {count} that lie in {source} too, such as {same[0]}"
        raise ValueError(f"expected held-out photos that nothing was trained on, got {got}; leave them out of one of the two")


def digest_pixels(pixels: torch.Tensor) -> bytes:
    """Returns the SHA-256 of one picture's pixels."""
    return hashlib.sha256(pixels.numpy().tobytes()).digest()


@torch.no_grad()
def measure_prior(
    generator: Generator,
    networks: Mapping[str, Recognizer],
    photos: RealPhotos,
    *,
    psis: Sequence[float] = (1.0,),
    seed: int = 0,
) -> dict[str, dict]:
    """Returns "psi 1.0" -> what measure_samples says of as many samples as there are held-out photos."""
    real = {name: embed_real(network, photos) for name, network in networks.items()}
    quality = {}
    for psi in psis:
        samples = draw_samples(generator, len(photos.held_out), psi, seed)
        found = {"samples": len(samples), "absent": {}}
        for name, network in networks.items():
            found[name] = compare_sets(embed(network, images.from_uint8(samples)), real[name])
        try:
            probabilities = detect_faces(images.from_uint8(samples[:DETECTED]))
            found["faces_found"] = (probabilities >= FOUND).float().mean().item()
        except AbsentError as error:
            found["absent"]["faces_found"] = str(error)
        quality[f"psi {psi}"] = found
    return quality


@dataclass(frozen=True)
class RealEmbeddings:
    """The embeddings [N,D] of RealPhotos, and the people [N] of the first of them."""

    held_out: torch.Tensor
    seen: torch.Tensor
    bank: torch.Tensor
    person: torch.Tensor


def embed(network: Recognizer, pictures: torch.Tensor) -> torch.Tensor:
    """Returns the embeddings [N,D], on the CPU, of pictures [N,3,R,R] in [-1,1]; a network of its own metric: raw."""
    device = next((tensor.device for tensor in (*network.parameters(), *network.buffers())), torch.device("cpu"))
    return torch.cat([network(part.to(device)).embeddings.float().cpu() for part in pictures.split(BATCH)])


def embed_real(network: Recognizer, photos: RealPhotos) -> RealEmbeddings:
    """Returns the embeddings of photos."""
    parts = (embed_photos(network, part) for part in (photos.held_out, photos.seen, photos.bank))
    return RealEmbeddings(*parts, photos.held_out.person)


def embed_photos(network: Recognizer, photos: Photos) -> torch.Tensor:
    """Returns the embeddings [N,D] of photos; kept for the next prior in $XDG_CACHE_HOME/ganinv.

    They are found again by the photos, and by what the network makes of the first of them.
    """
    probe = embed(network, photos.images(slice(PROBED))).contiguous()
    key = hashlib.sha256(probe.numpy().tobytes() + hash_photos(photos).encode()).hexdigest()
    file, shape = cache.find_place(f"quality-{key[:16]}"), (len(photos), probe.shape[1])
    rows = cache.recall(file, "embeddings", shape, torch.float32)
    if rows is None:
        parts = open_bar(range(0, len(photos), BATCH), "embedding photos", disable=len(photos) <= BATCH, leave=False)
        rows = torch.cat([embed(network, photos.images(slice(i, i + BATCH))) for i in parts])
        cache.keep(file, "embeddings", rows)
    return rows


def draw_samples(generator: Generator, count: int, psi: float, seed: int) -> torch.Tensor:
    """Returns pixels uint8 [count,3,R,R] of samples, the same latents for every psi."""
    z = draw_latents(generator, count, seed)
    parts = [images.to_uint8(generator.synthesize(generator.map(part, psi))).cpu() for part in z.split(BATCH)]
    return torch.cat(parts)


def draw_latents(generator: Generator, count: int, seed: int) -> torch.Tensor:
    """Returns z [count,z_dim] on the generator's device."""
    device = next((tensor.device for tensor in (*generator.parameters(), *generator.buffers())), torch.device("cpu"))
    return torch.randn(count, generator.z_dim, generator=seeded(seed, "quality")).to(device)


def compare_sets(samples: torch.Tensor, real: RealEmbeddings) -> dict[str, float]:
    """Returns how embeddings of samples [N,D] compare with those of as many held-out photos.

    frechet_ratio: the Frechet distance of samples to held-out photos, over that between those and as many photos that the
    prior was trained on, which the network knows as little: 1 is as good as other photos. similarity_excess: mean cosine
    of two samples, less that of photos of two people: above 0, the samples look alike. copies: the share of samples nearer
    to a training photo than all but a thousandth of held-out photos are.
    """
    between, halves = frechet_distance(samples, real.held_out), frechet_distance(real.held_out, real.seen)
    precision, recall = precision_recall(real.held_out, samples)
    density, coverage = density_coverage(real.held_out, samples)
    ours, theirs, known = (F.normalize(rows, dim=1) for rows in (samples, real.held_out, real.bank))
    apart = real.person[:, None] != real.person[None, :]
    alike, people = mean_off_diagonal(ours), (theirs @ theirs.T)[apart].mean().item()
    nearest_real, nearest = nearest_similarity(theirs, known), nearest_similarity(ours, known)
    return {
        "frechet_samples_to_held_out": between,
        "frechet_held_out_to_training": halves,
        "frechet_ratio": between / halves,
        "precision": precision,
        "recall": recall,
        "density": density,
        "coverage": coverage,
        "similarity_of_samples": alike,
        "similarity_of_people": people,
        "similarity_excess": alike - people,
        "nearest_training_photo_of_samples": nearest.mean().item(),
        "nearest_training_photo_of_held_out": nearest_real.mean().item(),
        "copies": (nearest > nearest_real.quantile(0.999)).float().mean().item(),
    }


@torch.no_grad()
def save_sheets(generator: Generator, out: Path, *, psis: Sequence[float] = (1.0,), seed: int = 0) -> None:
    """Writes out/samples.png, SHEET samples in order of seed at the first psi, samples-psi<psi>.png at the others, and
    out/interpolations.png: in each row the straight way in w from one sample to another, at the last psi."""
    for index, psi in enumerate(psis):
        pixels = draw_samples(generator, SHEET, psi, seed)
        name = "samples.png" if index == 0 else f"samples-psi{psi:g}.png"
        images.save(images.grid(images.from_uint8(pixels), 16), out / name)
    ends = generator.map(draw_latents(generator, 2 * PAIRS, seed), psis[-1])
    way = torch.linspace(0, 1, STEPS, device=ends.device).view(1, STEPS, 1, 1)
    w = torch.lerp(ends[:PAIRS, None], ends[PAIRS:, None], way).flatten(0, 1)
    pictures = torch.cat([generator.synthesize(part).cpu() for part in w.split(BATCH)])
    images.save(images.grid(pictures, STEPS), out / "interpolations.png")


def take(photos: Photos, count: int) -> Photos:
    """Returns `count` photos, the first by a hash of their names. Raises: ValueError when there are fewer."""
    if len(photos) < count:
        raise ValueError(f"expected at least {count} photos of people unknown to all, got {len(photos)}; lower --count")
    order = sorted(range(len(photos)), key=lambda index: unit_hash(photos.files[index]))[:count]
    return Photos(photos.pixels[order], photos.person[order], photos.names, tuple(photos.files[i] for i in order))


def mean_off_diagonal(embeddings: torch.Tensor) -> float:
    """Returns the mean cosine of two different rows of embeddings [N,D] of unit norm."""
    count = len(embeddings)
    total = embeddings.double().sum(0).square().sum() - embeddings.double().square().sum()
    return (total / (count * (count - 1))).item()
