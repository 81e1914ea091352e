"""Refining of a prior: a toy prior comes nearer to its photos."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ganinv.commands import refine_prior as command
from ganinv.commands.measure_prior import read_took_part
from ganinv.engine.checkpoint import load_state
from ganinv.photos import Photos, list_people, load_photos
from ganinv.priors.stylegan2_pytorch import OlderNorm, StyleGAN2PyTorch, build_networks
from ganinv.priors.stylegan2_pytorch_files import load_checkpoint, save_prior
from ganinv.recognizers.cosine import CosineRecognizer
from ganinv.recognizers.loading import save_recognizer
from ganinv.training import critics, loop, refining
from ganinv.training.frozen_features import RecognizerFeatures, SeveralFeatures
from ganinv.training.gan_networks import clip_gradients, update_average
from ganinv.training.refining import Refining
from ganinv.training.transport import Transport, fit_gaussian
from ganinv.weights.cards import read_card
from ganinv.worlds.world import World
from tests.killing import Killed, kill_at
from tests.tiny_world import NAME, register, run_main, write_people

SIDE = 16
CPU = torch.device("cpu")
SHORT = Refining(
    steps=6,
    clip=0.8,
    batch=4,
    queue=8,
    recent=4,
    every=2,
    lr=1e-3,
    warm=2,
    save_every_s=0.0,
    sample_every=2,
    precision="float32",
)


# ---- a refining


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    """A photo folder of 40 public people."""
    folder = tmp_path_factory.mktemp("people")
    write_people(folder / "public", 40, photos=2, side=SIDE, prefix="n")
    return folder


@pytest.fixture(scope="module")
def photos(people) -> Photos:
    return load_photos(list_people(people / "public"), SIDE)


@pytest.fixture(autouse=True)
def cached(tmp_path, monkeypatch) -> None:
    """Nothing of one test is found by another."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache-home"))


