"""Samples and their readers, one per on-disk layout; the procedural worlds; protocol rules. Knows no model."""

from headlens.data.folders import FileSet
from headlens.data.images import read_image, read_mask
from headlens.data.opening import ProceduralSet, layouts, open
from headlens.data.samples import DataSet, Pixels, Record

__all__ = ["DataSet", "FileSet", "Pixels", "ProceduralSet", "Record", "layouts", "open", "read_image", "read_mask"]
