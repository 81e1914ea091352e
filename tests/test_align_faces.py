"""Faces out of photos: what is cut, what is left out and said so. The pictures are drawn; the detector is a stand-in."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ganinv.commands import align_faces
from ganinv.commands.align_faces import AlignFaces, cut_square, find_largest_face, run
from tests.tiny_world import run_main

WHITE = (255, 255, 255)


def find_white(picture: Image.Image) -> list:
    """A detector whose faces are white rectangles: one box for the left half of the picture, one for the right."""
    assert picture.mode == "RGB"
    white = np.asarray(picture).min(2) > 200
    boxes = []
    for left, right in ((0, picture.width // 2), (picture.width // 2, picture.width)):
        y, x = np.nonzero(white[:, left:right])
        if len(x):
            boxes.append((left + x.min(), y.min(), left + x.max() + 1, y.max() + 1))
    return boxes


@pytest.fixture(autouse=True)
def detector(monkeypatch):
    monkeypatch.setattr(align_faces, "make_detector", lambda device: find_white)


def draw(size=(100, 80), *boxes, mode="RGB") -> Image.Image:
    picture = Image.new("RGB", size, (40, 90, 60))
    for box in boxes:
        picture.paste(WHITE, box)
    return picture.convert(mode)


def write(folder, name, picture, **options) -> None:
    path = folder / "photos" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)


def make_config(folder, **changes) -> AlignFaces:
    return AlignFaces(**{"photos": folder / "photos", "out": folder / "out", "size": 32, "margin": 0.0, **changes})


def test_every_kind_of_file_is_cut_or_named(tmp_path, capsys):
    write(tmp_path, "ada/a.jpg", draw((100, 80), (10, 20, 40, 50)))
    write(tmp_path, "ada/a.png", draw((60, 90), (5, 5, 25, 25), mode="RGBA"))
    write(tmp_path, "ada/grey.png", draw((70, 70), (0, 0, 30, 30), mode="L"))
    write(tmp_path, "ada/palette.gif", draw((70, 70), (0, 0, 30, 30), mode="P"))
    write(tmp_path, "bob/none.png", draw())
    write(tmp_path, "bob/tiny.png", Image.new("RGB", (12, 12), WHITE))
    (tmp_path / "photos" / "bob" / "notes.txt").write_text("no picture")
    (tmp_path / "photos" / "bob" / ".DS_Store").write_text("hidden")
    run(make_config(tmp_path))
    out = tmp_path / "out"
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.png")) == [
        "ada/a.png", "ada/a.png.png", "ada/grey.png", "ada/palette.png",
    ]  # fmt: skip
    for path in out.rglob("*.png"):
        with Image.open(path) as face:
            assert face.size == (32, 32) and face.mode == "RGB" and np.asarray(face).min() > 150  # the green about is 90
    last = capsys.readouterr().out.splitlines()[-1]
    assert "4 aligned, 2 (bob/none.png, bob/tiny.png) without a face, 1 (bob/notes.txt) unreadable" in last
    assert "no face at all of bob" in last and not (out / "bob").exists()
    said = json.loads((out / "align_faces.json").read_text())
    assert said["unreadable"] == ["bob/notes.txt"] and len(said["aligned"]) == 4


def test_the_largest_face_of_several_is_cut(tmp_path):
    write(tmp_path, "ada/a.png", draw((200, 100), (10, 10, 30, 30), (120, 20, 180, 80)))
    run(make_config(tmp_path))
    picture = draw((200, 100), (10, 10, 30, 30), (120, 20, 180, 80))
    assert find_largest_face(picture, find_white) == (120, 20, 180, 80)
    with Image.open(tmp_path / "out" / "ada" / "a.png") as face:
        assert np.asarray(face).min() > 150  # the green about is 90


def test_a_photo_that_lies_on_its_side_is_turned(tmp_path):
    photo = draw((100, 60), (10, 32, 34, 56))
    photo.paste((255, 210, 255), (10, 32, 34, 40))  # the upper third is pink
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    write(tmp_path, "ada/a.png", photo, exif=exif)
    run(make_config(tmp_path))
    with Image.open(tmp_path / "out" / "ada" / "a.png") as face:
        green = np.asarray(face)[:, :, 1]
    assert green[:, -6:].mean() < 225 and green[:, :6].mean() > 240  # what was above is now on the right


def test_a_large_photo_is_looked_at_reduced_and_cut_in_full():
    picture = draw((4000, 2000), (400, 400, 800, 800))
    seen = []
    box = find_largest_face(picture, lambda reduced: seen.append(reduced.size) or find_white(reduced))
    assert seen == [(1600, 800)] and np.allclose(box, (400, 400, 800, 800), atol=5)


@pytest.mark.parametrize("box", [(-20, -20, 30, 30), (80, 50, 120, 95), (0, 0, 500, 400), (40, 10, 50, 70)])
def test_a_square_never_leaves_the_picture(box):
    picture = draw((100, 80), (0, 0, 100, 80))
    face = cut_square(picture, box, 24, 0.5)
    assert face.size == (24, 24) and np.asarray(face).min() > 250


def test_a_margin_widens_the_square():
    picture = draw((100, 100), (40, 40, 60, 60))
    share = [(np.asarray(cut_square(picture, (40, 40, 60, 60), 40, margin)) > 200).mean() for margin in (0.0, 1.0)]
    assert share[0] > 0.99 and share[1] == pytest.approx(0.25, abs=0.05)


def test_a_filled_output_is_refused_and_left_alone(tmp_path, monkeypatch, capsys):
    write(tmp_path, "ada/a.png", draw((60, 60), (5, 5, 25, 25)))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    code = run_main(monkeypatch, align_faces, f"--photos={tmp_path}/photos", f"--out={tmp_path}/out", "--device=cpu")
    error = capsys.readouterr().err
    assert code == 2 and error.startswith("error: expected --out to be new or empty") and error.count("\n") == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_the_command_ends_with_0_and_one_line(tmp_path, monkeypatch, capsys):
    write(tmp_path, "ada/a.png", draw((60, 60), (5, 5, 25, 25)))
    code = run_main(monkeypatch, align_faces, f"--photos={tmp_path}/photos", f"--out={tmp_path}/out")
    assert code == 0 and "1 aligned, 0 without a face, 0 unreadable" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "ada" / "a.png") as face:
        assert face.size == (160, 160)


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"out": "photos/ada/out"}, "outside --photos"),
        ({"photos": "nowhere"}, "which is no folder"),
        ({"photos": "photos/ada"}, "photos in sub-folders"),
        ({"photos": "gap"}, "expected photos in .*gap/bob, got none; add some, or remove the folder"),
    ],
)
def test_mistakes_are_named(changes, match, tmp_path):
    write(tmp_path, "ada/a.png", draw((60, 60), (5, 5, 25, 25)))
    (tmp_path / "gap/bob").mkdir(parents=True)
    (tmp_path / "gap/ada").symlink_to(tmp_path / "photos/ada")
    changes = {name: tmp_path / value if isinstance(value, str) else value for name, value in changes.items()}
    with pytest.raises(ValueError, match=match):
        run(make_config(tmp_path, **changes))


def test_no_face_anywhere_is_a_mistake(tmp_path):
    write(tmp_path, "ada/a.png", draw())
    with pytest.raises(ValueError, match="expected a face .* got none in 1 files; 0 aligned, 1 .ada/a.png. without"):
        run(make_config(tmp_path))
    assert not (tmp_path / "out").exists()


def test_mtcnn_itself_is_asked_and_finds_no_face_in_what_is_none(monkeypatch):
    monkeypatch.undo()  # the real detector
    find_faces = align_faces.make_detector("cpu")
    noise = torch.randint(0, 256, (21, 21, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8).numpy()
    for picture in (draw((64, 48)), Image.fromarray(noise), Image.new("RGB", (21, 300)), Image.new("RGB", (3, 2))):
        assert find_largest_face(picture, find_faces) is None
