"""The judges on a world whose answers are arithmetic: identity i is a white stripe at place i of eight."""

import math
import re
import sys

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from torch import nn

from ganinv.images import from_uint8, to_uint8
from ganinv.interfaces import Recognition
from ganinv.judging import comparisons
from ganinv.judging.recognitions import RecognitionCache
from ganinv.judging.verdict import evaluate
from ganinv.metrics import faces, perceptual
from ganinv.metrics.scores import accept_threshold
from ganinv.metrics.sets import density_coverage, kernel_distance, precision_recall
from ganinv.photos import Photos
from ganinv.worlds.references import Judge, References

CLASSES, SIDE = 8, 32


class StripeRecognizer(nn.Module):
    """logits 10 at the stripe, 0 elsewhere; the embedding is the stripe's place, one-hot."""

    embedding_dim = CLASSES

    def __init__(self, closed=True, classes=CLASSES):
        super().__init__()
        self.closed, self.num_identities = closed, classes if closed else None

    def forward(self, images):
        places = (images[:, 0].mean(1).view(len(images), CLASSES, -1).mean(2) + 1) / 2  # [N,8]
        return Recognition(places, 10 * places[:, : self.num_identities] if self.closed else None)


def stripe(identity):
    image = -torch.ones(3, SIDE, SIDE)
    image[:, :, 4 * identity : 4 * identity + 4] = 1
    return image


JUDGE = Judge("judge", StripeRecognizer(), sees_users=True)
VERIFIER = Judge("verifier", StripeRecognizer(closed=False), sees_users=False)


def make_photos(people=(3, 5)):
    pixels = to_uint8(torch.stack([stripe(person) for person in people]))
    return Photos(pixels, torch.tensor(people), tuple(map(str, range(CLASSES))), tuple(map(str, people)))


