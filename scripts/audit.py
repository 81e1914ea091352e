"""Run every attack on one recognizer and write one report: does it leak, and to whom.

    python scripts/audit.py --out=runs/audit

attacks ten users of the shipped world `synthetic`, people who do not exist, in pixel space and through the prior, and
writes runs/audit/audit.html (print it to PDF from the browser), audit.json and a run folder for each attack. Your own
embedding network and its users:

    python scripts/audit.py --world=faces --target=dlib --gallery=users/train --photos=users/new

The same command, given again, goes on with an audit that was stopped.
"""

from ganinv.commands.audit import main

if __name__ == "__main__":
    main()