def make_networks(seed: int = 0) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Returns small networks whose samples differ."""
    torch.manual_seed(seed)
    mapping, synthesis = build_networks(SIDE, 1, w_dim=8, depth=2)
    with torch.no_grad():
        mapping.net[-2].weight.mul_(100)
        for block in synthesis.blocks:
            block.to_rgb.conv.weight.mul_(0.1)
    return mapping, synthesis


def make_critic(seed: int = 9) -> CosineRecognizer:
    torch.manual_seed(seed)
    return CosineRecognizer("vgg_trunk", num_identities=0, embedding_dim=8, input_size=SIDE).eval().requires_grad_(False)


def refine(photos: Photos, out: Path, config: Refining = SHORT, prior=None, **options) -> loop.TrainedPrior:
    out.mkdir(exist_ok=True)
    prior = prior or StyleGAN2PyTorch(*make_networks())
    return refining.refine_prior(config, prior, photos, [RecognizerFeatures(make_critic())], out, device=CPU, **options)


def make_refiner(photos: Photos, **settings) -> refining.Refiner:
    """Returns a refiner whose rows are filled."""
    prior, network = StyleGAN2PyTorch(*make_networks()), RecognizerFeatures(make_critic())
    refiner = refining.Refiner(dataclasses.replace(SHORT, **settings), prior, photos, [network], CPU)
    refiner.fill()
    return refiner


def test_samples_come_nearer_to_photos_and_the_given_prior_stays(photos, tmp_path):
    rows, prior = [], StyleGAN2PyTorch(*make_networks())
    before = copy.deepcopy(prior.state_dict())
    config = dataclasses.replace(SHORT, steps=201, batch=16, queue=128, recent=64, warm=10, sample_every=1000)
    refine(photos, tmp_path, config, prior, on_step=rows.append)
    assert rows[-1]["distance"] < 0.5 * rows[0]["distance"] and rows[0].keys() == {
        *("step", "distance", "mean", "spread", "outside", "discriminator", "generator")
    }
    assert all(torch.equal(before[name], value) for name, value in prior.state_dict().items())


@pytest.mark.parametrize("step, before_saving", [(1, False), (4, False), (6, True)])
def test_a_resumed_refining_ends_in_the_same_bits(step, before_saving, photos, tmp_path, monkeypatch):
    lines, rows = [], []
    monkeypatch.setattr(critics, "NEWBORN", 1)  # they are heard in step 2
    monkeypatch.setattr(loop, "LOG_EVERY", 1)
    whole = refine(photos, tmp_path / "whole", on_plan=lines.append, on_step=rows.append)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, loop, step, before_saving=before_saving)
        refine(photos, tmp_path / "parts")
    torch.rand(7)  # whatever drew from the global generator meanwhile
    parts = refine(photos, tmp_path / "parts", resume=True)
    assert all(torch.equal(whole.weights[name], value) for name, value in parts.weights.items())
    logs = [[json.loads(line) for line in (tmp_path / out / "steps.jsonl").open()] for out in ("whole", "parts")]
    assert logs[0] == logs[1] == rows and [row["step"] for row in rows] == list(range(6))
    # a plan, of steps that were undone, changed no bit
    assert len(lines) == 1 and lines[0].startswith("6 steps take about ") and "per step of 4 pictures" in lines[0]
    states = [load_file(tmp_path / out / "state.safetensors") for out in ("whole", "parts")]
    assert states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert load_state(tmp_path / "parts" / "state.safetensors")["critics"]["scale"] > 0


def test_a_state_of_other_settings_is_refused(photos, tmp_path):
    refine(photos, tmp_path)
    other = dataclasses.replace(photos, pixels=255 - photos.pixels // 2)
    for words, options in (
        ("began with another prior", {"prior": StyleGAN2PyTorch(*make_networks(seed=1))}),
        ("of another batch or queue", {"config": dataclasses.replace(SHORT, batch=3)}),
        ("of other photos, or of other networks", {"photos": other}),
        ("it has critics; pass --adversarial as it was", {"config": dataclasses.replace(SHORT, adversarial=0.0)}),
    ):
        with pytest.raises(ValueError, match=f"expected the state of work with these settings .*{words}"):
            refine(**{"photos": photos, "out": tmp_path, "resume": True, **options})


def test_a_state_without_critics_goes_on_without_them(photos, tmp_path):
    alone = dataclasses.replace(SHORT, adversarial=0.0)
    refine(photos, tmp_path, alone)
    state = load_state(tmp_path / "state.safetensors")
    assert state.keys() == {
        *("S", "G", "SE", "GE", "optimizer", "norm", "rows", "place", "transports", "random", "start", "step", "elapsed")
    }
    with pytest.raises(ValueError, match="got another .it has no critics; pass --adversarial=0"):
        refine(photos, tmp_path, SHORT, resume=True)
    assert refine(photos, tmp_path, dataclasses.replace(alone, steps=7), resume=True).steps == 7


def take_plain_step(refiner: refining.Refiner, step: int) -> None:
    """Goes a step on by the gradient of the transport's loss alone."""
    config = refiner.config
    if step % config.every == 0:
        refiner.update_transports()
    rate = config.lr * min(1.0, (step + 1) / config.warm) * refining.fall(step, config.steps, config.decay)
    refiner.optimizer.param_groups[0]["lr"] = rate
    images = refiner.draw(config.batch)
    seen = refiner.look(images)
    pulls = [one.pull(rows) for one, rows in zip(refiner.transports, seen, strict=True)]
    outside = (images - images.clamp(-1, 1)).square().mean()
    loss = sum(weight * pull for weight, pull in zip(refiner.weights, pulls, strict=True)) + config.inside * outside
    refiner.optimizer.zero_grad()
    loss.backward()
    clip_gradients(refiner.optimizer, refiner.norm, config.clip, step)
    refiner.optimizer.step()
    for average, net in zip(refiner.averages, (refiner.mapping, refiner.synthesis), strict=True):
        update_average(average, net, min(config.average, (step + 1) / (step + 10)))
    refiner.keep(seen)


