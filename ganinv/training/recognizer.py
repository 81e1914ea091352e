"""Training of a recognizer: a margin head over registered users and public people, of which the users' part is kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ganinv.attack.transforms import Chain, Cutout, RandomAffine, RandomBlur, RandomLight
from ganinv.engine.checkpoint import append_jsonl, check_photos, load_state, of_these_settings, save_state, truncate_jsonl
from ganinv.photos import Photos, hash_photos
from ganinv.recognizers.cosine import CosineRecognizer
from ganinv.training.schedule import tell_pace

AUGMENTATIONS = {
    "slight": Chain((RandomAffine(degrees=3, scale=(0.97, 1.03), shift=0.03), RandomBlur(probability=0.5))),
    "light": Chain((RandomAffine(degrees=8, scale=(0.9, 1.15), shift=0.05), RandomLight(), RandomBlur(probability=0.15))),
    "strong": Chain(
        (
            RandomAffine(degrees=12, scale=(0.85, 1.2), shift=0.07),
            RandomLight(contrast=0.35, brightness=0.25),
            RandomBlur(probability=0.3),
            Cutout(share=0.35, probability=0.5),
        )
    ),
}


@dataclass(frozen=True, kw_only=True)
class RecognizerTraining:
    """How a recognizer is trained; the defaults are those of the shipped target."""

    architecture: str = "resnet18"
    embedding_dim: int = 256
    input_size: int = 64
    steps: int = 1500
    batch: int = 128
    users_share: float = 0.3  # share of a batch that are photos of registered users
    lr: float = 1e-3
    weight_decay: float = 0.05
    contrastive: float = 1.0  # weight of the contrastive term; with two photos a person the margin head alone hardly starts
    scale: float = 24.0
    margin: float = 0.2  # CosFace, grown from 0 over the first third of the steps
    augmentation: str = "light"
    precision: str = "bfloat16"  # of the network; the loss is float32
    seed: int = 0
    save_every_s: float = 120.0


def cosine_margin_loss(cosines: torch.Tensor, labels: torch.Tensor, scale: float, margin: float) -> torch.Tensor:
    """Returns the mean loss of cosines [N,C] in [-1,1]. Source: Wang et al. 2018, CosFace, Eq. 4."""
    return F.cross_entropy(scale * (cosines - margin * F.one_hot(labels, cosines.shape[1])), labels)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Returns a linear warm-up over a twentieth of the steps, then a half cosine to zero."""
    warm = max(1, steps // 20)
    return peak * (step + 1) / warm if step < warm else peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def contrastive_loss(embeddings: torch.Tensor, labels: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    """Returns the mean supervised contrastive loss of embeddings [N,D] of unit norm. Source: Khosla et al. 2020, Eq. 2."""
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positives = (labels[:, None] == labels) & ~itself
    log_share = (embeddings @ embeddings.T / temperature).masked_fill(itself, -torch.inf).log_softmax(1)
    return -(log_share.masked_fill(~positives, 0).sum(1) / positives.sum(1)).mean()


def draw_pairs(photos: Photos, count: int, generator: torch.Generator) -> torch.Tensor:
    """Returns indices [2*count]: `count` random photos, then for each a random photo of the same person (or itself)."""
    first = torch.randint(len(photos), (count,), generator=generator)
    order = photos.person.argsort(stable=True)
    sizes = torch.bincount(photos.person, minlength=len(photos.names))
    start = sizes.cumsum(0) - sizes
    person = photos.person[first]
    offset = (torch.rand(count, generator=generator) * sizes[person]).long()
    return torch.cat([first, order[start[person] + offset]])


def draw_batch(sets: list[Photos], sizes: list[int], generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns images [B,3,R,R] and labels [B]: sizes[i]/2 pairs drawn from sets[i], whose labels follow one another."""
    images, labels, first = [], [], 0
    for photos, size in zip(sets, sizes, strict=True):
        index = draw_pairs(photos, size // 2, generator)
        images.append(photos.images(index))
        labels.append(photos.person[index] + first)
        first += len(photos.names)
    return torch.cat(images), torch.cat(labels)


def train_recognizer(
    config: RecognizerTraining,
    users: Photos | None,
    public: Photos | None,
    out: Path,
    *,
    device: torch.device,
    resume: bool = False,
    on_step: Callable[[dict], None] = lambda row: None,
    on_plan: Callable[[str], None] = lambda line: None,
) -> CosineRecognizer:
    """Returns the trained recognizer in eval mode; its identities are the users (none: an open-set recognizer).

    users, public: training photos; their people become the classes of the margin head, users first. See fit for the rest.
    Raises: ValueError when neither set is given.
    """
    sets = [photos for photos in (users, public) if photos is not None]
    if not sets:
        raise ValueError("expected photos of users or of public people, got neither")
    torch.manual_seed(config.seed)
    model = CosineRecognizer(
        config.architecture,
        num_identities=sum(len(photos.names) for photos in sets),
        embedding_dim=config.embedding_dim,
        input_size=config.input_size,
        scale=config.scale,
    ).to(device, memory_format=choose_layout(config.precision, device))
    num_users = round(config.batch * config.users_share) if users is not None and public is not None else config.batch
    sizes = [num_users, config.batch - num_users][: len(sets)]

    def lose(images: torch.Tensor, labels: torch.Tensor, step: int) -> tuple[torch.Tensor, dict]:
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            embeddings = model.embed(images)
        cosines = embeddings @ F.normalize(model.directions, dim=1).T
        loss = cosine_margin_loss(cosines, labels, config.scale, config.margin * min(1.0, 3 * step / config.steps))
        loss = loss + config.contrastive * contrastive_loss(embeddings, labels)
        return loss, {"top1": (cosines.argmax(1) == labels).float().mean()}

    draw = partial(draw_batch, sets, sizes)
    hashed = " ".join(map(hash_photos, sets))
    fit(config, model, draw, lose, out, photos=hashed, device=device, resume=resume, on_step=on_step, on_plan=on_plan)
    return keep_identities(model, len(users.names) if users is not None else 0)


def choose_layout(precision: str, device: torch.device) -> torch.memory_format:
    """Returns the layout in which a training is fastest: a CPU's float32 weight gradients lose a fifth channels last."""
    plain = precision == "float32" and device.type == "cpu"
    return torch.contiguous_format if plain else torch.channels_last


def fit(
    config: RecognizerTraining,
    model: nn.Module,
    draw: Callable[[torch.Generator], tuple[torch.Tensor, torch.Tensor]],
    lose: Callable[[torch.Tensor, torch.Tensor, int], tuple[torch.Tensor, dict[str, torch.Tensor]]],
    out: Path,
    *,
    photos: str,
    device: torch.device,
    resume: bool,
    on_step: Callable[[dict], None],
    on_plan: Callable[[str], None] = lambda line: None,
) -> None:
    """Trains a model in place with AdamW on augmented batches, and leaves it in train mode.

    draw: images [B,3,R,R] and their labels; lose: (images, labels, step) -> a loss, and what else to log; photos: the hash
    of those that are drawn. The state is written to out/state.safetensors on a clock, the log to out/steps.jsonl; resume
    goes on from them to the bit, with the same photos. on_plan: is told after three steps, in a line, how long the rest
    will take.
    """
    optimizer = torch.optim.AdamW(model.parameters(), config.lr, weight_decay=config.weight_decay)
    generator = torch.Generator().manual_seed(config.seed)
    augment, state_file, log = AUGMENTATIONS[config.augmentation], out / "state.safetensors", out / "steps.jsonl"
    first = 0
    if resume:
        state = load_state(state_file)
        with of_these_settings(state_file):
            check_photos(state, photos)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            generator.set_state(state["generator"])
            first = state["step"]
        truncate_jsonl(log, first - 1)

    model.train()
    layout = choose_layout(config.precision, device)
    saved_at = began = time.monotonic()
    for step in range(first, config.steps):
        began = time.monotonic() if step <= first + 1 else began
        torch.manual_seed(config.seed + step)  # what a dropout draws from, which no state holds
        images, labels = draw(generator)
        images = augment(images, generator).to(device, memory_format=layout)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config.steps, config.lr)
        loss, told = lose(images, labels.to(device), step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step == first + 2:  # in the first, kernels are built
            on_plan(tell_pace(config.steps - step - 1, (time.monotonic() - began) / 2, config.batch))
        if step % 20 == 0 or step == config.steps - 1:
            row = {"step": step, "loss": loss.item()} | {name: value.item() for name, value in told.items()}
            append_jsonl(log, row)
            on_step(row)
        if time.monotonic() - saved_at > config.save_every_s or step == config.steps - 1:
            save_state(
                state_file,
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "generator": generator.get_state(),
                    "photos": photos,
                    "step": step + 1,
                },
            )
            saved_at = time.monotonic()


def keep_identities(model: CosineRecognizer, count: int) -> CosineRecognizer:
    """Returns the recognizer with its first `count` identities only, frozen, in eval mode."""
    model.directions = torch.nn.Parameter(model.directions[:count].detach().clone()) if count else None
    model.num_identities = count or None
    return model.eval().requires_grad_(False)


@torch.no_grad()
def top1(model: CosineRecognizer, photos: Photos, batch: int = 256) -> float:
    """Returns the share of photos whose best class is their person."""
    device = next(model.parameters()).device
    hits = [
        (model(photos.images(slice(i, i + batch)).to(device)).logits.argmax(1).cpu() == photos.person[i : i + batch])
        for i in range(0, len(photos), batch)
    ]
    return torch.cat(hits).float().mean().item()


@torch.no_grad()
def embed_photos(model, photos: Photos, batch: int = 256) -> torch.Tensor:
    """Returns embeddings [N,D] of all photos, on the CPU."""
    device = next(model.parameters()).device
    parts = [model(photos.images(slice(i, i + batch)).to(device)).embeddings.cpu() for i in range(0, len(photos), batch)]
    return torch.cat(parts)


def verification(embeddings: torch.Tensor, person: torch.Tensor) -> dict[str, float]:
    """Returns how well cosine similarity tells people apart, over all pairs of embeddings [N,D] of person [N].

    auc; accept_at_far_*, the shares of same-person pairs above the threshold that such a share of the others pass; and the
    mean similarity of both kinds of pairs. A rate of less than one pair is left out.
    """
    similarity, same = embeddings @ embeddings.T, person[:, None] == person
    above = torch.ones_like(same).triu(1)
    genuine, impostor = (similarity[pairs & above].sort().values for pairs in (same, ~same))
    found = {"auc": (torch.searchsorted(impostor, genuine).double() / len(impostor)).mean().item()}
    for rate in (1e-2, 1e-3, 1e-4):
        if len(impostor) * rate >= 1:
            threshold = impostor[min(len(impostor) - 1, math.ceil((1 - rate) * len(impostor)))]
            found[f"accept_at_far_{rate:.0e}".replace("e-0", "e-")] = (genuine > threshold).double().mean().item()
    return found | {
        "genuine_similarity": genuine.mean().item(),
        "impostor_similarity": impostor.mean().item(),
    }
