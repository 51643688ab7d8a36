"""headlens: CLIP-based zero-shot anomaly detection, one attention head at a time.

    run = headlens.load("mini-captions-industrial")               a trained detector, from a run folder
    headlens.predict(run, "part.png").joint_score                 scores of images
    headlens.evaluate(run, headlens.data.open("folder"))          metrics on a data set
    headlens.heads, headlens.attribution, headlens.lab            what its heads do
    headlens.report(run, images).save("report.html")              all of it in one file for a browser
    headlens.export(run, "model.onnx")                            scores and maps without headlens

At a shell, ``headlens --help`` lists commands, and ``headlens docs`` prints the documentation.

Subpackages are imported on first use, so that ``import headlens`` costs next to nothing:

>>> import headlens
>>> headlens.__version__
'0.1.0'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from headlens.lazily import lazily

if TYPE_CHECKING:
    from pathlib import Path

    import torch

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
    from headlens.backbone import Backbone
    from headlens.errors import HeadlensError as HeadlensError
    from headlens.export import export as export
    from headlens.predict import predict as predict
    from headlens.report.report import report as report
    from headlens.training.evaluation import evaluate as evaluate
    from headlens.training.run import Run
    from headlens.training.trainer import train as train
    from headlens.version import __version__ as __version__


def load(
    run: str | Path,
    backbone: Backbone | None = None,
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Run:
    """Loads a trained detector from a run folder: ``headlens.load("runs/mine").predict("part.png").joint_score``.

    Args:
        run: the folder, or the name of a shipped run (``mini-captions-industrial`` is its first seed).
        backbone: the backbone it was trained on, if already loaded.
        weights: weight file of the backbone, if it is not the one in the card.
        device, dtype: of the backbone that is loaded; torch's default device and float32 when None.

    Raises:
        RunError: no run; edited or damaged weights; a backbone with other weights than the run was trained on.
        CheckpointError: the backbone's file is missing or damaged.
        ConfigError: a device that does not exist on this machine.
    """
    from headlens.training.run import load_run

    return load_run(run, backbone, weights=weights, device=device, dtype=dtype)


def runs(*names: str | Path, weights: str | Path | None = None, device: str | torch.device | None = None) -> list[Run]:
    """Loads several trained detectors on one backbone: all seeds of ``headlens.runs("mini-captions-industrial")``.

    Args:
        *names: run folders, shipped runs, or shipped names without a seed.
        weights, device: as in ``load``.
    """
    from headlens.training.run import load_runs

    return load_runs(*names, weights=weights, device=device)


lazily(__name__, "load", "runs")
