"""Metrics: pure functions of logits, embeddings and pictures."""
