"""One table from one run, or from several seeds: mean and interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from headlens import html, tables
from headlens.metrics.table import KEYS, fewer
from headlens.training.evaluation import Evaluation

COLUMNS = {
    "cls_auroc": "I-AUROC of CLS",
    "map_auroc": "of the map",
    "image_auroc": "joint",
    "image_ap": "I-AP",
    "image_f1max": "I-F1max",
    "image_mad": "image mAD",
    "pixel_auroc": "P-AUROC",
    "pixel_ap": "P-AP",
    "pixel_f1max": "P-F1max",
    "pixel_aupro": "AUPRO",
    "pixel_mad": "pixel mAD",
    "mad7": "mAD7",
}


@dataclass(frozen=True)
class Summary:
    """Means over seeds.

    Args:
        frame: domain, dataset, category (``mean`` over them), metric, value (mean over seeds), interval (half of the
            95 % interval by Student's t; NaN for one seed), seeds, ``n`` of ``of`` entries averaged, as in
            ``MetricTable``. Image metrics are the joint score's; ``cls_auroc`` and ``map_auroc`` are those of its
            parts.
    """

    frame: pd.DataFrame

    def _repr_html_(self) -> str:
        """What a notebook shows: the same as ``markdown``."""
        seeds = int(self.frame["seeds"].max()) if len(self.frame) else 0
        return html.card("Summary", {"seeds": seeds, "metrics": "in percent"}, html.table(self._wide(), most=20))

    def markdown(self) -> str:
        """In percent; ``-`` where undefined. A mean over fewer categories or data sets than there are says so."""
        wide = self._wide()
        return tables.markdown(list(wide.columns), wide.itertuples(index=False), len(COLUMNS))

    def _wide(self) -> pd.DataFrame:
        """A row for each category, its cells as text."""
        rows = []
        for (_, dataset, category), group in self.frame.groupby(list(KEYS), sort=False):
            own = group.set_index("metric")
            cells = [_cell(*own.loc[name, ["value", "interval", "n", "of"]]) for name in COLUMNS]
            rows.append((str(dataset), str(category), *cells))
        return pd.DataFrame(rows, columns=["data set", "category", *COLUMNS.values()])


def over_seeds(results: Sequence[Evaluation]) -> Summary:
    """The summary of evaluations of the same sets by runs that differ in their seed."""
    parts = []
    for seed, result in enumerate(results):
        joint = result.table("joint").frame
        others = []
        for score, name in (("image", "cls_auroc"), ("map", "map_auroc")):
            frame = result.table(score).frame
            others.append(frame[frame["metric"] == "image_auroc"].assign(metric=name))
        parts.append(pd.concat([joint, *others]).assign(seed=seed))
    keys = [*KEYS, "metric"]
    rows = pd.concat(parts).groupby(keys, sort=False)
    grouped = rows["value"]
    count = grouped.count()
    spread = grouped.std() / np.sqrt(count) * stats.t.ppf(0.975, np.maximum(count - 1, 1))
    columns = {
        "value": grouped.mean(),
        "interval": spread,
        "seeds": count,
        "n": rows["n"].min(),
        "of": rows["of"].max(),
    }
    return Summary(pd.DataFrame(columns).reset_index())


def _cell(value: float, interval: float, n: float, of: float) -> str:
    if np.isnan(value):
        return "-"
    return f"{100 * value:.1f}" + ("" if np.isnan(interval) else f" ±{100 * interval:.1f}") + fewer(n, of)