@pytest.fixture(scope="module")
def face_trunk(tmp_path_factory):
    path = tmp_path_factory.mktemp("trunk") / "lpips_face.safetensors"
    state = torchvision.models.alexnet(weights=None).features.state_dict()
    save_file({f"backbone.0.{name}": tensor.contiguous() for name, tensor in state.items()}, path)
    return path


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("GANINV_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


# identity 3: both right; identity 5: one right, one that shows 3
IMAGES = torch.stack([torch.stack([stripe(3), stripe(3)]), torch.stack([stripe(5), stripe(3)])])


def judge_stripes(images=IMAGES, identities=(3, 5), judges=(JUDGE, VERIFIER), references="photos", **options):
    if references == "photos":
        references = References.from_photos(make_photos(), judges)
    return evaluate(images, identities, StripeRecognizer(), judges, references, seed=0, **options)


def test_verdict_by_hand(face_trunk):
    found = judge_stripes(face_trunk=face_trunk)
    hit, miss = math.exp(10) / (math.exp(10) + 7), 1 / (math.exp(10) + 7)
    three, five = found.per_identity
    assert (three["identity"], five["identity"]) == (3, 5)
    for name in ("target_score", "judge_score"):
        assert three[name] == pytest.approx(hit)
        assert five[name] == pytest.approx((hit + miss) / 2)
    assert (three["judge_rank"], five["judge_rank"]) == (1, (1 + 8) / 2)  # the seven places without stripe tie
    for name in ("acc_at_1", "acc_at_5", "identity_similarity", "identity_similarity_judge"):
        assert (three[name], five[name]) == pytest.approx((1, 0.5))
    assert three["lpips_face"] == pytest.approx(0, abs=1e-5)
    assert five["lpips_face"] > 0.01
    assert (three["face_detected"], five["face_detected"]) == (0, 0)
    assert found.summary["acc_at_1"] == {"mean": 0.75, "ci95": [0.5, 1.0], "n": 2}
    assert found.summary["identity_similarity"]["mean"] == pytest.approx(0.75)
    assert found.summary.keys() == three.keys() - {"identity"} == five.keys() - {"identity"}
    rates = {f"accepted_at_far_1e-{digit}{whose}" for digit in (2, 3, 4) for whose in ("", "_judge")}
    projected = {"acc_at_1_projected", "identity_similarity_projected", "projection_error"}
    few = {
        "target_score_transformed",
        "fid",
        "kid",
        "precision",
        "recall",
        "density",
        "coverage",
        "nearest_training",
        "copies",
    }
    assert found.absent.keys() == {"lpips", "taken_for_user", "judges_agree", "factor_recovery"} | rates | projected | few
    # of the pictures of 5 one is its photo, one is at a right angle: squared distances 0 and 2
    for name in ("delta_eval", "delta_face"):
        assert (three[name], five[name]) == pytest.approx((0, 1), abs=1e-6)
    # what stands for 5 is half 5 and half 3: nearer to the photo of 5 than what stands for 3
    assert (three["knowledge_extraction"], five["knowledge_extraction"]) == (1, 1)
    assert found.pictures == []
    assert "at least 1000 pairs of different people" in found.absent["accepted_at_far_1e-2"]  # two references make one
    assert perceptual.TRUNK_FILE in found.absent["lpips"]


def test_lpips_is_compared_with_the_nearest_photo_of_the_owner_at_the_images_size(monkeypatch):
    class Pixels:
        model = nn.Identity()

        def nearest(self, images, others):
            assert others.shape[1:] == images.shape[1:]
            return (images[:, None] - others).abs().mean((2, 3, 4)).amin(1)

    monkeypatch.setattr(perceptual, "lpips_imagenet", Pixels)
    photos = make_photos((5, 3, 4, 3))
    photos.pixels[1] = 0  # a bad photo of 3 besides the good one
    doubled = Photos(photos.pixels.repeat_interleave(2, 2).repeat_interleave(2, 3), *list(vars(photos).values())[1:])
    found = judge_stripes(references=References({}, photos.person, doubled))
    differs = 2 * 2 * 4 / SIDE  # two stripes, 4 columns each, apart by 2
    values = [row["lpips"] for row in found.per_identity]
    assert values == pytest.approx([0, differs / 2], abs=0.1)  # antialiasing softens the stripe's edges
    assert values[0] < values[1]


def test_a_picture_is_accepted_above_the_threshold_of_impostors():
    person = torch.arange(CLASSES).repeat_interleave(8)
    rows = torch.eye(CLASSES)[person].repeat(1, 2) + 0.2 * torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    references = References({"verifier": rows}, person)
    threshold = accept_threshold(rows, person, 1e-2)
    rows = rows / rows.norm(dim=1, keepdim=True)
    pairs = (rows @ rows.T)[person[:, None] != person[None]]
    assert 0.005 < (pairs > threshold).float().mean() <= 0.01

    owners = torch.tensor([2, 3, 4])
    seen = Recognition(torch.stack([rows[16], rows[16], rows[:].mean(0)]), None)  # a photo of 2 is shown for 2 and for 3
    accepted = comparisons.accept(seen, owners, VERIFIER, references, 1e-2)
    assert accepted[0] > 0.9 and accepted[1] < 0.2
    expected = (rows[person == 3] @ rows[16] > threshold).float().mean()
    assert accepted[1] == expected
    with pytest.raises(ValueError, match="expected at least 10000 pairs of different people for a FAR of 0.001, got 1792"):
        accept_threshold(rows, person, 1e-3)


def test_judges_decide_by_one_rule_and_their_disagreement_is_reported():
    person = torch.arange(7).repeat_interleave(25)  # 175 references, each compared with six other people
    noise = 0.05 * torch.randn(175, CLASSES, generator=torch.Generator().manual_seed(0))
    rows = torch.eye(CLASSES)[person] + noise
    mistaken = torch.eye(CLASSES)[torch.where(person == 5, 7, person)] + noise  # the verifier saw photos of 7 for 5
    references = References({"judge": rows, "verifier": mistaken}, person)
    found = judge_stripes(IMAGES, (3, 5), references=references)
    taken = [(row["identity"], row["k"], *row["taken_by"].values(), row["disagreement"]) for row in found.pictures]
    assert taken == [
        *((3, 0, True, True, False), (3, 1, True, True, False)),
        *((5, 0, True, False, True), (5, 1, False, False, False)),  # the last shows 3, to both
    ]
    assert found.pictures[0]["taken_by"].keys() == {"judge", "verifier"}
    assert [row["taken_for_user"] for row in found.per_identity] == [1, 0]
    assert [row["judges_agree"] for row in found.per_identity] == [1, 0.5]
    assert [row["accepted_at_far_1e-2_judge"] for row in found.per_identity] == [1, 0.5]
    assert [row["accepted_at_far_1e-2"] for row in found.per_identity] == [1, 0]
    assert "at least 100000 pairs" in found.absent["accepted_at_far_1e-4"]
    few = References({name: rows[::2] for name, rows in references.embeddings.items()}, person[::2])
    absent = judge_stripes(IMAGES, (3, 5), references=few).absent
    assert "at least 1000 pairs of different people for a FAR of 0.01, got 528" in absent["taken_for_user"]


def test_many_pictures_are_compared_as_a_set_and_cover_the_references():
    generator = torch.Generator().manual_seed(0)
    rows = torch.eye(CLASSES)[[3] * 50 + [5] * 50] + 0.1 * torch.randn(100, CLASSES, generator=generator)
    references = References({"verifier": rows}, torch.tensor([3] * 50 + [5] * 50))
    noise = 0.2 * torch.randn(2, 50, 3, SIDE, SIDE, generator=generator)
    images = (torch.stack([stripe(3), stripe(5)])[:, None] * 0.7 + noise).clamp(-1, 1)
    found = judge_stripes(images, (3, 5), judges=(VERIFIER,), references=references)
    seen = StripeRecognizer()(images.flatten(0, 1)).embeddings
    kid = found.sets["kid"]
    assert kid["value"] == pytest.approx(kernel_distance(seen, rows))
    assert (kid["pictures"], kid["references"], kid["features"]) == (100, 100, "of the verifier")
    assert "at least 1000 pictures" in found.absent["fid"] and "kid" not in found.absent
    for row, of_user in zip(found.per_identity, (slice(0, 50), slice(50, 100)), strict=True):
        expected = precision_recall(rows[of_user], seen[of_user])
        assert (row["precision"], row["recall"]) == pytest.approx(expected)
        expected = density_coverage(rows[of_user], seen[of_user])
        assert (row["density"], row["coverage"]) == pytest.approx(expected)


def test_more_pictures_of_a_user_are_no_further_users():
    few = judge_stripes(IMAGES).summary["acc_at_1"]
    many = judge_stripes(IMAGES.repeat(1, 20, 1, 1, 1)).summary["acc_at_1"]
    assert many == few and many["n"] == 2


class PatternRecognizer(StripeRecognizer):
    """Takes a picture with a checkerboard of single pixels for identity 0, whatever it shows."""

    def forward(self, images):
        seen = super().forward(images)
        fine = (images[:, 0, ::2, ::2] - images[:, 0, 1::2, ::2]).mean((1, 2))
        return Recognition(seen.embeddings, seen.logits + 100 * (fine[:, None] > 0.15) * torch.eye(CLASSES)[0])


def test_a_pattern_falls_to_small_changes_and_a_stripe_does_not():
    row = torch.where(torch.arange(SIDE) % 2 == 0, 0.2, 0.0)
    pattern = (stripe(3) * 0.8 + row[:, None]).clamp(-1, 1)
    images = torch.stack([stripe(3), pattern])[:, None]
    found = judge_stripes(images, (3, 0), (Judge("judge", PatternRecognizer(), True), VERIFIER))
    assert [one["acc_at_1"] for one in found.per_identity] == [1, 1]
    assert [one["acc_at_1_perturbed"] for one in found.per_identity] == [1, 0]


def test_what_a_prior_redraws_is_judged_again():
    flat = IMAGES.flatten(0, 1)
    recognitions = RecognitionCache(flat, {"projection": lambda images: stripe(3).expand_as(images)})  # it knows one face
    found = judge_stripes(recognitions=recognitions)
    for name in ("acc_at_1_projected", "identity_similarity_projected"):
        assert [one[name] for one in found.per_identity] == [1, 0]
    # the stripe of 5 moves: eight columns of 32 change by 2
    assert [one["projection_error"] for one in found.per_identity] == pytest.approx([0, (1 + 0) / 2])
    absent = judge_stripes().absent
    for name in ("acc_at_1_projected", "identity_similarity_projected", "projection_error"):
        assert "needs a prior to project pictures through" in absent[name]


def test_the_gap_is_what_the_target_says_more_than_the_judge():
    found = judge_stripes(judges=(Judge("judge", PatternRecognizer(), True), VERIFIER))
    assert [row["target_judge_gap"] for row in found.per_identity] == pytest.approx([0, 0])

    class Doubting(StripeRecognizer):
        def forward(self, images):
            seen = super().forward(images)
            return Recognition(seen.embeddings, 0 * seen.logits)

    found = judge_stripes(judges=(Judge("judge", Doubting(), True), VERIFIER))
    for row in found.per_identity:
        assert row["target_judge_gap"] == pytest.approx(row["target_score"] - 1 / 8)


def test_a_picture_is_looked_at_once_however_often_it_is_shown():
    looked = []

    class Watched(StripeRecognizer):
        def forward(self, images):
            looked.append(len(images))
            return super().forward(images)

    judge = Judge("judge", Watched(), sees_users=True)
    recognitions = RecognitionCache(torch.cat([IMAGES.flatten(0, 1), IMAGES.roll(1, 0).flatten(0, 1)]))
    plain = judge_stripes(judges=(judge, VERIFIER), recognitions=recognitions)
    swapped = judge_stripes(IMAGES.roll(1, 0), judges=(judge, VERIFIER), recognitions=recognitions)
    assert looked[-5:] == [2] * 5  # the stripes 3 and 5, as they are and after four changes
    assert len(looked) == 5 + 2  # and the references of both verdicts
    assert plain.summary == judge_stripes().summary
    assert swapped.summary == judge_stripes(IMAGES.roll(1, 0)).summary


def test_a_single_identity_has_no_interval():
    found = judge_stripes(IMAGES[:1], (3,))
    assert found.summary["judge_score"]["ci95"] == [None, None]
    assert found.summary["judge_score"]["n"] == 1


@pytest.mark.parametrize(
    ("change", "absent", "reason"),
    [
        ({"references": None}, {"identity_similarity", "identity_similarity_judge"}, "needs references embedded by"),
        ({"references": None}, {"lpips", "lpips_face"}, "needs reference photos: pass --photos DIR"),
        ({"judges": (JUDGE,)}, {"identity_similarity"}, "needs the judge of this number"),
        ({"judges": (VERIFIER,)}, {"judge_score", "judge_rank", "acc_at_1", "acc_at_5"}, "trained on the target"),
        ({"face_trunk": None}, {"lpips_face"}, "trunk trained on faces"),
        (
            {"judges": (Judge("judge", StripeRecognizer(classes=4), True),), "identities": (3, 2)},
            {"acc_at_5"},
            "more than 5 identities, got 4",
        ),
        (
            {"identities": (3, 6)},
            {"identity_similarity", "lpips"},
            r"needs reference\w* .*of every identity, got none of \[6\]",
        ),
        ({}, {"fid"}, "at least 1000 pictures and reference photos of their users, got 4 and 2"),
        ({}, {"kid"}, "at least 100 pictures"),
        (
            {},
            {"precision", "recall", "density", "coverage"},
            "at least 10 pictures and references of every user, got 2 and 1",
        ),
        ({"images": IMAGES[:1], "identities": (3,)}, {"knowledge_extraction"}, "at least two users"),
    ],
)
def test_what_cannot_be_computed_is_absent_with_its_reason_and_nowhere_else(change, absent, reason):
    found = judge_stripes(**change)
    assert absent <= found.absent.keys()
    for name in absent:
        assert re.search(reason, found.absent[name])
    for place in (found.summary, *found.per_identity):
        assert not place.keys() & found.absent.keys()


def test_a_metric_is_absent_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "facenet_pytorch", None)
    assert "pip install 'facenet-pytorch<2.6'" in judge_stripes().absent["face_detected"]


