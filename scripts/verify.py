"""Check a run folder: hashes of its files and weights, its pictures against its latents, its metrics anew.

    python scripts/verify.py --run=runs/latent-synthetic-000

Prints one line a check; exit code 0 when all hold, 1 when one does not. Time: 10 seconds on 2 CPU cores.
"""

from ganinv.commands.verify import main

if __name__ == "__main__":
    main()
