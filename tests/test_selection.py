from __future__ import annotations

import pytest
import torch

from ganinv.attack.access import TargetAccess
from ganinv.attack.goals import ClassGoal
from ganinv.attack.selection import best_per_identity, score_flipped, score_transformed
from ganinv.attack.transforms import RandomAffine
from ganinv.engine.randomness import Streams
from tests.toys import toy_world


def test_the_best_come_first_and_ties_go_to_the_lower_index():
    scores = torch.tensor([[0.1, 0.9, 0.5, 0.9], [0.4, 0.3, 0.2, 0.1]])
    assert best_per_identity(scores, 3).tolist() == [[1, 3, 2], [0, 1, 2]]
    with pytest.raises(ValueError, match="1 to 4 per identity, got 5"):
        best_per_identity(scores, 5)


def test_a_mirrored_picture_scores_the_same():
    generator, recognizer, _ = toy_world()
    images = generator.synthesize(torch.randn(4, 2, 4, generator=torch.Generator().manual_seed(0)))
    wanted = torch.tensor([2, 0])
    access, goal = TargetAccess(recognizer), ClassGoal()
    scores = score_flipped(access, goal, images, wanted)
    assert scores.shape == (2, 4)
    torch.testing.assert_close(scores, score_flipped(access, goal, images.flip(3), wanted))
    by_hand = (recognizer(images).logits.log_softmax(1)[3, 0] + recognizer(images.flip(3)).logits.log_softmax(1)[3, 0]) / 2
    torch.testing.assert_close(scores[1, 3], by_hand)


def test_without_a_transform_the_score_is_the_softmax():
    generator, recognizer, _ = toy_world()
    images = generator.synthesize(torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0)))
    identities = torch.tensor([0, 1, 2])
    streams = Streams((0, i) for i in range(3))
    still = lambda x, draws: x  # noqa: E731
    score = score_transformed(TargetAccess(recognizer), ClassGoal(), images, identities, still, streams.take(), 3)
    torch.testing.assert_close(score, recognizer(images).logits.softmax(1).diagonal())


def test_transforms_that_share_a_batch_give_the_same_scores():
    generator, recognizer, _ = toy_world()
    images = generator.synthesize(torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0)))
    identities, sizes = torch.tensor([0, 1, 2]), []
    recognizer.register_forward_pre_hook(lambda module, arguments: sizes.append(len(arguments[0])))
    access, affine = TargetAccess(recognizer), RandomAffine(degrees=40, flip=0.5)

    def score(batch: int) -> torch.Tensor:
        sizes.clear()
        draws = Streams((0, i) for i in range(3)).take()
        return score_transformed(access, ClassGoal(), images, identities, affine, draws, 5, batch=batch)

    alone = score(0)
    assert sizes == [3] * 5
    assert not torch.equal(alone, recognizer(images).logits.softmax(1).diagonal())
    torch.testing.assert_close(score(8), alone)
    assert sizes == [6, 6, 3]
