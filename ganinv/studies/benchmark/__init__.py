"""What scripts/benchmark.py measures: the engine against the stock modules, its own floor, and other people's loops."""
