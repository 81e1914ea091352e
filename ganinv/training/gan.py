"""Training of a prior: stylegan2-pytorch's own networks against a plain residual discriminator.

Sources: Karras et al. 2020 (style mixing, lazy R1, averaged weights); Mescheder et al. 2018 (R1); Zhao et al. 2020
(differentiable augmentation); Kumari et al. 2022 (a second critic over the frozen features of a recognizer).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ganinv.data import Photos
from ganinv.generators.stylegan2_pytorch import build_networks, num_layers, run_generator
from ganinv.training.state import append_jsonl, load_state, restore, save_state, truncate_jsonl
from ganinv.transforms import Chain, Cutout, RandomAffine, RandomLight

# whole pixels only: a resampling would blur what the critic sees, and artefacts could hide behind it
AUGMENT = Chain(
    (
        RandomAffine(flip=0.0, degrees=0.0, scale=(1.0, 1.0), shift=0.125, whole_pixels=True),
        RandomLight(contrast=0.1, brightness=0.1, clamp=False),
        Cutout(share=0.4),
    )
)


@dataclass(frozen=True, kw_only=True)
class GanTraining:
    """How a prior is trained; the defaults are those of the shipped one."""

    resolution: int = 64
    capacity: int = 8
    steps: int = 6200
    batch: int = 16
    lr: float = 2e-4  # neither network has equalised convolutions: 4e-4 diverges
    decay: float = 0.3  # share of the steps, at the end, in which the rate falls to zero in a straight line
    r1_gamma: float = 1.0  # at 0.3, with a Kaiming-initialised critic, no face formed in 500 steps
    r1_every: int = 16
    mixing: float = 0.9
    noise: bool = False  # the noise inputs: off, since a young generator hides behind the grain and w should say it all
    average: float = 0.998  # per step, of the weights that are kept
    feature_weight: float = 0.5  # of the critic over frozen features: at step 250 eyes and mouths with it, blobs without
    critic_width: int = 24  # channels at full resolution; doubles with every halving, at most 384
    precision: str = "bfloat16"  # of the convolutions; weights, averages and losses stay float32
    seed: int = 0
    save_every_s: float = 180.0
    sample_every: int = 500


class ResidualBlock(nn.Module):
    """x [N,C,H,W] -> [N,F,H/2,W/2]."""

    def __init__(self, channels: int, filters: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, filters, 3, padding=1)
        self.skip = nn.Conv2d(channels, filters, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.avg_pool2d(F.leaky_relu(self.conv1(x), 0.2), 2)
        y = F.leaky_relu(self.conv2(y), 0.2)
        return (y + self.skip(F.avg_pool2d(x, 2))) * 0.5**0.5


class Critic(nn.Module):
    """Images [N,3,R,R] in [-1,1] -> logits [N], high for real ones."""

    def __init__(self, resolution: int, width: int = 32, most: int = 384):
        super().__init__()
        channels = [min(most, width * 2**level) for level in range(num_layers(resolution))]
        self.first = nn.Conv2d(3, channels[0], 1)
        self.blocks = nn.ModuleList(ResidualBlock(a, b) for a, b in zip(channels[:-1], channels[1:], strict=True))
        self.last = nn.Conv2d(channels[-1] + 1, channels[-1], 3, padding=1)
        self.dense = nn.Linear(channels[-1] * 16, 256)
        self.logit = nn.Linear(256, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.leaky_relu(self.first(images.contiguous(memory_format=torch.channels_last)), 0.2)
        for block in self.blocks:
            x = block(x)
        x = torch.cat([x, minibatch_deviation(x)], 1)
        x = F.leaky_relu(self.last(x), 0.2).flatten(1)
        return self.logit(F.leaky_relu(self.dense(x), 0.2)).squeeze(1).float()


def minibatch_deviation(x: torch.Tensor, group: int = 4) -> torch.Tensor:
    """Returns one map [N,1,H,W]: the mean deviation within groups of x [N,C,H,W]. Source: Karras et al. 2018, section 3."""
    count, _, height, width = x.shape
    group = group if count % group == 0 else count
    # groups are neighbours, so that real and generated images of one batch do not share one
    deviation = x.float().reshape(count // group, group, -1).var(1, correction=0).add(1e-8).sqrt().mean(1)
    return deviation.repeat_interleave(group)[:, None, None, None].expand(-1, 1, height, width).to(x.dtype)


class FeatureCritic(nn.Module):
    """Images [N,3,R,R] -> logits [N], read off the frozen features of a recognizer. Source: Kumari et al. 2022.

    The recognizer must have been trained on public people only, and must not be a judge of what this prior yields.
    """

    def __init__(self, trunk: nn.Module, channels: int):
        super().__init__()
        self.trunk = [trunk.eval().requires_grad_(False)]  # in a list: no part of the state, never trained
        self.head = nn.Sequential(
            nn.Conv2d(channels, 128, 1), nn.LeakyReLU(0.2), nn.Conv2d(128, 128, 3, padding=1), nn.LeakyReLU(0.2)
        )
        self.logit = nn.Linear(256, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.head(self.trunk[0](images * 2))
        x = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
        return self.logit(x).squeeze(1).float()


@torch.no_grad()
def update_average(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Moves the averaged weights towards the module's by 1-decay, in place."""
    torch._foreach_lerp_(list(average.parameters()), list(module.parameters()), 1 - decay)


