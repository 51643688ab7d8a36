"""Losses, the trainer, checkpoints and run folders."""
