# %% [markdown]
# # First attack
#
# A recognizer knows a hundred people who do not exist. What does it give away of ten of
# them, to somebody who holds the recognizer and none of their photos?

# %%
import os

import torch

import ganinv
from ganinv import images
from ganinv.worlds.world import render_references

# the tests ask only whether it runs
QUICK = os.environ.get("GANINV_EXAMPLES") == "quick"
USERS = range(2 if QUICK else 10)  # with fewer than six, nothing can be shown

# %% [markdown]
# A *world* holds what belongs together: a recognizer to attack (the target), a
# generator of faces that was trained on other people (the prior), recognizers that
# judge, and photos that none of them was trained on (the references).

# %%
world = ganinv.load_world("synthetic")
judges = ", ".join(judge.name for judge in world.judges)
print(f"{world.target.num_identities} users; judges: {judges}")

# %% [markdown]
# The attack draws faces from the prior, keeps those that the target scores highest for
# each user, and moves them downhill through the prior's latent space. No judge takes
# part.

# %%
attack = ganinv.LatentAttack(steps=2 if QUICK else 60, candidates=50 if QUICK else 1000)
result = attack(world.prior, world.target, USERS)
print(f"the target's own score of its users: {result.scores.mean():.2f}")

# %% [markdown]
# Above, a photo of each user, which the attack has never seen. In the middle, what it
# made. Below, where it began: the best of many random faces. The photos may be shown,
# because nobody on them exists.

# %%
photos = render_references(world, USERS)
own = torch.stack([photos.images(photos.person == user)[0] for user in USERS])
sheet = images.grid(
    torch.cat([own, result.images[:, 0], result.first]), columns=len(USERS)
)
images.to_pil(sheet, scale=2)

# %% [markdown]
# The score above proves nothing: noise can have it. So other recognizers are asked,
# about these pictures and about pictures that know nothing of the target.

# %%
report = ganinv.judge(result, world.target, world=world)
print(report)

# %% [markdown]
# [The verdict](../docs/verdict.md) says what the answers mean.
# `report.save("runs/first")` writes the page with all numbers. On the command line
# `python scripts/latent_attack.py` does the same, and searches for longer.
