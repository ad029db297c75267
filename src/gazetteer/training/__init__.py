"""Training: the loop, its state, its checkpoints, and the arithmetic of an update."""
