"""Probe what a recognizer's embedding says of a person, on public photos with labels: the ceiling of every attack.

    python scripts/probe.py --world=faces --photos=FOLDER_OR_ZIP --labels=labels.csv --names="gender=man,woman"
    python scripts/probe.py --world=synthetic --photos=data/synthetic/public

writes attributes.md, attributes.json and a probe of each network into runs/<world>-probes. Every person is predicted by a
fit that left the person out. The second command needs no labels: rendered people are known by their numbers.

Time: about 3 minutes for 4 000 photos and two published networks on one CPU core.
"""

from ganinv.commands.probe import main

if __name__ == "__main__":
    main()
