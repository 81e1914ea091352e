# %% [markdown]
# # Your own search space
#
# A search space says which pictures can be reached, and by which numbers. Here pictures
# of large, soft patches: a grid of 16 by 16 numbers for each colour, enlarged. It needs
# no prior, and cannot draw the fine patterns that fool a network.

# %%
import os

import torch
from torch import nn

import ganinv
from ganinv import images
from ganinv.attack.spaces import SPACES

# the tests ask only whether it runs
QUICK = os.environ.get("GANINV_EXAMPLES") == "quick"
USERS = range(2 if QUICK else 6)


# %%
@SPACES.register("patches")
class Patches(nn.Module):
    """Pictures that a coarse grid draws."""

    needs_prior = False

    def __init__(self, start):
        super().__init__()
        self.side = start.shape[-1]
        self.grid = nn.Parameter(
            nn.functional.interpolate(start, 16, mode="area")
            .expand(-1, 3, -1, -1)
            .clone()
        )

    @classmethod
    def begin(cls, origin):
        return cls(
            origin.first
        )  # the pictures that the search begins with, a row per sample

    def forward(self, rows=slice(None)):
        return nn.functional.interpolate(
            self.grid[rows], self.side, mode="bicubic"
        ).clamp(-1, 1)

    @torch.no_grad()
    def project_(self):
        self.grid.clamp_(-1, 1)

    def latents(self):
        return {"grid": self.grid.detach().contiguous()}


# %% [markdown]
# Its name is now a value of `space=`. The loop, the transforms, the final choice and
# the judges are the same as ever.

# %%
world = ganinv.load_world("synthetic")
steps = 2 if QUICK else 80
results = [
    ganinv.PixelAttack("modern", space=space, steps=steps)(world.target, USERS)
    for space in ("pixels", "patches")
]
rows = torch.cat([result.images[:, 0] for result in results])
images.to_pil(images.grid(rows, columns=len(USERS)), scale=2)

# %% [markdown]
# Pixels above, patches below. What the target and the judges say of them:

# %%
for name, result in zip(("pixels", "patches"), results, strict=True):
    print(name)
    summary = ganinv.judge(result, world.target, world=world).summary
    for metric in ("target_score", "identity_similarity"):
        print(f"  {metric:20} {summary[metric]['mean']:.2f}")
