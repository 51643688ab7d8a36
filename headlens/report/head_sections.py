"""The sections of heads: what was learned about them, how much the score depends on each, what a layer is worth."""

from __future__ import annotations

import pandas as pd

from headlens import html
from headlens.heads.variants import names_of
from headlens.metrics.table import title_of
from headlens.report import page
from headlens.report.measuring import Measured

_DPI = 110  # of figures: sharp enough on paper


def head_weights(measured: Measured, against: Measured | None) -> str:
    """Learned weights of all heads; nothing where there are none."""
    shown = [one for one in (measured, against) if one is not None and one.weights is not None]
    if not shown:
        return ""
    figures = []
    for one in shown:
        assert one.weights is not None
        drawn = html.figure(one.weights.plot().figure, f"head weights of {one.name}", _DPI)
        figures.append(page.figure(drawn, one.name))
    words = "A weight multiplies what its head writes; before training each is 1. Red: above 1; blue: below."
    return page.section("Head weights", page.said(words), f'<div class="figures">{"".join(figures)}</div>')


def importance(measured: Measured, against: Measured | None) -> str:
    """Gate gradients of all heads as a figure and a table; nothing where a method refuses them."""
    if measured.importance is None:
        return ""
    words = (
        "How fast the joint margin changes as a head is turned down: the mean over images of the absolute gradient. "
        "It is a slope, not an ablation."
    )
    drawn = html.figure(measured.importance.plot().figure, "importance of heads", _DPI)
    rows = _heads(measured)
    parts = [page.said(words), page.figure(drawn, measured.name)]
    if against is not None and against.importance is not None:
        both = rows.merge(_heads(against)[["head", "importance"]], "left", "head", suffixes=("", f" in {against.name}"))
        known = both.dropna(subset=[both.columns[-1]])
        if len(known) > 2:
            rho = known["importance"].corr(known.iloc[:, -1], method="spearman")
            parts.append(page.said(f"Rank correlation with {against.name} over {len(known)} heads: {rho:.2f}."))
        rows = both
    parts.append(page.table(rows, "All heads, the most important first. Layers and heads count from 0."))
    return page.section("Importance of heads", *parts)


def layers(measured: Measured) -> str:
    """What is lost without a few layers; nothing where they were not ablated."""
    if measured.ablation is None:
        return ""
    shown = {"joint_margin": "joint margin (logits)", "anomaly_map": "anomaly map (relative L1)"}
    shown |= {name: f"{title_of(name)} (points)" for name in ("image_auroc", "pixel_auroc", "pixel_aupro")}
    columns: dict[str, pd.Series] = {}
    for metric, title in shown.items():
        rows = measured.ablation.means(metric).set_index("variant")
        if rows["effect"].notna().any():
            scale, digits = (100, 1) if title.endswith("points)") else (1, 3)
            columns[title] = rows.apply(lambda row, s=scale, d=digits: _effect(row, s, d), axis=1)
    table = pd.DataFrame(columns).rename_axis("without layer").reset_index()
    words = (
        "All heads of one layer write zero, and everything behind them is computed again. The table has the change "
        "that follows, with its 95 % interval over images. For the anomaly map it is the distance from the map with "
        "all heads."
    )
    return page.section("Without a layer", page.said(words), page.table(table))


def _heads(measured: Measured) -> pd.DataFrame:
    """Head, importance, signed, share of its layer, and its weight where there is one; the most important first."""
    assert measured.importance is not None
    rows = measured.importance.summary.sort_values("importance", ascending=False, kind="stable")
    rows = rows.assign(head=names_of(rows)).rename(columns={"signed": "signed mean", "relative": "share of its layer"})
    rows = rows[["head", "importance", "signed mean", "share of its layer"]]
    if (weights := measured.weights) is not None:
        known = weights.frame.assign(head=names_of(weights.frame)).rename(columns={"value": "weight"})
        rows = rows.merge(known[["head", "weight"]], "left", "head")
    return rows


def _effect(row: pd.Series, scale: float, digits: int) -> str:
    if row["effect"] != row["effect"]:
        return "-"
    said, low, high = (f"{scale * row[name]:+.{digits}f}" for name in ("effect", "low", "high"))
    return said if row["low"] != row["low"] else f"{said} [{low}, {high}]"
