from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from ganinv.photos import SPLITS, list_people, load_photos, select_people, split_photos, unit_hash


def make_files(name: str, count: int) -> list[Path]:
    return [Path(f"{name}/{index:03d}.jpg") for index in range(count)]


def make_folder(root: Path, counts: dict[str, int], size: int = 8) -> Path:
    """Photo k of person p is one grey: 20*p + k."""
    for person, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for k in range(count):
            Image.new("L", (size, size), 20 * person + k).save(root / name / f"{k:03d}.png")
    return root


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 20, 41])
def test_splits_are_disjoint_and_hold_every_photo(count):
    files = make_files("p00", count)
    parts = {split: split_photos(files, split) for split in SPLITS}
    assert Counter(path for part in parts.values() for path in part) == Counter(files)
    if count >= 3:
        assert all(parts.values())


def test_splits_do_not_move_when_people_are_added(tmp_path):
    few = list_people(make_folder(tmp_path / "a", {"p1": 9, "p3": 5}))
    many = list_people(make_folder(tmp_path / "b", {"p0": 7, "p1": 9, "p2": 30, "p3": 5, "p4": 1}))
    for split in SPLITS:
        for name in few:
            before, after = (split_photos(people[name], split) for people in (few, many))
            assert [path.name for path in before] == [path.name for path in after]
    assert select_people(few, 0.0, 0.5).keys() == select_people(many, 0.0, 0.5).keys() & few.keys()


def test_a_share_of_people_is_about_that_share_and_the_rest_is_the_others():
    people = {f"n{index:04d}": [] for index in range(2000)}
    low, high = select_people(people, 0.0, 0.3), select_people(people, 0.3, 1.0)
    assert not low.keys() & high.keys() and len(low) + len(high) == 2000
    assert 500 < len(low) < 700
    assert 0 <= unit_hash("a") < 1 and unit_hash("a") == unit_hash("a") != unit_hash("b")


def test_photos_keep_their_person_and_the_most_per_person(tmp_path):
    people = list_people(make_folder(tmp_path, {"a": 6, "b": 2}))
    photos = load_photos(people, 8)
    assert len(photos) == 8 and photos.names == ("a", "b") and photos.pixels.shape == (8, 3, 8, 8)
    for pixels, person, file in zip(photos.pixels, photos.person, photos.files, strict=True):
        name, k = file.split("/")
        assert photos.names[person] == name
        assert (pixels == 20 * person + int(k[:3])).all()
    assert photos.images().min() >= -1 and photos.images(slice(2)).shape == (2, 3, 8, 8)
    capped = load_photos(people, 8, most=2)
    assert torch.bincount(capped.person).tolist() == [2, 2]
    assert set(capped.files) <= set(photos.files)


def test_a_broken_file_is_named(tmp_path):
    people = list_people(make_folder(tmp_path, {"a": 2}))
    (tmp_path / "a" / "001.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"readable picture, got .*a/001\.png"):
        load_photos(people, 8)


def test_folders_that_are_none_are_named(tmp_path):
    with pytest.raises(ValueError, match="which is no folder"):
        list_people(tmp_path / "missing")
    with pytest.raises(ValueError, match="which has none"):
        list_people(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(ValueError, match="expected photos .* in .*a, got none; add photos"):
        list_people(tmp_path)
    (tmp_path / "a" / "Ada").mkdir()
    with pytest.raises(ValueError, match="in .*a, got folders; is .*a the folder to pass"):
        list_people(tmp_path)
    with pytest.raises(ValueError, match="expected a split among"):
        split_photos([], "validation")
    with pytest.raises(ValueError, match="at least one photo"):
        load_photos({}, 8)


def test_files_that_are_no_pictures_are_passed_over_aloud_and_once(tmp_path, capsys):
    (tmp_path / "Ada").mkdir()
    for name in ("a.png", "b.gif", "c.heic", "d\x1b.svg", "._a.png", ".DS_Store"):
        (tmp_path / "Ada" / name).touch()
    for _ in range(2):
        assert [path.name for path in list_people(tmp_path)["Ada"]] == ["a.png", "b.gif"]
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and f"{tmp_path}: 2 files are passed over, such as Ada/c.heic: no .jpg" in said
