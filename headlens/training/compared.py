"""What every method scores on the embedded backbones, and what it costs at full size, as shipped in two CSV files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headlens.training.shipped import COMPARISON, COSTS

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
    >>> frame.query("backbone == 'mini' and method == 'WinCLIP' and tested == 'industrial'")["metric"].tolist()
    ['I', 'P', 'PRO']
    """
    import pandas as pd

    return pd.read_csv(COMPARISON)


def costs() -> pd.DataFrame:
    """What a training step and scoring cost at the size that methods are published at, measured once.

    Random weights and images; ``docs/full-size.md`` says more, and ``analyses/full_methods.py --csv`` writes the file.

    Returns:
        A row for each ``preset`` and ``what``: ``scoring``, and ``training step``, followed by the stage where there
        are several. ``learned`` numbers, ``images_per_s``, ``peak_gib`` of memory, ``setting`` and ``device``.

    >>> frame = costs()
    >>> frame[frame["preset"] == "winclip"]["what"].tolist()
    ['scoring']
    """
    import pandas as pd

    return pd.read_csv(COSTS)


COST_COLUMNS = ("method", "learned numbers", "training, images/s", "training GiB", "scoring, images/s", "scoring GiB")


def cost_rows(frame: pd.DataFrame) -> list[list[str]]:
    """``costs`` as cells of a table with ``COST_COLUMNS``, a row for each preset; stages of training one after another.

    >>> next(row for row in cost_rows(costs()) if row[0] == "aa-clip")[1:4]
    ['12,582,912', '83, then 100', '2.4, then 9.6']
    """
    rows = []
    for preset, own in frame.groupby("preset", sort=False):
        cells = [str(preset), f"{own['learned'].iloc[0]:,}"]
        scoring = own["what"] == "scoring"
        for part in (own[~scoring], own[scoring]):
            cells.append(", then ".join(f"{rate:.0f}" for rate in part["images_per_s"]) or "-")
            cells.append(", then ".join(f"{gib:.1f}" for gib in part["peak_gib"]) or "-")
        rows.append(cells)
    return rows
