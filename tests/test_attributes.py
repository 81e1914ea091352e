"""Labels, probes, and what a run gives away, from the command line to the page."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from ganinv import images, interfaces
from ganinv.attributes.labels import Column, measure_attribute, name_values, read_labels
from ganinv.attributes.posterior import Calibration
from ganinv.attributes.probes import Probe, fit_probe
from ganinv.commands import attributes, audit, latent_attack, probe
from ganinv.judging import readers
from ganinv.judging.attributes import sum_up
from ganinv.judging.protocol import draw_means
from ganinv.judging.readers import find_reader, find_stored, translate
from ganinv.photos import list_people, load_photos
from ganinv.recognizers.adapters import weight_file
from ganinv.reports.attributes import combine_tables, write_attributes
from ganinv.reports.report import NOWHERE
from ganinv.reports.run_folder import RunFolder
from ganinv.studies import probing
from ganinv.weights.files import sha256_file
from ganinv.worlds.assets import Assets
from ganinv.worlds.references import Judge
from ganinv.worlds.world import load_world
from tests.tiny_world import add_references, make_rendered_world, make_tiny_world, register, run_main
from tests.toys import LinearGenerator, RawRecognizer, photos_of

LABELS = "photo,age,gender\n0,31,0\n1.png,44,1\n2,,1\n" + "".join(f"{row},{row},0\n" for row in range(3, 20))


def write(tmp_path, text):
    (tmp_path / "labels.csv").write_text(text)
    return tmp_path / "labels.csv"


# ---- labels


def test_numbers_of_many_values_are_a_quantity_and_the_rest_a_choice(tmp_path):
    age, gender = read_labels(write(tmp_path, LABELS), ["a"] * 4, ["0.jpg", "1.png", "deep/2.png", "none.png"])
    assert age.values == () and age.labels[:2].tolist() == [31, 44] and age.labels[2:].isnan().all()
    assert gender.values == ("0", "1") and gender.labels[:3].tolist() == [0, 1, 1] and gender.labels[3].isnan()
    assert name_values([age, gender], {"gender": ["man", "woman"]})[1].values == ("man", "woman")


def test_a_value_that_no_photo_has_is_still_one_of_the_choice(tmp_path):
    path = write(tmp_path, "person,hat\na,no\nb,yes\nc,\n")
    (hat,) = read_labels(path, ["a", "c"], ["1", "2"])
    assert hat.values == ("no", "yes") and hat.labels[0] == 0 and hat.labels[1].isnan()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,age\n0,31\n", r"expected the columns photo \(or person\), then attributes"),
        ("photo\n0\n", r"expected the columns photo \(or person\), then attributes"),
        ("", r"expected the columns .* got nothing"),
        ("photo,age\n0,31,7\n", "expected 2 fields and every photo once in .*, got 3 fields for 0, line 2"),
        ("photo,age\n0,31\n0,32\n", "got a second row of 0, line 3"),
        ("photo,age\nx,31\n", "expected a row for the photo 0 or another in .*, got none for any of 1 photos"),
    ],
)
def test_a_file_that_is_no_labels_is_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_labels(write(tmp_path, text), ["a"], ["0.png"])


def test_standard_values_of_an_attribute_vary_by_one_about_the_guess():
    shares = measure_attribute("hat", torch.tensor([0.0] * 60 + [1.0] * 40), ("no", "yes"))
    rows = shares.encode(torch.tensor([0.0] * 60 + [1.0] * 40))
    assert rows.mean(0).abs().max() < 1e-12 and rows.square().sum(1).mean().item() == pytest.approx(1)
    assert shares.decode(rows)[0].tolist() == pytest.approx([1, 0])
    age = measure_attribute("age", torch.tensor([20.0, 40.0]))
    assert age.encode(torch.tensor([40.0])).item() == 1 and age.decode(torch.tensor([-1.0])).item() == 20
    assert measure_attribute("skin_tone", torch.tensor([0.0, 1.0])).special and not age.special


# ---- probes


def make_columns(count: int = 300):
    """Returns (embeddings [N,4], columns): a sum that they hold, a sign that they hold, and noise."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(count, 4, generator=generator)
    noise = torch.randn(count, generator=generator).double()
    total = embeddings[:, :2].double().sum(1)
    return embeddings, [Column("sum", total), Column("sign", (total > 0).double(), ("low", "high")), Column("noise", noise)]


