"""Training at 16 px for a few steps: an interrupted run that is resumed ends in the bits of one that was not."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ganinv.commands import train_gan as gan_command
from ganinv.commands import train_recognizer as recognizer_command
from ganinv.commands.measure_prior import read_took_part
from ganinv.commands.training_output import register_output
from ganinv.engine.checkpoint import load_state, save_state, truncate_jsonl
from ganinv.interfaces import FaultError
from ganinv.photos import Photos, list_people, load_photos, unit_hash
from ganinv.priors.stylegan2_pytorch_files import load_checkpoint
from ganinv.recognizers.cosine import CosineRecognizer
from ganinv.recognizers.loading import load_recognizer, save_recognizer
from ganinv.training import critics, discriminators, frozen_features, gan, latents, loop, recipes, recognizer, schedule
from ganinv.weights.cards import read_card
from ganinv.worlds.world import World, find_world, open_world
from tests.killing import Killed, kill_at
from tests.tiny_world import NAME, register, run_main, write_people

SIDE = 16
CPU = torch.device("cpu")
GAN = gan.GanTraining(
    resolution=SIDE,
    capacity=1,
    steps=4,
    alone=0.5,
    batch=4,
    discriminator_width=4,
    r1_every=2,
    sample_every=2,
    precision="float32",
)
RECOGNIZER = recognizer.RecognizerTraining(  # SqueezeNet has a dropout, whose draws must be the same too
    architecture="squeezenet1_1", embedding_dim=8, input_size=32, steps=4, batch=8, precision="float32"
)


@pytest.fixture(scope="module")
def people(tmp_path_factory) -> Path:
    """A photo folder: 3 users of 6 photos, 30 public people of 2."""
    folder = tmp_path_factory.mktemp("people")
    write_people(folder / "private", 3, photos=6, side=SIDE)
    write_people(folder / "public", 30, photos=2, side=SIDE, prefix="n")
    return folder


@pytest.fixture(scope="module")
def photos(people) -> dict[str, Photos]:
    return {name: load_photos(list_people(people / name), SIDE) for name in ("private", "public")}


def train(kind: str, photos: dict[str, Photos], out: Path, **options) -> dict[str, torch.Tensor]:
    """Returns the weights of a short training."""
    out.mkdir(exist_ok=True)
    if kind != "recognizer":
        sees = kind.removeprefix("gan of ")
        settings = gan.GanTraining(**{**vars(GAN), "save_every_s": 0.0, "discriminator": sees, **gan.DISCRIMINATORS[sees]})
        torch.manual_seed(9)
        features = CosineRecognizer("vgg_trunk", num_identities=0, embedding_dim=8, input_size=SIDE).eval()
        features = frozen_features.RecognizerFeatures(features.requires_grad_(False))
        return gan.train_gan(settings, photos["public"], out, device=CPU, features=features, **options).weights
    settings = recognizer.RecognizerTraining(**{**vars(RECOGNIZER), "save_every_s": 0.0})
    model = recognizer.train_recognizer(settings, photos["private"], photos["public"], out, device=CPU, **options)
    return model.state_dict()


@pytest.mark.parametrize("kind, module", [("gan of pictures", loop), ("gan of features", loop), ("recognizer", recognizer)])
@pytest.mark.parametrize("step, before_saving", [(1, False), (2, False), (4, True)])
def test_a_resumed_training_ends_in_the_same_bits(kind, module, step, before_saving, photos, tmp_path, monkeypatch):
    rows: list[dict] = []
    whole = train(kind, photos, tmp_path / "whole", on_step=rows.append)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, module, step, before_saving=before_saving)
        train(kind, photos, tmp_path / "parts")
    torch.rand(7)  # whatever drew from the global generator meanwhile
    parts = train(kind, photos, tmp_path / "parts", resume=True)
    assert whole.keys() == parts.keys() and all(torch.equal(whole[name], parts[name]) for name in whole)
    assert any(value.abs().sum() > 0 for value in whole.values())

    logs = [[json.loads(line) for line in (tmp_path / out / "steps.jsonl").open()] for out in ("whole", "parts")]
    assert logs[0] == logs[1] == rows and [row["step"] for row in rows] == [0, 3]
    # state is data, not a pickle
    states = [load_file(tmp_path / out / "state.safetensors") for out in ("whole", "parts")]
    assert states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert load_state(tmp_path / "parts" / "state.safetensors")["step"] == 4
    assert not list(tmp_path.rglob("*.pt")) and not list(tmp_path.rglob("*.tmp"))


def test_training_moves_the_weights(photos, tmp_path):
    first = train("gan of pictures", photos, tmp_path / "a")
    torch.manual_seed(GAN.seed)
    mapping, _ = gan.build_networks(SIDE, GAN.capacity)
    assert not torch.equal(first["SE.net.0.weight"], mapping.net[0].weight)


def test_the_discriminator_joins_after_its_share_of_the_steps(photos, tmp_path, monkeypatch):
    states = []
    monkeypatch.setattr(loop, "save_state", lambda path, state: states.append(copy.deepcopy(state)))
    train("gan of pictures", photos, tmp_path / "a")
    discriminators = [state["D"]["outputs.weight"] for state in states]
    assert torch.equal(discriminators[0], discriminators[1]) and not torch.equal(discriminators[1], discriminators[2])
    assert states[1]["balance"]["scale"] == 0 and states[2]["balance"]["scale"] > 0
    assert not any(torch.equal(states[step]["E"]["first.weight"], states[step + 1]["E"]["first.weight"]) for step in range(3))


def test_a_discriminator_is_heard_after_some_steps_of_its_own(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(critics, "NEWBORN", 10)

    def train_to(step, adversarial):
        settings = gan.GanTraining(
            **{**vars(GAN), "steps": 60, "alone": 0.05, "adversarial": adversarial, "save_every_s": 0.0}
        )
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_at(patch, loop, step)
            gan.train_gan(settings, photos["public"], tmp_path, device=CPU)
        return load_state(tmp_path / "state.safetensors")["G"]

    for step, same in ((13, True), (16, False)):
        one, other = train_to(step, 0.5), train_to(step, 5.0)
        assert all(torch.equal(one[name], other[name]) for name in one) is same


def test_frozen_features_stay_frozen_and_what_looks_at_them_learns(photos, tmp_path, monkeypatch):
    states, networks = [], []
    monkeypatch.setattr(loop, "save_state", lambda path, state: states.append(copy.deepcopy(state)))
    look = frozen_features.RecognizerFeatures.look
    monkeypatch.setattr(
        frozen_features.RecognizerFeatures,
        "look",
        lambda self, *rest: (networks.append(self.recognizer), look(self, *rest))[1],
    )
    train("gan of features", photos, tmp_path)
    first, last = states[0]["D"], states[-1]["D"]
    changed = {name for name in first if not torch.equal(first[name], last[name])}
    assert changed and all(name.startswith("heads.") for name in changed) and any("projector.mix" in name for name in first)
    torch.manual_seed(9)
    fresh = CosineRecognizer("vgg_trunk", num_identities=0, embedding_dim=8, input_size=SIDE).state_dict()
    assert networks and all(torch.equal(fresh[name], value) for name, value in networks[-1].state_dict().items())
    assert all(parameter.grad is None for parameter in networks[-1].parameters())


def test_without_samples_the_discriminator_sees_every_reconstruction(photos, tmp_path, monkeypatch):
    seen = []
    lose = discriminators.FeatureDiscriminator.lose

    def lose_and_tell(self, real, fake, *rest):
        seen.append((len(real), len(fake[0])))
        return lose(self, real, fake, *rest)

    monkeypatch.setattr(discriminators.FeatureDiscriminator, "lose", lose_and_tell)
    monkeypatch.setattr(gan, "draw_latents", lambda *rest: pytest.fail("samples are drawn"))
    train("gan of features", photos, tmp_path)
    assert seen == [(GAN.batch, GAN.batch)] * 2


def test_a_training_begins_with_what_another_learned_and_a_discriminator_of_its_own(photos, tmp_path, monkeypatch):
    train("gan of pictures", photos, tmp_path / "first")
    learned = load_state(tmp_path / "first" / "state.safetensors")
    begun = []
    step = gan.Trainer.train_step
    monkeypatch.setattr(
        gan.Trainer, "train_step", lambda self, n: (begun.append(copy.deepcopy(self.state(n))), step(self, n))[1]
    )
    train("gan of features", photos, tmp_path / "second", start=tmp_path / "first" / "state.safetensors")
    for name in ("S", "G", "E", "SE", "GE", "moments"):
        assert all(torch.equal(learned[name][key], value) for key, value in begun[0][name].items())
    moved, taken = learned["optimizers"]["generator"]["state"], begun[0]["optimizers"]["generator"]["state"]
    assert torch.equal(moved[0]["exp_avg"], taken[0]["exp_avg"]) and taken[0]["exp_avg"].abs().sum() > 0
    assert begun[0]["step"] == 0 and not begun[0]["optimizers"]["discriminator"]["state"]
    with pytest.raises(ValueError, match="expected a state written by ganinv"):
        train("gan of features", photos, tmp_path / "third", start=tmp_path / "nowhere.safetensors")


def test_a_generator_learns_to_give_photos_back(photos, tmp_path):
    rows: list[dict] = []
    settings = gan.GanTraining(**{**vars(GAN), "steps": 101, "alone": 1.0})
    gan.train_gan(settings, photos["public"], tmp_path, device=CPU, on_step=rows.append)
    assert rows[0]["pixels"] > 2 * rows[-1]["pixels"]


def test_folded_moments_bring_samples_to_where_the_codes_are():
    torch.manual_seed(0)
    mapping, _ = gan.build_networks(SIDE, 1, w_dim=8, depth=2)
    codes = torch.randn(4000, 8) @ torch.randn(8, 8)
    moments = latents.Moments(8)
    moments.update(codes, torch.full_like(codes, -2.0), decay=0.0)
    expected = codes.T @ codes / len(codes) + torch.exp(torch.tensor(-2.0)) * torch.eye(8)
    assert torch.allclose(moments.second, expected, atol=1e-3)
    root = moments.root()
    assert torch.allclose(root @ root.T / root.square().sum(), expected / expected.trace(), atol=1e-4)
    z = torch.randn(5, 8)
    before = moments.map(mapping, z)
    assert not torch.allclose(before, mapping(z), atol=1e-3)
    moments.fold(mapping)
    assert torch.allclose(before, mapping(z), atol=1e-5)


def test_moments_follow_slowly():
    moments = latents.Moments(2)
    moments.update(torch.tensor([[3.0, 0.0]]), torch.full((1, 2), -100.0), decay=0.5)
    assert torch.allclose(moments.second, torch.diag(torch.tensor([5.0, 0.5])))


def test_a_prior_of_grey_photos_is_grey(photos, tmp_path):
    weights = train("gan of pictures", photos, tmp_path / "a")
    for name, value in weights.items():
        if "to_rgb.conv.weight" in name:
            assert torch.equal(value[0], value[1]) and torch.equal(value[0], value[2])


@pytest.mark.parametrize("content", [None, b"", b"no safetensors file"])
def test_a_state_that_is_missing_or_broken_is_refused(content, tmp_path):
    if content is not None:
        (tmp_path / "state.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="expected a state written by ganinv, got .*state.safetensors"):
        load_state(tmp_path / "state.safetensors")


def test_a_state_of_other_settings_is_refused(photos, tmp_path):
    train("gan of pictures", photos, tmp_path / "a")
    settings = gan.GanTraining(**{**vars(GAN), "capacity": 2 * GAN.capacity})
    with pytest.raises(ValueError, match="expected the state of work with these settings"):
        gan.train_gan(settings, photos["public"], tmp_path / "a", device=CPU, resume=True)


@pytest.mark.parametrize("kind", ["gan of pictures", "recognizer"])
def test_a_state_of_other_photos_is_refused(kind, photos, tmp_path):
    train(kind, photos, tmp_path)
    public = photos["public"]
    others = {**photos, "public": dataclasses.replace(public, pixels=255 - public.pixels)}
    with pytest.raises(ValueError, match="expected the state of work with these settings in .*(it is of other photos)"):
        train(kind, others, tmp_path, resume=True)


def test_a_state_comes_back_as_it_was(tmp_path):
    state = {"a": torch.arange(3), "b": [1, None, "x", {"c": torch.zeros(0, 2)}], 3: {"lr": 1e-3, "d": True}}
    save_state(tmp_path / "s.safetensors", state)
    back = load_state(tmp_path / "s.safetensors")
    assert torch.equal(back["a"], state["a"]) and back["b"][:3] == state["b"][:3] and back[3] == state[3]
    assert back["b"][3]["c"].shape == (0, 2)


def test_a_log_loses_what_a_resumed_run_writes_again(tmp_path):
    log = tmp_path / "steps.jsonl"
    truncate_jsonl(log, 3)  # none yet
    log.write_text('{"step": 0}\n{"step": 20}\n{"step": 40}\n{"step": 60, "lo')
    truncate_jsonl(log, 39)
    assert log.read_text() == '{"step": 0}\n{"step": 20}\n'


# ---- how long it takes


def test_a_plan_is_told_and_changes_no_bit(photos, tmp_path):
    lines: list[str] = []
    plain, planned = (
        train("gan of pictures", photos, tmp_path / "a"),
        train("gan of pictures", photos, tmp_path / "b", on_plan=lines.append),
    )
    assert all(torch.equal(plain[name], planned[name]) for name in plain)
    assert len(lines) == 1 and lines[0].startswith("4 steps take about ") and "per step of 4 pictures" in lines[0]


def test_costs_add_up():
    costs = schedule.Costs(alone=1.0, joined=2.0, penalised=6.0)
    assert costs.total(first=0, joined=10, steps=30, penalty_every=4) == 10 * 1 + 20 * (2 + 1)
    assert costs.total(first=20, joined=10, steps=30, penalty_every=4) == 10 * 3
    assert [schedule.tell_duration(s) for s in (0.2, 40, 720, 4560)] == ["1 s", "40 s", "12 min", "1 h 16 min"]


def test_under_a_clock_steps_phases_and_rates_follow_the_time(photos, tmp_path, monkeypatch):
    clock = itertools.count(0, 3.0)  # every look at the clock is three seconds after the last
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(clock)))
    settings = gan.GanTraining(**{**vars(GAN), "steps": 8000, "minutes": 1.0, "save_every_s": 1e9})
    rates = []
    monkeypatch.setattr(gan.Trainer, "set_rates", lambda self, rate: rates.append(rate))
    trained = gan.train_gan(settings, photos["public"], tmp_path, device=CPU)
    assert 5 <= trained.steps == len(rates) <= 20 and trained.seconds >= 60
    assert rates[:2] == [settings.lr_alone] * 2 and settings.lr in rates and rates[-1] < 0.7 * settings.lr
    assert load_state(tmp_path / "state.safetensors")["elapsed"] == trained.seconds
    # the time is up: nothing is left to train
    again = gan.train_gan(settings, photos["public"], tmp_path, device=CPU, resume=True)
    assert again.steps == trained.steps and all(torch.equal(again.weights[k], trained.weights[k]) for k in again.weights)


# ---- the commands


@pytest.fixture
def world(people, tmp_path, monkeypatch) -> World:
    world = World(tmp_path / "weights", resolution=SIDE)
    world.save()
    register(monkeypatch, world, tmp_path)
    (tmp_path / "data").symlink_to(people)
    write_people(tmp_path / "few", 6, photos=1, side=SIDE)
    alexnet = CosineRecognizer("alexnet_trunk", num_identities=0, embedding_dim=8, input_size=64).eval()
    save_recognizer(alexnet, "small.safetensors", {"role": "critic"})  # blind below 31 px
    return world


COMMON = [f"--world={NAME}", "--photos=data", "--device=cpu", "--wandb=disabled", "--steps=3", "--precision=float32"]


def test_train_gan_writes_a_prior_with_its_card(world, monkeypatch, capsys):
    small = ["--capacity=1", "--batch=4", "--sample-every=2"]
    assert run_main(monkeypatch, gan_command, *COMMON, *small, "--out=prior") == 0
    card = read_card("prior/prior.safetensors")
    assert card["command"].startswith("python scripts/train_gan.py --world=tiny") and card["training"]["steps"] == 3
    assert card["cost"]["pictures_shown"] == 12 and card["cost"].keys() >= {"seconds", "hardware", "threads"}
    assert card["data"]["public"]["hash_range"] == [0.0, 0.8] and len(card["data"]["sha256"]) == 64
    assert load_checkpoint("prior/prior.safetensors").resolution == SIDE
    assert {path.name for path in Path("prior").glob("*.png")} == {"samples-000000.png", "samples-000002.png"}
    capsys.readouterr()
    before = Path("prior/state.safetensors").read_bytes()
    assert run_main(monkeypatch, gan_command, *COMMON, *small, "--out=prior") == 2
    err = capsys.readouterr().err
    assert err.startswith("error: expected a new folder, got prior") and "--resume" in err and err.count("\n") == 1
    assert Path("prior/state.safetensors").read_bytes() == before
    # from the state of the last step nothing is left to do but to write the weights again
    assert run_main(monkeypatch, gan_command, *COMMON, *small, "--out=prior", "--resume") == 0
    assert read_card("prior/prior.safetensors")["sha256"] == card["sha256"]


def write_zip(file: str, people: Path) -> None:
    """Writes the pictures of a folder of people, side by side."""
    with zipfile.ZipFile(file, "w") as archive:
        for index, path in enumerate(sorted(people.rglob("*.png"))):
            archive.write(path, f"{index:05d}.png")


def test_train_gan_takes_a_zip_of_pictures_and_measures_the_prior(world, people, monkeypatch, capsys):
    monkeypatch.setattr("ganinv.training.prior_quality.detect_faces", lambda pictures: torch.ones(len(pictures)))
    write_zip("faces.zip", people / "public")
    torch.manual_seed(0)
    eye = CosineRecognizer("squeezenet1_1", num_identities=0, embedding_dim=4, input_size=32).eval()
    save_recognizer(eye, "eye.safetensors", {"role": "lpips_face"})
    words = [*COMMON, "--photos=faces.zip", "--capacity=1", "--batch=4", "--resolution=8", "--features=eye.safetensors"]
    assert run_main(monkeypatch, gan_command, *words, "--out=prior") == 0
    card = read_card("prior/prior.safetensors")
    assert card["resolution"] == 8 and card["data"]["public"]["photos"] > 40 and "take about" in capsys.readouterr().out
    assert card["metrics"].keys() == {"psi 1.0"} and card["metrics"]["psi 1.0"]["eye"]["frechet_ratio"] > 0
    assert Path("prior/interpolations.png").is_file()


def test_a_prior_names_the_networks_of_the_training_with_whose_state_it_began(world, monkeypatch, capsys):
    torch.manual_seed(0)
    for name in ("first", "second"):
        critic = CosineRecognizer("vgg_trunk", num_identities=0, embedding_dim=8, input_size=SIDE).eval()
        save_recognizer(critic, f"{name}.safetensors", {"role": "critic"})
    words = [*COMMON, "--capacity=1", "--batch=4"]
    assert run_main(monkeypatch, gan_command, *words, "--critic=first.safetensors,", "--out=one") == 0
    start = ["--critic=second.safetensors", "--start=one/state.safetensors"]
    assert run_main(monkeypatch, gan_command, *words, *start, "--out=two") == 0
    assert read_took_part("two/prior.safetensors") == ["second.safetensors", "first.safetensors"]
    assert "says which networks took part" not in capsys.readouterr().err
    Path("one/prior.safetensors").unlink()
    assert run_main(monkeypatch, gan_command, *words, *start, "--out=three") == 0
    assert "one/state.safetensors: no prior.safetensors beside it says which networks took part" in capsys.readouterr().err


def test_train_recognizer_writes_a_target_with_its_card(world, monkeypatch, capsys):
    words = [*COMMON, "--architecture=squeezenet1_1", "--out=target"]
    assert run_main(monkeypatch, recognizer_command, *words) == 0
    card = read_card("target/target.safetensors")
    assert card["role"] == "target" and card["identities"] == ["p00", "p01", "p02"]
    assert {"unseen_people", "users_top1", "users_test_photos"} <= card["metrics"].keys()
    assert load_recognizer("target/target.safetensors", "cpu").num_identities == 3
    capsys.readouterr()
    assert run_main(monkeypatch, recognizer_command, *words) == 2
    assert "expected a new folder, got target" in capsys.readouterr().err
    assert find_world(NAME).roles == {"target": "target.safetensors"} and find_world(NAME).identities == ("p00", "p01", "p02")
    # the verifier has met no user
    assert run_main(monkeypatch, recognizer_command, *words[:-1], "--role=verifier", "--out=verifier") == 0
    assert load_recognizer("verifier/verifier.safetensors", "cpu").num_identities is None
    assert "users" not in read_card("verifier/verifier.safetensors")["data"]
    # a further target has met nobody but the users
    assert run_main(monkeypatch, recognizer_command, *COMMON, "--role=softmax", "--out=softmax") == 0
    card = read_card("softmax/softmax.safetensors")
    assert card["architecture"] == "linear" and card["data"].keys() == {"users"} and card["num_identities"] == 3
    found = find_world(NAME)
    assert found.targets == {"softmax": "softmax.safetensors"} and found.roles == {"target": "target.safetensors"}


def test_train_recognizer_trains_networks_to_enrol_in(world, monkeypatch, capsys):
    words = [*COMMON, "--role=judge", "--users=gallery", "--architecture=squeezenet1_1", "--out=judge"]
    assert run_main(monkeypatch, recognizer_command, *words) == 0
    card = read_card("judge/judge.safetensors")
    assert card["data"].keys() == {"public"} and card["data"]["public"]["hash_range"] == [0.27, 0.54]
    assert card["metrics"].keys() == {"unseen_people"} and card["training"]["seed"] == 22
    assert load_recognizer("judge/judge.safetensors", "cpu").num_identities is None
    assert [(entry.name, entry.sees_users) for entry in find_world(NAME).judge_entries] == [("judge", False)]
    assert "0 steps take about 1 s, until" in capsys.readouterr().out


def test_train_recognizer_teaches_a_critic_pictures_of_a_zip(world, people, monkeypatch):
    write_zip("faces.zip", people / "public")
    words = [*COMMON, "--photos=faces.zip", "--role=critic", "--architecture=squeezenet1_1", "--out=critic"]
    assert run_main(monkeypatch, recognizer_command, *words) == 0
    card = read_card("critic/critic.safetensors")
    learnt, held_out = card["data"]["public"], card["metrics"]["unseen_people"]
    assert learnt["photos"] == learnt["people"] and learnt["photos"] + held_out["photos"] == 60
    assert held_out.keys() == {"photos", "people"} and held_out["people"] == held_out["photos"] > 0


def test_a_folder_of_registered_users_alone_teaches_no_stranger(world, people, monkeypatch, capsys):
    Path("photos").mkdir()
    Path("photos/private").symlink_to(
        people / "public" / "n00", target_is_directory=True
    )  # pictures, which could be a person's
    for command, words in ((recognizer_command, ["--role=critic"]), (gan_command, [])):
        assert run_main(monkeypatch, command, *COMMON, "--photos=photos", *words, "--out=new") == 2
        assert "got registered users alone, in photos/private" in capsys.readouterr().err
    assert not list(Path("new").glob("*.safetensors"))


def test_a_user_without_a_photo_to_train_on_is_named(world, people, tmp_path, monkeypatch, capsys):
    write_people(tmp_path / "uneven/private", 2, photos=3, side=SIDE)
    write_people(tmp_path / "uneven/private", 1, photos=2, side=SIDE, prefix="q")
    (tmp_path / "uneven/public").symlink_to(people / "public")
    words = [*COMMON, "--photos=uneven", "--architecture=squeezenet1_1", "--out=target"]
    assert run_main(monkeypatch, recognizer_command, *words) == 2
    assert "expected 3 photos or more of each user, got 2 of q00; add photos" in capsys.readouterr().err
    assert not Path("target/target.safetensors").exists()


def test_of_one_held_out_person_nothing_is_measured(world, people, monkeypatch):
    names = sorted((path.name for path in (people / "public").iterdir()), key=unit_hash)
    Path("one").mkdir()
    for name in (*names[:3], names[-1]):  # the last alone is held out
        Path("one", name).symlink_to(people / "public" / name)
    assert unit_hash(names[2]) < recipes.HELD_OUT[0] <= unit_hash(names[-1])
    words = [*COMMON, "--photos=one", "--role=critic", "--architecture=squeezenet1_1", "--out=critic"]
    assert run_main(monkeypatch, recognizer_command, *words) == 0
    assert read_card("critic/critic.safetensors")["metrics"]["unseen_people"] == {"photos": 2, "people": 1}


def test_what_two_trainings_add_to_a_world_at_once_stays(world, monkeypatch):
    """The second began before the first was ready."""
    first, second = open_world("weights"), open_world("weights")
    for role, begun in (("target", first), ("verifier", second)):
        save_recognizer(
            CosineRecognizer("linear", num_identities=0, embedding_dim=4, input_size=8), f"{role}.safetensors", {}
        )
        register_output(begun, role, Path(f"{role}.safetensors"), sees_users=False if role == "verifier" else None)
    found = find_world("weights")
    assert found.roles == {"target": "target.safetensors"} and [entry.name for entry in found.judge_entries] == ["verifier"]


def test_a_training_that_begins_anew_has_a_log_of_its_own(world, monkeypatch):
    Path("critic").mkdir()
    Path("critic/steps.jsonl").write_text('{"step": 0, "loss": 9.0}\n')  # of one that ended before its first state
    words = [*COMMON, "--role=critic", "--architecture=squeezenet1_1", "--out=critic"]
    assert run_main(monkeypatch, recognizer_command, *words) == 0
    rows = [json.loads(line) for line in Path("critic/steps.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 2] and rows[0]["loss"] != 9.0


@pytest.mark.parametrize(
    "command, words, message",
    [
        (recognizer_command, ["--users=all"], "expected --users among classes, gallery, got all"),
        (recognizer_command, ["--role=jury"], "expected a role among target, judge"),
        (recognizer_command, ["--architecture=resnet19"], "expected a torchvision classifier such as resnet18"),
        (recognizer_command, ["--photos=nowhere"], "nowhere"),
        (recognizer_command, ["--resume"], "state.safetensors, got none; leave --resume out to begin anew"),
        (gan_command, ["--world=atlantis"], "expected a world among"),
        (gan_command, ["--resume"], "state.safetensors, got none; leave --resume out to begin anew"),
        (gan_command, ["--wandb=perhaps"], "expected a wandb mode"),
        (gan_command, ["--resolution=24"], "expected a resolution that is a power of 2"),
        (gan_command, ["--discriminator=words"], "expected a discriminator among pictures, features, got words"),
        (gan_command, ["--discriminator=features"], "expected --critic=FILE for a discriminator of features"),
        (gan_command, ["--minutes=-1"], "expected minutes in [0, 1e6], got -1"),
        (gan_command, ["--eye=nowhere.safetensors"], "nowhere.safetensors"),
        (
            gan_command,
            ["--critic=small.safetensors"],
            "large enough for the networks of --critic, got 16 px; pass another --critic",
        ),
        (
            gan_command,
            ["--critic=small.safetensors", "--discriminator=features", "--batch=1"],
            "expected a batch of 2 or more",
        ),
        (gan_command, ["--features=mobilefacenet", "--photos=few"], "expected 6 photos or more a side"),
    ],
)
def test_a_mistake_is_one_line(command, words, message, world, monkeypatch, capsys):
    assert run_main(monkeypatch, command, *COMMON, "--out=run", *words) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]
    assert not list(Path().rglob("run/*.safetensors"))  # nothing was trained for a mistake that stood in the command


def test_no_recipe_lets_a_judge_of_strangers_meet_the_users():
    sees = {role for role, recipe in recipes.RECIPES.items() if recipe.sees_users}
    further = {"cnn", "softmax", "mlp"}  # targets, too: they may begin as the target does
    assert sees == {"target", "judge"} | further
    assert all(recipe.public is None or recipe.public[1] <= recipes.HELD_OUT[0] for recipe in recipes.RECIPES.values())
    every = [recipe for role, recipe in recipes.RECIPES.items() if role not in further] + [*recipes.ENROLLING.values()]
    assert len({recipe.training.seed for recipe in every}) == len(every)
    seeds = {recipe.training.seed for role, recipe in recipes.RECIPES.items() if role not in {"target", *further}}
    assert not {recipes.RECIPES[role].training.seed for role in further} & seeds
    # of networks to enrol in, none has met the users, and no two the same person; they are of three architectures
    assert not any(recipe.sees_users for recipe in recipes.ENROLLING.values())
    shares = sorted(recipe.public for recipe in recipes.ENROLLING.values())
    assert all(one[1] <= two[0] for one, two in itertools.pairwise([*shares, recipes.HELD_OUT]))
    assert len({recipe.training.architecture for recipe in recipes.ENROLLING.values()}) == len(recipes.ENROLLING)


def test_a_rare_long_gradient_is_shortened_and_one_that_is_not_finite_ends_the_training():
    weight = torch.nn.Parameter(torch.zeros(4))
    optimizer, usual = torch.optim.Adam([weight]), torch.zeros(())

    def clip(value: float) -> list[float]:
        weight.grad = torch.full((4,), value)
        gan.clip_gradients(optimizer, usual, 3.0, step=7)
        return weight.grad.tolist()

    assert clip(0.5) == [0.5] * 4 and usual == 1  # of length 1, the first
    assert clip(5.0) == pytest.approx([1.5] * 4, abs=1e-5) and usual == pytest.approx(1.02)  # of length 10, now 3
    with pytest.raises(FaultError, match="diverged at step 7; go on from its last state with --resume and a lower --lr"):
        clip(float("nan"))
