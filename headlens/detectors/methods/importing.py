"""What authors published of their methods, whichever it is: told apart by what is in the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from headlens.backbone import Backbone
from headlens.backbone.checkpoint import read_checkpoint
from headlens.detectors.detector import Detector
from headlens.detectors.methods import published_april_gan
from headlens.detectors.methods.published import read_prompts


class Published(Protocol):
    """The content of a published file."""

    @property
    def preset(self) -> str:
        """How its authors score with it."""

    @property
    def sha256(self) -> str:
        """Of the file."""

    @property
    def contents(self) -> str:
        """What was read, for people."""

    @property
    def not_taken(self) -> str:
        """What may be missing from its authors' detector; empty where nothing is."""

    @property
    def rules(self) -> Mapping[str, Any]:
        """How its authors load the CLIP: options of ``headlens.backbone.load``."""

    def on(self, backbone: Backbone) -> Detector:
        """The detector that its authors evaluate, on ``backbone``; raises RunError for another CLIP than it is for."""


def read_published(path: str | Path) -> Published:
    """Reads a ``.pth`` file of AnomalyCLIP's or Crane's prompts, or of APRIL-GAN's maps; nothing in it is executed.

    Raises:
        CheckpointError: missing, damaged, something else, or more than that.
    """
    if read_checkpoint(path).inside == published_april_gan.INSIDE:
        return published_april_gan.read_maps(path)
    return read_prompts(path)
