"""From rows of metrics to tables as in papers: per class, then over classes, then over data sets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from headlens import html, plots, tables
from headlens.errors import MetricError
from headlens.printing import unknown_name
from headlens.results import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IMAGE = ("image_auroc", "image_ap", "image_f1max")
PIXEL = ("pixel_auroc", "pixel_ap", "pixel_f1max", "pixel_aupro")
MEMBERS = {"image_mad": IMAGE, "pixel_mad": PIXEL, "mad7": IMAGE + PIXEL}
"""What each mAD is the mean of. It is undefined where any of them is."""
METRICS = (*IMAGE, "image_mad", *PIXEL, "pixel_mad", "mad7")
ACCURACY = "image_accuracy"
"""At the threshold that a method itself has; only of those that have one."""
KEYS = ("domain", "dataset", "category")
MEAN = "mean"
SHOWN = ("image_auroc", "pixel_auroc", "pixel_aupro")
"""What figures show, where nothing else is asked for."""


@dataclass(frozen=True)
class MetricTable(Result):
    """Metrics of classes and their unweighted means over classes, then over data sets.

    Args:
        frame: long: domain, dataset, category, metric, value, n, of. The mean of a data set has the category ``mean``,
            that of a domain the data set ``mean`` as well. ``n`` is how many defined entries a value averages, classes
            or data sets, out of ``of``; 1 of 1 for a class, and 0 where the value is undefined (NaN). A mAD of a mean
            row is the mean of that row's members, and averages as many entries as the fewest of them.
        provenance: provenance of the rows; empty if unknown.

    >>> rows = [{"domain": "industrial", "dataset": "toys", "category": name, "image_auroc": auroc, "image_ap": 0.5}
    ...         for name, auroc in (("car", 0.9), ("doll", float("nan")))]
    >>> print(MetricTable.of(rows).markdown(["image_auroc", "image_ap"]))
    | domain | dataset | category | image AUROC | image AP |
    |---|---|---|---:|---:|
    | industrial | toys | car | 90.0 | 50.0 |
    | industrial | toys | doll | - | 50.0 |
    | industrial | toys | mean | 90.0 (1 of 2) | 50.0 |
    | industrial | mean | mean | 90.0 | 50.0 |
    """

    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, object]], provenance: Mapping[str, Any] | None = None) -> MetricTable:
        """The table of ``rows``: domain, dataset, category, and any of the seven metrics, in [0, 1]; missing is NaN.

        Accuracy is an eighth, where there is any.

        Raises:
            MetricError: no row, a row without its keys, with an unknown one, or twice the same class.
        """
        given = pd.DataFrame([dict(row) for row in rows])
        if given.empty:
            raise MetricError("no rows to make a table of")
        unknown = [name for name in given if name not in (*KEYS, *IMAGE, *PIXEL, ACCURACY)]
        if unknown or any(key not in given or given[key].isna().any() for key in KEYS):
            raise MetricError(
                f"rows have {', '.join(map(str, given))}; expected {', '.join(KEYS)} and any of "
                f"{', '.join(IMAGE + PIXEL)}"
            )
        if (given[["dataset", "category"]] == MEAN).any(axis=None):
            raise MetricError(f"a data set or category is called {MEAN!r}, as the means are; rename it")
        if (twice := given.duplicated(list(KEYS))).any():
            raise MetricError(f"{' / '.join(given.loc[twice, list(KEYS)].iloc[0])} is given twice")
        columns = [*IMAGE, *PIXEL, *([ACCURACY] if ACCURACY in given else [])]
        values = given.set_index(list(KEYS)).reindex(columns=columns).astype(float)
        parts = []
        for domain, sets in values.groupby("domain", sort=False):
            means = []
            for dataset, classes in sets.groupby("dataset", sort=False):
                means.append(classes.mean())
                parts += [_long(classes, classes.notna().astype(int), 1), _mean(classes, domain, dataset)]
            parts.append(_mean(pd.DataFrame(means), domain, MEAN))
        return cls(pd.concat(parts, ignore_index=True), dict(provenance or {}))

    def _repr_html_(self) -> str:
        return html.card("MetricTable", {}, self.rendered())

    def plot(self, ax: Axes | None = None, *, metrics: Iterable[str] = SHOWN, title: str = "") -> plots.Figure:
        """A row for each category and each mean, and in it a point for each metric, in percent.

        Args:
            ax: where to draw; a new figure when None.
            metrics: which; those that are undefined everywhere are left out.
            title: above it.
        """
        from headlens.plots.intervals import metric_points
        from headlens.plots.style import signed

        drawn = metric_points(self.frame, _known(metrics), ax, title=title)
        return signed(drawn, self.made_by if self.provenance else "", ax)

    def rendered(self) -> str:
        """An HTML table with the same cells."""
        header, rows, _ = self._cells(METRICS)
        about = "In percent; in brackets: how many entries a mean averages, where not all; -: undefined"
        return html.table(pd.DataFrame(rows, columns=header), about, most=len(rows))

    def markdown(self, metrics: Iterable[str] = METRICS) -> str:
        """A Markdown table in percent; a mean over fewer entries is marked, and - is undefined."""
        return tables.markdown(*self._cells(metrics))

    def latex(self, metrics: Iterable[str] = METRICS) -> str:
        """The same as a LaTeX tabular; it needs the package booktabs."""
        return tables.latex(*self._cells(metrics))

    def _cells(self, metrics: Iterable[str]) -> tuple[list[str], list[list[str]], int]:
        """Header, rows, and how many columns are numbers."""
        metrics = _known(metrics)
        header = [*KEYS, *(title_of(name) for name in metrics)]
        rows = []
        for keys, group in self.frame.groupby(list(KEYS), sort=False):
            entries = group.set_index("metric")
            cells = []
            for name in metrics:
                value, n, of = entries.loc[name, ["value", "n", "of"]]
                cells.append("-" if n == 0 else f"{100 * value:.1f}{fewer(n, of)}")
            rows.append([*map(str, keys), *cells])
        return header, rows, len(metrics)


def fewer(n: float, of: float) -> str:
    """What follows a mean of ``n`` entries where there are ``of``; nothing where it is of all.

    >>> fewer(2, 3), fewer(3, 3)
    (' (2 of 3)', '')
    """
    return f" ({n:.0f} of {of:.0f})" if n < of else ""


def _long(values: pd.DataFrame, counts: pd.DataFrame, of: int) -> pd.DataFrame:
    """Wide rows of the seven metrics, indexed by ``KEYS``, and how many each averages, as long rows with the mADs."""
    for name, members in MEMBERS.items():
        values = values.assign(**{name: values[list(members)].mean(axis=1, skipna=False)})
        counts = counts.assign(**{name: counts[list(members)].min(axis=1)})
    names = [name for name in (*METRICS, ACCURACY) if name in values]
    long = values[names].stack(future_stack=True).rename_axis([*KEYS, "metric"]).rename("value").reset_index()
    return long.assign(n=counts[names].to_numpy().ravel(), of=of)


def _mean(entries: pd.DataFrame, domain: object, dataset: object) -> pd.DataFrame:
    index = pd.MultiIndex.from_tuples([(domain, dataset, MEAN)], names=KEYS)
    both = entries.mean(), entries.count()
    values, counts = (pd.DataFrame([row.to_numpy()], index, entries.columns) for row in both)
    return _long(values, counts, len(entries))


def _known(metrics: Iterable[str]) -> list[str]:
    metrics = list(metrics)
    if unknown := [name for name in metrics if name not in (*METRICS, ACCURACY)]:
        raise MetricError(unknown_name("metric", unknown[0], METRICS))
    return metrics


def title_of(name: str) -> str:
    """How tables call a metric.

    >>> title_of("pixel_aupro")
    'pixel AUPRO'
    """
    names = {"auroc": "AUROC", "ap": "AP", "f1max": "F1max", "aupro": "AUPRO", "mad": "mAD", "mad7": "mAD7"}
    names["accuracy"] = "accuracy"
    *level, metric = name.split("_")
    return " ".join([*level, names[metric]])
