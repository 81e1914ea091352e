"""Compare runs: a table, a bar chart with intervals, and a picture of reconstructions, a row a user, a column a method.

    python scripts/compare.py --world=synthetic --out=results/synthetic

reads every run below results/synthetic/runs and writes table.md, table.csv, comparison.png, reconstructions.png and
commands.md into results/synthetic; any other runs, or folders of runs, are named in front:

    python scripts/compare.py runs/latent-synthetic-000 runs/pixel-synthetic-000 --out=results/mine

Time: 4 seconds on 2 CPU cores.
"""

from ganinv.commands.compare import main

if __name__ == "__main__":
    main()
