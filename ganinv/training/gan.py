"""Training of a prior: stylegan2-pytorch's own networks, an encoder that leaves no face out, and a critic.

Sources: Karras et al. 2020 (style mixing, lazy R1, averaged weights); Mescheder et al. 2018 (R1); Zhao et al. 2020
(differentiable augmentation); Kingma and Welling 2014 (the encoder); Larsen et al. 2016 (encoder, generator and critic).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ganinv.attack.transforms import Chain, Cutout, RandomAffine, RandomLight
from ganinv.engine.checkpoint import append_jsonl, load_state, restore, save_state, truncate_jsonl
from ganinv.interfaces import FaultError
from ganinv.photos import Photos
from ganinv.priors.stylegan2_pytorch import build_networks, num_layers
from ganinv.priors.stylegan2_pytorch_form import run_generator
from ganinv.recognizers.cosine import CosineRecognizer

# whole pixels only: a resampling would blur what the critic sees, and artefacts could hide behind it
AUGMENT = Chain(
    (
        RandomAffine(flip=0.0, degrees=0.0, scale=(1.0, 1.0), shift=0.125, whole_pixels=True),
        RandomLight(contrast=0.1, brightness=0.1, clamp=False),
        Cutout(share=0.4),
    )
)
NEWBORN = 250  # steps in which a critic that knows nothing yet is not listened to


@dataclass(frozen=True, kw_only=True)
class GanTraining:
    """How a prior is trained; the defaults are those of the shipped one."""

    resolution: int = 64
    capacity: int = 8
    steps: int = 8000
    alone: float = 0.5625  # share of the steps in which only the encoder and the generator learn; then the critic joins
    batch: int = 16  # photos a step; and half as many samples, once the critic has joined
    lr: float = 2e-4  # no network has equalised convolutions: 4e-4 against a critic diverges
    lr_alone: float = 4e-4
    decay: float = 0.3  # share of the steps, at the end, in which the rate falls to zero in a straight line
    mapping_lr: float = 5.0  # times the rate: the mapping's own scale of 0.1 makes its steps small
    r1_gamma: float = 1.0
    r1_every: int = 16
    mixing: float = 0.5
    noise: bool = False  # the noise inputs: off, since a young generator hides behind the grain and w should say it all
    average: float = 0.998  # per step, of the weights that are kept
    divergence: float = 1e-4  # weight of the encoder's divergence from the normal distribution, per nat
    perceptual: float = 0.1  # weight of the distance between a photo's and its reconstruction's features
    identity: float = 0.05  # weight of 1 - cosine between their embeddings
    clip: float = 3.0  # longest gradient, in units of its running length: a rare batch can undo a thousand steps
    adversarial: float = 0.5  # size of the critic's gradient on a picture, in units of the reconstruction's
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
    """Images [N,3,R,R] in [-1,1] -> outputs [N,K]: a critic's logit (K=1, high for real images) or a code."""

    def __init__(self, resolution: int, width: int, outputs: int = 1, most: int = 384):
        super().__init__()
        channels = [min(most, width * 2**level) for level in range(num_layers(resolution))]
        self.first = nn.Conv2d(3, channels[0], 1)
        self.blocks = nn.ModuleList(ResidualBlock(a, b) for a, b in zip(channels[:-1], channels[1:], strict=True))
        self.compares = outputs == 1  # an image with its neighbours in the batch; a code is of one image alone
        self.last = nn.Conv2d(channels[-1] + self.compares, channels[-1], 3, padding=1)
        self.dense = nn.Linear(channels[-1] * 16, max(256, outputs))
        self.outputs = nn.Linear(max(256, outputs), outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = F.leaky_relu(self.first(images.contiguous(memory_format=torch.channels_last)), 0.2)
        for block in self.blocks:
            x = block(x)
        if self.compares:
            x = torch.cat([x, minibatch_deviation(x)], 1)
        x = F.leaky_relu(self.last(x), 0.2).flatten(1)
        return self.outputs(F.leaky_relu(self.dense(x), 0.2)).float()


@torch.no_grad()
def start_loud(critic: nn.Module) -> None:
    """Draws a critic's weights such that its layers keep the size of a signal, in place (He et al. 2015).

    With PyTorch's own, its logits hardly differ at first, and against a trained generator it said nothing for 280 steps.
    """
    for layer in critic.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, a=0.2, nonlinearity="leaky_relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def minibatch_deviation(x: torch.Tensor, group: int = 4) -> torch.Tensor:
    """Returns one map [N,1,H,W]: the mean deviation within groups of x [N,C,H,W]. Source: Karras et al. 2018, section 3."""
    count, _, height, width = x.shape
    group = group if count % group == 0 else count
    # groups are neighbours, so that real and generated images of one batch do not share one
    deviation = x.float().reshape(count // group, group, -1).var(1, correction=0).add(1e-8).sqrt().mean(1)
    return deviation.repeat_interleave(group)[:, None, None, None].expand(-1, 1, height, width).to(x.dtype)


class FaceDistance(nn.Module):
    """How far reconstructions are from photos [N,3,R,R], in the eyes of a recognizer: two numbers [].

    The first is over its features before each pooling, of unit norm over the channels (Zhang et al. 2018, Eq. 1, mean over
    layers); the second is 1 - cosine of the embeddings. The recognizer must have been trained on public people only, and
    must not be a judge of what this prior yields. Raises: ValueError for one without a plain chain of convolutions.
    """

    def __init__(self, recognizer: CosineRecognizer):
        super().__init__()
        if not isinstance(recognizer.backbone[0], nn.Sequential):
            raise ValueError(f"expected an alexnet_trunk or a vgg_trunk for its features, got {recognizer.architecture}")
        self.recognizer = [recognizer]  # in a list: no part of the state, never trained

    def describe(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Returns the features [N,C,h,w] of every scale, and the embeddings [N,D], all of unit norm."""
        trunk, *rest = self.recognizer[0].backbone
        x, described = images * 2, []
        for layer in trunk:
            if isinstance(layer, nn.MaxPool2d):
                described.append(F.normalize(x.float(), dim=1))
            x = layer(x)
        for layer in rest:
            x = layer(x)
        return [*described, F.normalize(x.float(), dim=1)]

    def forward(self, reconstructions: torch.Tensor, photos: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            *theirs, their_embeddings = self.describe(photos)
        *ours, our_embeddings = self.describe(reconstructions)
        layers = [(a - b).square().sum(1).mean() for a, b in zip(ours, theirs, strict=True)]
        return torch.stack(layers).mean(), 1 - (our_embeddings * their_embeddings).sum(1).mean()


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


class Moments(nn.Module):
    """Running second moments [D,D] of the codes that an encoder gives, which are far from those of a standard normal.

    The prior is to be sampled from a standard normal; so the square root of the moments becomes part of the mapping. It
    takes samples to where the codes are (Ghosh et al. 2020 fit a density after training for the same end).
    """

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("second", torch.eye(size))

    @torch.no_grad()
    def update(self, mean: torch.Tensor, log_variance: torch.Tensor, decay: float) -> None:
        """Moves the moments towards those of a batch of codes: mean and log variance [N,D]."""
        batch = mean.T @ mean / len(mean) + torch.diag(log_variance.exp().mean(0))
        self.second.lerp_(batch.to(self.second), 1 - decay)

    def root(self) -> torch.Tensor:
        """Returns A [D,D]: A z has these moments, up to a factor, and the length of z on average."""
        return torch.linalg.cholesky(self.second) * (len(self.second) / self.second.trace()) ** 0.5

    def map(self, mapping: nn.Module, z: torch.Tensor) -> torch.Tensor:
        """Returns w [N,w_dim] of standard normal z [N,D], as the mapping gives it after fold."""
        return mapping.net(F.normalize(z, dim=1) @ self.root().T)

    @torch.no_grad()
    def fold(self, mapping: nn.Module) -> None:
        """Makes the root a part of the mapping's first layer, in place."""
        mapping.net[0].weight.copy_(mapping.net[0].weight @ self.root())


def draw_latents(
    map_z: Callable[[torch.Tensor], torch.Tensor], z_dim: int, count: int, layers: int, mixing: float,
    generator: torch.Generator, device: torch.device,
) -> torch.Tensor:  # fmt: skip
    """Returns w [N,layers,w_dim]; with probability `mixing` a sample takes its later layers from a second latent."""
    z = torch.randn(2 * count, z_dim, generator=generator).to(device)
    first, second = map_z(z).chunk(2)
    cut = torch.randint(1, layers + 1, (count,), generator=generator)
    cut = torch.where(torch.rand(count, generator=generator) < mixing, cut, layers).to(device)
    takes_first = torch.arange(layers, device=device)[None, :] < cut[:, None]
    return torch.where(takes_first[:, :, None], first[:, None], second[:, None])


def first_with_critic(config: GanTraining) -> int:
    """Returns the first step in which there is a critic."""
    return round(config.alone * config.steps)


def falling_rate(config: GanTraining, step: int) -> float:
    """Returns the learning rate of a step: constant, then a straight line to zero over the last `decay` of the steps."""
    rate = config.lr_alone if step < first_with_critic(config) else config.lr
    return rate * min(1.0, (config.steps - step) / max(1.0, config.decay * config.steps))


def clip_gradients(optimizer: torch.optim.Optimizer, usual: torch.Tensor, most: float, step: int) -> None:
    """Shortens the gradient of all parameters to `most` times its usual length, a running mean, which it updates.

    Raises: FaultError when the gradient is not finite.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    limit = most * usual.item() if usual > 0 else math.inf
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
    if not torch.isfinite(norm):
        raise FaultError(f"the training diverged at step {step}; go on from its last state with --resume and a lower --lr")
    usual.lerp_(norm.clamp(max=limit), 0.01 if usual > 0 else 1.0)


def train_gan(
    config: GanTraining,
    photos: Photos,
    out: Path,
    *,
    device: torch.device,
    features: CosineRecognizer | None = None,
    resume: bool = False,
    on_step: Callable[[dict], None] = lambda row: None,
    on_samples: Callable[[int, torch.Tensor], None] = lambda step, images: None,
) -> dict[str, torch.Tensor]:
    """Returns the averaged weights, named as stylegan2-pytorch names them: "SE.*" and "GE.*".

    An encoder gives each photo a normal distribution of z, from which the generator must give the photo back; so no face
    can be left out, as a critic alone allows. A critic then sharpens reconstructions and samples (Larsen et al. 2016).

    photos: public people only. features: the recognizer of FaceDistance; None: reconstructions are compared by pixels
    alone. The state is written to out/state.safetensors on a clock, the log to out/steps.jsonl; resume goes on from them
    to the bit.
    """
    torch.manual_seed(config.seed)
    layers = num_layers(config.resolution)
    mapping, synthesis = (net.to(device) for net in build_networks(config.resolution, config.capacity))
    z_dim = mapping.net[0].weight.shape[1]
    encoder, critic = (
        Critic(config.resolution, config.critic_width, outputs).to(device, memory_format=torch.channels_last)
        for outputs in (2 * z_dim, 1)
    )
    start_loud(critic)
    nn.init.constant_(encoder.outputs.bias[z_dim:], -2.0)  # sure of itself at first: what is said must be heard
    distance = FaceDistance(features.to(device)) if features is not None else None
    if not config.noise:
        silence_noise(synthesis)
    grey = is_grey(photos.pixels)
    if grey:
        tie_colours(synthesis)
    averages = [copy.deepcopy(net).requires_grad_(False) for net in (mapping, synthesis)]
    others = [p for net in (encoder, synthesis) for p in net.parameters() if p.requires_grad]
    optimizers = {
        "generator": torch.optim.Adam(
            [{"params": others}, {"params": [*mapping.parameters()]}], config.lr, betas=(0.5, 0.99)
        ),
        "critic": torch.optim.Adam(critic.parameters(), config.lr, betas=(0.0, 0.99)),
    }
    generator = torch.Generator().manual_seed(config.seed)
    moments = Moments(z_dim).to(device)
    balance = nn.ParameterDict(
        {name: nn.Parameter(torch.zeros((), device=device), requires_grad=False) for name in ("scale", "norm")}
    )
    modules = {
        "S": mapping, "G": synthesis, "E": encoder, "C": critic, "SE": averages[0], "GE": averages[1], "balance": balance,
        "moments": moments,
    }  # fmt: skip
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

    def generate(w: torch.Tensor) -> torch.Tensor:
        count = len(w) if config.noise else 1  # without weights it has no effect, and need not be drawn
        noise = torch.rand(count, config.resolution, config.resolution, 1, generator=generator).to(device)
        with autocast():
            images = run_generator(synthesis, w, noise).float() * 2 - 1
        # equal channels get equal gradients, so tied colours stay tied
        return images.mean(1, keepdim=True).expand(-1, 3, -1, -1) if grey else images

    def judge(images: torch.Tensor) -> torch.Tensor:
        with autocast():
            return critic(AUGMENT(images, generator))

    z_show = torch.randn(32, z_dim, generator=torch.Generator().manual_seed(1)).to(device)
    noise_show = torch.rand(1, config.resolution, config.resolution, 1, generator=torch.Generator().manual_seed(2)).to(device)
    half, joined = config.batch // 2, first_with_critic(config)
    saved_at = time.monotonic()
    for step in range(first, config.steps):
        rate = falling_rate(config, step)
        optimizers["critic"].param_groups[0]["lr"] = rate
        for group, times in zip(optimizers["generator"].param_groups, (1.0, config.mapping_lr), strict=True):
            group["lr"] = rate * times
        index = torch.randint(len(photos), (config.batch,), generator=generator)
        real = photos.images(index).to(device)
        mirrored = (torch.rand(config.batch, generator=generator) < 0.5).to(device)
        real = torch.where(mirrored[:, None, None, None], real.flip(3), real)

        # photos through the encoder, and samples once there is a critic
        with autocast():
            mean, log_variance = encoder(real).chunk(2, dim=1)
        z = mean + torch.exp(log_variance / 2) * torch.randn(mean.shape, generator=generator).to(device)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        w = mapping(z)[:, None].expand(-1, layers, -1)
        if step >= joined:
            drawn = draw_latents(partial(moments.map, mapping), z_dim, half, layers, config.mixing, generator, device)
            w = torch.cat([w, drawn])
        images = generate(w)
        leaf = images.detach().requires_grad_()
        pixels = (leaf[: config.batch] - real).square().mean()
        loss = pixels
        row = {"step": step, "pixels": pixels.item(), "divergence": divergence.item()}
        if distance:
            with autocast():
                perceptual, identity = distance(leaf[: config.batch], real)
            loss = loss + config.perceptual * perceptual + config.identity * identity
            row |= {"perceptual": perceptual.item(), "identity": identity.item()}
        (gradient,) = torch.autograd.grad(loss, leaf)

        if step >= joined:
            # the critic: softplus(fake) + softplus(-real), and R1 every r1_every steps
            fake = torch.cat([images[:half], images[config.batch :]]).detach()
            real_logits, fake_logits = judge(torch.cat([real, fake])).split([config.batch, 2 * half])
            loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
            row["critic"] = loss.item()
            if step % config.r1_every == 0:
                photo = real.clone().requires_grad_()
                slope = torch.autograd.grad(critic(AUGMENT(photo, generator)).sum(), photo, create_graph=True)[0]
                loss = loss + 0.5 * config.r1_gamma * config.r1_every * slope.square().sum((1, 2, 3)).mean()
            optimizers["critic"].zero_grad(set_to_none=True)
            loss.backward()
            optimizers["critic"].step()
            # the generator: softplus(-fake), its gradient as large as the reconstruction's times `adversarial`
            critic.requires_grad_(False)
            fake.requires_grad_()
            loss = F.softplus(-judge(fake)).mean()
            row["generator"] = loss.item()
            (push,) = torch.autograd.grad(loss, fake)
            critic.requires_grad_(True)
            ratio = gradient[: config.batch].norm() / push.norm().clamp_min(1e-12)
            balance["scale"].lerp_(ratio, 0.01 if balance["scale"] > 0 else 1.0)
            ramp = min(1.0, max(0.0, (step - joined) / NEWBORN - 1))  # then it is listened to, more and more
            push = push * (config.adversarial * ramp * balance["scale"])
            gradient[:half] += push[:half]
            gradient[config.batch :] += push[half:]
        optimizers["generator"].zero_grad(set_to_none=True)
        torch.autograd.backward([images, config.divergence * divergence], [gradient, None])
        clip_gradients(optimizers["generator"], balance["norm"], config.clip, step)
        optimizers["generator"].step()
        # a short memory at first, so that early averages are not full of the first weights
        decay = min(config.average, (step + 1) / (step + 10))
        update_average(averages[0], mapping, decay)
        update_average(averages[1], synthesis, decay)
        moments.update(mean, log_variance, decay)

        if step % 25 == 0 or step == config.steps - 1:
            append_jsonl(log, row)
            on_step(row)
        if step % config.sample_every == 0 or step == config.steps - 1:
            with torch.no_grad():
                w = moments.map(averages[0], z_show)[:, None].expand(-1, layers, -1)
                samples = run_generator(averages[1], w, noise_show) * 2 - 1
                on_samples(step, torch.cat([samples, real[:8], images[:8].detach()]))
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
    moments.fold(averages[0])
    return {f"{name}.{key}": value for name in ("SE", "GE") for key, value in modules[name].state_dict().items()}
