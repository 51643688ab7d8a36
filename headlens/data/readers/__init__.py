"""One reader for each on-disk layout; of ``LAYOUTS`` the first that fits a folder reads it."""

from headlens.data.readers import clips, coco, downloads, folders, generators, labelme, listings
from headlens.data.readers.layout import Layout
from headlens.data.readers.tree import Root

LAYOUTS = (
    listings.realiad,
    listings.meta,
    listings.visa,
    downloads.headct,
    downloads.ksdd,
    downloads.ksdd2,
    downloads.dagm,
    downloads.magnetic_tile,
    downloads.crackforest,
    downloads.elpv,
    generators.generators,
    folders.bmad,
    folders.isic,
    folders.pairs,
    folders.mvtec,
    clips.clips,
    coco.coco,
    labelme.labelme,
    folders.classes,
    listings.json_lines,
    listings.csv_table,
    folders.images,
)
"""In the order in which they are tried: the specific before the general."""

__all__ = ["LAYOUTS", "Layout", "Root"]
