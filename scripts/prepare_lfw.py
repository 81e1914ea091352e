"""Crop Labeled Faces in the Wild into the folders of the world lfw; see ganinv/commands/prepare_lfw.py."""

from ganinv.commands.prepare_lfw import main

if __name__ == "__main__":
    main()
