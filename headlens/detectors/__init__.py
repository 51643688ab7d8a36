"""Detectors: methods on a frozen CLIP, and the parts that they are made of.

build(backbone, "headclip")              an untrained detector, of a preset
HeadCLIP(backbone, HeadCLIPConfig())     the same by its class
"""

from typing import TYPE_CHECKING

from headlens.lazily import lazily

if TYPE_CHECKING:
    from headlens.detectors.detector import Detector, MethodConfig
    from headlens.detectors.methods.headclip import HeadCLIP, HeadCLIPConfig
    from headlens.detectors.methods.registry import METHODS, PRESETS, build, preset
    from headlens.detectors.reading import Reading
    from headlens.detectors.readout import Readout
    from headlens.detectors.scoring import Margins, Prediction, Scoring
    from headlens.detectors.stages import Stage, TrainingConfig

__all__ = [
    "METHODS",
    "PRESETS",
    "Detector",
    "HeadCLIP",
    "HeadCLIPConfig",
    "Margins",
    "MethodConfig",
    "Prediction",
    "Reading",
    "Readout",
    "Scoring",
    "Stage",
    "TrainingConfig",
    "build",
    "preset",
]

lazily(
    __name__,
    {
        "detector": ("Detector", "MethodConfig"),
        "methods.headclip": ("HeadCLIP", "HeadCLIPConfig"),
        "methods.registry": ("METHODS", "PRESETS", "build", "preset"),
        "reading": ("Reading",),
        "readout": ("Readout",),
        "scoring": ("Margins", "Prediction", "Scoring"),
        "stages": ("Stage", "TrainingConfig"),
    },
)
