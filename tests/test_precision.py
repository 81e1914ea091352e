"""The forms of an attack's networks: the same answers, and a choice that is said, kept and bounded."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganinv.attack.attacks import LatentAttack
from ganinv.attack.config import AttackConfig
from ganinv.attack.invert import invert
from ganinv.attack.start import draw_pool
from ganinv.commands import latent_attack, pixel_attack
from ganinv.engine import precision
from ganinv.engine.precision import (
    Choice,
    Form,
    choose_precision,
    compare_answers,
    fold_batch_norms,
    in_form,
    ready_recognizer,
)
from ganinv.interfaces import Recognition
from ganinv.recognizers.callable import CallableRecognizer
from ganinv.recognizers.cosine import CosineRecognizer
from ganinv.reports.report_file import read_report
from ganinv.worlds.world import load_world
from tests.tiny_world import BRIEF, NAME, make_tiny_world, register, run_main
from tests.toys import DistanceRecognizer, LinearGenerator, toy_world


def unsettle(network: nn.Module) -> nn.Module:
    """Returns the network, frozen, after giving its batch norms statistics and weights as a training would."""
    for part in network.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 2)
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, 0, 0.2)
    return network.eval().requires_grad_(False)


def pull(recognizer, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns logits and the gradient of their seeded sum to the images."""
    images = images.detach().requires_grad_()
    logits = recognizer(images).logits
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    return logits.detach(), torch.autograd.grad((logits * weights).sum(), images)[0]


IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1


# ---- the target's form


@pytest.mark.parametrize("architecture", ["resnet18", "mobilenet_v3_small", "vgg_trunk"])
def test_every_batch_norm_is_folded_and_the_answers_stay(architecture, caplog):
    torch.manual_seed(0)
    model = unsettle(CosineRecognizer(architecture, num_identities=5, embedding_dim=16, input_size=32))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ready = ready_recognizer(model, 32)
    assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in ready.modules())
    (logits, gradient), (expected, slope) = pull(ready, IMAGES), pull(model, IMAGES)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
    assert (gradient - slope).norm() < 1e-3 * slope.norm() and slope.norm() > 0
    assert ready is not model and not any(parameter.requires_grad for parameter in ready.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert ready.backbone.state_dict() and not caplog.records


def test_a_trained_target_keeps_its_scores_and_gradients():
    world = load_world("synthetic")
    model, prior = world.target, world.prior
    with torch.no_grad():
        images = prior.synthesize(prior.map(torch.randn(3, prior.z_dim, generator=torch.Generator().manual_seed(0)), 0.8))
    (logits, gradient), (expected, slope) = pull(ready_recognizer(model, 64), images), pull(model, images)
    assert (logits - expected).abs().max() < 1e-4 and (gradient - slope).norm() < 1e-3 * slope.norm()


class Odd(nn.Module):
    """Batch norms that must stay: before a convolution, after one whose output is used twice or that runs twice."""

    num_identities, embedding_dim = 4, 4

    def __init__(self):
        super().__init__()
        self.first, self.conv, self.norm = nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.twice, self.after = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.good, self.last = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, images):
        x = self.conv(self.first(images))
        x = x + self.norm(x)
        x = self.after(self.twice(self.twice(x)))
        x = self.last(self.good(x)).mean((2, 3))
        return Recognition(F.normalize(x, dim=1), x)


def test_a_batch_norm_stays_where_something_else_sees_the_layer(caplog):
    torch.manual_seed(0)
    model = unsettle(Odd())
    with caplog.at_level(logging.WARNING):
        ready = ready_recognizer(model, 8)
    kept = [name for name, part in ready.named_modules() if isinstance(part, nn.BatchNorm2d)]
    assert kept == ["first", "norm", "after"] and len(caplog.records) == 1
    assert "3 batch norms of the target are not folded" in caplog.text
    torch.testing.assert_close(ready(IMAGES).logits, model(IMAGES).logits, rtol=1e-4, atol=1e-4)


class Magnifying(Odd):
    """A network that magnifies small differences: its own rounding is far above what is allowed of a trained one."""

    def forward(self, images):
        logits = super().forward(images).logits * 3e4
        return Recognition(logits.sin(), logits.sin())


def test_a_fold_may_round_as_much_as_the_network_itself(caplog):
    torch.manual_seed(0)
    model = unsettle(Magnifying())
    ready = copy.deepcopy(model)
    fold_batch_norms(ready)
    assert compare_answers(model(IMAGES), ready(IMAGES)) > 3 * precision.FOLD_TOLERANCE
    assert ready_recognizer(model, 8) is not model


class Fickle(Odd):
    """A network whose answer depends on what it is built from, so that a fold would change it."""

    def forward(self, images):
        found = super().forward(images)
        return Recognition(found.embeddings, found.logits + self.last.__class__.__name__.startswith("Batch"))


