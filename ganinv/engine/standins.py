"""Small modules in the place of slow ones, while a package that asks for them, and needs nothing of them, is imported."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stand_in(name: str, **attributes: object) -> Iterator[None]:
    """Has a module of these attributes imported under a name until the block ends; where the real one is loaded, that."""
    if name in sys.modules:
        yield
        return
    module = types.ModuleType(name)
    vars(module).update(attributes)
    sys.modules[name] = module
    try:
        yield
    finally:
        if sys.modules.get(name) is module:
            del sys.modules[name]


@functools.cache
def import_torchvision() -> types.ModuleType:
    """Returns torchvision, without torch's compiler: it asks that one question when it pools regions, and loading it takes
    longer than all the rest. Call it before a package that imports torchvision itself.
    """

    def is_compile_supported(device_type: str) -> bool:
        from torch._dynamo import utils

        return utils.is_compile_supported(device_type)

    with stand_in("torch._dynamo.utils", is_compile_supported=is_compile_supported):
        import torchvision
    return torchvision
