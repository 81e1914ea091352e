"""What stands in for slow modules while others are imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ganinv.engine.standins import stand_in
from tests.tiny_world import BRIEF, NAME, make_tiny_world, register

LOADED = """
import sys
from ganinv.engine.standins import import_torchvision
import_torchvision()
loaded = "torch._dynamo" in sys.modules
import torch, torchvision.ops
boxes = torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0]])
print(loaded, torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), boxes, 2).sum().item())
import torch._dynamo.utils
"""


def test_a_module_is_stood_in_for_as_long_as_the_block_lasts():
    with stand_in("slow.thing", answer=3):
        from slow.thing import answer
    assert answer == 3 and "slow.thing" not in sys.modules
    with pytest.raises(ImportError):
        import slow.thing  # noqa: F401


def test_what_is_loaded_is_left_alone():
    with stand_in("json", dumps=None):
        import json
    assert json.dumps and sys.modules["json"] is json


def test_torchvision_is_whole_and_brings_no_compiler():
    answer = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True).stdout
    assert answer.split() == ["False", "4.0"]


WHOLE = """
import sys
from ganinv.commands import latent_attack
sys.argv = ["latent_attack.py", *sys.argv[1:]]
latent_attack.main()
print("torch._dynamo" in sys.modules, "wandb" in sys.modules, "wandb.sdk.launch" in sys.modules)
"""


def test_an_attack_loads_no_compiler_and_nothing_of_launches(tmp_path, monkeypatch):
    register(monkeypatch, make_tiny_world(tmp_path / "made"), tmp_path)
    brief = [flag for flag in BRIEF if not flag.startswith("--wandb")]
    command = [sys.executable, "-c", WHOLE, f"--world={NAME}", "--identities=0", *brief, "--out=run", "--wandb=offline"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ended.stdout.splitlines()[-1] == "False True False", ended.stderr
