"""Training, run folders, and evaluation.

train(detector, data, TrainingConfig(), out)    writes a run folder, and goes on where a killed run stopped
load_run(folder), load_runs(*names)             what was trained, and what was written down about it
evaluate(run, data)                             metrics of every category
"""

from typing import TYPE_CHECKING

from headlens.lazily import lazily

if TYPE_CHECKING:
    from headlens.detectors.stages import TrainingConfig
    from headlens.training.evaluation import Evaluation, Scorer, evaluate
    from headlens.training.grouping import Group, grouped
    from headlens.training.run import Run, load_run, load_runs
    from headlens.training.summary import Summary, over_seeds
    from headlens.training.trainer import train

__all__ = [
    "Evaluation",
    "Group",
    "Run",
    "Scorer",
    "Summary",
    "TrainingConfig",
    "evaluate",
    "grouped",
    "load_run",
    "load_runs",
    "over_seeds",
    "train",
]

lazily(
    __name__,
    {
        "evaluation": ("Evaluation", "Scorer", "evaluate"),
        "grouping": ("Group", "grouped"),
        "run": ("Run", "TrainingConfig", "load_run", "load_runs"),
        "summary": ("Summary", "over_seeds"),
        "trainer": ("train",),
    },
)
