"""Train the regressor that reads a rendered person's true factors off a picture.

    python scripts/prepare_people.py --out=data/synthetic
    python scripts/train_factors.py

An interrupted training goes on with the same command and --resume, and ends in the same bits.
"""

from ganinv.commands.train_factors import main

if __name__ == "__main__":
    main()
