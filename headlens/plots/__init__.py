"""Frames in, a ``Figure`` out. Knows no model. Drawing is imported when something is drawn."""

from typing import TYPE_CHECKING

from headlens.lazily import lazily

if TYPE_CHECKING:
    from headlens.plots.attribution import PANELS as PANELS
    from headlens.plots.attribution import attribution_panels as attribution_panels
    from headlens.plots.attribution import overlaid as overlaid
    from headlens.plots.best_heads import best_heads as best_heads
    from headlens.plots.effects import ablation as ablation
    from headlens.plots.effects import curves as curves
    from headlens.plots.effects import profile as profile
    from headlens.plots.figure import Figure as Figure
    from headlens.plots.gallery import Column as Column
    from headlens.plots.gallery import gallery as gallery
    from headlens.plots.grid import comparison as comparison
    from headlens.plots.grid import grid as grid
    from headlens.plots.grid import grids as grids
    from headlens.plots.head_maps import Panel as Panel
    from headlens.plots.head_maps import head_maps as head_maps
    from headlens.plots.head_maps import head_view as head_view
    from headlens.plots.intervals import intervals as intervals
    from headlens.plots.matrix import agreement as agreement
    from headlens.plots.names import names as names
    from headlens.plots.overlay import limits_of as limits_of
    from headlens.plots.overlay import overlay as overlay
    from headlens.plots.overlay import sheet as sheet
    from headlens.plots.prompts import prompts as prompts
    from headlens.plots.scatter import by_layer as by_layer
    from headlens.plots.scatter import mixtures as mixtures
    from headlens.plots.scatter import scatter as scatter
    from headlens.plots.scatter import score_plane as score_plane
    from headlens.plots.shares import shares as shares
    from headlens.plots.style import axes_for as axes_for
    from headlens.plots.style import named as named
    from headlens.plots.style import signed as signed
    from headlens.plots.timeline import timelines as timelines

lazily(__name__)
