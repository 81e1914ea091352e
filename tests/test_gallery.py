"""Enrolled users: templates, scores, decisions and files, on a network whose embedding is a picture's mean colour."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import ganinv
from ganinv.attack.config import TEMPLATE
from ganinv.commands import latent_attack, pixel_attack
from ganinv.interfaces import Recognition
from ganinv.metrics import faces
from ganinv.photos import list_people
from ganinv.recognizers import gallery as galleries
from ganinv.recognizers.callable import CallableRecognizer
from ganinv.recognizers.cosine import CosineRecognizer
from ganinv.recognizers.gallery import Enrollable, EnrolledRecognizer, Gallery, average, compare, enroll, fit_scale
from ganinv.recognizers.templates import load_gallery, read_classes
from ganinv.reports.report_file import read_report
from ganinv.worlds.assets import load_assets
from tests.tiny_world import BRIEF, NAME, SIDE, USERS, make_tiny_world, register, run_main

EAST, NORTH, WEST = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])


class Colour(Enrollable, nn.Module):
    """Embeddings [N,3]: the mean colour, raw where the metric is Euclidean."""

    num_identities, embedding_dim, threshold = None, 3, 0.5

    def __init__(self, metric: str = "euclidean"):
        super().__init__()
        self.metric = metric

    def forward(self, images):
        colour = images.mean((2, 3))
        return Recognition(nn.functional.normalize(colour, dim=1) if self.metric == "cosine" else colour, None)


def paint(red: int, green: int, blue: int, side: int = 8) -> Image.Image:
    return Image.new("RGB", (side, side), (red, green, blue))


def as_images(*colours) -> torch.Tensor:
    """Returns pictures [N,3,8,8] of colours in [-1,1]."""
    return torch.tensor(colours)[:, :, None, None].expand(-1, -1, 8, 8).float()


@pytest.fixture(autouse=True)
def everybody_has_a_face(monkeypatch):
    monkeypatch.setattr(faces, "detect_faces", lambda images: torch.ones(len(images)))


@pytest.fixture
def people(tmp_path, monkeypatch) -> Path:
    """A folder of Ada, who is red in two photos of different sizes, and Bob, who is green."""
    monkeypatch.chdir(tmp_path)
    for name, photos in {"Ada": [(255, 0, 0, 8), (235, 0, 0, 300)], "Bob": [(0, 255, 0, 8), (0, 245, 0, 8)]}.items():
        Path("people", name).mkdir(parents=True)
        for number, photo in enumerate(photos):
            paint(*photo).save(f"people/{name}/{number}.png")
    return Path("people")


# ---- templates, scores, decisions


def test_a_template_is_the_mean_in_the_networks_own_terms():
    rows = torch.tensor([[4.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    assert average(rows, "euclidean").tolist() == [2, 1, 0]
    torch.testing.assert_close(average(rows, "cosine"), torch.tensor([1.0, 1.0, 0.0]) / math.sqrt(2))


def test_similarities_are_cosines_or_minus_distances():
    rows, templates = torch.stack([3 * EAST, NORTH]), torch.stack([EAST, WEST])
    torch.testing.assert_close(compare(rows, templates, "cosine"), torch.tensor([[1.0, -1.0], [0.0, 0.0]]))
    torch.testing.assert_close(compare(rows, templates, "euclidean"), -torch.tensor([[2.0, 4.0], [2**0.5, 2**0.5]]))
    row = EAST[None].clone().requires_grad_()
    compare(row, templates, "euclidean").sum().backward()  # at a distance of 0
    assert torch.isfinite(row.grad).all()


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_the_scale_gives_users_their_typical_score(metric):
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(5, 16, generator=generator)
    rows = [centre + 0.3 * torch.randn(9, 16, generator=generator) for centre in centres]
    scale = fit_scale(rows, metric)
    scores = []
    for user, own in enumerate(rows):
        for number in range(9):
            kept = [average(one, metric) for one in rows]
            kept[user] = average(torch.cat([own[:number], own[number + 1 :]]), metric)
            scores.append((scale * compare(own[number : number + 1], torch.stack(kept), metric)).softmax(1)[0, user])
    assert torch.stack(scores).median().item() == pytest.approx(0.9, abs=0.01)
    assert fit_scale([own[:1] for own in rows], metric) == galleries.DEFAULT_SCALES[metric]  # no photo can be left out
    assert fit_scale([torch.randn(9, 2, generator=generator) for _ in range(9)], metric) == galleries.DEFAULT_SCALES[metric]


def test_an_enrolled_recognizer_scores_and_decides():
    gallery = Gallery(("Ada", "Bob"), torch.stack([EAST, NORTH]), "euclidean", threshold=0.5, scale=4.0)
    target = EnrolledRecognizer(Colour(), gallery)
    assert (target.num_identities, target.embedding_dim, target.names) == (2, 3, ("Ada", "Bob"))
    found = target(as_images([1, 0, 0], [0.4, 0, 0], [0.6, 0, 0]))
    torch.testing.assert_close(found.logits[1], -4 * torch.tensor([0.6, math.sqrt(1.16)]))
    assert target.decide(found).tolist() == [0, -1, 0]
    assert target.accept(found, torch.tensor([0, 0, 1])).tolist() == [True, False, False]
    by_cosine = EnrolledRecognizer(Colour("cosine"), Gallery(("a", "b"), torch.stack([EAST, NORTH]), threshold=0.9))
    found = by_cosine(as_images([0.4, 0, 0], [0.4, 0.3, 0]))
    assert by_cosine.decide(found).tolist() == [0, -1]
    without = EnrolledRecognizer(Colour(), Gallery(("a", "b"), torch.stack([EAST, NORTH]), "euclidean"))
    assert without.decide(without(as_images([-1, -1, -1]))).item() in (0, 1)  # the nearest, whoever it is
    with pytest.raises(ValueError, match="expected a threshold to accept or reject by, got none"):
        without.accept(without(as_images([0, 0, 0])), torch.tensor([0]))


@pytest.mark.parametrize("values", [
    (("a", "b"), torch.eye(3), "euclidean", None), (("a", "a", "b"), torch.eye(3), "euclidean", None),
    (("a", "b", "c"), torch.eye(3) / 0, "euclidean", None), (("a", "b", "c"), torch.eye(3), "manhattan", None),
    (("a", "b", "c"), torch.eye(3), "cosine", 1.5), (("a", "b", "c"), torch.eye(3), "euclidean", 2.1),
    (("a", "b", "c"), torch.eye(3), "euclidean", 0.0), (("a", "b", "c"), torch.eye(3), "cosine", math.nan),
])  # fmt: skip
def test_a_gallery_that_cannot_be_is_refused(values):
    with pytest.raises(ValueError, match="^expected "):
        Gallery(*values)


# ---- enrolling photos


def test_photos_are_enrolled_with_the_networks_threshold(people):
    target = Colour().enroll(people)
    assert target.names == ("Ada", "Bob") and target.threshold == 0.5 and not target.training
    red = [(255 + 235) / 255 - 1, -1, -1]
    torch.testing.assert_close(target.templates[0], torch.tensor(red), atol=1e-5, rtol=0)
    assert target.decide(target(as_images(red))).tolist() == [0]
    assert Colour().enroll(people, threshold=0.1).threshold == 0.1
    assert [len(target.enrolled[name]) for name in target.names] == [2, 2]
    swapped = enroll(Colour(), people, classes=("Bob", "Ada"))
    assert list(swapped.enrolled) == ["Bob", "Ada"]
    assert swapped.names == ("Bob", "Ada") and torch.equal(swapped.templates, target.templates.flip(0))


class Classifier(nn.Module):
    def forward(self, images):
        return 5 * images.mean((2, 3))


def test_a_classifier_enrols_nobody_unless_it_embeds_too(people, caplog):
    wrapped = ganinv.wrap(Classifier().eval(), size=8, output="logits")
    called = CallableRecognizer(Classifier(), torch.zeros(2, 3, 8, 8))
    for classifier in (wrapped, called):
        with pytest.raises(ValueError, match="expected a network that embeds, .*, got a classifier of 3 users; .*None"):
            classifier.enroll(people)
        save_file({"Ada": EAST, "Bob": NORTH}, "stored.safetensors")
        with pytest.raises(ValueError, match="got a classifier of 3 users"):
            load_gallery(classifier, "stored.safetensors")
    assert ganinv.wrap(Classifier().eval(), size=8, output="embeddings").enroll(people).names == ("Ada", "Bob")
    both = CallableRecognizer(lambda images: (images.mean((2, 3)), 5 * images.mean((2, 3))), torch.ones(2, 3, 8, 8))
    assert both.enroll(people).names == ("Ada", "Bob") and "its own head of 3 classes is unused" in caplog.text


@pytest.mark.parametrize("threshold", ["x", math.nan, math.inf, [0.5]])
def test_a_threshold_that_is_no_number_is_refused_before_any_photo_is_read(threshold):
    with pytest.raises(ValueError, match="^expected threshold to be a finite number or None, got .*; pass a cosine"):
        Colour().enroll("no/such/folder", threshold=threshold)
    with pytest.raises(ValueError, match="^expected threshold to be a finite number"):
        Gallery(("a",), EAST[None], "cosine", threshold)


def test_whom_nobody_can_see_is_named(people, monkeypatch):
    monkeypatch.setattr(faces, "detect_faces", lambda images: (images[:, 0].mean((1, 2)) < 0).float())  # not in red
    with pytest.raises(ValueError, match="expected a face in the photos of Ada, got none in people/Ada"):
        Colour().enroll(people)
    Path("people/Cid").mkdir()
    with pytest.raises(ValueError, match=r"expected photos .* in people/Cid, got none"):
        Colour().enroll(people)
    with pytest.raises(ValueError, match="expected photos or a template of 'Eve', whom the class map names, got none"):
        enroll(Colour(), {"Ada": [Path("people/Ada/0.png")]}, classes=("Ada", "Eve"))


def test_numbers_are_sorted_as_numbers_and_a_line_says_so(tmp_path, capsys):
    for name in ("0", "1", "10", "2"):
        (tmp_path / name).mkdir()
        paint(0, 0, 0).save(tmp_path / name / "0.png")
    assert list(list_people(tmp_path)) == ["0", "1", "2", "10"]
    assert "4 people are sorted as numbers: 0, 1, 2, ..., 10" in capsys.readouterr().err
    (tmp_path / "x").mkdir()
    paint(0, 0, 0).save(tmp_path / "x" / "0.png")
    assert list(list_people(tmp_path)) == ["0", "1", "10", "2", "x"] and not capsys.readouterr().err


# ---- files


def test_a_gallery_comes_back_as_it_was_saved(people):
    target = Colour().enroll(people)
    Gallery(target.names, target.templates, "euclidean", 0.5, target.scale, 4).save("mine.safetensors")
    again = load_gallery(Colour(), "mine.safetensors")
    assert (again.names, again.threshold, again.scale) == (target.names, 0.5, target.scale)
    assert torch.equal(again.templates, target.templates)
    assert load_gallery(Colour(), "mine.safetensors", threshold=0.2).threshold == 0.2
    assert load_gallery(Colour(), "mine.safetensors", classes=("Bob", "Ada")).names == ("Bob", "Ada")
    with pytest.raises(ValueError, match="expected templates that are compared by cosine, got euclidean in mine"):
        load_gallery(Colour("cosine"), "mine.safetensors")


ADA, BOB = [[1.0, 0.0, 0.0], [0.5, 0.0, 0.5]], [0.0, 1.0, 0.0]
FILES = {
    "object": ("a.json", lambda path: path.write_text(json.dumps({"Bob": BOB, "Ada": ADA}))),
    "list": ("a.json", lambda path: path.write_text(json.dumps([{"Ada": ADA[0]}, {"Bob": BOB}, {"Ada": ADA[1]}]))),
    "columns": ("a.json", lambda p: p.write_text(json.dumps({"names": ["Ada", "Ada", "Bob"], "encodings": [*ADA, BOB]}))),
    "arrays": ("a.npz", lambda path: np.savez(path, Ada=ADA, Bob=BOB)),
    "two arrays": ("a.npz", lambda path: np.savez(path, names=["Ada", "Bob", "Ada"], encodings=[ADA[0], BOB, ADA[1]])),
    "tensors": ("a.safetensors", lambda path: save_file({"Ada": torch.tensor(ADA), "Bob": torch.tensor(BOB)}, path)),
}


@pytest.mark.parametrize("name", FILES)
def test_stored_templates_are_read_and_averaged(name, tmp_path):
    file, write = FILES[name]
    write(tmp_path / file)
    target = load_gallery(Colour(), tmp_path / file)
    assert target.names == ("Ada", "Bob") and target.threshold == 0.5
    torch.testing.assert_close(target.templates, torch.tensor([[0.75, 0.0, 0.25], BOB]))


def text(content: str):
    return lambda path: path.write_text(content)


WRONG = {
    "length": ("a.json", text('{"Ada": [1, 2]}'), "expected templates of 3 numbers, as the network gives, got 2 of Ada in"),
    "finite": ("a.json", text('{"Ada": [1, 2, NaN]}'), "expected finite templates in .*, got NaN or infinity for Ada"),
    "infinite": ("a.npz", lambda path: np.savez(path, Ada=[1, np.inf, 0]), "expected finite templates"),
    "ragged": ("a.json", text('{"Ada": [[1, 2, 3], [1]]}'), "expected lists of as many numbers"),
    "words": ("a.json", text('{"Ada": "red"}'), "expected lists of as many numbers"),
    "nobody": ("a.json", text("[]"), "expected templates of users in .*, got none"),
    "number": ("a.json", text("[3]"), "expected {name: numbers} in .*, got int"),
    "no JSON": ("a.json", text("Ada"), "expected JSON in"),
    "deep": ("a.json", text("[" * 100_000), "expected JSON in"),
    "objects": ("a.npz", lambda path: np.savez(path, Ada=np.array([object()])), "expected an .npz file of numbers"),
    "columns": ("a.json", text('{"names": ["Ada"], "encodings": []}'), "an encoding for each of the 1 names"),
    "cube": ("a.npz", lambda path: np.savez(path, Ada=np.zeros((1, 1, 3))), r"expected a template \[D\] or \[n,D\] of Ada"),
    "no npz": ("a.npz", text("Ada"), "expected an .npz file of numbers"),
    "pickle": ("a.pkl", text("Ada"), "expected a gallery, a folder of people or a file .safetensors, .npz, .json, got"),
    "missing": ("a.json", lambda path: None, "missing"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_templates_are_one_line(name, tmp_path):
    file, write, message = WRONG[name]
    write(tmp_path / file)
    with pytest.raises(ValueError, match=message) as found:
        load_gallery(Colour(), tmp_path / file)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("file", "content", "names"),
    [
        ("a.txt", "Bob\n\nAda\n", ("Bob", "Ada")),
        ("a.txt", "\ufeffBob\r\nAda\r\n", ("Bob", "Ada")),  # as Notepad saves it
        ("a.json", '\ufeff["Bob", "Ada"]', ("Bob", "Ada")),
        ("a.json", '["Bob", "Ada"]', ("Bob", "Ada")),
        ("a.json", '{"Ada": 1, "Bob": 0}', ("Bob", "Ada")),
        ("a.json", '{"Ada": 1, "Bob": 2}', None),
        ("a.json", '["Bob", "Bob"]', None),
        ("a.json", "[1, 2]", None),
        ("a.txt", "", None),
    ],
)
def test_a_class_map_numbers_the_users(file, content, names, tmp_path):
    (tmp_path / file).write_text(content, encoding="utf-8", newline="")
    if names:
        assert read_classes(tmp_path / file) == names
        return
    got = "Bob twice" if content.count("Bob") == 2 else "something else"
    with pytest.raises(ValueError, match=f"expected every user's name once, .*, got {got}; see"):
        read_classes(tmp_path / file)


# ---- on the command line

EMBEDS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 12))

    def forward(self, images):
        return nn.functional.normalize(self.layers(images), dim=1)

def build():
    return Net()
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return make_tiny_world(folder), folder / "photos"


@pytest.fixture
def world(made, monkeypatch, tmp_path):
    register(monkeypatch, made[0], tmp_path)
    Path("users").symlink_to(made[1] / "private")
    Path("net.py").write_text(EMBEDS)
    return made[0]


COMMON = [f"--world={NAME}", *BRIEF, "--steps=1", "--identities=1,4", "--target=net.py:build"]


def test_the_users_of_a_gallery_are_attacked(world, monkeypatch, capsys):
    assert run_main(monkeypatch, latent_attack, *COMMON, "--gallery=users", "--photos=users", "--out=run") == 0
    report = read_report("run")
    assert report["identities"] == [1, 4] and {"target_score", "identity_similarity"} <= report["summary"].keys()
    assets = load_assets(NAME, device=torch.device("cpu"), target="net.py:build", gallery="users", prior=False)
    assert assets.target.num_identities == USERS and assets.target.names == tuple(f"p{number:02d}" for number in range(USERS))
    Gallery(assets.target.names, assets.target.templates, "cosine", 0.3, assets.target.scale).save("mine.safetensors")
    assert run_main(monkeypatch, latent_attack, *COMMON, "--gallery=mine.safetensors", "--out=again") == 0
    assert read_report("again")["summary"]["target_score"] == report["summary"]["target_score"]
    provenance = json.loads(Path("again/provenance.json").read_text())
    assert provenance["weights"]["gallery"]["sha256"]


def test_stored_templates_are_reached(world, monkeypatch):
    words = [*COMMON, "--gallery=users", "--photos=users", "--goal=template", "--out=run"]
    assert run_main(monkeypatch, latent_attack, *words) == 0
    config, report = json.loads(Path("run/config.json").read_text()), read_report("run")
    assert config["goal"] == report["goal"] == "template" and config["contrast"] == TEMPLATE.contrast
    target = load_assets(NAME, device=torch.device("cpu"), target="net.py:build", gallery="users", prior=False).target
    Gallery(target.names, target.templates, "cosine", 0.3, target.scale).save("stolen.safetensors")
    words = [*COMMON, "--templates=stolen.safetensors", "--photos=users", "--out=again"]
    assert run_main(monkeypatch, latent_attack, *words) == 0
    again = read_report("again")
    assert again["summary"] == report["summary"] and again["goal"] == "template"
    assert "template" in Path("again/report.html").read_text()
    assert run_main(monkeypatch, pixel_attack, *COMMON, "--templates=stolen.safetensors", "--out=pixels") == 0
    assert json.loads(Path("pixels/config.json").read_text())["goal"] == "template"


def test_one_template_of_a_stranger_is_reached_and_the_report_says_what_it_cannot(world, monkeypatch):
    Path("one.json").write_text(json.dumps({"Ada": torch.linspace(-1, 1, 12).tolist()}))
    words = [word for word in COMMON if "identities" not in word]
    assert run_main(monkeypatch, latent_attack, *words, "--identities=0", "--templates=one.json", "--out=run") == 0
    report = read_report("run")
    assert report["absent"]["target_score"].startswith("needs a target of two users or more")
    assert "needs references" in report["absent"]["identity_similarity"] and "absent" in report["leak"]
    assert report["summary"]["target_score_transformed"]["n"] == 1


def test_photos_of_the_attacked_users_suffice_where_users_have_names(world, made):
    names = [f"p{number:02d}" for number in range(USERS)]
    for number in (4, 1):
        Path("some").mkdir(exist_ok=True)
        Path("some", names[number]).symlink_to(made[1] / "private" / names[number])
    options = {"device": torch.device("cpu"), "target": "net.py:build", "gallery": "users", "prior": False}
    assets = load_assets(NAME, **options, photos="some", identities=(1, 4))
    assert assets.references.person.unique().tolist() == [1, 4]
    with pytest.raises(ValueError, match="expected a sub-folder p02 in some, of a user who is attacked, got none"):
        load_assets(NAME, **options, photos="some", identities=(1, 2))


CASES = {
    "no gallery": ([], "got one that only embeds; enrol users with --gallery=FOLDER"),
    "threshold alone": (["--threshold=0.5"], "expected --gallery beside --threshold, got none"),
    "threshold": (["--gallery=users", "--threshold=1.5"], "expected a threshold between -1 and 1, a cosine, got 1.5"),
    "nowhere": (["--gallery=nowhere"], "expected a gallery, a folder of people or a file"),
    "classes": (["--gallery=users", "--classes=names.txt"], "expected nobody beside the 2 names of the class map, got 'p02'"),
    "no templates": (["--goal=template", "--target="], "expected a target with templates for the goal template, got"),
    "templates twice": (["--gallery=users", "--templates=short.json"], "expected --templates or --gallery, got both"),
    "templates of a class": (["--templates=short.json", "--goal=class"], "expected --goal=template beside --templates"),
    "unknown goal": (["--goal=photo"], "expected a goal among class, template, got photo"),
    "templates of another length": (["--templates=short.json"], "expected templates of 12 numbers, as the network gives"),
    "templates nowhere": (["--templates=nowhere.npz"], "expected a gallery, a folder of people or a file"),
    "templates not finite": (["--templates=nan.json"], "expected finite templates in nan.json, got NaN or infinity"),
    "other length": (["--gallery=short.json"], "expected templates of 12 numbers, as the network gives, got 2 of Ada"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_one_line(name, world, monkeypatch, capsys):
    words, message = CASES[name]
    Path("names.txt").write_text("p00\np01\n")
    Path("short.json").write_text('{"Ada": [1, 2]}')
    Path("nan.json").write_text(json.dumps({"Ada": [float("nan")] * 12}))
    assert run_main(monkeypatch, latent_attack, *COMMON, *words, "--out=run") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0] and not Path("run").exists()


def test_bare_rows_of_length_1_are_embeddings_and_probabilities_are_not():
    images = torch.rand(2, 3, 8, 8)
    unit = CallableRecognizer(lambda x: nn.functional.normalize(x.mean((2, 3)), dim=1), images)
    assert unit.num_identities is None and unit(images).logits is None and unit.embedding_dim == 3
    sure = CallableRecognizer(lambda x: torch.eye(3)[: len(x)], images)
    assert sure.num_identities == 3
    pair = CallableRecognizer(lambda x: (torch.eye(3)[: len(x)].neg(),) * 2, images)
    assert pair.num_identities == 3  # who returns both says which is which


def test_a_recognizer_with_a_head_of_its_own_is_enrolled_by_its_embedding(people):
    network = CosineRecognizer("mlp", num_identities=9, embedding_dim=8, input_size=SIDE).eval()
    target = network.enroll(people)
    assert target.num_identities == 2 and target.threshold is None
    assert not any(parameter.requires_grad for parameter in target.parameters())
