"""Hand-written prompts: many sentences for each of the two states, averaged into one embedding each.

The states and templates are those CLIP-based anomaly detection has in common (Jeong et al., WinCLIP, arXiv 2303.14814).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, stack

if TYPE_CHECKING:
    from headlens.backbone import Backbone

NORMAL = (
    "{}",
    "flawless {}",
    "perfect {}",
    "unblemished {}",
    "{} without flaw",
    "{} without defect",
    "{} without damage",
)
ABNORMAL = ("damaged {}", "broken {}", "{} with flaw", "{} with defect", "{} with damage")
TEMPLATES = (
    "a photo of the {}.",
    "a cropped photo of the {}.",
    "a close-up photo of the {}.",
    "an image of the {}.",
    "{}",
)


def ensemble(backbone: Backbone, things: Sequence[str] = ("object",)) -> Tensor:
    """The normal and the abnormal prompt embedding, [2, d], of unit length.

    Args:
        backbone: whose text tower reads them.
        things: what the sentences are about, averaged; ``object`` is what object-agnostic methods say.

    >>> from headlens.backbone import load
    >>> ensemble(load("mini"), ["bottle cap"]).shape
    torch.Size([2, 128])
    """
    pair = []
    for states in (NORMAL, ABNORMAL):
        sentences = [t.format(state.format(thing)) for thing in things for state in states for t in TEMPLATES]
        tokens = backbone.tokenizer(sentences)
        pair.append(F.normalize(backbone.encode_text(tokens, normalize=True).mean(0), dim=-1))
    return stack(pair)
