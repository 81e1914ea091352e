# %% [markdown]
# # Attributes
#
# A recognizer need not give away a face to give away a person: skin, age, build, hair.
# Two questions, apart. What does its embedding know of people at all? And how much of
# that is in the pictures which an attack makes of its users?

# %%
import os

import ganinv
from ganinv.rendered.factors import FACTORS, draw_people
from ganinv.rendered.photos import make_photos

# the tests ask only whether it runs
QUICK = os.environ.get("GANINV_EXAMPLES") == "quick"
USERS = range(2 if QUICK else 10)

# %% [markdown]
# ## What does the embedding know?
#
# A probe reads attributes off embeddings by straight lines. It is fitted on other
# people, whose attributes are known: here on people who do not exist, of yours on
# photos with labels (`labels="my_labels.csv"`). What it says of people who took no part
# in its fit is the ceiling of every attack on an attribute.

# %%
world = ganinv.load_world("synthetic")
people = make_photos(range(50_000, 50_110 if QUICK else 50_400), 1)
probe = ganinv.probe(world.target, people)
ceilings = {name: entry["explained"] for name, entry in probe.ceilings.items()}
known = sorted(ceilings, key=lambda name: -ceilings[name]["mean"])[:8]
print("share of the variance that the target's embedding explains:")
for name in known:
    low, high = ceilings[name]["ci95"]
    print(f"  {name:20} {ceilings[name]['mean']:.2f} [{low:.2f}, {high:.2f}]")

# %% [markdown]
# ## What do the pictures give away?
#
# The pictures were made to please the target, so the target must not read them. A probe
# of the verifier does, which took no part. 1 is the person, 0 what one guesses who
# knows nothing, below 0 worse than that.

# %%
attack = ganinv.LatentAttack(steps=2 if QUICK else 50, candidates=50 if QUICK else 1000)
result = attack(world.prior, world.target, USERS)
verifier = next(judge for judge in world.judges if not judge.sees_users)
reader = ganinv.probe(verifier.recognizer, people)
said = reader.estimate(verifier.recognizer(result.images[:, 0]).embeddings)
true = draw_people(list(USERS)).double()
factors = [factor.name for factor in FACTORS]
order = [attribute.name for attribute in reader.attributes]
print("share of the users' own that is in the pictures:")
for name in known:
    column = order.index(name)
    theirs = true[:, factors.index(name), None]
    theirs = reader.attributes[column].standardise(theirs)[:, 0]
    share = 1 - (said[:, column] - theirs).square().sum() / theirs.square().sum()
    print(f"  {name:20} {share:5.2f}")

# %% [markdown]
# Ten users show large shares only. Some are above the ceiling: ten are few, and the
# target enrolled thirty photos of each, which say more than the one photo that a probe
# read. [Attributes](../docs/attributes.md) says how a report puts what is known, what
# templates say and what pictures say beside each other, with intervals. On the command
# line they are `probe.py` and `attributes.py`.