def test_what_would_answer_otherwise_or_cannot_be_copied_is_left_alone(caplog):
    torch.manual_seed(0)
    fickle, plain = unsettle(Fickle()), CallableRecognizer(lambda x: x.mean((2, 3)), IMAGES)
    with caplog.at_level(logging.WARNING):
        assert ready_recognizer(fickle, 8) is fickle
    assert len(caplog.records) == 1 and "answers otherwise by" in caplog.text
    caplog.clear()
    fickle.kept = torch.zeros(1, requires_grad=True) + 1  # not a leaf: no copy of it can be made
    with caplog.at_level(logging.WARNING):
        assert ready_recognizer(fickle, 8) is fickle
    assert len(caplog.records) == 1 and "faster form failed" in caplog.text
    function = DistanceRecognizer.__call__
    assert ready_recognizer(function, 8) is function  # no Module
    torch.testing.assert_close(ready_recognizer(plain, 32)(IMAGES).logits, plain(IMAGES).logits)


def test_a_shared_convolution_keeps_its_batch_norms():
    conv = nn.Conv2d(3, 3, 1)
    network = unsettle(nn.Sequential(conv, nn.BatchNorm2d(3), conv, nn.BatchNorm2d(3)))
    assert fold_batch_norms(network) == 2


# ---- precision


class Slow(LinearGenerator):
    """A prior that takes long in float32, and draws them in other colours in bfloat16."""

    gain = 1.0

    def synthesize(self, w):
        if not torch.is_autocast_enabled("cpu"):
            for _ in range(200):
                w = w + 0
        return super().synthesize(w) * (self.gain if torch.is_autocast_enabled("cpu") else 1)


@pytest.fixture
def computing(monkeypatch):
    """A processor that computes in bfloat16, whatever this one does."""
    monkeypatch.setattr(precision, "computes_bfloat16", lambda device: True)


def test_auto_takes_the_fastest_form_unless_the_scores_move(computing):
    _, target, known = toy_world()
    prior, w = Slow(), known[:, None].repeat(1, 2, 1)
    choice = choose_precision("auto", prior, target, w)
    assert choice.prior == Form("bfloat16") and "prior bfloat16" in choice.line and "at most 0.02 allowed" in choice.line
    prior.gain = 0.2
    choice = choose_precision("auto", prior, target, w)
    assert choice.prior == Form() and "prior float32" in choice.line


class Embedding(nn.Module):
    """A target that only embeds; in bfloat16 its embeddings move by so much."""

    num_identities, embedding_dim, moved = None, 64, 0.0

    def forward(self, images):
        embeddings = F.normalize(images.mean(1).flatten(1), dim=1)
        if torch.is_autocast_enabled("cpu"):
            return Recognition(embeddings + self.moved / 8, None)
        for _ in range(200):
            embeddings = embeddings + 0
        return Recognition(embeddings, None)


def test_auto_holds_a_target_that_only_embeds_to_how_far_its_embeddings_move(computing):
    target, w = Embedding(), toy_world()[2][:, None].repeat(1, 2, 1)
    assert choose_precision("auto", LinearGenerator(), target, w).target.dtype == "bfloat16"
    target.moved = 0.03
    choice = choose_precision("auto", LinearGenerator(), target, w)
    assert choice.target.dtype == "float32" and "scores differ by 0.000" in choice.line


def test_an_attack_from_python_searches_in_the_form_that_was_chosen(computing, monkeypatch):
    asked = []
    monkeypatch.setattr(Slow, "synthesize", lambda self, w: asked.append(torch.is_autocast_enabled("cpu")) or _draw(self, w))
    prior, target, _ = toy_world()
    for form, searched in (("float32", False), ("bfloat16", True)):
        asked.clear()
        attack = LatentAttack(steps=2, candidates=4, restarts=1, final_transforms=2, precision=form)
        attack(Slow(), target, [0])
        assert any(asked) is searched and not asked[-1]  # the final choice is float32


_draw = LinearGenerator.synthesize


def test_auto_does_not_try_what_the_processor_only_imitates(monkeypatch):
    monkeypatch.setattr(precision, "computes_bfloat16", lambda device: False)
    _, target, known = toy_world()
    choice = choose_precision("auto", Slow(), target, known[:, None].repeat(1, 2, 1))
    assert choice.prior == Form() and choice.target.dtype == "float32" and "bfloat16 not tried" in choice.line


def test_forms_after_the_warm_up_s_bound_are_not_tried(monkeypatch, computing):
    monkeypatch.setattr(precision, "WARM_UP_S", -1.0)
    _, target, known = toy_world()
    assert choose_precision("auto", Slow(), target, known[:, None].repeat(1, 2, 1)).prior == Form()


def test_a_form_that_the_network_refuses_is_passed_over(computing):
    class Refusing(Slow):
        def synthesize(self, w):
            if torch.is_autocast_enabled("cpu"):
                raise RuntimeError("no such kernel")
            return super().synthesize(w)

    _, target, known = toy_world()
    assert choose_precision("auto", Refusing(), target, known[:, None].repeat(1, 2, 1)).prior == Form()


