"""Frames in, ``(fig, ax)`` out. Knows no model. Drawing is imported when something is drawn."""

from typing import TYPE_CHECKING

from headlens.lazily import lazily

if TYPE_CHECKING:
    from headlens.plots.ablation import ablation
    from headlens.plots.attribution import PANELS, attribution_panels
    from headlens.plots.comparison import comparison
    from headlens.plots.grid import grids
    from headlens.plots.head_maps import head_maps
    from headlens.plots.head_view import Panel, head_view
    from headlens.plots.names import names
    from headlens.plots.pictures import sheet
    from headlens.plots.scatter import scatter
    from headlens.plots.style import axes_for, named, signed

__all__ = [
    "PANELS",
    "Panel",
    "ablation",
    "attribution_panels",
    "axes_for",
    "comparison",
    "grids",
    "head_maps",
    "head_view",
    "named",
    "names",
    "scatter",
    "sheet",
    "signed",
]

lazily(
    __name__,
    {
        "ablation": ("ablation",),
        "attribution": ("PANELS", "attribution_panels"),
        "comparison": ("comparison",),
        "grid": ("grids",),
        "head_maps": ("head_maps",),
        "head_view": ("Panel", "head_view"),
        "names": ("names",),
        "pictures": ("sheet",),
        "scatter": ("scatter",),
        "style": ("axes_for", "named", "signed"),
    },
)
