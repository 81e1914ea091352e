from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ganinv.commands.prepare_lfw import Config, run
from ganinv.photos import list_people, unit_hash
from ganinv.worlds import lfw

COUNTS = {"Ada_A": 3, "Bob_B": 4, "Cy_C": 3, "Di_D": 1, "Eve_E": 2}


@pytest.fixture
def source(tmp_path):
    """A folder as LFWPeople leaves it; photo k of a person is one grey, so that a crop tells its source."""
    for person, (name, count) in enumerate(COUNTS.items()):
        folder = tmp_path / "source" / "lfw-py" / "lfw-deepfunneled" / name
        folder.mkdir(parents=True)
        for k in range(count):
            Image.new("RGB", (250, 250), (40 * person + 8 * k,) * 3).save(folder / f"{name}_{k + 1:04d}.jpg", quality=95)
    return tmp_path / "source"


def make_config(source, **changes) -> Config:
    return Config(**{"source": source, "out": source.parent / "out", "users": 2, "min_photos": 3, **changes})


def test_people_become_numbers_by_the_hash_of_their_name(source):
    run(make_config(source))
    out = source.parent / "out"
    known = sorted(("Ada_A", "Bob_B", "Cy_C"), key=unit_hash)[:2]
    private, public = list_people(out / "private"), list_people(out / "public")
    assert list(private) == ["p00", "p01"] and list(public) == ["n0000", "n0001"]
    assert [len(files) for files in private.values()] == [COUNTS[name] for name in known]
    assert [len(files) for files in public.values()] == [COUNTS[n] for n in sorted(("Di_D", "Eve_E"), key=unit_hash)]
    names = "".join(str(path) for path in out.rglob("*")) + (out / "prepared.json").read_text()
    assert not any(name in names for name in COUNTS)
    for folder, name in zip(private.values(), known, strict=True):
        for k, path in enumerate(folder):
            with Image.open(path) as photo:
                assert photo.mode == "L" and photo.size == (128, 128) and photo.format == "JPEG"
                assert abs(np.asarray(photo).mean() - (40 * list(COUNTS).index(name) + 8 * k)) < 2


def test_the_crop_is_the_box_of_the_aligned_photo(tmp_path):
    pixels = np.zeros((250, 250, 3), np.uint8)
    pixels[60:190, 60:190] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    lfw.write_crop(tmp_path / "a.png", tmp_path / "out.jpg")
    with Image.open(tmp_path / "out.jpg") as photo:
        assert np.asarray(photo).min() > 250
    assert not list(tmp_path.glob("*.tmp"))


def test_an_interrupted_run_goes_on(source, monkeypatch):
    written = []
    write = lfw.write_crop

    def stop_after_three(path, target):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(target)
        write(path, target)

    monkeypatch.setattr(lfw, "write_crop", stop_after_three)
    with pytest.raises(KeyboardInterrupt):
        run(make_config(source))
    first = list(written)
    monkeypatch.setattr(lfw, "write_crop", lambda path, target: (written.append(target), write(path, target)))
    run(make_config(source))
    assert len(written) == len(set(written)) == len(list((source.parent / "out").rglob("*.jpg")))
    assert written[:3] == first


def test_an_output_that_holds_something_else_is_refused_and_left_alone(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds something else"):
        run(make_config(source))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_another_setting_or_source_does_not_go_on(source):
    run(make_config(source))
    with pytest.raises(ValueError, match="choose another --out"):
        run(make_config(source, users=1))
    (source / "lfw-py" / "lfw-deepfunneled" / "Di_D" / "Di_D_0001.jpg").rename(
        source / "lfw-py" / "lfw-deepfunneled" / "Di_D" / "Di_D_0002.jpg"
    )
    with pytest.raises(ValueError, match="choose another --out"):
        run(make_config(source))


def test_the_folder_of_people_itself_will_do(source):
    run(make_config(source / "lfw-py" / "lfw-deepfunneled", out=source.parent / "other"))
    assert len(list((source.parent / "other").rglob("*.jpg"))) > 5


@pytest.mark.parametrize(
    "changes, match", [({"users": 9}, "1 to 3"), ({"users": 0}, "1 to 3"), ({"image_set": "x"}, "deepfunneled")]
)
def test_mistakes_are_named(source, changes, match):
    with pytest.raises(ValueError, match=match):
        run(make_config(source, **changes))


def test_a_missing_source_and_odd_photos_are_named(source, tmp_path):
    with pytest.raises(ValueError, match="expected the aligned photos"):
        run(make_config(tmp_path / "nowhere"))
    photo = source / "lfw-py" / "lfw-deepfunneled" / "Di_D" / "Di_D_0001.jpg"
    Image.new("RGB", (100, 100)).save(photo)
    with pytest.raises(ValueError, match=r"250x250, got 100x100 in .*Di_D_0001"):
        run(make_config(source))
    photo.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="readable picture, got .*Di_D_0001"):
        run(make_config(source))
