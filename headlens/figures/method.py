"""Table 9: the method without its parts: head weights (LHW), joint score (JAS), deep prompts."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from headlens import tables
from headlens.errors import ConfigError
from headlens.figures.context import Domain, FigureContext, mean_and_interval
from headlens.figures.spec import FigureSpec, RenderedFigure, counted, images_of, listed, made_on
from headlens.plots.intervals import intervals
from headlens.plots.style import COLUMN, named
from headlens.training.run import Run

WHOLE = "full method"
ROWS = {
    WHOLE: (None, True),
    "without LHW": ("head weights", True),
    "without JAS": (None, False),
    "without deep prompts": ("deep prompts", True),
    "without LHW, JAS": ("head weights", False),
}
"""Which runs a row reads (those without that part; None: the whole), and whether by the joint score or by CLS alone."""
METRICS = ("image_auroc", "pixel_auroc", "pixel_aupro")
_BOLD = r"\mathbf"


def draw(context: FigureContext) -> RenderedFigure:
    """Paired differences to the whole method, seed by seed; the table has the values, too."""
    frame = pd.concat([_measured(context, domain) for domain in context], ignore_index=True)
    metrics = [name for name in METRICS if frame.loc[frame["metric"] == name, "value"].notna().any()]
    if not metrics:
        raise ConfigError("no metric is defined here: the data sets have neither labels of both classes nor masks")
    shown = frame[(frame["row"] != WHOLE) & ~_same_maps(frame)].rename(columns={"domain": "group"})
    half = shown["difference_interval"]
    shown = shown.assign(value=shown["difference"], low=shown["difference"] - half, high=shown["difference"] + half)
    defined = [row for row in ROWS if shown.loc[shown["row"] == row, "value"].notna().any()]
    if not defined:
        raise ConfigError(
            "nothing to compare the method with: it has no joint score, and there are no runs without one of its parts"
        )
    fig = Figure(figsize=(COLUMN, 0.75 + 0.25 * len(defined)), layout="constrained")
    axes = fig.subplots(1, len(metrics), squeeze=False)[0]
    for metric, ax in zip(metrics, axes, strict=True):
        points = shown[shown["metric"] == metric]
        intervals(points, ax, rows=defined, title=named(metric), names=metric == metrics[0])
    fig.supxlabel("difference to the full method (points)", fontsize="medium")
    if len(context.domains) > 1:
        fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    files = {".md": _markdown(frame, metrics), ".tex": _latex(frame, metrics), ".csv": frame.to_csv(index=False)}
    runs = [run for domain in context for run in domain.runs.every]
    return RenderedFigure(fig, _caption(context, frame), runs, [domain.images for domain in context], files)


def _same_maps(frame: pd.DataFrame) -> pd.Series:
    """Rows that repeat another one's pixel metrics: whether CLS alone is read or not, the maps are the same."""
    by_cls = [row for row, (_, joint) in ROWS.items() if not joint]
    return frame["row"].isin(by_cls) & frame["metric"].str.startswith("pixel")


def _measured(context: FigureContext, domain: Domain) -> pd.DataFrame:
    """Domain, row, metric, value, interval, difference, difference_interval (percent and points), seeds."""
    alpha, found = domain.run.detector.scoring.alpha, {}
    for row, (part, joint) in ROWS.items():
        runs = domain.runs.whole if part is None else domain.runs.without.get(part, [])
        if not joint and alpha == 0:
            runs = []  # there is no joint score to do without
        found[row] = {run.seed: _metrics(context, domain, run, joint) for run in runs}
    rows = []
    for row, seeds in found.items():
        for metric in METRICS:
            values = [each[metric] for each in seeds.values()]
            paired = [each[metric] - found[WHOLE][seed][metric] for seed, each in seeds.items() if seed in found[WHOLE]]
            numbers = (*mean_and_interval(values), *(mean_and_interval(paired) if row != WHOLE else (np.nan, np.nan)))
            rows.append((domain.name, row, metric, *numbers, len(values), len(paired)))
    columns = ["domain", "row", "metric", "value", "interval", "difference", "difference_interval", "seeds", "paired"]
    return pd.DataFrame(rows, columns=columns)


def _metrics(context: FigureContext, domain: Domain, run: Run, joint: bool) -> dict[str, float]:
    """Of one run, percent, means over categories."""
    frame, found = context.evaluation(domain, run).frame, {}
    for name in METRICS:
        level, _, metric = name.partition("_")
        score = "pixel" if level == "pixel" else "joint" if joint else "image"
        rows = frame[(frame["score"] == score) & (frame["metric"] == metric)]
        found[name] = 100 * float(rows["value"].mean())  # over the categories where it is defined
    return found