def test_a_probe_finds_what_embeddings_hold_and_nothing_else(tmp_path):
    embeddings, columns = make_columns()
    found = fit_probe("toy", embeddings, columns, torch.arange(300), metric="euclidean")
    assert found.ceilings["sum"]["explained"]["mean"] > 0.999
    assert found.ceilings["sign"]["accuracy"]["mean"] > 0.95 and 0.4 < found.ceilings["sign"]["accuracy_guessing"] < 0.6
    assert found.ceilings["noise"]["explained"]["mean"] < 0.01
    found.save(tmp_path / "probe.safetensors", {})
    again = Probe.load(tmp_path / "probe.safetensors")
    assert torch.allclose(again.estimate(embeddings), found.estimate(embeddings), atol=1e-5)
    assert again.attributes == found.attributes and again.ceilings == found.ceilings
    with pytest.raises(ValueError, match=r"expected embeddings \[N,4\] for this probe, got \[1, 3\]"):
        again.estimate(torch.zeros(1, 3))


def test_a_person_never_takes_part_in_its_own_prediction():
    """Twenty photos of everybody, whose labels are noise: a fit that had seen the person would know it."""
    people = torch.arange(120).repeat_interleave(20)
    names = torch.eye(120)[people] + 0.01 * torch.randn(2400, 120, generator=torch.Generator().manual_seed(0))
    label = torch.randn(120, generator=torch.Generator().manual_seed(1)).double()[people]
    found = fit_probe("toy", names, [Column("label", label)], people, metric="euclidean").ceilings["label"]
    assert found["explained"]["mean"] < 0.05 and found["photos"] == 20 and found["photo"]["mean"] < 0.05


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (
            Column("x", torch.arange(300.0).where(torch.arange(300) < 100, torch.nan).double()),
            "a label for 100 of 300 people",
        ),
        (Column("x", torch.ones(300).double(), ("a", "b")), "has one value for everybody"),
        (Column("x", (torch.arange(300) < 9).double(), ("a", "b")), "has 9 people of the value b; it needs 10"),
    ],
)
def test_an_attribute_that_cannot_be_probed_is_absent_with_its_reason(column, reason):
    embeddings, columns = make_columns()
    found = fit_probe("toy", embeddings, [columns[0], column], torch.arange(300), metric="euclidean")
    assert reason in found.absent["x"] and "x" not in found.ceilings and len(found.attributes) == 1
    with pytest.raises(ValueError, match="expected an attribute that can be probed, got none: x has"):
        fit_probe("toy", embeddings, [column], torch.arange(300))


def test_fewer_people_than_a_probe_needs_are_refused():
    embeddings, columns = make_columns()
    with pytest.raises(ValueError, match="has labels of 50 people; a probe needs at least 100"):
        fit_probe("toy", embeddings, columns, torch.arange(50).repeat_interleave(6))


def test_a_target_without_embeddings_carries_no_probe():
    with pytest.raises(interfaces.AbsentError, match="needs a target that gives embeddings"):
        probing.probe(only_scores, photos_of([0, 1]), [Column("x", torch.zeros(2))])


def only_scores(images):
    """A target that shows class scores alone."""
    return interfaces.Recognition(None, images.mean((2, 3)))


# ---- recovery


def test_what_is_stored_is_read_by_the_targets_probe_in_the_readers_units():
    embeddings, columns = make_columns()
    found = fit_probe("toy", embeddings, columns, torch.arange(300), metric="euclidean")
    wider = measure_attribute("sum", columns[0].labels * 2)
    said = translate(found.estimate(embeddings), found, (wider,))
    assert torch.allclose(wider.decode(said["sum"])[:, 0], columns[0].labels, atol=0.05) and said.keys() == {"sum"}
    with pytest.raises(interfaces.AbsentError, match="needs stored templates"):
        find_stored(RawRecognizer(torch.zeros(2, 64)))


def test_the_share_of_what_is_knowable_is_a_ratio_of_explained_variances():
    truth = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    rows = [{"name": "a", "known": True}, {"name": "b", "known": False}]
    half = {"a": truth / 2, "b": -truth}  # explains 3/4
    ceiling = {"explained": {"mean": 0.9, "ci95": [0.8, 1.0]}}
    overall, of = sum_up(rows, {"a": truth, "b": truth}, {"pictures": half}, {"a": ceiling}, "", 0)
    assert overall["pictures"]["mean"] == pytest.approx(0.75) and of["share"]["mean"] == pytest.approx(0.75 / 0.9)
    assert of["knowable"] == {"mean": 0.9, "of": "public people", "attributes": 1}
    _, of = sum_up(rows, {"a": truth, "b": truth}, {"pictures": half, "template": {"a": truth}}, {}, "template", 0)
    assert of["share"]["mean"] == pytest.approx(0.75) and of["knowable"]["of"] == "these users' template"


