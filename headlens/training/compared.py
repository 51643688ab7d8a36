"""The metrics of every method on the embedded backbones, as they ship: ``shipped/comparison.csv``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headlens.training.shipped import COMPARISON

if TYPE_CHECKING:
    import pandas as pd


def comparison() -> pd.DataFrame:
    """What every method scores in both domains, trained in the same one or in the other, in percent.

    Procedural images of categories that neither the backbone nor the training has seen; ``docs/comparison.md`` says how
    they were made, and ``analyses/family_comparison.py --csv`` writes the file.

    Returns:
        A row for each ``backbone``, ``method``, domain of training (``trained``, ``nothing`` for methods that learn
        nothing), domain of test (``tested``) and ``metric`` (``I``: image AUROC of the joint score, ``P``: pixel AUROC,
        ``PRO``: AUPRO); ``mean`` over ``seeds`` seeds, and ``half`` of its 95 % interval (Student's t), NaN for one.

    >>> frame = comparison()
    >>> frame[(frame["method"] == "WinCLIP") & (frame["tested"] == "industrial")]["metric"].tolist()
    ['I', 'P', 'PRO']
    """
    import pandas as pd

    return pd.read_csv(COMPARISON)
