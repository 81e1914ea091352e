# %% [markdown]
# # Score only, and its curve
#
# The attacker does not hold the recognizer. It may send pictures and gets back a score
# per user, as a service returns it. How many pictures does it take?

# %%
import os

import matplotlib.pyplot as plt
import torch

import ganinv
from ganinv import images
from ganinv.worlds.world import render_references

# the tests ask only whether it runs
QUICK = os.environ.get("GANINV_EXAMPLES") == "quick"
USERS = range(2 if QUICK else 4)
STEPS = 2 if QUICK else 60

# %% [markdown]
# `access="scores"` hides everything but the scores, and counts every picture that is
# sent. The search needs no gradients: `antithetic` tries pairs of opposite steps, here
# eight pairs of them, and moves to where the scores rise.

# %%
world = ganinv.load_world("synthetic")
attack = ganinv.LatentAttack(
    access="scores",
    steps=STEPS,
    candidates=50 if QUICK else 500,
    restarts=1,
    optim={"optimizer": "antithetic", "transforms": 1, "pairs": 8},
)
rows = []
result = attack(world.prior, world.target, USERS, on_step=rows.append)
print("pictures sent per user:", result.queries["per_identity"])
print("and before, for all users together:", result.queries["shared"])

# %% [markdown]
# The curve of each user: the score that the target gives, over the pictures sent.

# %%
figure, axes = plt.subplots(figsize=(7, 3.5))
sent = [(row["step"] + 1) * 2 * 8 for row in rows]
for user in USERS:
    axes.plot(sent, [row["identities"][user] for row in rows], label=f"user {user}")
axes.set(xlabel="pictures sent per user", ylabel="the target's score", ylim=(0, 1.02))
axes.legend(loc="lower right")
figure.tight_layout()

# %% [markdown]
# Above, a photo of each user; below, what was found by scores alone.

# %%
photos = render_references(world, USERS)
own = torch.stack([photos.images(photos.person == user)[0] for user in USERS])
rows = torch.cat([own, result.images[:, 0]])
images.to_pil(images.grid(rows, columns=len(USERS)), scale=2)

# %% [markdown]
# The curve is the target's opinion. Whether the right people are on the pictures, the
# judges say:

# %%
summary = ganinv.judge(result, world.target, world=world).summary
for name in ("identity_similarity", "face_detected"):
    low, high = summary[name]["ci95"]
    print(f"{name:20} {summary[name]['mean']:.2f} [{low:.2f}, {high:.2f}]")

# %% [markdown]
# A limit of queries protects where it lies below the number that a curve needs, and
# nobody can ask as somebody else. [Access](../docs/access.md) has the other rungs,
# other searches, and what an operator can do to the answers.
