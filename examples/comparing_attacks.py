# %% [markdown]
# # Comparing attacks
#
# The same recognizer, the same users, three attacks: the paper's pixel search, a pixel
# search with the means of today, and the search of a prior's latent space. All three
# convince the target. Whom else do they convince?

# %%
import os

import torch

import ganinv
from ganinv import images

# the tests ask only whether it runs
QUICK = os.environ.get("GANINV_EXAMPLES") == "quick"
USERS = range(2 if QUICK else 6)

# %%
world = ganinv.load_world("synthetic")
attacks = {
    "the paper's pixels": ganinv.PixelAttack("gray-box", steps=2 if QUICK else 200),
    "pixels of today": ganinv.PixelAttack("modern", steps=2 if QUICK else 60),
    "latent space": ganinv.LatentAttack(
        steps=2 if QUICK else 40, candidates=50 if QUICK else 1000
    ),
}
audit = ganinv.audit(world.target, world.prior, USERS, world=world, attacks=attacks)
print(audit)

# %% [markdown]
# A row for each attack. Under each report stand the same controls, so the rows can be
# compared.

# %%
rows = torch.cat([report.result.images[:, 0] for report in audit.reports.values()])
images.to_pil(images.grid(rows, columns=len(USERS)), scale=2)

# %%
for name, report in audit.reports.items():
    print(f"{name}:")
    for metric in (
        "target_score",
        "identity_similarity",
        "accepted_at_far_1e-3",
        "face_detected",
    ):
        entry = report.summary[metric]
        low, high = entry["ci95"]
        print(f"  {metric:21} {entry['mean']:.2f} [{low:.2f}, {high:.2f}]")

# %% [markdown]
# The target's score is high in every row; that is what each attack maximised. Read the
# other lines.
#
# `audit.save("runs/mine")` writes one page over all attacks. Of run folders, `python
# scripts/compare.py RUN RUN` makes tables and figures, with tests of the differences.
