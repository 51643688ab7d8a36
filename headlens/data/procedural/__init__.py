"""Procedural worlds: industrial goods and medical scans painted from a seed, with flaws, masks and captions.

>>> from headlens.data.procedural import World
>>> world = World("procedural:medical", per_category=2, size=56)
>>> sample = world[1]
>>> sample.category, sample.family, tuple(sample.image.shape), sample.mask.dtype
('head_ct', 'haemorrhage', (3, 56, 56), torch.bool)
"""

from headlens.data.procedural.clips import CLIPS, ClipWorld, write_clips
from headlens.data.procedural.worlds import SPECS, Sample, World, read, write

__all__ = ["CLIPS", "SPECS", "ClipWorld", "Sample", "World", "read", "write", "write_clips"]
