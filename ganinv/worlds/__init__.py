"""Folders of weights that belong together: prior, target, judges, references."""
