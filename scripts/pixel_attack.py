"""Reconstruct registered users by searching pixels, without a prior: the baseline of Khosravy et al. 2021.

    python scripts/pixel_attack.py
    python scripts/pixel_attack.py --variant=white-box --start=public-mean
    python scripts/pixel_attack.py --variant=modern

are (a) the gray-box attack from mid-grey, (b) the same from a picture that tells something of the user, and (c) a
strong modern search: Adam, total variation, random transforms. Same target, users and report as the latent attack.

Time: 8, 7 and 48 seconds on 2 CPU cores.
"""

from ganinv.commands.pixel_attack import main

if __name__ == "__main__":
    main()