def test_without_critics_the_transport_alone_moves_samples(photos, monkeypatch):
    monkeypatch.setattr(critics, "NEWBORN", 1)
    refiner, plain, pushed = (make_refiner(photos, adversarial=size) for size in (0.0, 0.0, 0.6))
    for step in range(5):
        refiner.train_step(step), pushed.train_step(step), take_plain_step(plain, step)
    for name in ("S", "G", "SE", "GE"):
        one, other, third = (r.modules()[name].state_dict() for r in (refiner, plain, pushed))
        assert all(torch.equal(one[key], other[key]) for key in one)
        assert not all(torch.equal(one[key], third[key]) for key in one)
    assert torch.equal(refiner.generator.get_state(), plain.generator.get_state())  # no photo is drawn
    assert "D" not in refiner.state(5) and "critics" not in refiner.state(5)


def test_critics_are_heard_after_some_steps_of_their_own(photos, monkeypatch):
    monkeypatch.setattr(critics, "NEWBORN", 3)
    one, other = (make_refiner(photos, adversarial=size) for size in (0.5, 5.0))
    newborn = copy.deepcopy(one.critics.discriminator.state_dict())
    for step, same in ((0, True), (3, True), (4, False)):
        for refiner in (one, other):
            refiner.train_step(step)
        pairs = zip(one.synthesis.parameters(), other.synthesis.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs) is same
    moved = {
        key.split(".")[0] for key, value in one.critics.discriminator.state_dict().items() if (value != newborn[key]).any()
    }
    assert moved == {"heads"}  # and what frozen networks' maps are mixed by stays


def test_the_push_has_its_length_in_units_of_the_transport(photos, monkeypatch):
    refiner, gradients, pushes = make_refiner(photos, adversarial=0.6), [], []
    draw, push = refiner.draw, refiner.critics.push

    def draw_and_tell(count):
        images = draw(count)
        images.register_hook(gradients.append)
        return images

    def push_and_tell(fake, seen, length, age):
        pushes.append((length.clone(), push(fake, seen, length, age)[1]))
        return torch.zeros(()), pushes[-1][1].clone()

    monkeypatch.setattr(refiner, "draw", draw_and_tell)
    monkeypatch.setattr(refiner.critics, "push", push_and_tell)
    refiner.train_step(2 * critics.NEWBORN)  # the first one, so that its own length is the usual one
    (length, added), (whole,) = pushes[0], gradients
    assert length > 0 and added.norm().item() == pytest.approx(0.6 * length.item(), rel=1e-4)
    assert (whole - added).norm().item() == pytest.approx(length.item(), rel=1e-4)  # it is added to what is 1 long


def test_newborn_critics_depend_on_the_seed_alone(photos):
    refiner, network = make_refiner(photos), RecognizerFeatures(make_critic())
    torch.manual_seed(1)
    before = torch.get_rng_state()
    again = refiner.build_critics([network]).discriminator.state_dict()
    assert all(torch.equal(again[key], value) for key, value in refiner.critics.discriminator.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before)  # and leave the other draws as they are


@pytest.mark.parametrize("age, share", [(0, 0.0), (1, 0.0), (1.5, 0.5), (2, 1.0), (9, 1.0)])
def test_a_push_grows_with_the_age_of_critics_and_follows_the_usual_length(age, share, photos):
    network, generator = RecognizerFeatures(make_critic()), torch.Generator().manual_seed(0)
    discriminator = critics.build_feature_discriminator(network, photos, 0, CPU)
    one = critics.Critics(discriminator, 1e-3, 2.0, generator, torch.zeros(()))
    fake = torch.rand(4, 3, SIDE, SIDE, generator=generator).requires_grad_()
    seen, age = discriminator.look(fake), round(age * critics.NEWBORN)
    assert one.push(fake, seen, torch.tensor(3.0), age)[1].norm().item() == pytest.approx(2.0 * 3.0 * share, rel=1e-4)
    # of one that is twice as long a hundredth counts
    seen = discriminator.look(fake)
    expected = pytest.approx(2.0 * (3.0 + 0.01 * 3.0) * share, rel=1e-4)
    assert one.push(fake, seen, torch.tensor(6.0), age)[1].norm().item() == expected
    assert all(p.requires_grad for p in one.judged) and not any(p.requires_grad for p in discriminator.projector.parameters())


