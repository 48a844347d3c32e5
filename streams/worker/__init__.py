"""The worker: partition batches in, verdicts out, exactly once by checkpoints that an offset commit points to."""
