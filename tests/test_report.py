"""The run folder: complete, readable, and never half a file."""

import dataclasses
import errno
import hashlib
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from ganinv.attack.result import AttackResult, Cost
from ganinv.images import to_uint8
from ganinv.interfaces import FaultError
from ganinv.judging.judgement import Judgement
from ganinv.judging.verdict import Verdict
from ganinv.reports import provenance, run_folder
from ganinv.reports.report_file import read_report
from ganinv.reports.run_folder import RunFolder, new_folder

VERDICT = Verdict(
    {"target_score": {"mean": 0.5, "ci95": [0.25, 0.75], "n": 2}},
    [{"identity": 3, "target_score": 0.25}, {"identity": 7, "target_score": 0.75}],
    {"fid": "too few pictures"},
)
COST = Cost(1.5, 10, 6, 4)


def write(folder, verdict=VERDICT, cost=COST):
    judgement = Judgement(verdict=verdict)
    return RunFolder(folder).write_report(
        method="latent", world="toy", seed=0, identities=(3, 7), judgement=judgement, cost=cost
    )


def test_report_reads_back_as_written_with_the_schema(tmp_path):
    written = write(tmp_path / "run")
    keys = ["method", "world", "identities", "seed", "summary", "per_identity", "cost", "absent"]
    keys += ["headline", "controls", "ceiling", "judges", "factors", "pictures", "type_i", "memory", "sets", "files"]
    keys += ["leak", "selection", "sar", "attributes", "goal", "queries", "verdict", "remarks"]
    assert list(written) == keys
    cost = {"seconds": 1.5, "images_evaluated": 10, "gradient_queries": 6, "score_queries": 4}
    cost |= {"search_seconds": None, "verdict_seconds": 0.0}
    assert written["cost"] == cost
    assert read_report(tmp_path / "run") == read_report(tmp_path / "run" / "report.json") == written


def test_a_single_identity_has_an_open_interval(tmp_path):
    verdict = Verdict({"lpips": {"mean": 0.5, "ci95": [None, None], "n": 1}}, [{"identity": 3, "lpips": 0.5}], {})
    RunFolder(tmp_path).write_report(
        method="m", world="w", seed=0, identities=(3,), judgement=Judgement(verdict=verdict), cost=COST
    )
    assert read_report(tmp_path)["summary"]["lpips"]["ci95"] == [None, None]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["world"], None, "no world|world of type NoneType"),
        (["identities"], [3, 8], "per_identity of other identities"),
        (["summary", "target_score"], {"mean": 1}, "target_score without mean, ci95 and n"),
        (["summary", "target_score", "mean"], None, "target_score with mean None"),
        (["summary", "target_score", "mean"], float("nan"), "target_score with mean nan"),
        (["summary", "target_score", "ci95"], [0.1, None], r"ci95 \[0.1, None\]"),
        (["absent", "target_score"], "no reason at all", "target_score both in summary and in absent"),
        (["absent", "fid"], "", "absent without a reason"),
        (["per_identity", 0, "lpips"], 0.1, "per_identity 3 with other metrics"),
        (["per_identity", 0, "target_score"], None, "per_identity 3 with other metrics than summary, or a value"),
        (["per_identity", 1], 5, "no dict"),
        (["cost", "seconds"], "long", "no cost.seconds"),
    ],
)
def test_a_report_that_breaks_the_schema_is_refused_with_the_key(tmp_path, path, value, message):
    broken = json.loads(json.dumps(write(tmp_path)))
    place = broken
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (tmp_path / "report.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match=f"expected a ganinv report in .*report.json, got .*({message})"):
        read_report(tmp_path)


def test_a_folder_without_report_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"expected a finished run with a report.json, got {tmp_path}"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text('{"method": ')
    with pytest.raises(ValueError, match="expected JSON in"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text("[1]")
    with pytest.raises(ValueError, match="got a list"):
        read_report(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "report.json"])
def test_a_folder_that_holds_a_run_is_refused(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=f"expected a new folder, got {tmp_path}, which holds a {name}"):
        RunFolder(tmp_path)


def test_default_names_count_up_and_leave_others_alone(tmp_path):
    names = [new_folder("latent", "toy", tmp_path / "runs").name for _ in range(2)]
    (tmp_path / "runs" / "latent-toy-011").mkdir()
    (tmp_path / "runs" / "latent-toy-mine").mkdir()
    names += [new_folder(method, "toy", tmp_path / "runs").name for method in ("latent", "pixel")]
    assert names == ["latent-toy-000", "latent-toy-001", "latent-toy-012", "pixel-toy-000"]


def test_a_number_taken_meanwhile_is_skipped(tmp_path, monkeypatch):
    (tmp_path / "latent-toy-000").mkdir()
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter(()))  # the other run's folder is not there yet
    assert new_folder("latent", "toy", tmp_path).name == "latent-toy-001"