def test_critics_learn_at_a_rate_that_falls_as_that_of_samples_does(photos):
    refiner = make_refiner(photos, steps=10, decay=0.5, critics_lr=1e-3)
    rates = []
    for step in (0, 5, 9):
        refiner.train_step(step)
        rates.append(refiner.critics.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-3, 1e-3, 2e-4])


def test_grey_photos_tie_the_colours_and_the_noise_stays_as_it_was(photos, tmp_path):
    mapping, synthesis = make_networks()
    with torch.no_grad():
        for block in synthesis.blocks:
            block.to_noise1.weight.fill_(0.05)
    weights = refine(photos, tmp_path / "grey", prior=StyleGAN2PyTorch(mapping, synthesis)).weights
    tied = [value for name, value in weights.items() if "to_rgb.conv.weight" in name]
    assert tied and all(torch.equal(value[0], value[1]) and torch.equal(value[0], value[2]) for value in tied)
    loud = [value for name, value in weights.items() if "to_noise1.weight" in name]
    assert loud and all((value == 0.05).all() for value in loud)
    coloured = dataclasses.replace(photos, pixels=photos.pixels * torch.tensor([1, 0, 1], dtype=torch.uint8).view(3, 1, 1))
    weights = refine(coloured, tmp_path / "coloured").weights
    free = [value for name, value in weights.items() if "to_rgb.conv.weight" in name]
    assert not any(torch.equal(value[0], value[1]) for value in free)


def test_rows_are_those_of_the_last_samples_and_the_recent_ones_among_them(photos, tmp_path, monkeypatch):
    drawn, means = [], []
    look, update = refining.Refiner.look, Transport.update
    monkeypatch.setattr(refining.Refiner, "look", lambda self, x: (drawn.append(look(self, x)), drawn[-1])[1])
    monkeypatch.setattr(
        Transport, "update", lambda self, rows, recent: (means.append((rows, recent)), update(self, rows, recent))[1]
    )
    prior, network = StyleGAN2PyTorch(*make_networks()), RecognizerFeatures(make_critic())
    refiner = refining.Refiner(dataclasses.replace(SHORT, queue=12, recent=8, every=1), prior, photos, [network], CPU)
    refiner.fill()
    for step in range(5):
        means.clear()
        refiner.train_step(step)
        for index, (_, recent) in enumerate(means):  # of every map
            expected = torch.cat([seen[index] for seen in drawn[-3:-1]])
            assert torch.equal(recent.sort(0).values, expected.sort(0).values)
        last = torch.cat([seen[0] for seen in drawn[-3:]]).detach()
        assert torch.equal(refiner.rows[0].sort(0).values, last.sort(0).values)


def make_eye(seed: int = 9, jitter: float = 0.15) -> refining.Eye:
    return refining.Eye(RecognizerFeatures(make_critic(seed)), (1.0, 0.5), SIDE, SIDE, jitter)


def test_photos_are_looked_at_once_for_all_refinings_of_a_network(photos, monkeypatch):
    calls, eye = [], make_eye()
    look = eye.network.look
    monkeypatch.setattr(eye.network, "look", lambda images, each: (calls.append(len(images)), look(images, each))[1])
    first = refining.fit_photos(eye, photos, 1000, CPU)
    assert sum(calls) == 2 * len(photos) + refining.PROBED  # mirrored, too
    calls.clear()
    again = refining.fit_photos(eye, photos, 1000, CPU)
    assert sum(calls) == refining.PROBED
    assert all(torch.equal(a.covariance, b.covariance) for a, b in zip(first, again, strict=True))
    for other in (make_eye(seed=1), make_eye(jitter=0.3)):
        assert not torch.equal(refining.fit_photos(other, photos, 1000, CPU)[0].mean, first[0].mean)
    calls.clear()
    refining.fit_photos(eye, photos, 30, CPU)
    assert sum(calls) == 2 * 30 + refining.PROBED


