"""What is needed to run something again: code, packages, machine, arguments and the hashes of weights."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import torch

import ganinv
from ganinv.engine.files import clear_errors, plain
from ganinv.reports.run_files import read_provenance
from ganinv.weights.files import sha256_file

PACKAGES = (
    *("torch", "torchvision", "numpy", "pillow", "safetensors", "stylegan2-pytorch"),
    *("facenet-pytorch", "lpips", "kornia", "einops", "tyro", "wandb"),
)


def describe_provenance(
    seed: int, device: str | torch.device, weights: Mapping[str, str | Path], argv: Sequence[str]
) -> dict:
    """Returns what is needed to run this again: code, packages, machine, arguments and the SHA-256 of each weight file.

    Raises: ValueError when a weight file cannot be read.
    """
    device = torch.device(device)
    hashes = {}
    for role, path in weights.items():
        with clear_errors(path, ValueError, "read"):
            # the name alone: a folder says something of the machine, and the SHA-256 says which file it is
            hashes[role] = {"file": Path(path).name, "sha256": sha256_file(path)}
    return {
        "version": ganinv.__version__,
        "git": describe_checkout(Path(ganinv.__file__).resolve().parent),
        "python": platform.python_version(),
        "packages": find_versions(PACKAGES),
        "platform": platform.platform(),
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "precision": "float32",  # of every network; an attack replaces it by what its search took
        "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
        "seed": seed,
        "device": str(device),
        "argv": list(argv),
        "weights": hashes,
    }


def find_differences(folder: str | Path, provenance: Mapping) -> list[str]:
    """Returns one line for each entry in which a run's provenance.json and this one differ, arguments apart.

    Raises: ValueError when the folder holds no readable provenance.json.
    """
    then, now = flat_entries(read_provenance(folder)), flat_entries(plain(provenance))
    names = [name for name in {**then, **now} if not name.startswith("argv")]
    return [
        f"{name}: {then.get(name, 'nothing')} then, {now.get(name, 'nothing')} now"
        for name in names
        if then.get(name) != now.get(name)
    ]


def flat_entries(value: object, name: str = "") -> dict[str, object]:
    """Returns the leaves of nested dicts by their keys, with dots between."""
    if not isinstance(value, Mapping):
        return {name: value}
    return {
        key: leaf for head, item in value.items() for key, leaf in flat_entries(item, f"{name}.{head}".lstrip(".")).items()
    }


def find_versions(packages: Sequence[str]) -> dict[str, str]:
    """Returns the version of each package that is installed."""
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:  # optional ones may be missing
            continue
    return versions


def describe_checkout(package: Path) -> dict | None:
    """Returns {"hash", "dirty"} of the git checkout that a package folder lies in; None when it lies in none.

    dirty: a file of the package or of scripts/ differs from the commit, or is new. A package installed below somebody
    else's checkout (a .venv in it) is in none: the checkout must hold the package at its top.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != package.parent.resolve():
            return None
        status = git("status", "--porcelain", "--", package.name, "scripts")
        return {"hash": git("rev-parse", "HEAD"), "dirty": bool(status)}
    except (OSError, subprocess.SubprocessError):  # no git, no checkout, or no commit yet
        return None
