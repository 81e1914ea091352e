"""A world made around published recognizers, from folders of drawn pictures: what is written, and what never is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ganinv.commands import embed_references, enrol_users
from ganinv.metrics import faces
from ganinv.photos import list_people, select_people, split_photos
from ganinv.recognizers.cosine import CosineRecognizer
from ganinv.recognizers.gallery import compare
from ganinv.recognizers.loading import save_recognizer
from ganinv.training.recipes import HELD_OUT
from ganinv.weights.cards import describe_photos, read_card
from ganinv.worlds.assets import load_assets
from ganinv.worlds.world import World, load_public, load_world
from tests.tiny_world import make_tiny_world, run_main, write_people

USERS = 3


def test_a_world_is_made_of_templates_thresholds_and_references_and_no_photo(tmp_path, monkeypatch):
    pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(faces, "detect_faces", lambda images: torch.ones(len(images)))
    write_people(Path("photos/users"), USERS, photos=5)
    write_people(Path("photos/public"), 30, photos=1, prefix="n")
    flags = ("--photos=photos", "--world=worlds/mine", "--network=sface", "--judges=sface,dlib", "--resolution=32")
    assert run_main(monkeypatch, enrol_users, *flags, "--grey=True", "--device=cpu") == 0

    world = load_world("worlds/mine")
    assert (world.resolution, world.grey, world.users) == (32, True, "users") and len(world.frame) == 5
    assert world.identities == world.target.names == ("p00", "p01", "p02") and world.target.threshold == 0.363
    assert [judge.name for judge in world.judges] == ["dlib"]  # SFace is the target
    held_out = len(select_people(list_people("photos/public"), *HELD_OUT))
    assert {entry.impostor_pairs for entry in world.judge_entries} == {held_out * (held_out - 1) // 2}
    references = [split_photos(files, "references") for files in list_people("photos/users").values()]
    assert world.references.person.tolist() == [user for user in range(USERS) for _ in references[user]]
    card = read_card("worlds/mine/gallery.safetensors")
    assert card["data"]["users"] == {
        "photos": 9, "people": 3, "split": "train", "words": "9 photos of 3 people, split train"
    }  # fmt: skip
    assert "MS-Celeb-1M" in card["network_trained_on"]
    written = {path.name for path in Path("worlds/mine").iterdir()}
    assert written == {"world.json", "gallery.json", "gallery.safetensors", "references.safetensors", "public_mean.png"}

    own = load_assets("worlds/mine", device=torch.device("cpu"), target="dlib", gallery="photos/users", prior=False)
    assert [judge.name for judge in own.judges] == ["sface"] and own.target.num_identities == USERS
    options = {"target": "dlib", "gallery": "photos/users", "identities": (0, 1), "prior": False}
    named_alike = load_assets("worlds/mine", device=torch.device("cpu"), photos="photos/users", **options)  # of one's own
    assert len(named_alike.references.photos) == sum(map(len, list_people("photos/users").values()))


def test_users_are_enrolled_in_a_network_that_was_trained_here(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(faces, "detect_faces", lambda images: torch.ones(len(images)))
    write_people(Path("photos/private"), USERS, photos=5)
    write_people(Path("photos/public"), 900, photos=1, prefix="n")
    torch.manual_seed(0)
    for name in ("target", "judge"):
        model = CosineRecognizer("squeezenet1_1", num_identities=0, embedding_dim=8, input_size=32).eval()
        save_recognizer(model, f"{name}.safetensors", {"data": {"public": describe_photos(7, 7)}})
    World(tmp_path / "mine", resolution=32).register("judge", "judge.safetensors", sees_users=False)
    flags = ("--photos=photos", "--world=mine", "--network=target.safetensors", "--judges=", "--device=cpu")
    assert run_main(monkeypatch, enrol_users, *flags) == 0

    world = load_world("mine")
    assert world.identities == ("p00", "p01", "p02") and [judge.name for judge in world.judges] == ["judge"]
    strangers = load_public(world, "photos", HELD_OUT, progress=False).images()
    similarity = compare(*[world.load("target.safetensors")(strangers).embeddings] * 2, "cosine")
    pairs = similarity[tuple(torch.triu_indices(*similarity.shape, 1))]
    assert 0 < (pairs > world.target.threshold).double().mean() <= 1e-3
    assert read_card("mine/gallery.safetensors")["network_trained_on"] == "7 photos of 7 people"

    write_people(Path("few/private"), USERS, photos=5)
    write_people(Path("few/public"), 30, photos=1, prefix="n")
    capsys.readouterr()
    assert run_main(monkeypatch, enrol_users, flags[0].replace("photos=photos", "photos=few"), *flags[1:]) == 2
    held_out = len(select_people(list_people("few/public"), *HELD_OUT))
    assert f"expected 142 held-out people or more in few, got {held_out}; add people" in capsys.readouterr().err


def test_references_stay_where_nobody_is_held_out(tmp_path, monkeypatch, capsys):
    world = make_tiny_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    write_people(tmp_path / "photos/public", 2, photos=1, prefix="n")
    write_people(tmp_path / "photos" / world.users, 1, photos=4, prefix="q")  # a user more than were embedded
    before = world.file("references").read_bytes()
    assert run_main(monkeypatch, embed_references, "--world=weights", "--photos=photos", "--device=cpu") == 2
    assert "expected people whose name hashes into [0.8,1.0), got none of 2" in capsys.readouterr().err
    assert world.file("references").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected --world=FOLDER and --photos=FOLDER, got one or none"),
        (["--world=worlds/a", "--photos=b", "--network=vgg"], "expected a network among dlib, sface, mobilefacenet, got vgg"),
        (["--world=worlds/a", "--photos=b", "--judges=me"], "expected a network among dlib, sface, mobilefacenet, got me"),
        (["--world=worlds/a", "--photos=b"], "b/users"),
    ],
)
def test_a_mistake_is_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_main(monkeypatch, enrol_users, *words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and message in err and not Path("worlds").exists()