def test_the_mean_face_is_that_of_the_mean_w():
    prior = LinearGenerator()
    prior.register_parameter("unused", torch.nn.Parameter(torch.zeros(1)))
    w = torch.randn(6, 2, 4, generator=torch.Generator().manual_seed(0)) / 4
    means = draw_means(prior, {"w": w}, 2)
    assert torch.allclose(means[1], prior.synthesize(w[3:].mean(0, keepdim=True))[0], atol=1e-6)
    assert draw_means(prior, {"w": w}, 6) is None and draw_means(prior, {"pixels": w}, 2) is None


# ---- from the command line


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("attributes")
    world = make_rendered_world(folder / "tiny", users=12, photos=3, readable=(0, 34))
    embeddings = torch.randn(120, world.target.embedding_dim, generator=torch.Generator().manual_seed(0))
    columns = [Column(name, embeddings[:, place].double()) for place, name in enumerate(("head_width", "skin_tone"))]
    sha256 = sha256_file(world.file("target"))
    made = fit_probe("target", embeddings, columns, torch.arange(120), metric="euclidean", sha256=sha256)
    made.save(folder / "probe_target.safetensors", {"role": "probe_target"})
    return world.register("probe_target", folder / "probe_target.safetensors")


def test_a_run_says_what_was_given_away_and_a_calibration_on_other_users_how_sure(world, tmp_path, monkeypatch, capsys):
    register(monkeypatch, world, tmp_path)
    options = ["--steps=1", "--candidates=0", "--restarts=2", "--keep=2", "--wandb=disabled", "--identities=0,1"]
    assert run_main(monkeypatch, latent_attack, "--world=tiny", *options, "--out=reported") == 0
    found = json.loads((tmp_path / "reported" / "report.json").read_text())["attributes"]
    assert [row["name"] for row in found["rows"]] == ["head_width", "skin_tone"] and found["stored"] == "class weights"
    assert found["samples"] == 2 and {"random sample of the prior", "mean face"} <= found["rows"][0]["explained"].keys()
    assert found["rows"][1]["special"] and found["calibrated"].startswith("nothing was calibrated")
    page = (tmp_path / "reported" / "report.html").read_text()
    assert "What is given away about a user" in page and "special category, GDPR Art. 9" in page
    capsys.readouterr()

    tune(tmp_path, tuple(range(2, 12)))
    assert run_main(monkeypatch, attributes, "reported", "--tune=tuning", "--out=said") == 0
    said = json.loads((tmp_path / "said" / "attributes.json").read_text())["runs"]["reported"]
    assert said["calibrated"] == "" and said["coverage"]["n"] == 2
    assert "What was recovered" in (tmp_path / "said" / "attributes.md").read_text()
    calibration, card = Calibration.load(tmp_path / "said" / "calibration.safetensors")
    assert calibration.people == 10 and card["users"] == list(range(2, 12))
    for entry in (entry for user in said["users"] for entry in user["attributes"].values()):
        assert entry["interval"][0] < entry["estimate"] < entry["interval"][1]
    tune(tmp_path, tuple(range(1, 12)), "again")
    assert run_main(monkeypatch, attributes, "reported", "--tune=again", "--out=never") == 2
    assert "got user 1 in both; nothing is tuned on users who are reported" in capsys.readouterr().err