def is_grey(pixels: torch.Tensor) -> bool:
    """Returns whether all photos [N,3,R,R] have three equal channels."""
    return torch.equal(pixels[:, 0], pixels[:, 1]) and torch.equal(pixels[:, 0], pixels[:, 2])


@torch.no_grad()
def tie_colours(synthesis: nn.Module) -> None:
    """Makes a generator's pictures grey, in place: every channel becomes the mean of the three."""
    for block in synthesis.blocks:
        weight = block.to_rgb.conv.weight  # [3,C,1,1]
        weight.copy_(weight.mean(0, keepdim=True).expand_as(weight))


def silence_noise(synthesis: nn.Module) -> None:
    """Fixes the weights of a generator's noise inputs at zero, in place; their biases, which are the layers', stay."""
    for block in synthesis.blocks:
        for layer in (block.to_noise1, block.to_noise2):
            layer.weight.requires_grad_(False).zero_()


def draw_latents(mapping: nn.Module, count: int, layers: int, mixing: float, generator: torch.Generator, device):
    """Returns w [N,layers,w_dim]; with probability `mixing` a sample takes its later layers from a second latent."""
    w_dim = mapping.net[0].weight.shape[1]
    z = torch.randn(2 * count, w_dim, generator=generator).to(device)
    first, second = mapping(z).chunk(2)
    cut = torch.randint(1, layers + 1, (count,), generator=generator)
    cut = torch.where(torch.rand(count, generator=generator) < mixing, cut, layers).to(device)
    takes_first = torch.arange(layers, device=device)[None, :] < cut[:, None]
    return torch.where(takes_first[:, :, None], first[:, None], second[:, None])


def falling_rate(config: GanTraining, step: int) -> float:
    """Returns the learning rate of a step: constant, then a straight line to zero over the last `decay` of the steps."""
    return config.lr * min(1.0, (config.steps - step) / max(1.0, config.decay * config.steps))


