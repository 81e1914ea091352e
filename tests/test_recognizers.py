"""Recognizers: what a mirror does, and how losses and verification are computed, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from ganinv.loading import load_recognizer, save_recognizer
from ganinv.recognizers.torchvision import CosineRecognizer
from ganinv.training.gan import GanTraining, falling_rate
from ganinv.training.prior_quality import mean_off_diagonal
from ganinv.training.recognizer import contrastive_loss, cosine_margin_loss, draw_pairs, learning_rate, verification
from tests.toys import photos_of

EAST, NORTH = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])


@torch.no_grad()
def test_a_mirroring_recognizer_sees_no_difference_and_stays_one_on_disk(tmp_path):
    model = CosineRecognizer("squeezenet1_1", num_identities=3, embedding_dim=8, input_size=32, mirror=True).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(model(images).logits, model(images.flip(3)).logits)
    assert not torch.allclose(model.embed(images), model.embed(images.flip(3)), atol=1e-4)
    save_recognizer(model, tmp_path / "a.safetensors", {})
    assert load_recognizer(str(tmp_path / "a.safetensors"), "cpu").mirror


def test_a_margin_is_taken_from_the_own_cosine_alone():
    loss = cosine_margin_loss(torch.tensor([[0.5, 0.3]]), torch.tensor([0]), scale=2.0, margin=0.2)
    assert loss.item() == pytest.approx(math.log(2))  # 2 * (0.5 - 0.2) = 2 * 0.3: even odds


def test_the_contrastive_loss_is_the_share_of_the_positive():
    embeddings, labels = torch.stack([EAST, EAST, NORTH, NORTH]), torch.tensor([0, 0, 1, 1])
    expected = math.log(1 + 2 * math.exp(-10))  # one positive at 1/0.1, two negatives at 0
    assert contrastive_loss(embeddings, labels).item() == pytest.approx(expected, rel=1e-2)


def test_verification_of_perfect_and_of_useless_embeddings():
    person = torch.tensor([0, 0, 1, 1])
    perfect = verification(torch.stack([EAST, EAST, NORTH, NORTH]), person)
    assert perfect == {"auc": 1.0, "accept_at_far_1e-2": 1.0, "genuine_similarity": 1.0, "impostor_similarity": 0.0}
    swapped = verification(torch.stack([EAST, NORTH, EAST, NORTH]), person)
    assert swapped["auc"] < 0.5 and swapped["accept_at_far_1e-2"] == 0.0


def test_pairs_are_of_one_person():
    photos = photos_of([0, 1, 1, 2, 2, 2])
    index = draw_pairs(photos, 200, torch.Generator().manual_seed(0))
    first, second = photos.person[index].chunk(2)
    assert torch.equal(first, second)
    assert all(set(half.tolist()) == set(range(6)) for half in index.chunk(2))  # every photo, on either side


def test_rates_rise_stay_and_fall():
    assert learning_rate(0, 100, 1.0) == pytest.approx(0.2) and learning_rate(5, 100, 1.0) == 1.0
    assert learning_rate(99, 100, 1.0) < 0.001
    settings = GanTraining(steps=100, lr=1.0, lr_alone=2.0, alone=0.5, decay=0.3)
    assert [falling_rate(settings, step) for step in (0, 50, 70, 85)] == [2.0, 1.0, 1.0, pytest.approx(0.5)]
    assert falling_rate(GanTraining(steps=100, lr=1.0, decay=0.0), 99) == 1.0


def test_the_mean_similarity_leaves_out_each_with_itself():
    assert mean_off_diagonal(torch.stack([EAST, EAST, NORTH])) == pytest.approx(1 / 3)
