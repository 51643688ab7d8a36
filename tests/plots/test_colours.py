"""Colours of domains and other groups of runs."""

from __future__ import annotations

import pandas as pd
from matplotlib.colors import to_rgb

from headlens.plots.intervals import intervals
from headlens.plots.style import COLOURS, DOMAINS, ORDERS, domain_colours


def test_groups_differ_keep_their_order_and_look_like_no_stream():
    names = ["food", "industrial", "wood", "cloth", "medical", "glass"]
    colours = domain_colours(names)
    assert list(colours) == names and len(set(colours.values())) == 6
    assert {name: colours[name] for name in DOMAINS} == DOMAINS
    assert not set(colours.values()) & {*ORDERS, COLOURS["global"], COLOURS["local"]}
    assert domain_colours(names) == colours and domain_colours(["medical"]) == {"medical": DOMAINS["medical"]}
    assert len(domain_colours(map(str, range(20)))) == 20


def test_intervals_of_many_groups_stay_in_their_row():
    rows = [(row, f"group {number}", 0.5, 0.4, 0.6) for row in ("a", "b") for number in range(6)]
    ax = intervals(pd.DataFrame(rows, columns=["row", "group", "value", "low", "high"])).axes
    points = [line for line in ax.lines if line.get_marker() in "os^D"]
    heights = sorted(y for line in points for y in line.get_ydata())
    assert heights[5] < 0.5 < heights[6] and len({to_rgb(line.get_color()) for line in points}) == 6
