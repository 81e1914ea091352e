"""Time the engine against the stock modules, published loops and its own floor, and how its time and memory grow.

    python scripts/benchmark.py --out=results/speed

writes table.md and benchmark.json. Time: about 5 minutes on 2 CPU cores that do nothing else; beside other work its
figures are not worth keeping. --profile also tells where the engine's step spends its time.
"""

from ganinv.commands.benchmark import main

if __name__ == "__main__":
    main()
