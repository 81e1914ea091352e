"""Attributes of people: what a recognizer's embedding says of them, what pictures give away, and how sure that is."""
