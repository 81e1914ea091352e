"""Recognizers: what a mirror does, and how losses and verification are computed, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from ganinv.recognizers.cosine import CosineRecognizer, build_backbone
from ganinv.recognizers.loading import load_recognizer, save_recognizer
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


def count_parameters(architecture: str) -> int:
    return sum(parameter.numel() for parameter in build_backbone(architecture, 16, 32).parameters())


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["linear", "mlp", "resnet18-0.125", "resnet34-0.0625"])
def test_an_architecture_of_the_study_is_the_same_on_disk(architecture, tmp_path):
    model = CosineRecognizer(architecture, num_identities=3, embedding_dim=8, input_size=32).eval()
    card = save_recognizer(model, tmp_path / "a.safetensors", {})
    loaded = load_recognizer(str(tmp_path / "a.safetensors"), "cpu")
    images = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert card["architecture"] == architecture == loaded.architecture
    torch.testing.assert_close(loaded(images).logits, model(images).logits, atol=0.5, rtol=0)  # of 24, by int8 rows


@torch.no_grad()
def test_the_linear_recognizer_is_affine_and_the_next_is_not():
    first, second = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for architecture, affine in (("linear", True), ("mlp", False)):
        network = build_backbone(architecture, 16, 32).eval()
        both = network(first) + network(second)
        assert torch.allclose(both, network(first + second) + network(torch.zeros_like(first)), atol=1e-4) == affine


def test_a_width_scales_the_stages_of_a_resnet():
    assert count_parameters("resnet18-1") == count_parameters("resnet18")
    assert count_parameters("resnet34-1.0") == count_parameters("resnet34")
    assert 0.24 < count_parameters("resnet18-0.5") / count_parameters("resnet18") < 0.27  # squared, but for the stem
    for name in ("vgg_patches", "inception_patches"):
        assert build_backbone(name, 8)(torch.zeros(2, 3, 64, 64)).shape == (2, 8)
    for wrong in ("resnet18-0", "resnet18-0.01", "resnet18-999", "resnet18-x", "resnet50-2", "cubic"):
        with pytest.raises(ValueError, match="^expected a (width|torchvision classifier)"):
            build_backbone(wrong, 8)


@torch.no_grad()
def test_cosine_logits_keep_float32_under_autocast():
    model = CosineRecognizer("squeezenet1_1", num_identities=3, embedding_dim=8, input_size=32).eval()
    embeddings = torch.nn.functional.normalize(torch.randn(5, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        found = model.classify(embeddings)
    assert torch.equal(found, model.classify(embeddings)) and found.dtype == torch.float32


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
    assert perfect == {"auc": 1.0, "genuine_similarity": 1.0, "impostor_similarity": 0.0}  # 4 pairs are too few for a rate
    assert verification(torch.stack([EAST, NORTH, EAST, NORTH]), person)["auc"] < 0.5
    many = torch.arange(2).repeat_interleave(10)  # 100 pairs of two people
    found = [verification(torch.stack(rows), many) for rows in ([EAST] * 10 + [NORTH] * 10, [EAST, NORTH] * 10)]
    assert [one["accept_at_far_1e-2"] for one in found] == [1.0, 0.0]


def test_verification_is_that_of_the_pairs_one_by_one():
    person = torch.arange(40).repeat_interleave(2)
    generator = torch.Generator().manual_seed(0)
    people = torch.randn(40, 8, generator=generator).repeat_interleave(2, 0)
    embeddings = torch.nn.functional.normalize(people + 0.5 * torch.randn(80, 8, generator=generator), dim=1)
    found = verification(embeddings, person)
    pairs = [(one, two) for one in range(80) for two in range(one + 1, 80)]
    values = {pair: (embeddings[pair[0]] @ embeddings[pair[1]]).item() for pair in pairs}
    impostors = sorted((value for (one, two), value in values.items() if person[one] != person[two]), reverse=True)
    genuine = [values[2 * index, 2 * index + 1] for index in range(40)]
    assert len(impostors) == 3120 and "accept_at_far_1e-4" not in found  # less than one pair
    for rate, passing in (("1e-2", 31), ("1e-3", 3)):
        expected = sum(value > impostors[passing - 1] for value in genuine) / 40
        assert found[f"accept_at_far_{rate}"] == pytest.approx(expected) and 0.1 < expected < 1


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
    assert falling_rate(settings, 500) == 0.0  # a rehearsal trains steps past the end of a short training


def test_the_mean_similarity_leaves_out_each_with_itself():
    assert mean_off_diagonal(torch.stack([EAST, EAST, NORTH])) == pytest.approx(1 / 3)
