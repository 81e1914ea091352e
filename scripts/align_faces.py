"""Cut the faces out of your own photos: a folder with one sub-folder per person, to the same layout.

    python scripts/align_faces.py --photos=my_photos --out=my_faces

writes square PNG files of 160 px, one face each, and align_faces.json, which lists what was left out.

Time: 0.1 to 1 second a photo on one CPU core.
"""

from ganinv.commands.align_faces import main

if __name__ == "__main__":
    main()
