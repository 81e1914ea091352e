# %% [markdown]
# # Your own torch module
#
# A classifier of faces, each user a class, of which only a `torch.nn.Module` is at
# hand. Here a small one is trained first, on twenty people who do not exist; with
# yours, skip to the second part.

# %%
import os
import tempfile
from pathlib import Path

import torch
from torch import nn

import ganinv
from ganinv import images
from ganinv.rendered.photos import make_photos

# the tests ask only whether it runs
QUICK = os.environ.get("GANINV_EXAMPLES") == "quick"
PEOPLE = range(500, 520)  # none of them is in the shipped world
USERS = range(2 if QUICK else 10)

# %%
train = make_photos(PEOPLE, 2 if QUICK else 12)
torch.manual_seed(0)


def block(inputs, outputs):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()
    )


network = nn.Sequential(
    block(3, 32),
    block(32, 64),
    block(64, 128),
    block(128, 128),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(128, 20),
)
optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
for _ in range(2 if QUICK else 150):
    rows = torch.randint(len(train), (64,))
    pictures = train.images(rows)
    pictures = torch.where(torch.rand(64, 1, 1, 1) < 0.5, pictures, pictures.flip(3))
    loss = nn.functional.cross_entropy(
        network(pictures), train.person[rows], label_smoothing=0.1
    )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
network.eval()

# %% [markdown]
# ## Wrap it
#
# `wrap` is told how the network wants its pictures: side in pixels, mean and deviation
# as in torchvision's `Normalize`, and what its output is. It checks the rest, and says
# in one line what is wrong.

# %%
target = ganinv.wrap(network, size=64, mean=0.5, std=0.5, output="logits")
new = make_photos(PEOPLE, range(20, 23))  # photos that the network has not seen
right = (target(new.images()).logits.argmax(1) == new.person).float().mean()
print(f"{target.num_identities} users, {right:.0%} of new photos named right")

# %% [markdown]
# ## Attack and judge it
#
# References are a folder with one sub-folder per user, in the order of the classes.
# Twenty users with three photos each are enough for a judge to find its threshold. Who
# judges must not have met the users: here the world's verifier, for photographs
# `judges=["sface", "dlib"]`.

# %%
folder = Path(tempfile.mkdtemp()) / "my_faces"
for picture, file in zip(new.images(), new.files, strict=True):
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    images.save(picture, folder / file)

world = ganinv.load_world("synthetic")
verifier = next(judge for judge in world.judges if not judge.sees_users)
attack = ganinv.LatentAttack(steps=2 if QUICK else 60, candidates=50 if QUICK else 1000)
result = attack(world.prior, target, USERS)
report = ganinv.judge(
    result,
    target,
    judges=[verifier],
    references=folder,
    prior=world.prior,
    force=QUICK,  # which leaves the network hardly trained
)
print(report)

# %% [markdown]
# Above, one photo of each user; below, what the attack made.

# %%
own = torch.stack([new.images(new.person == user)[0] for user in USERS])
images.to_pil(images.grid(torch.cat([own, result.images[:, 0]]), columns=len(USERS)))
