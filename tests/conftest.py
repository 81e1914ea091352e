import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # spinning threads slow small operations when a core is shared
