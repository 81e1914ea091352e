"""Do depth, parameters, training photos or registered users make a recognizer safe from inversion?

    python scripts/study_capacity.py                      # a small grid, on rendered people
    python scripts/study_capacity.py --grid=full --steps=1500 --batch=128 --seeds=3 --part=1/3

writes table.md, table.csv and curves.png of the cells that are finished; --dry-run lists all, with what they will take.
Stopped, it goes on with the same command. Parts run on machines of their own: copy their --work together, and run
it again with --table-only.
"""

from ganinv.commands.study_capacity import main

if __name__ == "__main__":
    main()