def test_the_gaussians_of_photos_are_those_of_all_and_their_mirror_images(photos):
    eye = make_eye(jitter=0.0)
    found = refining.fit_photos(eye, photos, 1000, CPU)
    both = torch.cat([photos.images(slice(None)), photos.images(slice(None)).flip(3)])
    for one, rows in zip(found, eye.look(both), strict=True):
        expected = fit_gaussian(rows)
        assert torch.allclose(one.mean, expected.mean, atol=1e-4) and torch.allclose(
            one.covariance, expected.covariance, atol=1e-4
        )


def test_a_crop_leaves_out_no_more_than_its_share_and_lies_anywhere_within():
    ramp = torch.linspace(-1, 1, 64).expand(3, 64, 64).repeat(400, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    assert torch.allclose(refining.crop_randomly(ramp, 64, 0.0, generator), ramp, atol=1e-5)
    crops = refining.crop_randomly(ramp, 96, 0.2, generator)
    assert crops.shape == (400, 3, 96, 96)
    width, middle = crops[:, 0, 0, -1] - crops[:, 0, 0, 0], crops[:, 0, 0].mean(1)
    assert 1.58 < width.min() < 1.64 and 1.95 < width.max() < 2.02
    assert -0.2 < middle.min() < -0.1 and 0.1 < middle.max() < 0.2 and abs(middle.mean()) < 0.02


class Deaf:
    """A frozen network of equal maps, or of none, and no embeddings; sizes: of the pictures that it was shown."""

    embeds_beyond_maps = False

    def __init__(self, maps: int, side: int = 0):
        self.maps, self.side, self.sizes = maps, side, []

    def look(self, images, each):
        self.sizes.append(images.shape[3])
        return [each(images)] * self.maps, None


class Pooled(RecognizerFeatures):
    """The features of a recognizer whose embedding is merely the mean of its last map."""

    embeds_beyond_maps = False

    def look(self, images, each):
        maps, _ = super().look(images)
        return [each(one) for one in maps], maps[-1].mean((2, 3))


def test_an_embedding_is_the_deepest_that_is_seen_unless_it_is_a_mean_of_the_last_map(photos):
    recognizer, images = make_critic(), photos.images(slice(6))
    last, before = (one.mean((2, 3)) for one in RecognizerFeatures(recognizer).look(images)[0][:-3:-1])
    embeddings = recognizer.backbone(images * 2)
    for network, expected in (
        (RecognizerFeatures(recognizer), [embeddings, last]),
        (Pooled(recognizer), [last, before]),
    ):
        (eye,) = refining.make_eyes([network], SHORT, images)
        assert eye.weights == (1.0, 0.5)
        for one, other in zip(eye.look(images), expected, strict=True):
            torch.testing.assert_close(one, other)
    four, five = (dataclasses.replace(SHORT, depths=(1.0,) * count) for count in (4, 5))
    for config, network, count in ((four, Pooled, 4), (five, Pooled, 4), (five, RecognizerFeatures, 5)):
        (eye,) = refining.make_eyes([network(recognizer)], config, images)
        assert len(eye.weights) == len(eye.look(images)) == count  # all that there is, no more
    assert SeveralFeatures([Deaf(1), RecognizerFeatures(recognizer)]).embeds_beyond_maps
    assert not SeveralFeatures([Deaf(1), Pooled(recognizer)]).embeds_beyond_maps


def test_a_network_that_knows_no_people_weighs_less_and_the_embedding_comes_first(photos):
    prior, trunk = StyleGAN2PyTorch(*make_networks()), RecognizerFeatures(make_critic())
    settings = dataclasses.replace(SHORT, depths=(1.0, 0.5), strangers=0.3, components=2)
    refiner = refining.Refiner(settings, prior, photos, [trunk, Deaf(2)], CPU)
    assert refiner.weights == [1.0, 0.5, 0.3]
    maps = trunk.look(photos.images(slice(2)))[0]
    assert [len(one.basis) for one in refiner.transports] == [8, maps[-1].shape[1], 3]
    assert all(one.basis.shape[1] <= 2 for one in refiner.transports)
    few = dataclasses.replace(photos, pixels=photos.pixels[:4], person=photos.person[:4])
    refiner = refining.Refiner(dataclasses.replace(settings, components=256), prior, few, [trunk], CPU)
    assert refiner.transports[0].basis.shape[1] == 3


def test_each_network_looks_at_crops_of_its_own_size(photos):
    large, small = Deaf(1, side=24), Deaf(1)
    refiner = refining.Refiner(SHORT, StyleGAN2PyTorch(*make_networks()), photos, [small, large], CPU)
    large.sizes.clear(), small.sizes.clear()
    refiner.look(refiner.draw(2))
    assert (small.sizes, large.sizes) == ([SIDE], [24])


def test_what_cannot_be_refined_is_refused(photos, tmp_path):
    prior = StyleGAN2PyTorch(*make_networks())
    with pytest.raises(ValueError, match="expected frozen networks with maps, got one that has none"):
        refining.Refiner(SHORT, prior, photos, [Deaf(0)], CPU)
    one = dataclasses.replace(photos, pixels=photos.pixels[:1], person=photos.person[:1])
    with pytest.raises(ValueError, match="expected at least 2 photos, got 1"):
        refine(one, tmp_path)
    prior.synthesis.add_module("old", OlderNorm.__new__(OlderNorm))
    torch.nn.Module.__init__(prior.synthesis.old)
    with pytest.raises(ValueError, match="from 1.8.8 on, got an older one"):
        refining.check_refinable(prior)


# ---- the command


@pytest.fixture
def world(people, tmp_path, monkeypatch) -> World:
    """A world with a prior of its own, whose training eye.safetensors took part in; critic.safetensors is another."""
    world = World(tmp_path / "weights", resolution=SIDE)
    world.save()
    nets = zip(("SE", "GE"), make_networks(), strict=True)
    weights = {f"{name}.{key}": value for name, net in nets for key, value in net.state_dict().items()}
    card = {"role": "prior", "command": "python scripts/train_gan.py", "training": {"steps": 7}, "frame": [[0.3, 0.3]]}
    card |= {"data": {"public": "people"}, "networks": {"critic": "eye.safetensors"}}
    save_prior(world.file("prior"), weights, card, lr_mlp=0.2)
    world.register("prior", world.file("prior"))
    register(monkeypatch, world, tmp_path)
    (tmp_path / "data").symlink_to(people)
    write_people(tmp_path / "few", 6, photos=1, side=SIDE)
    for name, model in (
        ("critic", make_critic()),
        ("eye", CosineRecognizer("squeezenet1_1", num_identities=0, embedding_dim=4, input_size=32)),
        ("alexnet", CosineRecognizer("alexnet_trunk", num_identities=0, embedding_dim=4, input_size=64)),
    ):
        save_recognizer(model.eval(), f"{name}.safetensors", {"role": "verifier"})
    return world


COMMON = [f"--world={NAME}", "--photos=data", "--device=cpu", "--wandb=disabled", "--steps=3", "--precision=float32"]
SMALL = [*COMMON, "--critic=critic.safetensors", "--batch=64", "--sample-every=2"]


def test_refine_prior_writes_a_prior_with_its_card_and_measures_it(world, monkeypatch, capsys):
    monkeypatch.setattr("ganinv.training.prior_quality.detect_faces", lambda pictures: torch.ones(len(pictures)))
    words = ["--features=eye.safetensors,critic.safetensors", "--out=run"]
    assert run_main(monkeypatch, command, *SMALL, *words) == 0
    out = capsys.readouterr().out
    assert "3 steps take about " in out and "run/prior.safetensors: 192 samples shown" in out
    card, old = read_card("run/prior.safetensors"), read_card(world.file("prior"))
    assert card["command"].startswith("python scripts/refine_prior.py --world=tiny")
    assert card["before"] == {name: old[name] for name in ("command", "training", "sha256")}
    assert (card["frame"], card["data"], card["lr_mlp"]) == (old["frame"], old["data"], 0.2)
    assert card["refined"]["training"]["steps"] == 3 and card["refined"]["cost"]["pictures_shown"] == 192
    assert card["refined"]["data"]["hash_range"] == [0.0, 0.8]
    assert read_took_part("run/prior.safetensors") == ["eye.safetensors", "critic.safetensors"]
    marked = {f"{name} (took part in the training)" for name in ("eye", "critic")}
    assert marked < card["metrics"]["psi 1.0"].keys()
    refined, before = (load_checkpoint(place) for place in ("run/prior.safetensors", world.file("prior")))
    assert refined.mapping.net[0].lr_mul == 0.2
    assert not torch.equal(refined.mapping.net[0].weight, before.mapping.net[0].weight)
    assert {path.name for path in Path("run").glob("samples-0*.png")} == {"samples-000000.png", "samples-000002.png"}
    assert load_state("run/state.safetensors")["step"] == 3

    assert run_main(monkeypatch, command, *SMALL, "--out=run") == 2
    assert "expected a new folder, got run" in capsys.readouterr().err
    # from the state of the last step nothing is left to do but to write the weights again
    assert run_main(monkeypatch, command, *SMALL, "--out=run", "--resume") == 0
    assert read_card("run/prior.safetensors")["sha256"] == card["sha256"]


def test_a_prior_that_is_refined_twice_names_all_networks_that_took_part(world, monkeypatch):
    assert run_main(monkeypatch, command, *SMALL, "--out=one") == 0
    save_recognizer(make_critic(seed=1), "second.safetensors", {"role": "verifier"})
    words = [*SMALL, "--prior=one/prior.safetensors", "--critic=second.safetensors,critic.safetensors", "--out=two"]
    assert run_main(monkeypatch, command, *words) == 0
    took_part = ["eye.safetensors", "critic.safetensors", "second.safetensors"]
    assert read_took_part("two/prior.safetensors") == took_part
    assert read_card("two/prior.safetensors")["before"]["before"]["training"] == {"steps": 7}


@pytest.mark.parametrize(
    "words, message",
    [
        (["--critic="], "expected --critic=FILE, frozen networks in whose features samples are brought to photos, got none"),
        (
            ["--critic=eye.safetensors"],
            "expected a vgg_trunk, an alexnet_trunk or a resnet18 to see with, got squeezenet1_1",
        ),
        (["--critic=nowhere.safetensors"], "nowhere.safetensors"),
        (["--critic=alexnet.safetensors"], "large enough for the networks of --critic, got 16 px; pass another --critic"),
        (["--prior=people"], "expected a prior of stylegan2-pytorch to refine, got RenderedPeople"),
        (["--prior=nowhere.safetensors"], "nowhere.safetensors"),
        (["--prior=critic.safetensors"], "critic.safetensors"),
        (["--photos=nowhere"], "nowhere"),
        (["--resume"], "state.safetensors, got none; leave --resume out to begin anew"),
        (["--batch=1"], "expected batch in [2, 1e6], got 1"),
        (["--adversarial=-1"], "expected adversarial in [0, 1000], got -1"),
        (["--precision=float16"], "expected a precision among auto, bfloat16, float32"),
        (["--features=nowhere.safetensors"], "nowhere.safetensors"),
        (["--features=eye.safetensors", "--photos=few"], "expected 6 photos or more a side"),
        (["--world=atlantis"], "expected a world among"),
    ],
)
def test_a_mistake_is_one_line(words, message, world, monkeypatch, capsys):
    assert run_main(monkeypatch, command, *SMALL, "--out=run", *words) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0], errors
    assert not list(Path().glob("run/*.safetensors"))
