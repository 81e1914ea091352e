"""stylegan2-pytorch's networks as a prior.

Source: the package stylegan2-pytorch 1.9 (lucidrains); its checkpoints load in stylegan2_pytorch_files.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import math
import sys
import types

import torch
from torch import nn

from ganinv.engine.standins import import_torchvision
from ganinv.priors.stylegan2_pytorch_form import SLOPE, GeneratorForm, draw_pictures, prepare_generator

LR_MLP = 0.1  # the package's default; no checkpoint says its own, though the mapping network depends on it
MEAN_LATENTS = 10_000
SEED = 0  # of the noise input and of the latents behind the mean w


@functools.cache
def import_stylegan2_pytorch() -> types.ModuleType:
    """Returns the package's module of networks, also where there is no GPU.

    The package asserts CUDA and imports the tracker `aim` when it is imported; neither is needed for its networks, so
    both are feigned during the import alone.
    """
    import einops  # noqa: F401  (imported for real before `aim` is feigned)

    import_torchvision()
    import kornia.filters  # noqa: F401

    stub = types.ModuleType("aim")
    stub.__spec__ = importlib.machinery.ModuleSpec("aim", None)
    saved, is_available = sys.modules.get("aim"), torch.cuda.is_available
    sys.modules.setdefault("aim", stub)
    torch.cuda.is_available = lambda: True
    try:
        return importlib.import_module("stylegan2_pytorch.stylegan2_pytorch")
    finally:
        torch.cuda.is_available = is_available
        if saved is None:
            del sys.modules["aim"]


def build_networks(
    resolution: int, capacity: int, *, attention: tuple[int, ...] = (), no_const: bool = False,
    transparent: bool = False, w_dim: int = 512, depth: int = 8, lr_mlp: float = LR_MLP, fmap_max: int = 512,
) -> tuple[nn.Module, nn.Module]:  # fmt: skip
    """Returns the package's own StyleVectorizer and Generator, initialised as its StyleGAN2 class does."""
    package = import_stylegan2_pytorch()
    mapping = package.StyleVectorizer(w_dim, depth, lr_mul=lr_mlp)
    synthesis = package.Generator(
        resolution, w_dim, capacity,
        transparent=transparent, attn_layers=list(attention), no_const=no_const, fmap_max=fmap_max,
    )  # fmt: skip
    for module in (*mapping.modules(), *synthesis.modules()):
        if type(module) in (nn.Conv2d, nn.Linear):
            nn.init.kaiming_normal_(module.weight, a=0, mode="fan_in", nonlinearity="leaky_relu")
    for block in synthesis.blocks:
        for layer in (block.to_noise1, block.to_noise2):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    return mapping, synthesis


def num_layers(resolution: int) -> int:
    """Returns the number of synthesis blocks, each with a w of its own: log2(R)-1."""
    return int(math.log2(resolution) - 1)


def lay_on_grey(pictures: torch.Tensor) -> torch.Tensor:
    """Returns images [N,3,R,R], about [-1,1], of a generator's pictures [N,3 or 4,R,R], about [0,1].

    Those of a transparent prior are laid on mid-grey (0), which favours neither dark nor bright outlines; their alpha is
    clamped to [0,1].
    """
    images = pictures[:, :3] * 2 - 1
    return images if pictures.shape[1] == 3 else images * pictures[:, 3:].clamp(0, 1)


class OlderNorm(nn.Module):
    """The package's ChanNorm as it was before 1.8.8: the deviation plus epsilon divides, no root of the variance plus it."""

    def __init__(self, norm: nn.Module):
        super().__init__()
        self.eps, self.g, self.b = norm.eps, norm.g, norm.b

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        deviation = torch.var(x, dim=1, unbiased=False, keepdim=True).sqrt()
        return (x - x.mean(1, keepdim=True)) / (deviation + self.eps) * self.g + self.b


class StyleGAN2PyTorch(nn.Module):
    """stylegan2-pytorch's mapping and synthesis networks as an interfaces.Generator: frozen, eval, deterministic.

    mapping, synthesis: the package's StyleVectorizer and Generator. mean_w: [w_dim], by default that of MEAN_LATENTS
    seeded latents. noise: [1,R,R,1] in [0,1), the one noise input that all candidates share, by default seeded.
    """

    w_slope = SLOPE  # of the mapping's last leaky ReLU, which attack.spaces.Whitening undoes

    def __init__(
        self,
        mapping: nn.Module,
        synthesis: nn.Module,
        *,
        mean_w: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
    ):
        super().__init__()
        self.mapping, self.synthesis = mapping, synthesis
        self.resolution, self.num_ws = synthesis.image_size, synthesis.num_layers
        self.z_dim = self.w_dim = synthesis.latent_dim
        seeded = torch.Generator().manual_seed(SEED)
        if noise is None:
            noise = torch.rand(1, self.resolution, self.resolution, 1, generator=seeded)
        if mean_w is None:
            with torch.no_grad():
                z = torch.randn(MEAN_LATENTS, self.z_dim, generator=seeded.manual_seed(SEED))
                mean_w = mapping(z.to(next(mapping.parameters()).device)).mean(0)
        self.register_buffer("noise", noise)
        self.register_buffer("mean_w", mean_w)
        self.forms: dict[torch.dtype, GeneratorForm] = {}
        self.eval().requires_grad_(False)

    def _apply(self, *arguments, **options):
        """Moves or casts the tensors; the forms are of the old ones, and are made anew when they are needed."""
        self.forms.clear()
        return super()._apply(*arguments, **options)

    def _load_from_state_dict(self, *arguments):
        self.forms.clear()
        super()._load_from_state_dict(*arguments)

    def form(self) -> GeneratorForm:
        """Returns the synthesis network made ready, in the dtype of torch.autocast where that is on."""
        own, kind = self.noise.dtype, self.noise.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else own
        if dtype not in self.forms:
            # inference tensors could not take part in a later search
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(kind, enabled=False):
                self.forms[dtype] = prepare_generator(self.synthesis, self.noise, dtype)
        return self.forms[dtype]

    def use_older_norms(self) -> None:
        """Gives the attention layers the norm of the package before 1.8.8, in place."""
        package = import_stylegan2_pytorch()
        norms = [name for name, module in self.synthesis.named_modules() if isinstance(module, package.ChanNorm)]
        for name in norms:
            self.synthesis.set_submodule(name, OlderNorm(self.synthesis.get_submodule(name)))
        self.forms.clear()

    def map(self, z: torch.Tensor, psi: float = 1.0) -> torch.Tensor:
        """Returns w [N,num_ws,w_dim] of z [N,z_dim], the same for every layer, pulled towards the mean w by psi."""
        w = torch.lerp(self.mean_w, self.mapping(z), psi)
        return w[:, None].repeat(1, self.num_ws, 1)

    def synthesize(self, w: torch.Tensor) -> torch.Tensor:
        """Returns images [N,3,R,R], about [-1,1] and not clamped, of w [N,num_ws,w_dim]; differentiable."""
        if w.shape[1:] != (self.num_ws, self.w_dim):
            raise ValueError(f"expected w of shape [N,{self.num_ws},{self.w_dim}], got {list(w.shape)}")
        form = self.form()
        with torch.autocast(w.device.type, enabled=False):  # the form has its own dtype
            pictures = draw_pictures(form, w)
        return lay_on_grey(pictures)
