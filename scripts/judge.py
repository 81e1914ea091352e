"""Judge pictures that any other tool made, as the attacks here are judged: same judges, same controls, same report.

    python scripts/judge.py --pictures=FOLDER --world=faces

FOLDER holds a sub-folder of pictures for each identity number, or files <identity>_<k>.png; square, at least 64 px.

Time: 40 seconds on a CPU core for five users, half of which is the control "best candidate" (--candidates=0: without).
"""

from ganinv.commands.judge import main

if __name__ == "__main__":
    main()