def test_pictures_too_small_for_lpips_leave_the_rest_alone(face_trunk):
    small = IMAGES[..., ::2, ::2]
    found = judge_stripes(small, face_trunk=face_trunk)
    assert "at least 31 px" in found.absent["lpips_face"]
    assert found.summary["judge_score"]["mean"] > 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": IMAGES[0]}, r"expected images \[T,K,3,R,R\] of 2 identities, got \[2, 3, 32, 32\]"),
        ({"identities": (3,)}, "of 1 identities"),
        ({"identities": (3, 8)}, r"expected identities in 0-7"),
        ({"images": IMAGES * 255}, r"in \[-1,1\]"),
        ({"judges": (Judge("blind", StripeRecognizer(closed=False), True),)}, "expected a judge with logits"),
    ],
)
def test_callers_mistakes(change, message):
    with pytest.raises(ValueError, match=message):
        judge_stripes(**change)


def test_the_batch_size_does_not_change_the_verdict(monkeypatch):
    whole = judge_stripes()
    monkeypatch.setattr("ganinv.recognizers.recognize.BATCH", 1)
    assert judge_stripes() == whole


def test_references_survive_the_disk_without_pictures(tmp_path):
    photos = make_photos((3, 5, 5))
    references = References.from_photos(photos, (JUDGE, VERIFIER))
    assert references.embeddings["verifier"].argmax(1).tolist() == [3, 5, 5]
    references.save(tmp_path / "references.safetensors")
    kept = load_file(tmp_path / "references.safetensors")
    assert sorted(kept) == ["judge.embeddings", "person", "verifier.embeddings"]
    assert [path.name for path in tmp_path.iterdir()] == ["references.safetensors"]
    again = References.load(tmp_path / "references.safetensors", photos)
    assert again.photos is photos
    assert torch.equal(again.person, references.person)
    assert all(torch.equal(again.embeddings[name], rows) for name, rows in references.embeddings.items())


