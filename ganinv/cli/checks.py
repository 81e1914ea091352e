"""What many commands check in the same way: identities, seeds, devices, and the numbers of a training."""

from __future__ import annotations

import re
import shlex
import sys

from ganinv.ranges import check_ranges

MOST_IDENTITIES = 1_000_000  # a typing mistake such as 0-99999999999 must not fill the memory


def parse_identities(text: str) -> tuple[int, ...]:
    """Returns the identities that a text lists: "0-4,9" and "[0, 1, 2, 3, 4, 9]" are (0,1,2,3,4,9).

    Raises: ValueError when it lists none, one twice, or anything but whole numbers and rising ranges of them.
    """
    identities: list[int] = []
    inside = text.strip()
    if inside[:1] == "[" and inside[-1:] == "]":
        inside = inside[1:-1]
    for part in inside.split(","):
        match = re.fullmatch(r"(\d{1,12})(?:-(\d{1,12}))?", part.strip(), re.ASCII)
        if match is None:
            raise ValueError(f"expected identities such as 0-4,9, got {text!r}")
        low, high = int(match[1]), int(match[2] or match[1])
        if high < low or high - low >= MOST_IDENTITIES:
            raise ValueError(f"expected a rising range of at most {MOST_IDENTITIES} identities, got {part.strip()}")
        identities.extend(range(low, high + 1))
    if len(set(identities)) < len(identities):
        raise ValueError(f"expected every identity once, got {text!r}; leave out the second")
    return tuple(identities)


def name_command(script: str) -> str:
    """Returns the command line of this process as a card tells it: without --resume, which changes no result."""
    words = [word for word in sys.argv[1:] if not word.startswith("--resume")]
    return shlex.join(["python", f"scripts/{script}.py", *words])


def choose_training_precision(precision: str, device) -> str:
    """Returns the precision of a training for --precision: "auto" is bfloat16 where the device computes in it."""
    from ganinv.engine.precision import computes_bfloat16

    if precision != "auto":
        return precision
    return "bfloat16" if computes_bfloat16(device) else "float32"


def check_training(config) -> None:
    """Raises: ValueError when a training's precision is unknown, or a number of it is out of its range."""
    if config.precision not in ("bfloat16", "float32"):
        raise ValueError(f"expected a precision among auto, bfloat16, float32, got {config.precision}")
    check_ranges(config)


def choose_device(name: str):
    """Returns the torch.device of "auto" (CUDA where there is one), "cpu", "cuda" or "cuda:<n>".

    Raises: ValueError for another name, or for CUDA where there is none.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:[0-9]+)?", name):
        raise ValueError(f"expected a device among auto, cpu, cuda, cuda:<n>, got {name}")
    if name != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"expected a CUDA device for --device={name}, got none; pass --device=cpu")
    count = torch.cuda.device_count()
    if (torch.device(name).index or 0) >= max(count, 1):
        raise ValueError(f"expected a device from cuda:0 to cuda:{count - 1}, got {name}")
    return torch.device(name)


def read_names(text: str) -> dict[str, list[str]]:
    """Returns attribute -> names of its values, of "gender=man,woman;glasses=no,yes". Raises: ValueError for another form."""
    found = {}
    for part in filter(None, text.split(";")):
        name, equals, values = part.partition("=")
        if not equals or not all(values.split(",")):
            raise ValueError(f"expected --names as attribute=value,value;..., got {part}")
        found[name.strip()] = [value.strip() for value in values.split(",")]
    return found