def train_gan(
    config: GanTraining,
    photos: Photos,
    out: Path,
    *,
    device: torch.device,
    feature_trunk: tuple[nn.Module, int] | None = None,
    resume: bool = False,
    on_step: Callable[[dict], None] = lambda row: None,
    on_samples: Callable[[int, torch.Tensor], None] = lambda step, images: None,
) -> dict[str, torch.Tensor]:
    """Returns the averaged weights, named as stylegan2-pytorch names them: "SE.*" and "GE.*".

    photos: public people only. feature_trunk: a frozen network [N,3,R,R] -> [N,C,h,w] and its C, for FeatureCritic. The
    state is written to out/state.safetensors on a clock, the log to out/steps.jsonl; resume goes on from them to the bit.
    """
    torch.manual_seed(config.seed)
    layers = num_layers(config.resolution)
    mapping, synthesis = (net.to(device) for net in build_networks(config.resolution, config.capacity))
    critics = nn.ModuleList([Critic(config.resolution, config.critic_width)])
    if feature_trunk is not None and config.feature_weight > 0:
        critics.append(FeatureCritic(feature_trunk[0].to(device), feature_trunk[1]))
    critics = critics.to(device, memory_format=torch.channels_last)
    if not config.noise:
        silence_noise(synthesis)
    grey = is_grey(photos.pixels)
    if grey:
        tie_colours(synthesis)
    averages = [copy.deepcopy(net).requires_grad_(False) for net in (mapping, synthesis)]
    generators = [p for net in (mapping, synthesis) for p in net.parameters() if p.requires_grad]
    players = {"generator": generators, "critics": list(critics.parameters())}
    optimizers = {name: torch.optim.Adam(params, config.lr, betas=(0.0, 0.99)) for name, params in players.items()}
    generator = torch.Generator().manual_seed(config.seed)
    modules = {"S": mapping, "G": synthesis, "critics": critics, "SE": averages[0], "GE": averages[1]}
    state_file, log, first = out / "state.safetensors", out / "steps.jsonl", 0
    if resume:
        state = load_state(state_file)
        for name, module in modules.items():
            restore(module, state[name], state_file)
        for name, optimizer in optimizers.items():
            restore(optimizer, state["optimizers"][name], state_file)
        generator.set_state(state["random"])
        first = state["step"]
        truncate_jsonl(log, first - 1)

    def autocast():
        return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bfloat16")

    def generate() -> torch.Tensor:
        w = draw_latents(mapping, config.batch, layers, config.mixing, generator, device)
        count = config.batch if config.noise else 1  # without weights it has no effect, and need not be drawn
        noise = torch.rand(count, config.resolution, config.resolution, 1, generator=generator).to(device)
        with autocast():
            images = run_generator(synthesis, w, noise).float() * 2 - 1
        # equal channels get equal gradients, so tied colours stay tied
        return images.mean(1, keepdim=True).expand(-1, 3, -1, -1) if grey else images

    def judge(images: torch.Tensor) -> list[torch.Tensor]:
        images = AUGMENT(images, generator)
        with autocast():
            return [critic(images) for critic in critics]

    weights = [1.0, config.feature_weight]
    z_show = torch.randn(32, mapping.net[0].weight.shape[1], generator=torch.Generator().manual_seed(1)).to(device)
    noise_show = torch.rand(1, config.resolution, config.resolution, 1, generator=torch.Generator().manual_seed(2)).to(device)
    saved_at = time.monotonic()
    for step in range(first, config.steps):
        for optimizer in optimizers.values():
            optimizer.param_groups[0]["lr"] = falling_rate(config, step)
        # critics: softplus(fake) + softplus(-real), and R1 of the critic of pixels every r1_every steps
        index = torch.randint(len(photos), (config.batch,), generator=generator)
        real = photos.images(index).to(device)
        mirrored = (torch.rand(config.batch, generator=generator) < 0.5).to(device)
        real = torch.where(mirrored[:, None, None, None], real.flip(3), real)
        with torch.no_grad():
            fake = generate()
        both = [logits.chunk(2) for logits in judge(torch.cat([real, fake]))]
        critic_losses = [F.softplus(-r).mean() + F.softplus(f).mean() for r, f in both]
        loss = sum(weight * part for weight, part in zip(weights, critic_losses, strict=False))
        penalty = torch.zeros(())
        if step % config.r1_every == 0:
            leaf = real.requires_grad_()
            slope = torch.autograd.grad(critics[0](AUGMENT(leaf, generator)).sum(), leaf, create_graph=True)[0]
            penalty = slope.square().sum((1, 2, 3)).mean()
            loss = loss + 0.5 * config.r1_gamma * config.r1_every * penalty
        optimizers["critics"].zero_grad(set_to_none=True)
        loss.backward()
        optimizers["critics"].step()

        # generator: softplus(-fake), the non-saturating loss
        critics.requires_grad_(False)
        generator_losses = [F.softplus(-logits).mean() for logits in judge(generate())]
        optimizers["generator"].zero_grad(set_to_none=True)
        sum(weight * part for weight, part in zip(weights, generator_losses, strict=False)).backward()
        optimizers["generator"].step()
        critics.requires_grad_(True)
        # a short memory at first, so that early averages are not full of the first weights
        decay = min(config.average, (step + 1) / (step + 10))
        update_average(averages[0], mapping, decay)
        update_average(averages[1], synthesis, decay)

        if step % 25 == 0 or step == config.steps - 1:
            row = {"step": step, "critic_pixels": critic_losses[0].item(), "generator_pixels": generator_losses[0].item()}
            if len(critics) > 1:
                row |= {"critic_features": critic_losses[1].item(), "generator_features": generator_losses[1].item()}
            if step % config.r1_every == 0:
                row["r1"] = penalty.item()
            append_jsonl(log, row)
            on_step(row)
        if step % config.sample_every == 0 or step == config.steps - 1:
            with torch.no_grad():
                w = averages[0](z_show)[:, None].expand(-1, layers, -1)
                on_samples(step, run_generator(averages[1], w, noise_show) * 2 - 1)
        if time.monotonic() - saved_at > config.save_every_s or step == config.steps - 1:
            state = {name: module.state_dict() for name, module in modules.items()} | {
                "optimizers": {name: optimizer.state_dict() for name, optimizer in optimizers.items()},
                "random": generator.get_state(),
                "step": step + 1,
            }
            save_state(state_file, state)
            saved_at = time.monotonic()
    if grey:
        tie_colours(averages[1])  # rounding may have parted them in the last bit
    return {f"{name}.{key}": value for name in ("SE", "GE") for key, value in modules[name].state_dict().items()}
