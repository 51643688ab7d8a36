"""What authors published of their methods, whichever it is: told apart by what is in the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from headlens.backbone import Backbone
from headlens.backbone.checkpoint import read_checkpoint
from headlens.detectors.detector import Detector
from headlens.detectors.methods import published_aa_clip, published_adaclip, published_april_gan
from headlens.detectors.methods.published import CONTEXT, read_prompts
from headlens.errors import CheckpointError

_FORMATS = (
    "expected a state dict prompt_learner with ctx_pos and ctx_neg (prompts of AnomalyCLIP or Crane), "
    "trainable_linearlayer (linear maps of APRIL-GAN), image_adapter, with text_adapter in a second file (AA-CLIP), or "
    "clip_model.patch_token_layer.head.0.weight, … (AdaCLIP)"
)

IMPORTED = {
    "anomalyclip-published": "prompts",
    "crane": "prompts",
    "april-gan": "linear maps",
    "aa-clip": "adapters and projections",
    "adaclip": "prompts and linear maps",
}
"""Presets that published files can be read as, and what is in these files."""


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


def read_published(path: str | Path, text: str | Path | None = None) -> Published:
    """Reads a ``.pth`` file of a method's authors; nothing in it is executed.

    AnomalyCLIP's or Crane's prompts, APRIL-GAN's maps, AA-CLIP's image adapters, AdaCLIP's prompts and maps.

    Args:
        path: the file.
        text: that of AA-CLIP's text adapters, which go with its image adapters.

    Raises:
        CheckpointError: missing, damaged, something else, or more than that; one of AA-CLIP's files without the other.
    """
    file = read_checkpoint(path)
    inside = file.inside
    if inside in (published_aa_clip.IMAGE, published_aa_clip.TEXT):
        if text is None or inside == published_aa_clip.TEXT:
            raise CheckpointError(
                f"{path} is one of AA-CLIP's two files: give image_adapter_….pth, and with it text_adapter.pth as text"
            )
        return published_aa_clip.read_adapters(path, text)
    if text is not None:
        raise CheckpointError(f"{text}: text adapters go with AA-CLIP's image adapters, which {path} are not")
    if inside == published_april_gan.INSIDE:
        return published_april_gan.read_maps(path)
    if any(name.startswith(published_adaclip.PREFIX) for name in file.state):
        return published_adaclip.read_conditioned(path)
    if not any(name.startswith(CONTEXT) for name in file.state):
        holds = ", ".join(list(file.state)[:3])
        raise CheckpointError(
            f"{path} is not a published checkpoint that can be imported: {_FORMATS}; it holds {holds}"
        )
    return read_prompts(path)
