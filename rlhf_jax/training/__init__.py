"""Shared parts of the training loops: optimizer, checkpoints, metrics, signals. Knows no stage."""
