"""Hand-written prompts: many sentences for each of the two states, averaged into one embedding each.

The states are those CLIP-based anomaly detection has in common (Jeong et al., WinCLIP, arXiv 2303.14814).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, cat, stack

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
PHOTOS = (
    *(
        f"a {look}photo of {article} {{}}."
        for look in (
            *("", "bad ", "low resolution ", "cropped ", "bright ", "dark ", "close-up ", "black and white "),
            *("jpeg corrupted ", "blurry ", "good "),
        )
        for article in ("a", "the")
    ),
    *(f"a photo of {article} {kind} {{}}." for kind in ("cool", "large", "small") for article in ("a", "the")),
    *("a photo of my {}.", "a photo of one {}."),
    *("there is a {} in the scene.", "there is the {} in the scene."),
    *(f"this is {article} {{}} in the scene." for article in ("a", "the", "one")),
)
"""The 35 of APRIL-GAN (arXiv 2305.17382)."""


@dataclass(frozen=True)
class Wording:
    """Sentences for a thing in two states: every state of it in every template.

    Args:
        normal, abnormal: states, such as ``flawless {}``.
        templates: sentences about a thing in a state, such as ``a photo of the {}.``.

    >>> Wording(("{}",), ("broken {}",), ("a photo of a {}.",)).sentences("cup")
    (['a photo of a cup.'], ['a photo of a broken cup.'])
    """

    normal: tuple[str, ...] = NORMAL
    abnormal: tuple[str, ...] = ABNORMAL
    templates: tuple[str, ...] = TEMPLATES

    def sentences(self, thing: str) -> tuple[list[str], list[str]]:
        """Of the normal and of the abnormal thing."""
        normal, abnormal = (
            [template.format(state.format(thing)) for state in states for template in self.templates]
            for states in (self.normal, self.abnormal)
        )
        return normal, abnormal


FINDINGS = Wording(normal=("no finding",), abnormal=("{}",), templates=("There is {}.",))
"""Of radiology: ``There is no finding.``, and ``There is <finding>.`` of each thing (OFF-CLIP, arXiv 2503.01794)."""


def ensemble(backbone: Backbone, things: Sequence[str] = ("object",), wording: Wording = Wording()) -> Tensor:
    """The normal and the abnormal prompt embedding, [2, d], of unit length.

    Args:
        backbone: whose text tower reads them.
        things: what the sentences are about, averaged; ``object`` is what object-agnostic methods say.
        wording: states and templates.

    >>> from headlens.backbone import load
    >>> ensemble(load("mini"), ["bottle cap"]).shape
    torch.Size([2, 128])
    """
    pair = []
    for sentences in zip(*map(wording.sentences, things), strict=True):
        tokens = backbone.tokenizer([sentence for of_thing in sentences for sentence in of_thing])
        pair.append(F.normalize(backbone.encode_text(tokens, normalize=True).mean(0), dim=-1))
    return stack(pair)


def ensembles(
    backbone: Backbone, things: Sequence[str], wording: Wording, encode: Callable[[Tensor], Tensor]
) -> Tensor:
    """The normal and the abnormal prompt embedding of each thing, [things, 2, d_e], of unit length, from one forward.

    Args:
        backbone: whose tokenizer it is.
        things: what the sentences are about.
        wording: states and templates.
        encode: token ids to unit embeddings.
    """
    pairs = [_tokens(backbone.tokenizer, wording, thing) for thing in things]
    embedded = encode(cat([tokens for pair in pairs for tokens in pair]))
    means = [each.mean(0) for each in embedded.split([len(tokens) for pair in pairs for tokens in pair])]
    return F.normalize(stack(means), dim=-1).unflatten(0, (-1, 2))


@lru_cache(maxsize=64)
def _tokens(tokenizer: Callable[[list[str]], Tensor], wording: Wording, thing: str) -> tuple[Tensor, Tensor]:
    """Of the sentences of either state, [sentences, n_ctx]: where text depends on the image, it is asked for each."""
    normal, abnormal = wording.sentences(thing)
    return tokenizer(normal), tokenizer(abnormal)
