"""A discriminator in training beside another loss, and the push that it gives generated pictures."""

from __future__ import annotations

import torch

from ganinv.photos import Photos
from ganinv.training.discriminators import FeatureDiscriminator, PictureDiscriminator
from ganinv.training.frozen_features import FrozenFeatures, Projector

NEWBORN = 250  # steps in which a discriminator that knows nothing yet is not listened to
EXAMPLES = 128  # photos after which frozen features are brought to unit size


class Critics:
    """A discriminator with its optimizer; its push is measured by the gradient of the loss beside which it stands.

    adversarial: how long the push is made, in units of that gradient. generator: of the discriminator's draws.
    scale []: the running mean of what a push must be multiplied by to be as long as that gradient, updated in place.
    """

    def __init__(
        self, discriminator: PictureDiscriminator | FeatureDiscriminator, lr: float, adversarial: float,
        generator: torch.Generator, scale: torch.Tensor,
    ):  # fmt: skip
        self.discriminator, self.adversarial, self.generator, self.scale = discriminator, adversarial, generator, scale
        self.judged = [p for p in discriminator.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.judged, lr, betas=(0.0, 0.99))

    def set_rate(self, rate: float) -> None:
        """Sets the learning rate of a step."""
        self.optimizer.param_groups[0]["lr"] = rate

    def train(self, real: torch.Tensor, fake: torch.Tensor, step: int) -> tuple[torch.Tensor, object]:
        """Trains the discriminator on photos and generated pictures; returns its loss, and what it saw of the latter."""
        seen = self.discriminator.look(fake)
        loss, said = self.discriminator.lose(real, seen, self.generator, step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return said, seen

    def push(self, fake: torch.Tensor, seen: object, length: torch.Tensor, age: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the generator's loss, and its gradient on the pictures of which the discriminator saw so much.

        length: of the other loss's gradient. age: steps that the discriminator has trained for.
        """
        for parameter in self.judged:  # the gradient of none of them is asked for
            parameter.requires_grad_(False)
        loss = self.discriminator.lose_generator(seen, self.generator)
        (push,) = torch.autograd.grad(loss, fake)
        for parameter in self.judged:
            parameter.requires_grad_(True)
        ratio = length / push.norm().clamp_min(1e-12)
        self.scale.lerp_(ratio, 0.01 if self.scale > 0 else 1.0)
        ramp = min(1.0, max(0.0, age / NEWBORN - 1))  # then it is listened to, more and more
        return loss.detach(), push * (self.adversarial * ramp * self.scale)


def build_feature_discriminator(
    features: FrozenFeatures, photos: Photos, seed: int, device: torch.device
) -> FeatureDiscriminator:
    """Returns a newborn discriminator of what frozen networks see; its first weights are the global generator's."""
    fixed = torch.Generator().manual_seed(seed + 1)
    examples = photos.images(torch.randint(len(photos), (EXAMPLES,), generator=fixed), device)
    projector = Projector(features, examples, fixed).to(device)
    with torch.no_grad():
        return FeatureDiscriminator(projector, projector(examples[:2]))
