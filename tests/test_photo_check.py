"""The target on its owner's photos, before an attack: what is fed wrongly or has other numbers is refused.

The users are colours, and the target knows each by its colour as ImageNet's mean and spread put it.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import ganinv
from ganinv.commands import audit, judge, latent_attack
from ganinv.photos import list_people, load_photos
from ganinv.recognizers.callable import CallableRecognizer
from ganinv.recognizers.preprocessing import IMAGENET
from ganinv.recognizers.templates import load_gallery
from ganinv.worlds import photo_check
from ganinv.worlds.assets import load_own_photos, tell_enrolled
from ganinv.worlds.photo_check import LEAST, check_photos, find_cycles
from ganinv.worlds.world import read_identities
from tests.tiny_world import BRIEF, NAME, make_tiny_world, register, run_main

SIDE = 16
IMAGENET_STATS = {"mean": list(IMAGENET.mean), "std": list(IMAGENET.std)}


def choose_colours(users: int, grey: int = 0) -> torch.Tensor:
    """Returns colours [users,3] in [0,1], each far from the others and bluer than red; the first so many are grey, and
    alike in BGR."""
    generator, found = torch.Generator().manual_seed(3), [torch.full((3,), (row + 1) / (grey + 1)) for row in range(grey)]
    while len(found) < users:
        colour = torch.rand(3, generator=generator) * 0.9 + 0.05
        if colour[2] - colour[0] > 0.2 and all((colour - other).norm() > 0.12 for other in found[grey:]):
            found.append(colour)
    return torch.stack(found)


class KnowsColours(nn.Module):
    """Logits of the users whose colours are given, in ImageNet's terms."""

    def __init__(self, colours: torch.Tensor):
        super().__init__()
        self.register_buffer("centres", (colours - torch.tensor(IMAGENET.mean)) / torch.tensor(IMAGENET.std))

    def forward(self, x):
        return -50 * (x.mean((2, 3))[:, None] - self.centres).square().sum(2)


def write_photos(folder: Path, colours: torch.Tensor, names: list[str], photos: int = 4, side: int = SIDE) -> Path:
    """Writes photos of users, each of its colour and a little else."""
    generator = torch.Generator().manual_seed(5)
    for colour, name in zip(colours, names, strict=True):
        (folder / name).mkdir(parents=True)
        for number in range(photos):
            shade = (colour + 0.005 * torch.randn(3, generator=generator)).clamp(0, 1) * 255
            Image.new("RGB", (side, side), tuple(shade.round().int().tolist())).save(folder / name / f"{number}.png")
    return folder


def name_users(count: int) -> list[str]:
    return [f"p{number:02d}" for number in range(count)]


def make_target(colours: torch.Tensor, **fed):
    """Returns the target, fed rightly unless told otherwise."""
    return ganinv.wrap(KnowsColours(colours).eval(), size=SIDE, output="logits", **(IMAGENET_STATS | fed))


@pytest.fixture
def colours():
    return choose_colours(12)


@pytest.fixture
def photos(colours, tmp_path):
    return write_photos(tmp_path / "photos", colours, name_users(12))


# ---- three mistakes, and none


def test_a_target_that_is_fed_rightly_passes(colours, photos):
    check = check_photos(make_target(colours), photos)
    assert (check.problem, check.named, check.photos, check.people) == ("", 48, 48, 12) and check.require() is check
    assert str(check) == "your target names 48 of 48 photos of 12 users"
    assert [user.name for user in check.users] == name_users(12)
    assert check.describe()["share"] == 1.0 and check.describe()["chance"] == 1 / 12


@pytest.mark.parametrize(("fed", "words"), [
    ({"mean": 0.5, "std": 0.5}, "fed ImageNet's mean and std"), ({"channels": "BGR"}, "fed RGB in place of BGR"),
])  # fmt: skip
def test_a_target_that_is_fed_wrongly_is_refused_and_told_how(colours, photos, fed, words):
    target = make_target(colours, **fed)
    told = {"channels": "RGB"} if "channels" in fed else IMAGENET_STATS
    before, check = target.preprocessing, check_photos(target, photos)
    assert "preprocessing is wrong" in check.problem and words in check.problem
    with pytest.raises(ValueError, match="^expected a target that names its users.*: your target names .* --force"):
        check.require()
    assert json.dumps({"preprocessing": told}) in check.advice
    assert target.preprocessing is before  # the trials changed nothing


