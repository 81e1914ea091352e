"""What long computations need, whatever they compute: precision, batches, random streams, caches, checkpoints, signals."""
