"""headlens: CLIP-based zero-shot anomaly detection, opened up one attention head at a time.

    run = headlens.load("mini-industrial")                        a trained detector, from a run folder
    headlens.predict(run, "part.png").joint_score                 scores of images
    headlens.evaluate(run, headlens.data.open("folder"))          metrics on a data set
    headlens.heads, headlens.attribution, headlens.lab            what its heads do

Subpackages are imported on first use, so that ``import headlens`` costs next to nothing:

>>> import headlens
>>> headlens.__version__
'0.1.0'
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from headlens.errors import HeadlensError
from headlens.lazily import lazily
from headlens.version import __version__

if TYPE_CHECKING:
    from headlens import attribution, backbone, data, detectors, figures, heads, lab, metrics, plots, training
    from headlens.predict import predict
    from headlens.training.evaluation import evaluate
    from headlens.training.run import Run
    from headlens.training.trainer import train

__all__ = [
    "HeadlensError",
    "__version__",
    "attribution",
    "backbone",
    "data",
    "detectors",
    "evaluate",
    "figures",
    "heads",
    "lab",
    "load",
    "metrics",
    "plots",
    "predict",
    "runs",
    "train",
    "training",
]


def load(run: str, **options: Any) -> Run:
    """A trained detector, from a run folder: ``headlens.load("runs/mine").predict("part.png").joint_score``.

    Args:
        run: the folder, or the name of a shipped run.
        **options: as ``headlens.training.load_run`` has them: ``backbone``, ``weights``, ``device``, ``dtype``.
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


lazily(
    __name__,
    {
        "": (
            *("attribution", "backbone", "data", "detectors", "figures", "heads", "lab", "metrics", "plots"),
            "training",
        ),
        "predict": ("predict",),
        "training.evaluation": ("evaluate",),
        "training.trainer": ("train",),
    },
)
