"""Audit what a face recognizer gives away about the people it was trained on."""

__version__ = "0.1.0"
