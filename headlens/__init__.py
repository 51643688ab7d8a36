"""headlens: CLIP-based zero-shot anomaly detection, opened up one attention head at a time.

Subpackages are imported on first use, so that ``import headlens`` costs next to nothing:

>>> import headlens
>>> headlens.__version__
'0.1.0'
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

from headlens.errors import HeadlensError
from headlens.version import __version__

if TYPE_CHECKING:
    from headlens.training.run import Run

_LAZY = ("attribution", "backbone", "data", "detectors", "figures", "heads", "lab", "metrics", "training")
__all__ = ["HeadlensError", "__version__", "load", "runs", *_LAZY]


def load(run: str, **options: Any) -> Run:
    """A trained detector, from a run folder: ``headlens.load("runs/mine").predict("part.png").joint_score``.

    Args:
        run: the folder.
        **options: as ``headlens.training.run.load_run`` has them: ``backbone``, ``weights``, ``device``, ``dtype``.
    """
    from headlens.training.run import load_run

    return load_run(run, **options)


def runs(*names: str, **options: Any) -> list[Run]:
    """Several trained detectors that share one backbone: ``headlens.runs("mini-industrial")`` are its three seeds.

    Args:
        *names: run folders, shipped runs, or shipped names without a seed.
        **options: ``weights`` and ``device``, as in ``load``.
    """
    from headlens.training.run import load_runs

    return load_runs(*names, **options)


def __getattr__(name: str) -> ModuleType:
    if name in _LAZY:
        return importlib.import_module(f"headlens.{name}")
    raise AttributeError(f"module 'headlens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
