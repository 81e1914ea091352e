"""A panel of human raters: a page on which they choose the user among five, and the score of what they chose.

    python scripts/panel.py make runs/latent-synthetic-000 runs/pixel-synthetic-000 --out=~/panel.html

writes a page that needs no server and no network, for raters to open, and panel.key.json, to keep from them. The page
contains photographs. Raters save a small file each:

    python scripts/panel.py score --key=~/panel.key.json answers-*.json

prints the share of right answers against chance and controls, with intervals, and writes panel.score.md and .json.

Time: making 8 seconds on one CPU core, scoring 3; a rater needs about 8 seconds a picture.
"""

from ganinv.commands.panel import main

if __name__ == "__main__":
    main()
