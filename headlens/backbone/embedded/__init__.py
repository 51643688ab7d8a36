"""Backbones that ship with headlens, trained on procedural images alone; none has ever seen a photograph.

``mini`` was trained with masks of anomalies, ``mini-captions`` on sentences. One folder each, in the layout that
open_clip calls a local directory: ``open_clip_config.json``, ``open_clip_model.safetensors``, and ``card.md``, which
says how it was made and what it is not.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SHA256 = {
    "mini": "691ce1878b21171ce7b18a4ac5f922c767e13f8e18f9a81aa3daf0b14ea14b62",
    "mini-captions": "23ddd9d59d575e46a73da632da009d262651dd7ba7aacbc5e7e4a1ba86077494",
}
"""Of the weight file of each: what ships is what is loaded."""
NAMES = tuple(SHA256)
TRAINED_ON = {
    "mini": "embedded, trained on procedural images only",
    "mini-captions": "embedded, trained on sentences about procedural images only",
}
"""What the provenance of each says of its weights; it begins with ``embedded``."""


def weights(name: str) -> Path:
    """The weight file of an embedded backbone."""
    return Path(__file__).parent / name / "open_clip_model.safetensors"


def config(name: str) -> dict[str, Any]:
    """Its ``open_clip_config.json``: ``model_cfg`` and ``preprocess_cfg``.

    >>> config("mini")["model_cfg"]["vision_cfg"]["layers"]
    24
    """
    return dict(json.loads(weights(name).with_name("open_clip_config.json").read_text(encoding="utf-8")))
