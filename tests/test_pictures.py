"""The pictures of a prior, from folders and zips: a picture is the same, and in the same share, wherever it lies."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from ganinv.photos import list_people, load_photos, unit_hash
from ganinv.training.pictures import load_pictures
from tests.tiny_world import write_people

SIDE = 16
ALL = (0.0, 1.0)


@pytest.fixture
def people(tmp_path) -> Path:
    """5 people of 2 photos."""
    write_people(tmp_path / "people", 5, photos=2, side=SIDE)
    return tmp_path / "people"


def make_zip(file: Path, members: dict[str, Path]) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for name, path in members.items():
            archive.write(path, name)
        archive.writestr("__MACOSX/._x.png", b"no picture")
        archive.writestr("readme.txt", b"no picture")
    return file


def list_photos(people: Path) -> list[Path]:
    return sorted(people.rglob("*.png"))


def test_people_come_from_a_folder_and_from_a_zip_alike(people, tmp_path):
    file = make_zip(tmp_path / "a.zip", {f"top/{p.parent.name}/{p.name}": p for p in list_photos(people)})
    folder, zipped = load_pictures(people, SIDE, ALL), load_pictures(file, SIDE, ALL)
    plain = load_photos(list_people(people), SIDE)
    assert torch.equal(folder.pixels, plain.pixels) and folder.names == plain.names == zipped.names
    # within a person, folders are in the order of hashes, zips in that of names
    assert sorted(map(bytes, folder.pixels.flatten(1).numpy())) == sorted(map(bytes, zipped.pixels.flatten(1).numpy()))
    assert zipped.person.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_every_picture_of_a_flat_folder_is_a_person_of_its_own(people, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for index, path in enumerate(list_photos(people)):
        path.rename(flat / f"{index:02d}.png")
    file = make_zip(tmp_path / "a.zip", {f"data/{p.name}": p for p in flat.iterdir()})
    for share in (ALL, (0.0, 0.5), (0.5, 1.0)):
        names = tuple(f"{i:02d}.png" for i in range(10) if share[0] <= unit_hash(f"{i:02d}.png") < share[1])
        folder, zipped = load_pictures(flat, SIDE, share), load_pictures(file, SIDE, share)
        assert folder.names == zipped.names == names and torch.equal(folder.pixels, zipped.pixels)
    assert 0 < len(names) < 10


def test_what_is_no_set_of_pictures_is_refused(people, tmp_path):
    one = list_photos(people)[0]
    (people / "stray.png").write_bytes(one.read_bytes())
    with pytest.raises(ValueError, match="one sub-folder per person, in .*people, got both; move one of them away"):
        load_pictures(people, SIDE, ALL)
    with pytest.raises(ValueError, match=r"expected pictures .* in .*empty.zip, got none in the share"):
        load_pictures(make_zip(tmp_path / "empty.zip", {}), SIDE, ALL)
    (tmp_path / "bad.zip").write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match="expected a zip of pictures, got .*bad.zip"):
        load_pictures(tmp_path / "bad.zip", SIDE, ALL)
    with pytest.raises(ValueError, match="nowhere"):
        load_pictures(tmp_path / "nowhere", SIDE, ALL)
    (tmp_path / "torn.png").write_bytes(one.read_bytes()[:40])
    with pytest.raises(ValueError, match="expected a readable picture, got torn.png"):
        load_pictures(make_zip(tmp_path / "torn.zip", {"torn.png": tmp_path / "torn.png"}), SIDE, ALL)


@pytest.mark.parametrize(
    "other, places",
    [
        ("private/n00", "in private/n00 and in public/p00"),
        ("", "in . and in public/p00"),
        ("public", "in public and in public/p00"),
    ],
)
def test_a_zip_of_more_than_one_folder_of_people_is_refused(other, places, people, tmp_path):
    """Else registered users would be learned, and two people of one name would be one."""
    first, *others = list_photos(people)
    members = {f"{other}/{first.name}".strip("/"): first}
    file = make_zip(tmp_path / "a.zip", members | {f"public/{p.parent.name}/{p.name}": p for p in [first, *others]})
    with pytest.raises(ValueError, match=f"one folder per person, side by side in .*a.zip, got some {places}"):
        load_pictures(file, SIDE, ALL)


def test_a_damaged_zip_is_one_line(people, tmp_path):
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", b"0123456789" * 100)
        start = archive.getinfo("a.png").header_offset + 30 + len("a.png")
    content = bytearray(file.read_bytes())
    content[start : start + 4] = b"\xff" * 4  # no block of deflate begins so
    file.write_bytes(content)
    with pytest.raises(ValueError, match="expected a zip of pictures, got .*a.zip, whose a.png is broken"):
        load_pictures(file, SIDE, ALL)


def test_a_share_in_which_nobody_is_is_named(people):
    with pytest.raises(ValueError, match=r"people whose name hashes into \[0.0,0.001\), got none of 5; add people"):
        load_pictures(people, SIDE, (0.0, 0.001))
