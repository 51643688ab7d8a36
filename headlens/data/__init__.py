"""Samples and their readers, one per on-disk layout; the procedural worlds; protocol rules. Knows no model."""

from headlens.data.checking import Problem, Report, check
from headlens.data.folders import FileSet
from headlens.data.images import read_image, read_mask
from headlens.data.joined import JoinedSet
from headlens.data.loading import Batch, Loader
from headlens.data.opening import ProceduralClips, ProceduralSet, as_set, layouts, open
from headlens.data.preprocess import Preprocess
from headlens.data.protocol import PROTOCOLS, Protocol, published, refuse_overlap
from headlens.data.samples import DataSet, Pixels, Record
from headlens.data.triggered import Trigger, TriggeredSet, triggered

__all__ = [
    "PROTOCOLS",
    "Batch",
    "DataSet",
    "FileSet",
    "JoinedSet",
    "Loader",
    "Pixels",
    "Preprocess",
    "Problem",
    "ProceduralClips",
    "ProceduralSet",
    "Protocol",
    "Record",
    "Report",
    "Trigger",
    "TriggeredSet",
    "as_set",
    "check",
    "layouts",
    "open",
    "published",
    "read_image",
    "read_mask",
    "refuse_overlap",
    "triggered",
]


def __dir__() -> list[str]:
    return __all__
