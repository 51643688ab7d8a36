"""Procedural worlds: industrial goods and medical scans painted from a seed, with flaws, masks and captions.

>>> from headlens.data.procedural import World
>>> world = World("procedural:medical", per_category=2, size=56)
>>> sample = world[1]
>>> sample.category, sample.family, tuple(sample.image.shape), sample.mask.dtype
('head_ct', 'haemorrhage', (3, 56, 56), torch.bool)
"""

from headlens.data.procedural.clips import CLIPS, ClipWorld, write_clips
from headlens.data.procedural.generated import Generated
from headlens.data.procedural.worlds import SPECS, Sample, World, read, write
from headlens.errors import DataError
from headlens.printing import unknown_name

ALL_SPECS = SPECS + Generated.specs
"""Of images: those of the worlds, and generated ones."""


def world_of(spec: str, **settings: int) -> World:
    """The procedural set of any of ``ALL_SPECS``; settings are those of ``World``.

    Raises:
        DataError: an unknown spec, or settings that it cannot have.

    >>> world_of("procedural:generated/aux", per_category=2).categories
    ('nearest', 'checkerboard', 'denoised', 'palette')
    """
    if spec not in ALL_SPECS:
        raise DataError(unknown_name("procedural set", spec, (*ALL_SPECS, *CLIPS)))
    return (Generated if spec in Generated.specs else World)(spec, **settings)


__all__ = [
    "ALL_SPECS",
    "CLIPS",
    "SPECS",
    "ClipWorld",
    "Generated",
    "Sample",
    "World",
    "read",
    "world_of",
    "write",
    "write_clips",
]
