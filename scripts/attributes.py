"""Say what finished runs give away of their users' attributes, of what their target knows at all, and how sure that is.

    python scripts/latent_attack.py --identities=0-19 --keep=4 --optim.halve-at=[] --out=runs/reported
    python scripts/latent_attack.py --identities=20-49 --keep=4 --optim.halve-at=[] --out=runs/tuning
    python scripts/attributes.py runs/reported --tune=runs/tuning --out=runs/attributes

writes attributes.md, attributes.json and the calibration. Needs probes of target and judge: see probe.py.

Time: seconds a run, on one CPU core.
"""

from ganinv.commands.attributes import main

if __name__ == "__main__":
    main()
