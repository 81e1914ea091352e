"""Worlds as folders: what world.json may say, what is loaded when, and which targets keep a world's judges."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ganinv.commands import latent_attack
from ganinv.interfaces import Recognition
from ganinv.metrics.scores import face_scores
from ganinv.photos import Photos
from ganinv.recognizers.cosine import CosineRecognizer
from ganinv.recognizers.loading import load_recognizer, save_recognizer
from ganinv.recognizers.published.frame import WORLD, Frame, Reframe
from ganinv.reports.report_file import read_report
from ganinv.weights.cards import read_card
from ganinv.worlds import world as worlds
from ganinv.worlds.assets import load_assets
from ganinv.worlds.references import Judge
from ganinv.worlds.thresholds import measure_thresholds
from ganinv.worlds.world import World, find_world, list_worlds, load_world, open_world
from tests.tiny_world import BRIEF, NAME, SIDE, USERS, make_tiny_world, register, run_main

NAMES = [f"p{number:02d}" for number in range(USERS)]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The tiny world, whose target's card lists its users."""
    world = make_tiny_world(tmp_path_factory.mktemp("tiny"))
    name_users(world.file("target"), NAMES)
    return world


@pytest.fixture(autouse=True)
def world(made, monkeypatch, tmp_path):
    register(monkeypatch, made, tmp_path)
    return made


def name_users(weights: Path, names: list[str]) -> None:
    """Writes names as identities onto a card."""
    card = read_card(weights) | {"identities": names}
    weights.with_suffix(".json").write_text(json.dumps(card))


