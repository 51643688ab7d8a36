"""Frames in, ``(fig, ax)`` out. Knows no model. Drawing is imported when something is drawn."""

from typing import TYPE_CHECKING

from headlens.lazily import lazily

if TYPE_CHECKING:
    from headlens.plots.ablation import ablation
    from headlens.plots.attribution import PANELS, attribution_panels, overlaid
    from headlens.plots.comparison import comparison
    from headlens.plots.effects import curves, profile
    from headlens.plots.gallery import Column, gallery
    from headlens.plots.grid import grid, grids
    from headlens.plots.head_maps import head_maps
    from headlens.plots.head_view import Panel, head_view
    from headlens.plots.intervals import intervals
    from headlens.plots.joint import mixtures, score_plane
    from headlens.plots.names import names
    from headlens.plots.overlay import anomaly_map, limits_of, overlay
    from headlens.plots.scatter import by_layer, scatter
    from headlens.plots.sheet import sheet
    from headlens.plots.style import axes_for, named, signed

__all__ = [
    "PANELS",
    "Column",
    "Panel",
    "ablation",
    "anomaly_map",
    "attribution_panels",
    "axes_for",
    "by_layer",
    "comparison",
    "curves",
    "gallery",
    "grid",
    "grids",
    "head_maps",
    "head_view",
    "intervals",
    "limits_of",
    "mixtures",
    "named",
    "names",
    "overlaid",
    "overlay",
    "profile",
    "scatter",
    "score_plane",
    "sheet",
    "signed",
]

lazily(
    __name__,
    {
        "ablation": ("ablation",),
        "attribution": ("PANELS", "attribution_panels", "overlaid"),
        "comparison": ("comparison",),
        "effects": ("curves", "profile"),
        "gallery": ("Column", "gallery"),
        "grid": ("grid", "grids"),
        "head_maps": ("head_maps",),
        "head_view": ("Panel", "head_view"),
        "intervals": ("intervals",),
        "joint": ("mixtures", "score_plane"),
        "names": ("names",),
        "overlay": ("anomaly_map", "limits_of", "overlay"),
        "scatter": ("by_layer", "scatter"),
        "sheet": ("sheet",),
        "style": ("axes_for", "named", "signed"),
    },
)
