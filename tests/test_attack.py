from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ganinv.attack.config import LATENT_GOALS, AttackConfig, Augment, Optim
from ganinv.attack.invert import invert
from ganinv.attack.spaces import PixelSpace, fit_whitening
from ganinv.engine.batches import PROBES
from ganinv.interfaces import FaultError, Recognition
from tests.toys import toy_world

STILL = Augment(flip=0.0, degrees=0.0, scale=(1.0, 1.0), shift=0.0)
CONFIG = AttackConfig(
    objective="cross_entropy", steps=200, candidates=64, restarts=2, final_transforms=2, psi=1.0,
    optim=Optim(lr=0.05, transforms=1), augment=STILL,
)  # fmt: skip


@pytest.mark.parametrize("space", ["w", "w_plus"])
def test_the_search_finds_the_known_w(space):
    generator, recognizer, known = toy_world()
    # the logit alone is maximal exactly at the identity's picture
    result = invert(generator, recognizer, (0, 1, 2), replace(CONFIG, space=space, objective="logit"))
    torch.testing.assert_close(result.latents["w"].mean(1), known, atol=0.02, rtol=0)


def test_every_latent_search_beats_its_start():
    generator, recognizer, _ = toy_world()
    recognizer.sharpness = 0.3  # so that no score is 1 to the last bit
    for space in ("z", "w", "w_plus"):
        start = invert(generator, recognizer, (0, 1), replace(CONFIG, space=space, steps=0))
        result = invert(generator, recognizer, (0, 1), replace(CONFIG, space=space))
        assert (result.scores > start.scores).all(), space


def test_pixels_find_the_picture_without_a_prior():
    _, recognizer, _ = toy_world()
    start = torch.zeros(3, 1, 8, 8)
    config = replace(CONFIG, space="pixels", objective="logit")
    result = invert(None, recognizer, (0, 1, 2), config, start=start)
    torch.testing.assert_close(result.images[:, 0, 0].flatten(1), recognizer.centres.detach(), atol=0.02, rtol=0)
    assert torch.equal(result.images[:, :, 0], result.images[:, :, 2])  # greyscale: equal channels


def test_a_class_score_is_searched_nearer_to_the_prior_than_a_template():
    assert LATENT_GOALS["class"].bound == 1  # on a plain softmax 2 is too far: results/faces/tuning.md
    assert LATENT_GOALS["template"].bound == 2


def test_w_never_leaves_its_bound():
    generator, recognizer, _ = toy_world()
    config = replace(CONFIG, bound=0.3, objective="logit")
    result = invert(generator, recognizer, (0, 1, 2), config)
    v = fit_whitening(generator, device="cpu").to_v(result.latents["w"])
    assert v.max() <= 0.3 + 1e-4 and v.min() >= -0.3 - 1e-4
    assert v.abs().max() > 0.299  # the answer lies outside, so the bound is reached


def test_batch_size_and_neighbours_do_not_change_a_result():
    generator, recognizer, _ = toy_world()
    config = replace(CONFIG, augment=Augment(), steps=20, objective="poincare")
    whole = invert(generator, recognizer, (0, 1, 2), config)
    pieces = invert(generator, recognizer, (0, 1, 2), replace(config, batch=1))
    alone = invert(generator, recognizer, (2,), config)
    torch.testing.assert_close(whole.latents["w"], pieces.latents["w"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(whole.latents["w"][2:], alone.latents["w"], atol=1e-4, rtol=1e-4)


def test_a_seed_gives_the_same_bits_and_leaves_the_recognizer_untouched():
    generator, recognizer, _ = toy_world()
    before = recognizer.centres.detach().clone()
    config = replace(CONFIG, augment=Augment(), steps=10)
    first, second, other = (invert(generator, recognizer, (0, 1), config, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(first.images, second.images) and torch.equal(first.scores, second.scores)
    assert not torch.equal(first.latents["w"], other.latents["w"])
    assert torch.equal(recognizer.centres, before)


def test_the_cost_counts_every_image_through_the_target():
    generator, recognizer, _ = toy_world()
    calls = []
    recognizer.register_forward_hook(lambda module, arguments, output: calls.append(len(arguments[0])))
    config = replace(CONFIG, steps=7, optim=Optim(transforms=3), restarts=2, candidates=64, final_transforms=5)
    cost = invert(generator, recognizer, (0, 1, 2), config).cost
    assert cost.gradient_queries == 3 * 2 * 7 * 3 + sum(PROBES)
    assert cost.score_queries == 2 * 64 + 3 * 2 * 5
    assert cost.images_evaluated == sum(calls)


def test_patience_stops_at_the_best_and_saves_gradients():
    _, recognizer, _ = toy_world()
    optim = Optim(optimizer="gradient_descent", lr=0.02, decay=False, transforms=1, patience=3, threshold=1e-3)
    config = replace(CONFIG, space="pixels", objective="confidence", restarts=1, steps=500, optim=optim)
    result = invert(None, recognizer, (0, 1, 2), config, start=torch.zeros(3, 1, 8, 8))
    assert result.cost.gradient_queries < 3 * 500
    assert (result.scores > 0.99).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"space": "v"}, "expected a space among z, w, w_plus, pixels, got v"),
        ({"objective": "luck"}, "expected an objective among .*, got luck"),
        ({"keep": 3}, "expected to keep at most the 2 restarts, got 3"),
        ({"candidates": 1}, "expected at most 1 restarts"),
        ({"steps": -1}, r"expected steps in \[0, 1e7\], got -1"),
    ],
)
def test_a_configuration_that_cannot_be_run_is_refused(changes, message):
    generator, recognizer, _ = toy_world()
    with pytest.raises(ValueError, match=message):
        invert(generator, recognizer, (0,), replace(CONFIG, **changes))