def write_target(file: str, names: list[str]) -> str:
    """Returns the path of an untrained target with these names on its card, after writing it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = CosineRecognizer("mlp", num_identities=len(names), embedding_dim=8, input_size=SIDE)
    save_recognizer(model, file, {"identities": names})
    return file


def copy_world(name: str = "copy") -> Path:
    """Returns a copy of the tiny world in the working folder."""
    return Path(shutil.copytree(NAME, name))


def test_the_shipped_worlds_hold_what_they_list():
    assert {"faces", "synthetic"} <= set(list_worlds())
    for name in list_worlds():
        world = find_world(name)
        assert world.name == name and world.folder.parent == worlds.PRETRAINED
        listed = {world.file(role) for role in world.roles} | {world.file(one.name) for one in world.judge_entries}
        listed |= {Path(world.find_target(target)) for target in world.targets}
        lying = {file for file in world.folder.iterdir() if file.suffix in (".safetensors", ".png")}
        assert lying <= listed  # nothing is shipped that no role needs


def test_a_world_that_was_replaced_says_by_which(monkeypatch, capsys):
    assert run_main(monkeypatch, latent_attack, "--world=lfw") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "world lfw was replaced by faces" in error
    copy_world("lfw")  # a folder of one's own may have any name
    assert find_world("lfw").folder == Path.cwd() / "lfw"


def test_a_world_comes_back_as_it_was_saved(tmp_path):
    entry = worlds.JudgeEntry(name="sface", recognizer="sface", sees_users=False, thresholds={1e-3: 0.4}, impostor_pairs=9)
    frame = tuple((float(x), 0.5) for x in range(5))
    world = World(tmp_path / "a", resolution=32, users="users", frame=frame, judge_entries=(entry,), roles={"target": "dlib"})
    world.save()
    assert find_world(tmp_path / "a") == world


def test_nothing_is_loaded_before_it_is_asked_for(monkeypatch):
    loaded = []
    load = worlds.load_recognizer
    monkeypatch.setattr(
        worlds, "load_recognizer", lambda spec, *rest, **more: loaded.append(spec) or load(spec, *rest, **more)
    )
    world = load_world(NAME)
    assert not loaded
    assert world.target is world.target and len(loaded) == 1
    assert [judge.name for judge in world.judges] == ["verifier", "judge"] and len(loaded) == 3
    assert world.references.person.max() == USERS - 1 and world.truth is None and world.prior.resolution == SIDE
    with pytest.raises(ValueError, match="expected a factors in the world .*, got prior, target, lpips_face"):
        world.spec("factors")


def remove(key: str):
    return lambda folder: (folder / key).unlink()


def say(**values):
    def change(folder: Path) -> None:
        said = json.loads((folder / "world.json").read_text())
        (folder / "world.json").write_text(json.dumps(said | values))

    return change


JUDGE = {"name": "judge", "recognizer": "judge.safetensors", "sees_users": True}
BROKEN = {
    "no world.json": (remove("world.json"), "expected a world, a folder with a world.json, got .*copy, which has none"),
    "no file": (remove("judge.safetensors"), "expected judge.safetensors for the judge in the world .*copy, got none"),
    "no card": (remove("verifier.json"), "expected the card verifier.json of the verifier in the world .*copy, got none"),
    "no prior's card": (remove("prior.json"), "expected the card prior.json of the prior"),
    "no object": (lambda folder: (folder / "world.json").write_text("[1]"), "got a value of type list"),
    "odd key": (say(epochs=3), "expected the keys resolution, .*, got epochs"),
    "resolution": (say(resolution="64"), 'expected resolution to be a side in pixels from 4 to 4096 in .*, got "64"'),
    "frame": (say(frame=[[0, 1]]), "expected frame to be null or five points"),
    "a path": (say(roles={"target": "../target.safetensors"}), "expected roles to be roles, each NAME.safetensors"),
    "code": (say(roles={"target": "os:getcwd"}), "expected roles to be roles"),
    "a target elsewhere": (say(targets={"cnn": "/etc/cnn.safetensors"}), "expected targets to be names of further targets"),
    "no target's file": (say(targets={"cnn": "cnn.safetensors"}), "expected cnn.safetensors for the cnn in the world"),
    "twice": (say(judges=[JUDGE, JUDGE]), "expected judges to be a list of judges, each with a name of its own"),
    "half a judge": (say(judges=[{"name": "judge"}]), "expected judges to be a list"),
    "thresholds": (say(judges=[JUDGE | {"thresholds": {"often": 1}}]), "expected judges to be a list"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_folder_that_is_not_whole_is_one_line(name, monkeypatch, capsys):
    change, message = BROKEN[name]
    change(copy_world())
    with pytest.raises(ValueError, match=message):
        find_world("copy")
    assert run_main(monkeypatch, latent_attack, "--world=copy", "--out=run") == 2
    assert capsys.readouterr().err.count("\n") == 1 and not Path("run").exists()


def test_references_that_a_judge_has_not_embedded_are_named():
    find_world(copy_world()).register("third", Path(NAME) / "verifier.safetensors", sees_users=False)
    with pytest.raises(
        ValueError, match="expected references that third has embedded .* got some of judge, verifier; run embed"
    ):
        _ = load_world("copy").references


def test_a_new_folder_becomes_a_world_file_by_file():
    world = open_world("worlds/mine")
    assert (world.folder, world.roles) == (Path.cwd() / "worlds" / "mine", {})
    for role, sees in (("judge", True), ("prior", None), ("verifier", False), ("judge", True)):
        world = world.register(role, Path(NAME) / f"{role}.safetensors", sees_users=sees)
    found = find_world("worlds/mine")
    assert found == world == open_world("worlds/mine") and found.roles == {"prior": "prior.safetensors"}
    assert [entry.name for entry in found.judge_entries] == ["verifier", "judge"]
    assert load_world("worlds/mine").prior.resolution == SIDE
    with pytest.raises(ValueError, match="expected a target in the world .*mine, got prior, verifier, judge; train one"):
        load_assets("worlds/mine", device=CPU)
    with pytest.raises(ValueError, match="expected a world among .*, got atlantis"):
        open_world("atlantis")  # no folder, and no path of one: more likely a misspelt name


@pytest.mark.parametrize(
    ("names", "identities", "known"),
    [
        (NAMES, (), True),
        (NAMES, (0, 5), True),
        ([*NAMES, "p06"], (0, 5), True),  # more users, behind the world's own
        (NAMES[:3], (0, 2), True),
        ([*NAMES, "p06"], (), False),  # of somebody the judges would know nothing
        ([*NAMES, "p06"], (6,), False),
        (NAMES[::-1], (0,), False),  # the same people under other numbers
        ([f"q{number}" for number in range(USERS)], (0,), False),
    ],
)
def test_a_target_that_knows_the_users_keeps_the_judges_and_references(names, identities, known):
    target = write_target("mine.safetensors", names)
    assets = load_assets(NAME, device=CPU, target=target, identities=identities, prior=False)
    assert [judge.name for judge in assets.judges] == (["verifier", "judge"] if known else ["verifier"])
    assert (assets.references is not None) == known == ("references" in assets.files)
    assert assets.target.num_identities == len(names) and assets.files["target"] == Path(target)


def test_a_run_on_a_target_of_the_same_users_is_judged_as_the_worlds_own(monkeypatch):
    write_target("mine.safetensors", NAMES)
    flags = [*BRIEF, f"--world={NAME}", "--identities=0-1", "--steps=1"]
    assert run_main(monkeypatch, latent_attack, *flags, "--target=mine.safetensors", "--out=mine") == 0
    assert run_main(monkeypatch, latent_attack, *flags, "--out=own") == 0
    assert read_report("mine")["summary"].keys() == read_report("own")["summary"].keys()
    assert "judge_score" in read_report("mine")["summary"]


def test_a_further_target_has_a_name_and_the_worlds_judges(monkeypatch):
    write_target("mine.safetensors", NAMES)
    world = find_world(copy_world()).register("cnn", "mine.safetensors", is_target=True)
    assert find_world("copy") == world and world.targets == {"cnn": "cnn.safetensors"}
    assert world.roles == find_world(NAME).roles
    assets = load_assets("copy", device=CPU, target="cnn")
    assert assets.files["target"] == world.folder / "cnn.safetensors" and assets.references is not None
    assert [judge.name for judge in assets.judges] == ["verifier", "judge"]
    assert torch.equal(assets.target.directions, load_recognizer("mine.safetensors", "cpu").directions)
    assert world.find_target("") == "" and world.find_target("dlib") == "dlib"


# ---- frames


LEFT = tuple((x - 0.1, y) for x, y in WORLD.points)


def write_frame(weights: Path, points) -> None:
    """Writes onto a card where the faces lay that a network was trained on."""
    card = json.loads(weights.with_suffix(".json").read_text()) | {"frame": points}
    weights.with_suffix(".json").write_text(json.dumps(card))


@torch.no_grad()
def test_what_was_trained_in_another_frame_is_moved():
    folder = copy_world()
    plain = load_world(folder)
    for role in ("prior", "judge"):
        write_frame(folder / f"{role}.safetensors", LEFT)
    say(frame=WORLD.points)(folder)
    moved, images = load_world(folder), torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    z = torch.randn(2, plain.prior.z_dim)
    pictures = plain.prior.synthesize(plain.prior.map(z))
    expected = Reframe(Frame(LEFT), WORLD, SIDE)(pictures)  # a tenth of the side to the right
    torch.testing.assert_close(moved.prior.synthesize(moved.prior.map(z)), expected)
    assert not torch.allclose(expected, pictures, atol=0.05)
    given = load_assets(str(folder), device=torch.device("cpu"), generator=str(folder / "prior.safetensors")).generator
    torch.testing.assert_close(given.synthesize(given.map(z)), expected)  # as --generator, too
    step = 0.1 * SIDE
    torch.testing.assert_close(expected[..., 4], pictures[..., 0], atol=1, rtol=0)
    torch.testing.assert_close(
        expected[..., 20], (1 - step % 1) * pictures[..., 20 - int(step)] + step % 1 * pictures[..., 19 - int(step)]
    )
    judge, same = (next(one.recognizer for one in world.judges if one.sees_users) for world in (moved, plain))
    torch.testing.assert_close(judge(images).logits, same(Reframe(WORLD, Frame(LEFT), SIDE)(images)).logits)
    say(frame=LEFT)(folder)  # the world's own
    assert type(load_world(folder).prior) is type(plain.prior)
    assert moved.prior.key != moved.file("prior").with_suffix(".json").read_text()  # pictures are kept apart


def test_a_world_may_use_a_shipped_worlds_files(monkeypatch):
    folder = copy_world()
    (folder / "prior.safetensors").unlink()
    say(roles={"prior": "other/prior.safetensors"})(folder)
    with pytest.raises(ValueError, match="expected other/prior.safetensors for the prior in the world .*, got none"):
        find_world(folder)
    monkeypatch.setattr(worlds, "PRETRAINED", Path.cwd())
    Path("other").symlink_to(NAME)
    assert find_world(folder).file("prior") == Path.cwd() / "other" / "prior.safetensors"


def test_a_published_target_is_no_judge_of_itself(monkeypatch):
    entries = tuple(worlds.JudgeEntry(name=name, recognizer=name, sees_users=False) for name in ("sface", "dlib"))
    world = World(Path("a"), roles={"target": "dlib"}, judge_entries=entries)
    monkeypatch.setattr(World, "load", lambda self, spec: SimpleNamespace(metric="cosine"))
    assert [judge.name for judge in world.judges] == ["sface"]
    assert [judge.name for judge in world.load_judges("sface")] == ["dlib"]
    assert [judge.name for judge in world.load_judges("mine.safetensors")] == ["sface", "dlib"]


# ---- thresholds


class Colours(torch.nn.Module):
    """The mean colour of a picture, as an embedding."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, images):
        return Recognition(self.weight * images.mean((2, 3)), None)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_no_more_strangers_pass_a_threshold_than_its_rate(metric):
    count = 150
    pixels = torch.randint(0, 256, (2 * count, 3, 1, 1), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    names = tuple(map(str, range(count)))
    photos = Photos(pixels.expand(-1, -1, 2, 2), torch.arange(count).repeat(2), names, ())
    found, pairs = measure_thresholds(Judge("a", Colours(), False, metric=metric), photos)
    assert pairs == count * (count - 1) // 2 and found.keys() == {1e-2, 1e-3}  # too few for one in ten thousand
    rows = photos.images(slice(0, count)).mean((2, 3))
    scores = face_scores(rows, rows, metric)
    scores = scores[tuple(torch.triu_indices(count, count, offset=1))] * (-1 if metric == "euclidean" else 1)
    for rate, limit in found.items():
        passed = (scores < limit) if metric == "euclidean" else (scores > limit)
        assert 0.5 * rate < passed.double().mean() <= rate


def test_a_judge_of_ones_own_takes_the_thresholds_that_were_measured_of_it():
    faces = find_world("faces")
    measured = {entry.name: entry for entry in faces.judge_entries}["sface"]
    judge = faces.find_judge("sface")
    assert (
        judge.thresholds == measured.thresholds and judge.impostor_pairs == measured.impostor_pairs and not judge.sees_users
    )
    elsewhere = dataclasses.replace(faces, judge_entries=()).find_judge("sface")
    assert elsewhere.thresholds == measured.thresholds
    assert dataclasses.replace(faces, judge_entries=(), frame=None).find_judge("sface").thresholds == {}
    with pytest.raises(ValueError, match="expected a recognizer"):
        faces.find_judge("nobody")


def test_judges_that_embedded_no_references_judge_by_photos_alone():
    assets = load_assets("synthetic", device=torch.device("cpu"), judges=["sface"])
    assert [judge.name for judge in assets.judges] == ["sface"] and assets.references is None


def test_an_installation_without_weights_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(worlds, "PRETRAINED", tmp_path / "pretrained")
    monkeypatch.chdir(tmp_path)
    for name in ("synthetic", "mine"):
        with pytest.raises(ValueError, match="holds no weights; install it from a checkout or a source archive"):
            find_world(name)
