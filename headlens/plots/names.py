"""What heads are called: for each head its phrases, and how much of what it writes each one explains."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable

from headlens.errors import ShapeError
from headlens.plots.figure import Figure
from headlens.plots.style import GREY, axes_of, colours, finished
from headlens.plots.text import font, plain


def names(frame: pd.DataFrame, ax: Axes | None = None, *, most: int = 6) -> Figure:
    """A bar for each phrase, that begins where the last one's ended; the heads that write most, the strongest on top.

    A black line is what as many directions explain by chance. Bars are red where the head writes more along the phrase
    where there is an anomaly, blue where it writes less, grey where labels are not known.

    Args:
        frame: of ``headlens.heads.naming.Naming``.
        ax: where to draw; a new figure when None.
        most: how many heads.

    Raises:
        ShapeError: no head with a phrase.

    >>> one = {"stream": "global", "layer": 22, "head": 1, "rank": 1, "phrase": "wood", "share": 0.5, "cumulative": 0.5}
    >>> fig, ax = names(pd.DataFrame([one | {"chance": 0.3, "correlation": -0.2, "variance": 0.01}]))
    >>> [tick.get_text() for tick in ax.get_yticklabels()]
    ['wood']
    """
    frame = frame[frame["phrase"].notna()]
    if frame.empty:
        raise ShapeError("no head of this frame has a phrase: nothing varies in what they write")
    groups = [rows for _, rows in frame.groupby(["stream", "layer", "head"], sort=False)]
    groups = sorted(groups, key=lambda rows: -rows["variance"].iloc[0])[:most]
    rows = len(groups) + sum(map(len, groups))  # and one above each head, for its name
    fig, ax = axes_of(ax, 7.4, 1.2 + 0.19 * rows)
    shown = pd.concat(groups)["correlation"]
    scale = ScalarMappable(**colours(shown)) if shown.notna().any() else None
    y, ticks = 0, {}
    for group in groups:
        first = group.iloc[0]
        head = f"L{first['layer']}H{first['head']}" + ("" if first["stream"] == "global" else f"/{first['stream']}")
        note = f"{head}, writes ±{first['variance'] ** 0.5:.3f} (embedding: 1)"
        ax.text(0.008, y, note, fontsize=8, fontweight="bold", va="center")
        for row in group.itertuples():
            y += 1
            ticks[y] = row.phrase
            colour = GREY if scale is None or pd.isna(row.correlation) else scale.to_rgba(row.correlation)
            ax.barh(y, row.share, left=row.cumulative - row.share, height=0.8, color=colour, edgecolor=GREY, lw=0.4)
            ax.plot([row.chance, row.chance], [y - 0.45, y + 0.45], color="black", lw=1.3, solid_capstyle="butt")
        y += 1
    ax.set_yticks(list(ticks), [plain(phrase, 60) for phrase in ticks.values()], fontsize=8, **font())
    ax.set_ylim(y - 0.4, -0.7)
    ax.set_xlim(0, 1)
    finished(ax, "share of the head's variance, added up (black: by chance)")
    if scale is not None:
        fig.colorbar(scale, ax=ax, fraction=0.03, pad=0.02, label="correlation with anomalies")
    return Figure(fig, ax)
