"""Two domains' view of the same heads, and their difference: three heat maps a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.figure import Figure

from headlens.plots.grid import grid
from headlens.plots.style import axes_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def comparison(
    frame: pd.DataFrame,
    domains: tuple[str, str],
    ax: Axes | None = None,
    *,
    label: str = "value",
    centre: float | None = None,
    level: float = 0.05,
) -> tuple[Figure, Any]:
    """First domain, second domain, second minus first; a dot on heads that differ significantly.

    Both domains share one scale of colours.

    Args:
        frame: columns stream, layer, head, one for each domain, difference, significant.
        domains: first and second.
        ax: where to draw the last stream's difference alone; a new figure when None, a row of panels for each stream.
        label: what the values are.
        centre: of the domains' colours, which rise from light to dark when None.
        level: the false discovery rate of the dots, for the title.

    Returns:
        The figure and its axes: ``ax``, or an array [streams, 3].

    >>> frame = pd.DataFrame({"stream": "local", "layer": [0, 0], "head": [0, 1], "a": [1.0, 2.0], "b": [1.0, 0.5]})
    >>> frame = frame.assign(difference=frame["b"] - frame["a"], significant=[False, True])
    >>> fig, axes = comparison(frame, ("a", "b"))
    >>> [own.get_title() for own in axes[0]]
    ['a', 'b', 'b − a (dots: q ≤ 0.05)']
    """
    first, second = domains
    streams = list(frame["stream"].unique())

    def difference(own: pd.DataFrame, on: Axes, of: str = "") -> None:
        name = f"difference of {label.partition(' (')[0]}"
        title = f"{second} − {first}{of} (dots: q ≤ {level:.3g})"
        grid(own, "difference", on, title=title, label=name, centre=0, marks="significant")

    if ax is not None:
        difference(frame[frame["stream"] == streams[-1]], ax)
        return axes_of(ax)
    layers = frame.groupby("stream")["layer"].nunique().max()
    fig = Figure(figsize=(11.5, (1.2 + 0.165 * max(6, layers)) * len(streams)), layout="constrained")
    axes = fig.subplots(len(streams), 3, squeeze=False)
    for stream, (left, middle, right) in zip(streams, axes, strict=True):
        own = frame[frame["stream"] == stream]
        values = own[[first, second]].to_numpy()
        limits = float(values.min()), float(values.max())
        if centre is not None:
            reach = max(limits[1] - centre, centre - limits[0]) or 1.0
            limits = centre - reach, centre + reach
        of = f", {stream}" if len(streams) > 1 else ""
        grid(own, first, left, title=first + of, centre=centre, limits=limits, bar=False)
        grid(own, second, middle, title=second + of, label=label, centre=centre, limits=limits)
        difference(own, right, of)
    return fig, axes