def test_a_mild_mistake_is_found_by_what_is_named_otherwise(tmp_path):
    colours = choose_colours(20, grey=14)
    folder = write_photos(tmp_path / "photos", colours, name_users(20))
    check = check_photos(make_target(colours, channels="BGR"), folder)
    assert check.named >= LEAST * check.photos  # most users are grey
    assert "preprocessing is wrong" in check.problem and "if fed RGB in place of BGR" in check.problem


def test_people_in_another_order_are_refused(colours, photos):
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    check = check_photos(make_target(colours[order]), photos)
    assert "the order of people is wrong, the photos of user 0 (p00) are named as user" in check.problem
    assert "--classes" in check.advice
    two = torch.arange(12)
    two[[3, 7]] = two[[7, 3]]
    check = check_photos(make_target(colours[two]), photos)
    assert check.named == 40 and "the photos of user 3 (p03) are named as user 7 (p07), and 1 more users so" in check.problem


def test_people_whom_torchvision_numbered_as_text_are_told_so(tmp_path, colours, capsys):
    names = [str(number) for number in range(12)]
    folder = write_photos(tmp_path / "photos", colours, names)
    text = sorted(names)
    target = make_target(colours[[int(name) for name in text]])  # ImageFolder's order: 0, 1, 10, 11, 2, ...
    problem = check_photos(target, folder).problem
    assert "right in the order of their names as text: 0, 1, 10, ..." in problem
    assert "12 people are sorted as numbers" in capsys.readouterr().err


def test_a_target_that_does_not_know_the_people_is_refused(photos):
    check = check_photos(make_target(choose_colours(24)[12:]), photos)
    assert "preprocessing or the order of people is wrong, or it does not know them" in check.problem
    assert "(by chance 4)" in check.problem


def test_a_mediocre_target_passes(colours, photos):
    class Mediocre(KnowsColours):
        def forward(self, x):
            logits = super().forward(x)
            wrong = (x.sum((1, 2, 3)) * 1000).long() % 3 == 0  # a third of the photos
            return torch.where(wrong[:, None], logits.roll(1, 1), logits)

    target = ganinv.wrap(Mediocre(colours).eval(), size=SIDE, output="logits", **IMAGENET_STATS)
    check = check_photos(target, photos)
    assert 0.5 < check.named / check.photos < 0.85 and check.problem == ""


def test_whoever_leads_back_to_themselves():
    assert find_cycles({0: 1, 1: 2, 2: 0, 3: 0, 4: 4, 5: 9}) == [0, 1, 2, 4]


# ---- galleries


class Embeds(nn.Module):
    def forward(self, x):
        return x.mean((2, 3))


def test_a_door_that_keeps_its_users_out_is_refused(colours, photos, tmp_path):
    def enrol(threshold, **fed):
        network = ganinv.wrap(Embeds().eval(), size=SIDE, output="embeddings", **({"mean": 0.5, "std": 0.5} | fed))
        return load_gallery(network, tmp_path / "stored.safetensors", threshold=threshold)

    save_file({name: 2 * row - 1 for name, row in zip(name_users(12), colours, strict=True)}, tmp_path / "stored.safetensors")
    good = check_photos(enrol(0.95), photos)
    assert good.problem == "" and good.accepted > 40 and "it accepts" in str(good)
    strict = check_photos(enrol(0.9999999), photos)
    assert strict.accepted < 10 and "at its threshold 1: threshold or preprocessing is wrong" in strict.problem
    assert "RGB in place of BGR" in check_photos(enrol(0.95, channels="BGR"), photos).problem
    with pytest.raises(ValueError, match="expected a target with users, got one that only embeds; enrol"):
        check_photos(ganinv.wrap(Embeds().eval(), size=SIDE, output="embeddings"), photos)


