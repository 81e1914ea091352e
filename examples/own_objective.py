# %% [markdown]
# # Your own objective
#
# An objective is one function: what the target says of the pictures goes in, one number
# per picture comes out, lower is better. Here, how sure the target is, over all users:
# the entropy of its scores, beside the score of the user.

# %%
import os

import torch

import ganinv
from ganinv import images
from ganinv.attack.objectives import OBJECTIVES, pick

# the tests ask only whether it runs
QUICK = os.environ.get("GANINV_EXAMPLES") == "quick"
USERS = range(2 if QUICK else 6)


# %%
@OBJECTIVES.register("sure")
def sure(evaluation):
    """Returns the user's cross-entropy plus the entropy of the scores, [N]."""
    scores = evaluation.logits.log_softmax(1)
    return -pick(scores, evaluation.identities) - (scores.exp() * scores).sum(1)


# %% [markdown]
# Its name is now a value of `objective=`, beside those that are shipped.

# %%
world = ganinv.load_world("synthetic")
results = {
    name: ganinv.LatentAttack(
        objective=name,
        steps=2 if QUICK else 40,
        candidates=50 if QUICK else 1000,
        restarts=1 if QUICK else 4,
    )(world.prior, world.target, USERS)
    for name in ("max_margin", "sure")
}
rows = torch.cat([result.images[:, 0] for result in results.values()])
images.to_pil(images.grid(rows, columns=len(USERS)), scale=2)

# %% [markdown]
# The shipped objective above, the new one below. Which is better is for the judges to
# say, and never for the target:

# %%
for name, result in results.items():
    report = ganinv.judge(result, world.target, world=world)
    likeness = report.summary["identity_similarity"]
    low, high = likeness["ci95"]
    print(f"{name:12} likeness {likeness['mean']:.2f} [{low:.2f}, {high:.2f}]")

# %% [markdown]
# The intervals of six users are wide. Choose settings on users whom you do not report,
# and take more of them. [How to add a ...](../docs/extending.md) has the other seams.
