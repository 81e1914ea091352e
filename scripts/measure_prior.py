"""Measure how good a prior is, in the features of published recognizers that took no part in its training.

    python scripts/measure_prior.py --prior=runs/mine/prior.safetensors --photos=FOLDER_OR_ZIP --features=dlib,sface

writes quality.json, sample sheets and a sheet of interpolations into runs/prior-quality. A Frechet ratio of 1 is as near to
held-out photos as other photos are.

Time: about 5 minutes for 2 000 samples at two truncations, with dlib and sface, on one CPU core.
"""

from ganinv.commands.measure_prior import main

if __name__ == "__main__":
    main()