def tune(folder, users, name="tuning"):
    """Writes a run of other users, with two pictures of each that show nothing."""
    config = json.loads((folder / "reported" / "config.json").read_text())
    run = RunFolder(folder / name)
    run.write_config(config | {"identities": ",".join(map(str, users))})
    run.write_pictures(users, torch.rand(len(users), 2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1)
    run.close()


def test_probes_are_fitted_from_the_command_line(world, tmp_path, monkeypatch, capsys):
    register(monkeypatch, world, tmp_path)
    grey = torch.linspace(-1, 1, 140)
    for number, value in enumerate(grey.tolist()):
        folder = tmp_path / "people" / f"{number:06d}"
        folder.mkdir(parents=True)
        images.save(torch.full((3, 64, 64), value), folder / "000.png")
    shared = ["--world=tiny", "--photos=people"]
    assert run_main(monkeypatch, probe, *shared, f"--target={world.file('verifier')}", "--out=out") == 0
    assert "| attribute" in (tmp_path / "out" / "attributes.md").read_text()
    found = Probe.load(tmp_path / "out" / "probe_verifier.safetensors")
    assert len(found.attributes) == 52 and found.people == 100 and len(found.sha256) == 64
    assert run_main(monkeypatch, probe, *shared, "--names=gender") == 2
    assert "expected --names as attribute=value,value;..., got gender" in capsys.readouterr().err


def test_probes_of_ones_own_labels_lead_to_the_page_of_an_audit(tmp_path, monkeypatch, capsys):
    world = make_tiny_world(tmp_path / "world")
    world = add_references(world, load_photos(list_people(tmp_path / "world" / "photos" / world.users), world.resolution))
    register(monkeypatch, world, tmp_path)
    generator = torch.Generator().manual_seed(0)
    for role in ("target", "verifier"):
        embeddings = torch.randn(120, world.load(str(world.file(role))).embedding_dim, generator=generator)
        columns = [Column("glasses", (embeddings[:, 0] > 0).double(), ("no", "yes"))]
        made = fit_probe(role, embeddings, columns, torch.arange(120), sha256=sha256_file(world.file(role)))
        made.save(tmp_path / "mine" / f"probe_{role}.safetensors", {"role": f"probe_{role}"})
    words = ["--world=tiny", "--identities=0-2", "--steps=1", "--wandb=disabled", "--device=cpu"]
    assert run_main(monkeypatch, audit, *words, "--probes=nowhere", "--out=runs/never") == 2
    assert "expected probe_NAME.safetensors in nowhere, got none; run probe.py --out=nowhere" in capsys.readouterr().err
    assert run_main(monkeypatch, audit, *words, "--probes=mine", "--out=runs/all") == 0
    page = (tmp_path / "runs" / "all" / "audit.html").read_text()
    assert "What is given away about a user" in page and "<th>glasses" in page
    found = json.loads((tmp_path / "runs" / "all" / "class-score" / "report.json").read_text())["attributes"]
    assert found["reader"] == "verifier" and found["rows"][0]["known"] and found["stored"] == "class weights"


def test_who_reads_is_given_then_calibrated_then_explains_most(monkeypatch):
    embeddings, columns = make_columns()
    good = fit_probe("toy", embeddings, [columns[0]], torch.arange(300), metric="euclidean")
    weak = {name: {"explained": {"mean": 0.2}} for name in good.ceilings}
    found = {"first": dataclasses.replace(good, ceilings=weak), "best": good, "met": good}
    found["last"] = dataclasses.replace(good, ceilings=weak)
    raw = RawRecognizer(torch.zeros(2, 64))
    judges = [Judge(name, raw, sees_users=name == "met", metric="euclidean") for name in ("met", "first", "best", "last")]
    assets = Assets(NOWHERE, None, None, judges, None, {})
    monkeypatch.setattr(readers, "find_probe", lambda assets, role: found[role])
    assert find_reader(assets).name == "best"
    monkeypatch.setattr(readers, "name_calibrated", lambda assets: "first")
    assert find_reader(assets).name == "first"
    assert find_reader(dataclasses.replace(assets, probes={"any": found["last"]})).name == "last"
    found.update(dict.fromkeys(found))
    with pytest.raises(interfaces.AbsentError, match="needs a probe of a judge"):
        find_reader(assets)


def test_the_probes_of_faces_are_of_the_networks_that_judge_there():
    world = load_world("faces")
    assert {probe.network for probe in world.probes.values()} == {"dlib", "sface", "mobilefacenet"}
    file = weight_file("mobilefacenet")
    assert world.probes[sha256_file(file)].network == "mobilefacenet"


def test_several_attacks_stand_in_one_table():
    def report(explained):
        summary = {"mean": explained, "ci95": [0.0, 1.0], "n": 4}
        beside = {"error": {"mean": 9.0, "ci95": [8.0, 10.0], "n": 4}, "error_guessing": 15.0}
        sources = ("template", "pictures", "own photos")
        row = {"name": "age", "values": [], "unit": "year", "special": False, "known": True, "ceiling": None}
        row |= {"explained": dict.fromkeys(sources, summary), "beside_guessing": dict.fromkeys(sources, beside)}
        found = {"rows": [row], "overall": dict.fromkeys(sources, summary), "stored": "template", "coverage": None}
        found |= {"reader": "sface", "truth": "labels", "samples": 1, "calibrated": "no", "unmeasured": {}}
        return {"attributes": found}

    table = combine_tables({"pixel search": {}, "class score": report(0.1), "template inversion": report(0.4)})
    assert table["columns"] == {
        "template": "template", "class score": "pictures: class score",
        "template inversion": "pictures: template inversion",
    }  # fmt: skip
    cells = table["rows"][0]["cells"]
    assert cells["template inversion"] == {"explained": "0.40 [0.00, 1.00]", "said": "off by 9 year"}
    assert cells["class score"]["explained"] == "0.10 [0.00, 1.00]" and table["rows"][0]["guessing"] == "off by 15 year"
    assert combine_tables({"pixel search": {}}) is None


def test_without_a_reader_the_reason_is_said():
    assert write_attributes({}) == ""
    said = write_attributes({"attributes": {"absent": "needs a probe"}})
    assert said == "What was recovered of the users' attributes? Nobody could say: needs a probe."
