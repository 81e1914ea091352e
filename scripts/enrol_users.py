"""Make a world around a published recognizer: users enrolled, judges with thresholds, references embedded; no photo kept.

    python scripts/enrol_users.py --world=worlds/mine --photos=photos

reads photos/users and photos/public, one sub-folder of aligned photos per person. Three fifths of each user's photos are
enrolled, a fifth become references; judges are measured on public people. Then, with a prior in the folder,

    python scripts/latent_attack.py --world=worlds/mine

attacks it. Needs pip install "ganinv[published]".

Time: 4 minutes on one CPU core for 40 users and 1 100 public people.
"""

from ganinv.commands.enrol_users import main

if __name__ == "__main__":
    main()
