"""The cache never costs a run."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

from ganinv.engine import cache


def test_a_tensor_is_kept_and_found_again(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = cache.find_place("numbers")
    assert cache.recall(file, "x", (3,), torch.float32) is None
    cache.keep(file, "x", torch.arange(3.0))
    assert cache.recall(file, "x", (3,), torch.float32).tolist() == [0, 1, 2]
    assert cache.recall(file, "x", (4,), torch.float32) is None and cache.recall(file, "x", (3,), torch.int64) is None
    file.write_bytes(b"broken")
    assert cache.recall(file, "x", (3,), torch.float32) is None


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EACCES])
def test_a_disk_that_refuses_is_told_and_passed_over(error, monkeypatch, tmp_path, capsys):
    def refuse(self, *args, **options):
        raise OSError(error, "refused")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    file = cache.find_place("numbers")
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", refuse)
        cache.keep(file, "x", torch.zeros(3))
        patched.setattr(Path, "is_file", refuse)  # a folder that another user owns
        assert cache.recall(file, "x", (3,), torch.float32) is None
    assert "cannot keep" in capsys.readouterr().err and not list(file.parent.iterdir())


def test_without_a_home_there_is_no_cache(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as where HOME is unset and nobody is in passwd
    assert cache.find_place("numbers") is None and cache.recall(None, "x", (3,), torch.float32) is None
    cache.keep(None, "x", torch.zeros(3))
    assert not list(tmp_path.iterdir())
