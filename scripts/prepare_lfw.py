"""Crop Labeled Faces in the Wild into folders of people; see ganinv/commands/prepare_lfw.py."""

from ganinv.commands.prepare_lfw import main

if __name__ == "__main__":
    main()
