"""The version of headlens."""

__version__ = "0.1.0"
