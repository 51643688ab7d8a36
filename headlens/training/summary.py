"""One table from one run, or from several seeds: mean and interval."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from headlens import html, plots
from headlens.metrics.table import ACCURACY, KEYS, SHOWN, fewer
from headlens.provenance import together
from headlens.results import Result
from headlens.tables import Table
from headlens.training.evaluation import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMNS = {
    "cls_auroc": "I-AUROC of CLS",
    "map_auroc": "I-AUROC of map",
    "image_auroc": "I-AUROC",
    "image_ap": "I-AP",
    "image_f1max": "I-F1max",
    "image_mad": "I-mAD",
    "image_accuracy": "I-accuracy",
    "pixel_auroc": "P-AUROC",
    "pixel_ap": "P-AP",
    "pixel_f1max": "P-F1max",
    "pixel_aupro": "AUPRO",
    "pixel_mad": "P-mAD",
    "mad7": "mAD7",
}
"""Accuracy is that of methods that decide at a threshold of their own; others have no such column."""


@dataclass(frozen=True)
class Summary(Result):
    """Means over seeds.

    Args:
        frame: domain, dataset, category (``mean`` over them), metric, value (mean over seeds), interval (half of the
            95 % interval by Student's t; NaN for one seed), seeds, ``n`` of ``of`` entries averaged, as in
            ``MetricTable``. Image metrics are the joint score's; ``cls_auroc`` and ``map_auroc`` are those of its
            parts.
        provenance: what the evaluations have in common, and as ``parts`` what each says.
    """

    def _repr_html_(self) -> str:
        seeds = int(self.frame["seeds"].max()) if len(self.frame) else 0
        facts = {"made by": self.made_by, "seeds": seeds, "metrics": "in percent"}
        return html.card("Summary", facts, html.table(self._wide(), most=20))

    def plot(self, ax: Axes | None = None, *, metrics: Iterable[str] = SHOWN, title: str = "") -> plots.Figure:
        """As ``MetricTable.plot``, with intervals; metrics are any of ``COLUMNS``."""
        from headlens.plots.intervals import metric_points
        from headlens.plots.style import signed

        return signed(metric_points(self.frame, list(metrics), ax, title=title), self.made_by, ax)

    def markdown(self) -> str:
        """In percent; ``-`` where undefined. A mean over fewer categories or data sets than there are says so."""
        return self.table().markdown()

    def latex(self) -> str:
        """The same as a LaTeX tabular; it needs the package booktabs."""
        return self.table().latex()

    def table(self, columns: Sequence[str] | None = None) -> Table:
        """A row for each category and each mean; of any of ``COLUMNS``, those that it has when None."""
        columns = columns_of(self.frame) if columns is None else columns
        wide = self._wide(columns)
        return Table(list(wide.columns), list(wide.itertuples(index=False)), len(columns), "metrics", frame=self.frame)

    def _wide(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """A row for each category, its cells as text."""
        columns = columns_of(self.frame) if columns is None else columns
        rows = []
        for (_, dataset, category), group in self.frame.groupby(list(KEYS), sort=False):
            entries = group.set_index("metric")
            entries = entries.reindex(list(columns))
            cells = [_cell(*entries.loc[name, ["value", "interval", "n", "of"]]) for name in columns]
            rows.append((str(dataset), str(category), *cells))
        return pd.DataFrame(rows, columns=["data set", "category", *(COLUMNS[name] for name in columns)])


def over_seeds(results: Sequence[Evaluation]) -> Summary:
    """The summary of evaluations of the same sets by runs that differ in their seed."""
    parts = []
    for result in results:
        parts.append(result.table("joint").frame)
        for score, name in (("image", "cls_auroc"), ("map", "map_auroc")):
            frame = result.table(score).frame
            parts.append(frame[frame["metric"] == "image_auroc"].assign(metric=name))
    rows = pd.concat(parts).groupby([*KEYS, "metric"], sort=False)
    values, count = rows["value"], rows["value"].count()
    half = values.std() / np.sqrt(count) * stats.t.ppf(0.975, np.maximum(count - 1, 1))
    columns = {"value": values.mean(), "interval": half, "seeds": count, "n": rows["n"].min(), "of": rows["of"].max()}
    return Summary(pd.DataFrame(columns).reset_index(), together([result.provenance for result in results]))


def columns_of(frame: pd.DataFrame) -> list[str]:
    """Those of ``COLUMNS`` that a table of these rows has: all but accuracy where it was not measured."""
    return [name for name in COLUMNS if name != ACCURACY or (frame["metric"] == ACCURACY).any()]


def _cell(value: float, interval: float, n: float, of: float) -> str:
    if np.isnan(value):
        return "-"
    return f"{100 * value:.1f}" + ("" if np.isnan(interval) else f" ±{100 * interval:.1f}") + fewer(n, of)