def _cells(frame: pd.DataFrame, metrics: list[str]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Domain, row, and for each metric the value and the difference, each with its interval."""

    def spoken(value: float, half: float, sign: str = "") -> str:
        if value != value:
            return ""
        return f"{value:{sign}.1f}" + ("" if half != half else f" ± {half:.1f}")

    lines = []
    for (domain, row), rows in frame.groupby(["domain", "row"], sort=False):
        by_metric = rows.set_index("metric")
        cells = []
        for metric in metrics:
            at = by_metric.loc[metric]
            difference = spoken(at["difference"], at["difference_interval"], "+")
            same = row == "without JAS" and metric.startswith("pixel") and at["value"] == at["value"]
            cells.append((spoken(at["value"], at["interval"]) or "-", "same maps" if same else difference))
        lines.append((str(domain), str(row), cells))
    return lines


def _markdown(frame: pd.DataFrame, metrics: list[str]) -> str:
    rows = [
        [domain, row, *(value + (f" ({difference})" if difference else "") for value, difference in cells)]
        for domain, row, cells in _cells(frame, metrics)
    ]
    return tables.markdown(["domain", "method", *map(named, metrics)], rows, len(metrics))


def _latex(frame: pd.DataFrame, metrics: list[str]) -> str:
    """Values with their intervals, the best of each domain bold; behind them differences in brackets."""

    def maths(text: str, strong: bool = False) -> str:
        if not any(c.isdigit() for c in text):
            return text
        value, between, half = text.replace("±", r"\pm").partition(" ")
        return f"${f'{_BOLD}{{{value}}}' if strong else value}{between}{half}$"

    cells = _cells(frame, metrics)
    domains = [domain for domain, _, _ in cells]
    strong = set()
    for place, metric in enumerate(metrics):
        rows = frame[frame["metric"] == metric].groupby(["domain", "row"], sort=False)["value"].first()
        strong |= {(row, place) for row in tables.best(list(rows.round(1)), domains)}
    lines = []
    for row, (_, name, numbers) in enumerate(cells):
        line = [name]
        for place, (value, other) in enumerate(numbers):
            line += [maths(value, (row, place) in strong), f"({maths(other)})" if other else ""]
        lines.append(line)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    made: list[str] = []
    for row, line in enumerate(lines):
        if row == 0 or domains[row] != domains[row - 1]:
            block = rf"\multicolumn{{{1 + 2 * len(metrics)}}}{{l}}{{\emph{{{domains[row]}}}}} \\"
            made += [r"\midrule", block] if made else [block]
        made.append(tables.row(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    header = tables.row(["", *(rf"\multicolumn{{2}}{{c}}{{{named(m)}}}" for m in metrics)])
    return tables.tabular("l" + "r" * 2 * len(metrics), header, made) + "\n"


def _caption(context: FigureContext, frame: pd.DataFrame) -> str:
    rows = frame[frame["metric"] == METRICS[0]]
    missing = [f"{entry.row} ({entry.domain})" for entry in rows.itertuples() if entry.seeds == 0]
    seeds = [f"{counted(len(domain.runs.whole), 'run')} ({domain.name})" for domain in context]
    half = max(context.evaluation(domain, run).half_width for domain in context for run in domain.runs.every)
    tested = frame[frame["difference_interval"].notna() & ~_same_maps(frame)]
    apart = tested[tested["difference"].abs() > tested["difference_interval"]]
    left_out = {name: why for domain in context for name, why in domain.runs.left_out.items()}
    return (
        "The method without its parts: differences to the full method, paired by seed, with 95 % intervals by "
        "Student's t "
        "over seeds. LHW: learned head weights; JAS: joint anomaly score; without both it is AnomalyCLIP, read at all "
        "taps. Without JAS the same runs are read by CLS alone, which leaves maps as they are; without LHW are runs "
        "that learned no head weights and differ in nothing else, read by the joint score. I-AUROC is that of the "
        f"image score, P-AUROC and AUPRO are the map's (within {100 * half:.2g} points of exact). Means over "
        f"categories, then over seeds: {listed(seeds)}; {images_of(context, subset=False)}. {len(apart)} of "
        f"{len(tested)} differences exceed their interval, which covers seeds and not the choice of images; no "
        "correction for their number."
        + (f" Missing, because there are no such runs: {', '.join(missing)}." if missing else "")
        + "".join(f" {name} is left out: it {why}." for name, why in left_out.items())
        + f" {made_on(context)}"
    )


SPEC = FigureSpec("method", "The method without its parts", draw)
