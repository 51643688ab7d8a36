"""Training, run folders, and evaluation.

First to last:

    train(detector, data, TrainingConfig(), out)    writes a run folder, and resumes a killed run
    load_run(folder), load_runs(*names)             loads trained detectors with their records
    evaluate(run, data)                             metrics of every category
    comparison()                                    metrics of every method, as they ship
    costs()                                         learned numbers, time and memory of every method at full size
"""

from typing import TYPE_CHECKING

from headlens.lazily import lazily

if TYPE_CHECKING:
    from headlens.training.compared import comparison as comparison
    from headlens.training.compared import costs as costs
    from headlens.training.evaluation import Evaluation as Evaluation
    from headlens.training.evaluation import evaluate as evaluate
    from headlens.training.grouping import Group as Group
    from headlens.training.grouping import grouped as grouped
    from headlens.training.grouping import seeds_of as seeds_of
    from headlens.training.run import Run as Run
    from headlens.training.run import TrainingConfig as TrainingConfig
    from headlens.training.run import load_run as load_run
    from headlens.training.run import load_runs as load_runs
    from headlens.training.summary import Summary as Summary
    from headlens.training.summary import over_seeds as over_seeds
    from headlens.training.trainer import train as train

lazily(__name__)
