"""headlens: CLIP-based zero-shot anomaly detection, one attention head at a time.

    run = headlens.load("mini-captions-industrial")               a trained detector, from a run folder
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

from headlens.lazily import lazily

if TYPE_CHECKING:
    from headlens import attribution as attribution
    from headlens import backbone as backbone
    from headlens import data as data
    from headlens import detectors as detectors
    from headlens import figures as figures
    from headlens import heads as heads
    from headlens import knowledge as knowledge
    from headlens import lab as lab
    from headlens import metrics as metrics
    from headlens import plots as plots
    from headlens import training as training
    from headlens.errors import HeadlensError as HeadlensError
    from headlens.predict import predict as predict
    from headlens.training.evaluation import evaluate as evaluate
    from headlens.training.run import Run
    from headlens.training.trainer import train as train
    from headlens.version import __version__ as __version__


def load(run: str, **options: Any) -> Run:
    """Loads a trained detector from a run folder: ``headlens.load("runs/mine").predict("part.png").joint_score``.

    Args:
        run: the folder, or the name of a shipped run.
        **options: options of ``headlens.training.load_run``: ``backbone``, ``weights``, ``device``, ``dtype``.
    """
    from headlens.training.run import load_run

    return load_run(run, **options)


def runs(*names: str, **options: Any) -> list[Run]:
    """Loads several trained detectors on one backbone: all seeds of ``headlens.runs("mini-captions-industrial")``.

    Args:
        *names: run folders, shipped runs, or shipped names without a seed.
        **options: ``weights`` and ``device``, as in ``load``.
    """
    from headlens.training.run import load_runs

    return load_runs(*names, **options)


lazily(__name__, "load", "runs")
