"""What frozen networks see of pictures: their maps and embeddings, the distance by them, and a discriminator on them."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F

from ganinv.photos import list_people, load_photos
from ganinv.recognizers.cosine import CosineRecognizer
from ganinv.training import discriminators, frozen_features
from tests.tiny_world import write_people

SIDE = 16


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> torch.Tensor:
    """Drawn photos [16,3,SIDE,SIDE], two of each person."""
    folder = tmp_path_factory.mktemp("people")
    write_people(folder, 8, photos=2, side=SIDE)
    return load_photos(list_people(folder), SIDE).images()


def test_a_discriminator_of_features_tells_photos_from_noise(faces):
    torch.manual_seed(0)
    recognizer = CosineRecognizer("vgg_trunk", num_identities=0, embedding_dim=8, input_size=SIDE).eval()
    features, generator = (
        frozen_features.RecognizerFeatures(recognizer.requires_grad_(False)),
        torch.Generator().manual_seed(0),
    )
    noise = torch.rand(16, 3, SIDE, SIDE, generator=generator) * 2 - 1
    projector = frozen_features.Projector(features, faces, generator)
    maps = projector(faces)
    # the picture's own, then the largest that is smaller than the picture
    assert [tuple(one.shape[2:]) for one in maps] == [(8, 8), (8, 8), (4, 4), (2, 2)]
    assert all(0.1 < one.square().mean() < 10 for one in maps)
    discriminator = discriminators.FeatureDiscriminator(projector, maps)
    trained = [p for p in discriminator.parameters() if p.requires_grad]
    optimizer, losses = torch.optim.Adam(trained, 1e-3), []
    for step in range(20):
        loss, said = discriminator.lose(faces, discriminator.look(noise), generator, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(said)
    assert losses[-1] < 0.5 * losses[0]
    # and its push makes noise pass for photos
    leaf = noise.clone().requires_grad_()
    before = discriminator.lose_generator(discriminator.look(leaf), generator)
    (push,) = torch.autograd.grad(before, leaf)
    after = discriminator.lose_generator(discriminator.look(noise - 0.5 * push / push.norm()), generator)
    assert after < before


class Stacked:
    """A frozen network whose maps are a picture's thumbnails of some sides; no embeddings."""

    embeds_beyond_maps = False

    def __init__(self, sides: tuple[int, ...]):
        self.sides = sides

    def look(self, images, each=frozen_features.as_it_is):
        return [each(F.adaptive_avg_pool2d(images, side)) for side in self.sides], None


def test_a_projector_leaves_out_maps_as_large_as_the_picture_unless_there_is_no_other():
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def project(*sides: int) -> list[torch.Tensor]:
        return frozen_features.Projector(Stacked(sides), images, torch.Generator().manual_seed(1))(images)

    for sides, kept in (((8, 8, 4, 2), (4, 2)), ((12, 8, 4), (12, 4)), ((4, 2), (4, 2))):
        ours, theirs = project(*sides), project(*kept)
        assert [one.shape[2] for one in ours] == [4, *kept]
        assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert [one.shape[1:] for one in project(8, 8)] == [(12, 4, 4), (32, 8, 8)]  # the last one is kept


def test_the_face_distance_is_zero_to_itself_and_leads_there(faces):
    torch.manual_seed(0)
    recognizer = (
        CosineRecognizer("vgg_trunk", num_identities=0, embedding_dim=8, input_size=SIDE).eval().requires_grad_(False)
    )
    features, faces = frozen_features.RecognizerFeatures(recognizer), faces[:4]
    distance = functools.partial(frozen_features.measure_distance, features)
    assert [part.item() for part in distance(faces, faces)] == [pytest.approx(0, abs=1e-5)] * 2
    others = faces.flip(0).clone().requires_grad_()
    perceptual, identity = distance(others, faces)
    assert 0 < perceptual <= 4 and 0 < identity <= 2
    (slope,) = torch.autograd.grad(perceptual, others)
    assert distance(others - 1e-2 * slope / slope.norm(), faces)[0] < perceptual


@pytest.mark.parametrize(
    "architecture, shapes",
    [
        ("vgg_trunk", [(32, 32), (64, 16), (128, 8), (256, 4)]),
        ("resnet18-0.25", [(64, 16), (16, 8), (32, 4), (64, 2)]),
    ],
)
def test_the_features_of_a_recognizer_are_its_maps_and_its_embedding(architecture, shapes):
    torch.manual_seed(0)
    recognizer = CosineRecognizer(architecture, num_identities=0, embedding_dim=8, input_size=32).eval()
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    maps, embeddings = frozen_features.RecognizerFeatures(recognizer).look(images)
    assert [(one.shape[1], one.shape[3]) for one in maps] == shapes
    assert torch.allclose(F.normalize(embeddings, dim=1), recognizer(images).embeddings, atol=1e-6)


def test_a_recognizer_without_a_plain_trunk_is_no_face_distance():
    with pytest.raises(
        ValueError, match="expected a vgg_trunk, an alexnet_trunk or a resnet18 to see with, got squeezenet1_1"
    ):
        frozen_features.RecognizerFeatures(CosineRecognizer("squeezenet1_1", num_identities=0, embedding_dim=8))
