"""Recognizers that other people trained and deploy: their weights read as data from packages, or from the user's files."""
