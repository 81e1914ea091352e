"""The state of long work on a disk that flips bits, fills up, or loses the process at any moment."""

from __future__ import annotations

import errno
import json
import os
import random

import pytest
import torch
from safetensors.torch import save_file

from ganinv.engine import checkpoint
from ganinv.engine.checkpoint import drop_state, find_before, load_state, of_these_settings, save_state, truncate_jsonl
from ganinv.json_data import NUMBER, WHOLE, find_mismatch, parse_json, read_json


def test_a_flipped_bit_is_refused_and_the_state_before_it_offered(tmp_path):
    file = tmp_path / "state.safetensors"
    save_state(file, {"steps": 3, "w": torch.arange(6.0)})
    assert not find_before(file).exists()
    save_state(file, {"steps": 6, "w": torch.arange(6.0) + 1})
    whole, draws = file.read_bytes(), random.Random(0)
    for _ in range(60):
        place = draws.randrange(len(whole))
        changed = bytearray(whole)
        changed[place] ^= 1 << draws.randrange(8)
        file.write_bytes(changed)
        with pytest.raises(ValueError, match="expected a state written by ganinv, got .*; the state before it is kept: mv"):
            state = load_state(file)
            assert changed[place] in b" \t\n" and state["steps"] == 6  # blanks that end the header
            raise ValueError("expected a state written by ganinv, got ; the state before it is kept: mv")
    os.replace(find_before(file), file)
    assert load_state(file)["steps"] == 3
    drop_state(file)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_state_and_the_log_as_they_were(tmp_path, monkeypatch):
    file, log = tmp_path / "state.safetensors", tmp_path / "steps.jsonl"
    save_state(file, {"steps": 3})
    log.write_text('{"step": 0}\n{"step": 1}\n')
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fill_disk(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    def refuse(*names):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", fill_disk)
    with pytest.raises(OSError, match="No space"):
        save_state(file, {"steps": 6})
    monkeypatch.setattr(os, "replace", refuse)  # the last thing that a trimmed log needs
    with pytest.raises(OSError, match="No space"):
        truncate_jsonl(log, 0)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


@pytest.mark.parametrize("row", ["[]", '"a"', "{}", '{"step": "1"}', '{"step": 1e400}', "1" * 400, "[" * 100_000])
def test_a_log_of_odd_rows_is_refused_or_cut(row, tmp_path):
    (log := tmp_path / "steps.jsonl").write_text(f'{{"step": 0}}\n{row}\n')
    try:
        truncate_jsonl(log, 0)
    except ValueError as error:
        assert "expected rows with a step in" in str(error)
        assert row != "[" * 100_000
    else:
        assert log.read_text() == '{"step": 0}\n'


def test_a_state_of_other_work_is_one_line():
    message = r"expected the state of work with these settings in s, got another \('steps'\)$"
    with pytest.raises(ValueError, match=message), of_these_settings("s"):
        {}["steps"]


def test_a_state_without_a_checksum_is_refused(tmp_path):
    skeleton = json.dumps({"dict": [["steps", {"value": 3}]]})
    save_file({}, tmp_path / "s.safetensors", metadata={"state": skeleton})
    with pytest.raises(ValueError, match="expected a state written by ganinv"):
        load_state(tmp_path / "s.safetensors")


# ---- JSON


def test_numbers_beyond_float_are_infinite_and_deep_nesting_is_refused():
    assert parse_json('{"a": ' + "9" * 5000 + ', "b": -' + "9" * 400 + "}") == {"a": float("inf"), "b": float("-inf")}
    assert parse_json(str(2**63 - 1)) == 2**63 - 1
    with pytest.raises(ValueError, match="nested too deeply"):
        parse_json("[" * 100_000)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"a": 1, "b": [1.5], "c": {"x": "y"}}, None),
        ({"a": 1, "b": [], "c": {}, "d": None, "more": 5}, None),
        ([], "a value of type list"),
        ({"b": [], "c": {}}, "no a"),
        ({"a": True, "b": [], "c": {}}, "a of type bool"),
        ({"a": 1, "b": [0, "x"], "c": {}}, "b[1] of type str"),
        ({"a": 1, "b": [float("nan")], "c": {}}, "b[0] of nan"),
        ({"a": 1, "b": [], "c": {"x": {"y": 3}}}, "c.x of type dict"),
        ({"a": 1, "b": [], "c": {}, "d": 3}, "d of type int"),
    ],
)
def test_a_value_of_another_kind_is_named(value, problem):
    assert find_mismatch(value, {"a": WHOLE, "b": [NUMBER], "c": {"*": str}, "d?": (str, None)}) == problem


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff\xfe", b'"a"', b"[" * 100_000, b" " * (1 << 20) + b"{}", b'{"\\u001b[2J": 1}{']
)
def test_json_that_is_none_is_one_printable_line(content, tmp_path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match="expected JSON .*in .*a.json, got") as caught:
        read_json(tmp_path / "a.json")
    assert str(caught.value).isprintable()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_no_json_file(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(ValueError, match="expected JSON in .*, got no regular file"):
        read_json(tmp_path / "a.json")
