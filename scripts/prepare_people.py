"""Render the photos on which the world synthetic is trained; a run of it needs none of them.

    python scripts/prepare_people.py --out=data/synthetic

An interrupted run goes on with the same command.
"""

from ganinv.commands.prepare_people import main

if __name__ == "__main__":
    main()
