"""Weight files and their cards, read as data and never run."""