def test_other_files_are_no_references(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="expected person and <judge>.embeddings in .*other.safetensors"):
        References.load(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="missing"):
        References.load(tmp_path / "nowhere.safetensors")
    with pytest.raises(ValueError, match=r"of the judge judge for person \[M\], got \[2, 4\] for \[3\]"):
        References({"judge": torch.zeros(2, 4)}, torch.zeros(3))


def draw_face():
    """A cartoon that MTCNN takes for a face; no photograph belongs in a repository."""
    picture = Image.new("L", (256, 256), 90)
    draw = ImageDraw.Draw(picture)
    draw.ellipse((58, 28, 198, 232), fill=200)
    draw.chord((52, 16, 204, 150), 180, 360, fill=40)
    draw.ellipse((70, 62, 186, 180), fill=200)
    for x in (98, 158):
        draw.line((x - 20, 98, x + 20, 95), fill=60, width=6)
        draw.ellipse((x - 15, 108, x + 15, 124), fill=240)
        draw.ellipse((x - 8, 107, x + 8, 125), fill=30)
    draw.polygon([(128, 120), (114, 162), (142, 162)], fill=165)
    draw.line((114, 163, 142, 163), fill=90, width=4)
    draw.ellipse((98, 184, 158, 202), fill=90)
    return picture.convert("RGB")


def test_a_face_is_detected_and_noise_is_not():
    face = draw_face().resize((64, 64), Image.Resampling.LANCZOS)
    face = from_uint8(torch.from_numpy(np.array(face)).permute(2, 0, 1))
    noise = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    state = torch.get_rng_state()
    found, nothing = faces.detect_faces(torch.stack([face, noise])).tolist()
    assert 0.8 < found <= 1
    assert nothing == 0
    assert torch.equal(state, torch.get_rng_state())
