"""headlens: CLIP-based zero-shot anomaly detection, opened up one attention head at a time.

Subpackages are imported on first use, so that ``import headlens`` costs next to nothing:

>>> import headlens
>>> headlens.__version__
'0.1.0'
"""

from __future__ import annotations

import importlib
from types import ModuleType

from headlens.errors import HeadlensError

__version__ = "0.1.0"
__all__ = ["HeadlensError", "__version__", "backbone", "data"]

_LAZY = ("backbone", "data")


def __getattr__(name: str) -> ModuleType:
    if name in _LAZY:
        return importlib.import_module(f"headlens.{name}")
    raise AttributeError(f"module 'headlens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
