import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads slow small operations when a core is shared
if "PYTEST_XDIST_WORKER" in os.environ:  # one process a core: more threads would only wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")