def test_a_precision_is_of_one_network_and_its_answers_are_float32():
    seen = []

    def network(images):
        seen.append(torch.is_autocast_enabled("cpu"))
        return F.linear(images.flatten(1), torch.eye(192))

    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = CallableRecognizer(network, images.detach())
    found = in_form(target, Form("bfloat16"))(images)
    assert seen == [False, True] and found.logits.dtype == found.embeddings.dtype == torch.float32
    assert 0 < (found.logits - images.flatten(1)).abs().max() < 0.01  # rounded to 8 bits
    assert not torch.is_autocast_enabled("cpu") and torch.autograd.grad(found.logits.sum(), images)[0].dtype == torch.float32
    prior = in_form(LinearGenerator(), Form("bfloat16"))
    w = prior.map(torch.randn(2, 4))
    assert torch.equal(w, LinearGenerator().map(w[:, 0])) and prior.resolution == 8 and prior.synthesize(w).dtype == w.dtype


@pytest.mark.parametrize("choice", [Choice(), Choice(Form("bfloat16"), Form("bfloat16", "contiguous"))])
def test_a_choice_is_recalled_as_it_was_told(choice):
    said = json.loads(json.dumps(choice.describe()))
    assert Choice.recall(said) == choice and (said == "float32") == (choice == Choice())


@pytest.mark.parametrize("said", [None, "float16", {"prior": {"dtype": "float64"}, "target": {}}, {"prior": {"sort": 1}}])
def test_a_choice_that_nobody_told_is_refused(said):
    with pytest.raises(ValueError, match="expected a precision as provenance.json tells it"):
        Choice.recall(said)


def test_the_final_choice_and_the_pictures_are_float32():
    prior, target, _ = toy_world()
    coarse = Choice(Form("bfloat16"), Form("bfloat16")).apply(prior, target)
    asked = []

    class Watched(DistanceRecognizer):
        def forward(self, images):
            asked.append(torch.is_autocast_enabled("cpu"))
            return super().forward(images)

    target = Watched(target.centres.detach())
    config = AttackConfig(steps=5, candidates=8, restarts=2, final_transforms=3)
    result = invert(prior, target, (0, 1), config, searched=(coarse[0], in_form(target, Form("bfloat16"))))
    assert asked[-1] is False and set(asked[:-1]) == {True}  # the three transforms share a call
    w = result.latents["w"]
    drawn = ((prior.synthesize(w).clamp(-1, 1) + 1) * 127.5).round()
    assert torch.equal((result.images.flatten(0, 1) + 1).mul(127.5).round(), drawn)


def test_the_probe_sees_the_run_s_own_first_candidates():
    config, few = AttackConfig(), AttackConfig(candidates=precision.PROBED)
    assert torch.equal(draw_pool(toy_world()[0], config, 3)[: precision.PROBED], draw_pool(toy_world()[0], few, 3))


# ---- runs


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_tiny_world(tmp_path_factory.mktemp("tiny"))


def test_a_run_says_its_precision_and_is_resumed_and_repeated_in_it(made, monkeypatch, tmp_path, capsys):
    register(monkeypatch, made, tmp_path)
    common = [f"--world={NAME}", "--identities=0-1", *BRIEF]
    taken = Choice(Form("bfloat16"), Form("bfloat16", "contiguous"), "precision: what was taken")
    monkeypatch.setattr("ganinv.studies.attack_run.choose_precision", lambda *arguments: taken)
    assert run_main(monkeypatch, latent_attack, *common, "--precision=auto", "--out=a") == 0
    assert "precision: what was taken" in capsys.readouterr().err
    assert Choice.recall(json.loads(Path("a/provenance.json").read_text())["precision"]) == Choice(taken.prior, taken.target)

    def never(*arguments):
        raise AssertionError("probed again")

    monkeypatch.setattr("ganinv.studies.attack_run.choose_precision", never)
    assert run_main(monkeypatch, latent_attack, "--from-run=a", "--out=b", "--wandb=disabled") == 0
    assert "the same results" in capsys.readouterr().out
    Path("a/report.json").rename("first.json")  # as if it had been killed before the report
    assert run_main(monkeypatch, latent_attack, "--resume=a") == 0
    assert read_report("a")["per_identity"] == json.loads(Path("first.json").read_text())["per_identity"]


@pytest.mark.parametrize("command", [latent_attack, pixel_attack])
def test_bfloat16_is_taken_at_its_word_and_another_word_is_refused(command, made, monkeypatch, tmp_path, capsys):
    register(monkeypatch, made, tmp_path)
    common = [
        f"--world={NAME}",
        "--identities=0-1",
        *[word for word in BRIEF if command is latent_attack or "cand" not in word],
    ]
    assert run_main(monkeypatch, command, *common, "--precision=bfloat16", "--out=a") == 0
    assert "precision: bfloat16" in capsys.readouterr().err
    told = json.loads(Path("a/provenance.json").read_text())["precision"]
    assert told["target"]["dtype"] == "bfloat16"
    assert run_main(monkeypatch, command, *common, "--precision=float16", "--out=b") == 2
    assert "expected a precision among float32, auto, bfloat16, got float16" in capsys.readouterr().err
    assert not Path("b").exists()
