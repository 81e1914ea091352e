from __future__ import annotations

import os
import pkgutil
import subprocess
import sys

import pytest

import ganinv

HEAVY = {"wandb", "ray", "matplotlib", "tqdm", "stylegan2_pytorch", "lpips", "facenet_pytorch"}
NOT_CORE = ("ganinv.reports.tracking", "ganinv.training", "ganinv.worlds", "ganinv.commands")
# every module is imported in its own child of one process that holds torch alone: fresh, and torch is loaded once
CODE = """
import importlib, os, sys, torch
heavy = set(sys.argv[1].split(","))
for name in heavy & set(sys.modules):
    del sys.modules[name]  # torch loads tqdm itself; an import of ours puts it back
for module in sys.argv[2:]:
    sys.stdout.flush()
    if os.fork() == 0:
        importlib.import_module(module)
        print(module, *sorted(heavy & set(sys.modules)))
        sys.stdout.flush()
        os._exit(0)
    if os.wait()[1]:
        sys.exit(module)
"""


def list_core() -> list[str]:
    found = [module.name for module in pkgutil.walk_packages(ganinv.__path__, "ganinv.")]
    return ["ganinv", *(name for name in found if not name.startswith(NOT_CORE))]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_core_loads_no_tracker_no_plots_and_no_adapted_library():
    core = list_core()
    assert {"ganinv.attack.invert", "ganinv.photos", "ganinv.weights.files", "ganinv.priors.stylegan2_pytorch"} <= set(core)
    command = [sys.executable, "-c", CODE, ",".join(sorted(HEAVY)), *core]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    loaded = dict(line.partition(" ")[::2] for line in result.stdout.splitlines())
    assert loaded == dict.fromkeys(core, "")


def test_openmp_waits_passively_unless_told_otherwise():
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    code = f"import os, sys, ganinv.commands; print(*map(os.environ.get, {names}), 'torch' in sys.modules)"
    for told, expected in ((None, "passive 1000 False"), ("active", "active None False")):
        environment = {name: value for name, value in os.environ.items() if name not in names}
        if told:
            environment["OMP_WAIT_POLICY"] = told
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        assert result.stdout.strip() == expected
