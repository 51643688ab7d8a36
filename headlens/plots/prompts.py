"""What prompts add to the peak of a map, each with the sentence that it is nearest to."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable

from headlens.errors import ShapeError
from headlens.plots.figure import Figure
from headlens.plots.style import GREY, axes_of, colours, finished
from headlens.plots.text import font, plain


def prompts(frame: pd.DataFrame, sentences: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """A bar for each prompt, the one that adds most on top.

    Args:
        frame, sentences: of ``headlens.heads.prompt_parts.PromptParts``.
        ax: where to draw; a new figure when None.

    Raises:
        ShapeError: no prompt.

    >>> frame = pd.DataFrame({"state": ["abnormal"], "prompt": [0], "peak": [0.4]})
    >>> said = {"state": ["abnormal"], "prompt": [0], "rank": [1], "sentence": ["A part is missing."], "cosine": [0.9]}
    >>> fig, ax = prompts(frame, pd.DataFrame(said))
    >>> ax.get_yticklabels()[0].get_text()
    'abnormal 0: A part is missing. (0.90)'
    """
    if frame.empty:
        raise ShapeError("there is no prompt to draw")
    nearest = sentences[sentences["rank"] == 1].set_index(["state", "prompt"])
    rows = frame.sort_values("peak", ascending=False)
    fig, ax = axes_of(ax, 7.4, 1.2 + 0.25 * len(rows))
    labels = []
    for row in rows.itertuples():
        near = nearest.loc[(row.state, row.prompt)]
        labels.append(f"{row.state} {row.prompt}: {plain(near['sentence'], 60)} ({near['cosine']:.2f})")
    fills = ScalarMappable(**colours(rows["peak"])).to_rgba(rows["peak"])
    ax.barh(range(len(rows)), rows["peak"], height=0.8, color=fills, edgecolor=GREY, lw=0.4)
    ax.set_yticks(range(len(rows)), labels, fontsize=8, **font())
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.axvline(0, color="black", lw=0.8)
    finished(ax, "added to the peak of the map (logits)")
    return Figure(fig, ax)
