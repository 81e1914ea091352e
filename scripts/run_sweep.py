"""Run a sweep's YAML on this machine, without an account: grid, random or Bayesian search, with early termination.

    python scripts/run_sweep.py scripts/sweeps/prior_truncation.yaml --count=4 --jobs=2 --out=runs/psi

writes a run folder a trial, trials.jsonl, trials.csv, table.md and parallel.png into runs/psi. Trial 0 is the program's
own defaults. The same command again goes on where it was stopped; a larger --count adds trials.
Needs `pip install -e ".[sweep]"`. Time: that of its trials.
"""

from ganinv.commands.run_sweep import main

if __name__ == "__main__":
    main()
