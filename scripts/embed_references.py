"""Embed the users' reference photos with the judges of a world, so that an attack is scored without any photo.

    python scripts/embed_references.py --world=worlds/mine --photos=my_photos

writes worlds/mine/references.safetensors, and public_mean.png, the mean photo of the public people.

Time: 15 seconds on 2 CPU cores.
"""

from ganinv.commands.embed_references import main

if __name__ == "__main__":
    main()