def test_result_pictures_are_the_images_at_native_size(tmp_path):
    images = torch.rand(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = {"w": torch.arange(24.0).view(4, 6)}
    RunFolder(tmp_path).write_result(AttackResult((3, 7), images, torch.zeros(2, 2), latents, COST, images[:, 0]))
    pictures = tmp_path / "images"
    assert sorted(path.name for path in pictures.iterdir()) == ["3_0.png", "3_1.png", "7_0.png", "7_1.png", "grid.png"]
    with Image.open(pictures / "7_1.png") as picture:
        assert (picture.format, picture.size) == ("PNG", (8, 8))
        assert list(picture.tobytes()) == to_uint8(images[1, 1]).permute(1, 2, 0).flatten().tolist()
    with Image.open(pictures / "grid.png") as picture:
        assert picture.size == (18, 18)  # two identities, two kept each, 2 px between
    with safe_open(tmp_path / "latents.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("w"), latents["w"])
        assert json.loads(file.metadata()["order"]) == {"identities": [3, 7], "kept": 2}


def test_one_picture_an_identity_gives_a_grid_of_one_row(tmp_path):
    images = torch.zeros(2, 1, 3, 8, 8)
    RunFolder(tmp_path).write_result(AttackResult((3, 7), images, torch.zeros(2, 1), {}, COST, images[:, 0]))
    with Image.open(tmp_path / "images" / "grid.png") as picture:
        assert picture.size == (18, 8)


def test_steps_are_on_disk_at_once_and_hold_no_pictures(tmp_path):
    folder = RunFolder(tmp_path)
    for step in range(2):
        folder.append_step({"step": step, "identities": {3: 0.5}, "images": torch.zeros(1)})
        rows = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
        assert rows[-1] == {"step": step, "identities": {"3": 0.5}}
    assert len(rows) == 2
    with pytest.raises(FaultError, match="cannot write steps.jsonl: .* not finite"):
        folder.append_step({"step": 2, "objective": float("nan")})


def test_config_holds_nested_dataclasses_paths_and_tuples(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Inner:
        scale: tuple[float, float] = (0.9, 1.1)

    @dataclasses.dataclass(frozen=True)
    class Config:
        out: Path = Path("a/b")
        inner: Inner = dataclasses.field(default_factory=Inner)
        photos: None = None

    RunFolder(tmp_path).write_config(Config())
    expected = {"out": "a/b", "inner": {"scale": [0.9, 1.1]}, "photos": None}
    assert json.loads((tmp_path / "config.json").read_text()) == expected


def test_provenance_names_code_packages_and_weights(tmp_path):
    weights = tmp_path / "prior.safetensors"
    weights.write_bytes(b"weights")
    found = provenance.describe_provenance(5, "cpu", {"prior": weights}, ["latent_attack.py", "--seed=5"])
    assert found["weights"] == {"prior": {"file": weights.name, "sha256": hashlib.sha256(b"weights").hexdigest()}}
    assert (found["seed"], found["device"], found["argv"]) == (5, "cpu", ["latent_attack.py", "--seed=5"])
    assert torch.__version__.startswith(found["packages"]["torch"])
    assert found["threads"] == torch.get_num_threads()
    assert found["precision"] == "float32"
    assert {"version", "git", "python", "platform", "processor"} <= found.keys()
    with pytest.raises(ValueError, match="cannot read .*gone"):
        provenance.describe_provenance(5, "cpu", {"prior": tmp_path / "gone"}, [])


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", *identity, "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_checkout_is_clean_dirty_or_none(tmp_path):
    package = tmp_path / "ganinv"
    package.mkdir()
    (package / "a.py").write_text("a = 1\n")
    assert provenance.describe_checkout(package) is None
    git(tmp_path, "init", "-q")
    assert provenance.describe_checkout(package) is None  # no commit yet
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "Start")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "report.json").write_text("{}")  # a run's own output is no change of the code
    assert provenance.describe_checkout(package) == {"hash": commit, "dirty": False}
    (package / "b.py").write_text("b = 1\n")
    assert provenance.describe_checkout(package) == {"hash": commit, "dirty": True}
    installed = tmp_path / ".venv" / "ganinv"
    installed.mkdir(parents=True)
    assert provenance.describe_checkout(installed) is None  # somebody else's checkout


def refuse(number):
    def raise_error(*arguments, **options):
        raise OSError(number, "refused", "some/file")

    return raise_error


@pytest.mark.parametrize(
    ("number", "on_creation"), [(errno.ENOSPC, FaultError), (errno.EROFS, ValueError), (errno.EACCES, ValueError)]
)
def test_a_disk_that_refuses_gives_one_line(tmp_path, monkeypatch, number, on_creation):
    folder = RunFolder(tmp_path / "run")
    monkeypatch.setattr(Path, "mkdir", refuse(number))
    for create in (lambda: RunFolder(tmp_path / "other"), lambda: new_folder("latent", "toy", tmp_path)):
        with pytest.raises(on_creation, match="cannot write to some/file: refused; "):
            create()
    monkeypatch.setattr("os.replace", refuse(number))
    with pytest.raises(FaultError, match="cannot write to some/file: refused; "):
        folder.write_config({})
    monkeypatch.setattr(run_folder.image_convention, "save", refuse(number))
    with pytest.raises(FaultError, match="cannot write to some/file: refused; "):
        folder.write_result(SimpleNamespace(identities=(1,), images=torch.zeros(1, 1, 3, 4, 4), latents={}))


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    folder.write_config({"old": 1})
    monkeypatch.setattr("os.replace", refuse(errno.EIO))
    with pytest.raises(FaultError):
        folder.write_config({"new": 1})
    assert json.loads((tmp_path / "config.json").read_text()) == {"old": 1}


def test_a_value_that_is_not_finite_is_a_fault(tmp_path):
    with pytest.raises(FaultError, match="not finite"):
        write(tmp_path, cost=Cost(float("inf"), 1, 1, 1))
    assert not (tmp_path / "report.json").exists()


def test_out_that_is_a_file_is_the_callers_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write to .*file"):
        RunFolder(tmp_path / "file")
