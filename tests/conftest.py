import os

import pytest

from ganinv.engine.allocation import keep_memory

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads slow small operations when a core is shared
if "PYTEST_XDIST_WORKER" in os.environ:  # one process a core: more threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")


keep_memory()  # as every command does


def pytest_collection_modifyitems(config, items):
    """Leaves out what is for the night, unless it is asked for."""
    if "nightly" not in (config.option.markexpr or ""):
        skip = pytest.mark.skip(reason="run by -m nightly")
        for item in items:
            if "nightly" in item.keywords:
                item.add_marker(skip)
