"""Audit the judges of a world of rendered people: how often they see a user where the true factors do not.

    python scripts/audit_judges.py runs/synthetic --out=results/synthetic

writes judges.md and judges.json.
"""

from ganinv.commands.audit_judges import main

if __name__ == "__main__":
    main()
