"""What stands in for slow modules while others are imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ganinv.engine.standins import stand_in

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
