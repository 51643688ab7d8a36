"""Frames in, ``(fig, ax)`` out. Knows no model."""
