"""How many queries does it take to lose a recognizer's users, and which rate limit would have kept them?

    python scripts/study_access.py
    python scripts/study_access.py --attackers=distances,decisions --identities=0-4 --judged=150,1600

recovers the templates of the world `faces` from fewer and fewer answers, makes pictures of them, and has them judged; writes
table.md, table.csv, curves.json and curves.png. Stopped, it goes on with the same command. Templates alone, --judged="",
take minutes; each number of queries that is judged takes two minutes of one core for twenty users.
"""

from ganinv.commands.study_access import main

if __name__ == "__main__":
    main()