def test_candidates_are_made_once_for_a_prior_and_the_result_is_the_same(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    generator, recognizer, _ = toy_world()
    synthesize, made = generator.synthesize, []
    generator.synthesize = lambda w: made.append(len(w)) or synthesize(w)
    config = replace(CONFIG, steps=2)

    def search(**changes):
        made.clear()
        found = invert(generator, recognizer, (0, 1, 2), replace(config, **changes), prior="a" * 64)
        return found, sum(made)

    first, whole = search()
    (file,) = (tmp_path / "ganinv").iterdir()
    again, rest = search()
    assert torch.equal(again.latents["w"], first.latents["w"]) and whole - rest == 64
    assert torch.equal(invert(generator, recognizer, (0, 1, 2), config).latents["w"], first.latents["w"])
    for changes in {"psi": 0.5}, {"candidates": 32}:  # another pool
        assert search(**changes)[1] == whole - 64 + changes.get("candidates", 64)
    content = file.read_bytes()
    for broken in content[:-9], b"", content[:100]:
        file.write_bytes(broken)
        found, count = search()
        assert count == whole and torch.equal(found.latents["w"], first.latents["w"])
        assert file.read_bytes() == content
    monkeypatch.setattr("ganinv.attack.start.MOST_KEPT", 64 * 3 * 8 * 8 - 1)
    assert search(candidates=64)[1] == whole
    assert not list((tmp_path / "ganinv").glob("*.tmp"))


def test_a_cache_that_cannot_be_written_costs_a_line(monkeypatch, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    generator, recognizer, _ = toy_world()
    invert(generator, recognizer, (0,), replace(CONFIG, steps=1), prior="a" * 64)
    assert "cannot keep" in capsys.readouterr().err


def test_unknown_identities_and_open_set_targets_are_refused():
    generator, recognizer, _ = toy_world()
    with pytest.raises(ValueError, match="expected identities from 0 to 2, got 3"):
        invert(generator, recognizer, (0, 3), CONFIG)
    recognizer.num_identities = None
    with pytest.raises(ValueError, match="only embeds"):
        invert(generator, recognizer, (0,), CONFIG)


def test_an_objective_that_is_not_finite_ends_the_run():
    generator, recognizer, _ = toy_world()
    recognizer.forward = lambda images: Recognition(images.flatten(1), images.flatten(1)[:, :3] * torch.nan)
    with pytest.raises(FaultError, match="not finite at step 0"):
        invert(generator, recognizer, (0,), replace(CONFIG, steps=2))


def test_rows_reach_the_callback_in_order():
    generator, recognizer, _ = toy_world()
    rows = []
    invert(generator, recognizer, (0, 2, 1), replace(CONFIG, steps=4, batch=1, image_every=2), on_step=rows.append)
    assert [row["step"] for row in rows] == list(range(8))  # two parts of four steps: two users, and the last
    assert [set(rows[index]["identities"]) for index in (0, 4)] == [{0, 2}, {1}]
    assert rows[0]["images"].shape == (2, 3, 8, 8) and "images" not in rows[1]
    assert [row["gradient_queries"] for row in rows] == [sum(PROBES) + n for n in (4, 8, 12, 16, 18, 20, 22, 24)]
    seconds = [row["seconds"] for row in rows]
    assert seconds == sorted(seconds) and seconds[-1] > 0


def test_pixels_are_clamped_on_both_sides():
    space = PixelSpace(torch.tensor([-3.0, -0.5, 0.5, 3.0]).view(1, 1, 2, 2))
    space.project_()
    assert space.pixels.flatten().tolist() == [-1.0, -0.5, 0.5, 1.0]


def test_with_patience_a_search_that_only_gets_worse_returns_its_start():
    _, recognizer, _ = toy_world()
    recognizer.sharpness = 0.3
    # the logit is a parabola of curvature 0.6: steps above 2 / 0.6 swing ever further past its top
    optim = Optim(optimizer="gradient_descent", lr=3.6, decay=False, transforms=1, patience=100)
    config = replace(CONFIG, space="pixels", objective="logit", restarts=1, steps=6, optim=optim)
    rows = []
    result = invert(None, recognizer, (0,), config, start=torch.zeros(1, 1, 8, 8), on_step=rows.append)
    assert rows[-1]["objective"] > rows[0]["objective"]
    assert result.images.abs().max() < 0.01
