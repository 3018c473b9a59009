"""What the training loops share: optimiser, checkpoints, metrics, signals. Knows no stage."""