def test_code_is_tried_with_changed_pictures(colours, photos):
    target = ganinv.wrap(KnowsColours(colours).eval(), size=SIDE, output="logits", **IMAGENET_STATS)

    def code(images):  # whose author forgot that pictures come in [-1,1]
        return target((images * 2 - 1).clamp(-5, 5)).logits

    called = photo_check.try_photos(CallableRecognizer(code, torch.rand(2, 3, SIDE, SIDE)), *read(photos))
    assert "if fed values in [0,1]" in called.problem and called.advice == "mend its code"

    others = make_target(choose_colours(24)[12:])
    called = CallableRecognizer(lambda images: others(images).logits, torch.rand(2, 3, SIDE, SIDE))
    assert photo_check.try_photos(called, *read(photos)).advice.startswith("mend size, range, mean and std in its code, or")
    assert check_photos(others, photos).advice.startswith("mend size, range, mean and std on its card, or in ganinv.wrap, or")


def test_photos_that_were_enrolled_are_no_references(colours, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("ganinv.recognizers.gallery.check_face", lambda name, files: None)
    target = ganinv.wrap(Embeds().eval(), size=SIDE, output="embeddings").enroll(photos)
    others = write_photos(tmp_path / "others", colours[:2] + 0.01, name_users(2))
    shutil.copy(photos / "p00" / "0.png", others / "p00" / "copy.png")
    tell_enrolled(target, others)
    assert f"{others}: 1 of 9 photos were enrolled, too" in capsys.readouterr().err
    (others / "p00" / "copy.png").unlink()
    tell_enrolled(target, others)
    tell_enrolled(make_target(colours), photos)  # a classifier, which enrolled nobody
    assert capsys.readouterr().err == ""


def test_folders_that_are_passed_over_are_told(colours, photos, capsys):
    target = make_target(colours)
    names = name_users(12)
    photos.joinpath("p07").rename(photos / "P07")
    own = load_own_photos(photos, SIDE, target.num_identities, names, [0, 1])
    assert own.person.unique().tolist() == [*range(7), *range(8, 12)]
    assert f"{photos}: 1 sub-folders are passed over, such as P07: no user is named so" in capsys.readouterr().err
    photos.joinpath("P07").rename(photos / "p07")
    load_own_photos(photos, SIDE, target.num_identities, names, [0, 1])
    assert "passed over" not in capsys.readouterr().err


def read(folder):
    people = list_people(folder)
    return load_photos(people, SIDE), tuple(people)


# ---- whom align_faces lost


def test_a_person_without_a_face_keeps_a_number(colours, photos, capsys):
    target = make_target(colours)
    shutil.rmtree(photos / "p04")
    with pytest.raises(ValueError, match="for each of the target's 12 identities, in order of name, got 11; .*--classes"):
        check_photos(target, photos)
    (photos / "align_faces.json").write_text(json.dumps({"faceless": ["p04/0.png", "p05/9.png"], "unreadable": []}))
    check = check_photos(target, photos)
    assert check.problem == "" and [user.identity for user in check.users] == [0, 1, 2, 3, *range(5, 12)]
    assert "no photo with a face of p04, whose number is kept" in capsys.readouterr().err
    with pytest.raises(ValueError, match="expected a sub-folder p04 in .*, got none; add photos that show a face"):
        check_photos(target, photos, [4])
    with pytest.raises(ValueError, match="got 11 without p04, of whom no photo shows a face; add the others"):
        check_photos(make_target(choose_colours(14)), photos)


# ---- from Python


def test_attacks_and_judges_try_the_photos_first(colours, photos, monkeypatch):
    world = ganinv.load_world("synthetic")
    wrong, right = make_target(colours, channels="BGR"), make_target(colours)
    attack = ganinv.LatentAttack(steps=1, candidates=4, restarts=1, final_transforms=1)
    for call in (
        lambda: attack(world.prior, wrong, [0, 1], photos=photos),
        lambda: ganinv.PixelAttack(steps=1)(wrong, [0], resolution=SIDE, photos=photos),
        lambda: ganinv.audit(wrong, world.prior, [0], references=photos, judges=[]),
        lambda: ganinv.judge(attack(world.prior, wrong, [0, 1]), wrong, judges=[], references=photos),
    ):
        with pytest.raises(ValueError, match="preprocessing is wrong"):
            call()
    result = attack(world.prior, right, [0, 1], photos=photos)
    report = ganinv.judge(result, right, judges=[], references=photos)
    assert report.content["photo_check"]["named"] == 48 and report.content["names"]["1"] == "p01"
    made = count_checks(monkeypatch)
    attacks = {"one": attack, "two": attack}
    found = ganinv.audit(right, world.prior, [0, 1], references=photos, judges=[], attacks=attacks)
    assert len(made) == 1 and all(one.content["photo_check"]["named"] == 48 for one in found.reports.values())
    forced = attack(world.prior, wrong, [0], photos=photos, force=True)
    forced = ganinv.judge(forced, wrong, judges=[], references=photos, force=True)
    assert "preprocessing is wrong" in forced.content["remarks"][0] and str(forced).startswith("Your target names")


# ---- on the command line

CODE = """
import sys, torch
sys.path.insert(0, {root!r})
from tests.test_photo_check import KnowsColours, choose_colours, IMAGENET_STATS, SIDE
import ganinv
def make(**fed):
    return ganinv.wrap(KnowsColours(choose_colours(12)).eval(), size=SIDE, output="logits", **(IMAGENET_STATS | fed))
def right(): return make()
def wrong(): return make(channels="BGR")
"""


@pytest.fixture
def tiny(monkeypatch, tmp_path, photos):
    (tmp_path / "world").mkdir()
    register(monkeypatch, make_tiny_world(tmp_path / "world"), tmp_path)
    Path("mine.py").write_text(CODE.format(root=str(Path(__file__).resolve().parents[1])))


def test_a_wrong_target_costs_nothing_but_a_line_unless_it_is_forced(tiny, monkeypatch, capsys):
    words = [f"--world={NAME}", "--identities=0-2", *BRIEF, "--photos=photos"]
    assert run_main(monkeypatch, latent_attack, *words, "--target=mine.py:wrong", "--out=runs/a") == 2
    said = capsys.readouterr().err
    assert "your target names" in said and "preprocessing is wrong" in said and not Path("runs/a/config.json").exists()
    assert run_main(monkeypatch, latent_attack, *words, "--target=mine.py:wrong", "--out=runs/a", "--force") == 0
    said = capsys.readouterr().out
    assert said.startswith("Your target names") and "by --force" in said
    assert run_main(monkeypatch, latent_attack, *words, "--target=mine.py:right", "--out=runs/b") == 0
    said = capsys.readouterr()
    assert "judging the pictures of 3 users" in said.err
    assert "your target names 48 of 48 photos of 12 users" in said.err and not said.out.startswith("Your")
    report = json.loads(Path("runs/b/report.json").read_text())
    assert list(report["names"].items())[:2] == [("0", "p00"), ("1", "p01")] and len(report["names"]) == 12
    assert report["photo_check"]["named"] == 48
    page = Path("runs/b/report.html").read_text()
    assert "User 1 · p01" in page and "user 2 · p02" in page and "Is the target fed rightly?" in page
    assert '<td data-label="user">11 · p11</td>' in page
    words = [f"--world={NAME}", "--identities=0-2", "--steps=1", "--photos=photos", "--wandb=disabled", "--device=cpu"]
    assert run_main(monkeypatch, audit, *words, "--target=mine.py:wrong", "--out=runs/c") == 2
    assert "preprocessing is wrong" in capsys.readouterr().err


def count_checks(monkeypatch):
    """Returns a list that grows with every check of a target on photos."""
    made, find = [], photo_check.find_problem
    monkeypatch.setattr(photo_check, "find_problem", lambda *arguments: made.append(1) or find(*arguments))
    return made


def test_an_audit_tries_the_photos_once(tiny, monkeypatch, capsys):
    made = count_checks(monkeypatch)
    words = [f"--world={NAME}", "--identities=0-2", "--steps=1", "--photos=photos", "--wandb=disabled", "--device=cpu"]
    assert run_main(monkeypatch, audit, *words, "--target=mine.py:right", "--out=runs/a") == 0
    assert len(made) == 1 and capsys.readouterr().err.count("your target names 48 of 48 photos") == 1
    checks = [json.loads(path.read_text())["photo_check"] for path in Path("runs/a").glob("*/report.json")]
    assert len(checks) == 2 and checks[0] == checks[1] and checks[0]["named"] == 48
    # one that was forced does not speak for one that is not
    assert run_main(monkeypatch, audit, *words, "--target=mine.py:wrong", "--force", "--out=runs/b") == 0 and len(made) == 2
    shutil.rmtree("runs/b/class-score")
    assert run_main(monkeypatch, audit, *words, "--target=mine.py:wrong", "--out=runs/b") == 2 and len(made) == 3


def test_pictures_of_others_are_judged_for_a_target_that_is_fed_rightly(tiny, monkeypatch, capsys):
    write_photos(Path("made"), choose_colours(2), ["0", "1"], photos=1, side=32)
    words = [f"--world={NAME}", "--pictures=made", "--photos=photos", "--candidates=0", "--device=cpu"]
    assert run_main(monkeypatch, judge, *words, "--target=mine.py:wrong", "--out=runs/a") == 2
    assert "preprocessing is wrong" in capsys.readouterr().err
    assert run_main(monkeypatch, judge, *words, "--target=mine.py:right", "--out=runs/a") == 0
    report = json.loads(Path("runs/a/report.json").read_text())
    assert report["photo_check"]["named"] == 48 and report["names"]["11"] == "p11"


def test_private_photos_stand_in_a_file_of_their_own(tiny, monkeypatch, capsys):
    words = [f"--world={NAME}", "--identities=1-2", *BRIEF, "--target=mine.py:right", "--out=runs/a"]
    assert run_main(monkeypatch, latent_attack, *words, "--private-photos") == 2
    assert "expected --photos=FOLDER beside --private-photos" in capsys.readouterr().err
    assert run_main(monkeypatch, latent_attack, *words, "--photos=photos", "--private-photos") == 0
    file = Path("runs/a/private.html")
    page = file.read_text()
    assert page.count('alt="photograph of') == 8 and page.count('class="made"') == 2 and page.count("PRIVATE") == 2
    assert "User 2 &middot; p02" in page and "<script" not in page
    assert file.stat().st_mode & 0o077 == 0  # nobody else reads it
    assert "private.html: PRIVATE" in capsys.readouterr().err
    shown = re.findall(r"data:image/png;base64,[^\"]+", page)
    photos = [picture for picture in shown if picture not in Path("runs/a/report.html").read_text()]
    assert len(photos) == 8 and "private.html" not in Path("runs/a/report.json").read_text()
    assert run_main(monkeypatch, latent_attack, *words[:-1], "--out=runs/b", "--photos=photos") == 0
    assert not Path("runs/b/private.html").exists()


def test_names_on_a_card_without_a_hash_number_the_people(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.pt").write_bytes(b"weights")
    Path("mine.json").write_text(json.dumps({"identities": ["Bob", "Ada"]}))
    assert read_identities("torchvision:resnet18:mine.pt") == ("Bob", "Ada")
    Path("mine.json").write_text(json.dumps({"identities": ["Bob", "Ada"], "sha256": "0" * 64}))
    assert read_identities("torchvision:resnet18:mine.pt") == ()  # of other weights


def test_a_folder_of_numbers_is_listed_as_numbers(tmp_path):
    write_photos(tmp_path / "photos", choose_colours(11), [str(number) for number in range(11)])
    assert list(list_people(tmp_path / "photos")) == [str(number) for number in range(11)]
