"""Plain pickles read as data: an allow-list of harmless names, and nothing of the file is ever run.

Pickles of NVIDIA's networks ask for a function that executes Python source kept in the file. Here it is replaced by a
stub that keeps the state and never looks at the source. All that a pickle can call are the few methods below.
"""

from __future__ import annotations

import io
import pickle
import re
import warnings
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from ganinv.weights.checkpoints import check_pickles, describe_refusal
from ganinv.weights.opcodes import check_opcodes
from ganinv.weights.quoting import describe_value, first_line

NETWORK = "dnnlib.tflib.network"  # what NVIDIA's TensorFlow pickles ask for


@dataclass(frozen=True)
class Persistent:
    """An object whose class came as source in the pickle: its class's name and its state, a dict; nothing was run."""

    class_name: str
    state: dict


class Dtype:
    """numpy's name of a type, such as "f8"; the rest of what a pickle says of it is passed over."""

    def __init__(self, code: str):
        self.code = code

    def __setstate__(self, state: object) -> None:
        pass


class Passed:
    """Stands for a value that nobody needs, such as an array of the trainer's."""

    def __setstate__(self, state: object) -> None:
        pass


class DataUnpickler(pickle.Unpickler):
    """Reads a pickle of tensors, plain containers and numbers, and Persistent objects.

    What is allowed are immutable built-in types and bound methods, on which a pickle can set no attribute.
    """

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.allowed = {
            "collections.OrderedDict": OrderedDict,
            "builtins.set": set,
            "builtins.frozenset": frozenset,
            "dnnlib.util.EasyDict": dict,
            "torch_utils.persistence._reconstruct_persistent_obj": self.keep_state,
            "torch._utils._rebuild_tensor": self.view_tensor,
            "torch._utils._rebuild_tensor_v2": self.view_tensor,
            "torch._utils._rebuild_parameter": self.plain_parameter,
            "torch.storage._load_from_bytes": self.read_storage,
            "torch.Size": tuple,
            "numpy.dtype": self.name_dtype,
            "numpy.ndarray": "numpy.ndarray",
        }
        for module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # before and since numpy 2
            self.allowed |= {f"{module}.scalar": self.read_scalar, f"{module}._reconstruct": self.pass_over}
        for module in ("numpy.core.numeric", "numpy._core.numeric"):  # in pickles of protocol 5
            self.allowed[f"{module}._frombuffer"] = self.pass_over

    def find_class(self, module: str, name: str) -> object:
        """Returns what stands for a name. Raises: UnpicklingError when it is not on the list."""
        asked = f"{module}.{name}"
        if asked not in self.allowed:
            raise pickle.UnpicklingError(f"a pickle that asks for {asked}")
        return self.allowed[asked]

    def keep_state(self, meta: dict) -> Persistent:
        """Returns the stub of an object; its source, meta["module_src"], is never looked at."""
        name = meta["class_name"]
        if not isinstance(name, str):  # the text of another value may be without end
            raise pickle.UnpicklingError(f"a class named by {describe_value(name)}")
        return Persistent(name, dict(meta["state"]))

    def read_storage(self, data: bytes) -> torch.Tensor:
        """Returns the flat tensor of a storage: a pickle within the pickle, read by torch's unpickler of plain data."""
        if data[:2] == b"PK":  # torch writes storages in its older format; a zip may unfold to more than it is
            raise pickle.UnpicklingError("a zip file in the place of a storage")
        check_pickles(io.BytesIO(data))
        try:
            storage = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise pickle.UnpicklingError(describe_refusal(error)) from error
        return torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)

    def view_tensor(self, flat: torch.Tensor, offset: int, size: tuple, stride: tuple, *ignored: object) -> torch.Tensor:
        """Returns a tensor on a storage, no larger than it; torch refuses one that leaves it."""
        tensor = torch.as_strided(flat, tuple(size), tuple(stride), offset)
        if tensor.numel() > flat.numel():
            raise pickle.UnpicklingError(f"a tensor of shape {list(tensor.shape)} on {flat.numel()} numbers")
        return tensor

    def plain_parameter(self, data: torch.Tensor, *ignored: object) -> torch.Tensor:
        """Returns a parameter's tensor."""
        return data

    def name_dtype(self, code: str, *ignored: object) -> Dtype:
        """Returns the stub of a numpy type."""
        return Dtype(code)

    def read_scalar(self, dtype: Dtype, data: bytes) -> float | int | bool:
        """Returns a numpy number as Python's."""
        if not isinstance(dtype, Dtype) or not isinstance(dtype.code, str) or not re.fullmatch("[biuf][1248]", dtype.code):
            raise pickle.UnpicklingError("a numpy number of another type")
        return np.frombuffer(data, f"<{dtype.code}", count=1)[0].item()

    def pass_over(self, *ignored: object) -> Passed:
        """Returns a stub for a numpy array, whose values are passed over."""
        return Passed()


def read_pickle(path: str | Path) -> object:
    """Returns what a pickle holds: tensors, containers, numbers, and Persistent stubs of other objects.

    Raises: ValueError when the file is missing or not whole, or asks for anything that is not on the allow-list.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"expected a pickle, got {path}, which is {'a folder' if path.is_dir() else 'missing'}")
    try:
        with open(path, "rb") as file:
            check_opcodes(file)
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about pickle protocols
                return DataUnpickler(file).load()
    except pickle.UnpicklingError as error:
        asked = re.search("a pickle that asks for ([^ ]+)", str(error))
        hint = "; convert it to StyleGAN2-ADA-PyTorch's form first" if asked and asked[1].startswith(NETWORK) else ""
        raise ValueError(
            f"expected a network of StyleGAN2-ADA-PyTorch, got {first_line(error)} in {path}; it was not run{hint}"
        ) from error
    except Exception as error:  # EOFError, KeyError, TypeError, ...: what an unpickler raises on other bytes
        raise ValueError(f"expected a whole pickle, got {path}, which cannot be read; copy it again") from error
