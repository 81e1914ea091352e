"""Adapters to targets and judges."""
