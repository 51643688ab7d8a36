"""Samples and their readers, one per on-disk layout; the procedural worlds; protocol rules. Knows no model."""
