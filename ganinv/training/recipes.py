"""The recognizers of a world: what each is for, how it is trained, and on whom."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ganinv.training.recognizer import RecognizerTraining


@dataclass(frozen=True)
class Recipe:
    """training: how; sees_users: whether registered users are among its classes; mirror: whether it looks at the mirror
    image too (not while it is trained); public: the share of public people, by a hash of their names, that it is trained
    on, None for nobody. People above 0.8 are kept from every recognizer and prior."""

    training: RecognizerTraining
    sees_users: bool
    mirror: bool = False
    public: tuple[float, float] | None = (0.0, 0.8)


RECIPES = {
    # the recognizer under attack
    "target": Recipe(RecognizerTraining(architecture="resnet18", steps=1500, seed=0), sees_users=True),
    # scores a reconstruction: of another family than the target, so that a pattern that fools one need not fool the other
    "judge": Recipe(
        RecognizerTraining(architecture="vgg_trunk", steps=1500, users_share=0.4, seed=1), sees_users=True, mirror=True
    ),
    # compares faces, and has never met the users; of a third family
    "verifier": Recipe(
        RecognizerTraining(architecture="googlenet", input_size=96, steps=800, seed=2), sees_users=False, mirror=True
    ),
    # the trunk of the perceptual distance, and the eye that measures a prior: it does not know people above 0.57, so
    # that real photos on both sides of a Frechet distance, the prior's own and the held-out, are equally new to it
    "lpips_face": Recipe(
        RecognizerTraining(architecture="alexnet_trunk", steps=1500, seed=3), sees_users=False, public=(0.0, 0.57)
    ),
    # the features by which a prior learns what matters in a face; judges nothing
    "critic": Recipe(RecognizerTraining(architecture="vgg_trunk", steps=500, seed=7), sees_users=False),
    # home-made targets that have met nobody but the users, as in Khosravy et al. 2021: a small CNN, and the two shallow
    # ones. A row of the softmax is a picture of its user, so their weights are as private as the photos
    "cnn": Recipe(RecognizerTraining(architecture="resnet18-0.5", steps=500, batch=64, seed=0), sees_users=True, public=None),
    "softmax": Recipe(
        RecognizerTraining(architecture="linear", embedding_dim=40, input_size=32, steps=500, batch=64, seed=0),
        sees_users=True,
        public=None,
    ),
    "mlp": Recipe(
        RecognizerTraining(architecture="mlp", embedding_dim=128, input_size=32, steps=500, batch=64, seed=0),
        sees_users=True,
        public=None,
    ),
}
# an embedding network, in which users are enrolled once it is trained: it has met none of them, and no two of these have
# met the same person. Faster networks than above, since what they learn depends on how many photos they are shown
EMBEDDING = RecognizerTraining(augmentation="strong", margin=0.25)
ENROLLING = {
    "target": Recipe(replace(EMBEDDING, architecture="resnet18-0.5", steps=6000, seed=21), False, public=(0.0, 0.27)),
    "judge": Recipe(replace(EMBEDDING, architecture="vgg_patches", steps=5000, seed=22), False, True, (0.27, 0.54)),
    "verifier": Recipe(replace(EMBEDDING, architecture="inception_patches", steps=3600, seed=23), False, True, (0.54, 0.8)),
}
USERS = {"classes": RECIPES, "gallery": RECIPES | ENROLLING}
PHOTOS_PER_USER = 60  # at most, of the training split: the numbers of photos are very uneven
HELD_OUT = (0.8, 1.0)  # the share of public people that nothing is trained on
MEASURED = 2000  # of them, at most, tell how well a recognizer verifies: all pairs of their photos are compared
NEW_TO_THE_EYE = (0.57, 0.8)  # the share that priors are trained on and the eye is not
