"""Pictures from elsewhere get the verdict that our own pictures get, or are refused in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganinv.commands import compare, judge, latent_attack
from ganinv.reports.report_file import read_report
from ganinv.studies.outside_pictures import list_pictures
from tests.tiny_world import BRIEF, NAME, SIDE, make_tiny_world, register, run_main

JUDGE = [f"--world={NAME}", "--candidates=12", "--device=cpu"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return make_tiny_world(folder), folder


@pytest.fixture(autouse=True)
def world(made, monkeypatch, tmp_path):
    register(monkeypatch, made[0], tmp_path)
    return made[0]


@pytest.fixture(scope="module")
def attacked(made):
    """A finished run of three users, two pictures each, with photos."""
    out = made[1] / "run"
    with pytest.MonkeyPatch.context() as patch:
        register(patch, made[0], made[1])
        arguments = [f"--world={NAME}", *BRIEF, "--identities=1,3-4", "--keep=2", "--photos=photos", f"--out={out}"]
        assert run_main(patch, latent_attack, *arguments) == 0
    return out


def write(path: str | Path, level: float = 128, size: tuple[int, int] = (SIDE, SIDE), mode: str = "L") -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    ramp = np.linspace(0, level, size[0] * size[1]).reshape(size[::-1])
    channels = len(Image.new(mode, (1, 1)).getbands())
    kind = {"I;16": np.uint16, "F": np.float32}.get(mode, np.uint8)
    pixels = np.repeat(ramp[..., None], channels, 2).squeeze(2) if channels == 1 else np.repeat(ramp[..., None], channels, 2)
    Image.fromarray(pixels.astype(kind)).save(path)


@pytest.mark.parametrize("layout", ["files", "folders"])
def test_our_own_pictures_get_our_own_verdict(layout, attacked, made, monkeypatch, capsys):
    pictures = attacked / "images"  # with a grid.png in it
    if layout == "folders":
        for identity in (1, 3, 4):
            Path(f"mine/{identity}").mkdir(parents=True)
            for k, name in enumerate("ba"):  # in order of name
                shutil.copy(pictures / f"{identity}_{1 - k}.png", f"mine/{identity}/{name}.png")
        pictures = "mine"
    photos = f"--photos={made[1] / 'photos'}"
    assert run_main(monkeypatch, judge, *JUDGE, f"--pictures={pictures}", photos, "--out=judged") == 0
    assert "Does it leak?" in capsys.readouterr().out
    ours, theirs = read_report(attacked), read_report("judged")
    assert theirs["method"] == "judged" and theirs["identities"] == [1, 3, 4]
    del ours["summary"]["target_score_transformed"]  # of the search's own transforms
    for row in ours["per_identity"]:
        del row["target_score_transformed"]
    for key in ("summary", "per_identity", "ceiling", "judges", "pictures"):
        assert theirs[key] == ours[key], key
    assert theirs["controls"].keys() == ours["controls"].keys()
    for name in ("best candidate", "random sample of the prior"):
        assert theirs["controls"][name] == ours["controls"][name], name
    assert theirs["absent"]["cost"] == "the pictures were made elsewhere" and theirs["cost"]["seconds"] is None
    for identity in (1, 3, 4):
        for k in (0, 1):
            assert theirs["files"][f"images/{identity}_{k}.png"] == ours["files"][f"images/{identity}_{k}.png"]


def test_judged_pictures_stand_beside_runs_in_a_comparison(attacked, monkeypatch):
    Path("theirs").mkdir()
    for identity in (1, 3, 4):
        write(f"theirs/{identity}_07.png", 60 * identity, (2 * SIDE, 2 * SIDE), "RGB")
    assert run_main(monkeypatch, judge, *JUDGE, "--pictures=theirs", "--candidates=0", "--out=runs/a") == 0
    report = read_report("runs/a")
    assert report["controls"].keys() == {"another user's reconstruction", "random sample of the prior"}
    with Image.open("runs/a/images/3_0.png") as picture:
        assert picture.size == (SIDE, SIDE)
    assert run_main(monkeypatch, compare, str(attacked), "runs/a", f"--world={NAME}", "--out=both") == 0
    table = " ".join(Path("both/table.md").read_text().split())  # columns are filled up with spaces
    assert "| theirs |" in table and "| 3 | 1 | - |" in table
    assert json.loads(Path("runs/a/config.json").read_text())["identities"] == "1,3,4"


MISTAKES = {
    "nothing": ([], "expected --pictures=FOLDER, got none"),
    "no folder": (["nowhere"], "got nowhere, which is no folder"),
    "empty": (["empty"], "in empty, got none"),
    "empty identity": (["hollow"], "hollow/2, got none"),
    "names": (["names"], "named <identity>_<k>, such as 3_0.png, got names/anna.png"),
    "folders of names": (["people"], "one sub-folder per identity number, such as 3, got people/anna"),
    "twice": (["twice"], "one sub-folder per identity number"),
    "both": (["both"], "expected sub-folders or pictures in both, got both: 1 and 2_0.png"),
    "unknown": (["unknown"], "expected identities from 0 to 5, got 6"),
    "small": (["small"], "at least 32 px a side, got 16x16 in small/0_0.png"),
    "oblong": (["oblong"], "square pictures of one size, at least 32 px a side, got 64x32"),
    "sizes": (["sizes"], "square pictures of one size, at least 32 px a side, got 64x64 in sizes/1_0.png"),
    "range": (["range"], "expected levels of 0 to 255, got none above 1 in range/0_0.png; scale [0,1] by 255"),
    "deep": (["deep"], "got none above 0 in deep/0_0.png"),
    "broken": (["broken"], "expected a readable picture, got broken/0_0.png"),
    "no world": (["fine", "--world=atlantis"], "expected a world among"),
    "no target": (["fine", "--target=nothing.safetensors"], "nothing.safetensors"),
    "out is taken": (["fine", "--out=taken"], "expected a new folder, got taken"),
}


def write_mistakes() -> None:
    write("fine/0_0.png")
    Path("empty").mkdir()
    write("hollow/1/a.png")
    Path("hollow/2").mkdir()
    write("names/anna.png")
    write("people/anna/0.png")
    write("twice/3/0.png"), write("twice/03/0.png")
    write("both/1/0.png"), write("both/2_0.png")
    write("unknown/0_0.png"), write("unknown/6_0.png")
    write("small/0_0.png", size=(16, 16))
    write("oblong/0_0.png", size=(64, 32))
    write("sizes/0_0.png"), write("sizes/1_0.png", size=(64, 64))
    write("range/0_0.png", level=1)
    write("deep/0_0.png", mode="I;16")
    Path("broken").mkdir()
    Path("broken/0_0.png").write_bytes(b"no picture")
    Path("taken").mkdir()
    Path("taken/report.json").write_text("{}")


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing(name, monkeypatch, capsys):
    words, message = MISTAKES[name]
    write_mistakes()
    before = sorted(path for path in Path().rglob("*") if path.name != ".lock")
    words = [f"--pictures={word}" if index == 0 else word for index, word in enumerate(words)]
    assert run_main(monkeypatch, judge, *JUDGE, "--out=out", *words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err, err
    assert sorted(path for path in Path().rglob("*") if path.name not in (".lock", "images")) == before


def test_names_of_other_tools_and_uneven_numbers_are_read(capsys):
    for name in ("attack_iden_0_1", "attack_iden_0_0", "attack_iden_3_10", "attack_iden_3_9", "attack_iden_3_11"):
        write(f"drawn/{name}.png")
    found = list_pictures(Path("drawn"))
    names = {identity: [path.stem for path in files] for identity, files in found.items()}
    assert names == {0: ["attack_iden_0_0", "attack_iden_0_1"], 3: ["attack_iden_3_9", "attack_iden_3_10"]}
    assert "drawn: the first 2 pictures of each identity are judged, and 1 left out" in capsys.readouterr().err
    write("arabic/\u0663_0.png")
    with pytest.raises(ValueError, match="named <identity>_<k>"):
        list_pictures(Path("arabic"))
