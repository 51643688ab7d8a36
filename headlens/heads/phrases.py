"""Phrases that heads are named with: the built-in pool, or a given one.

A phrase is a noun phrase that fits into ``headlens.detectors.parts.ensemble.TEMPLATES``: "a photo of the {}.".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from headlens.backbone import Backbone
from headlens.detectors.parts.ensemble import TEMPLATES
from headlens.errors import DataError
from headlens.files import read_text

BUILT_IN = Path(__file__).with_name("phrases.txt")
"""The pool that is used when none is given."""


def read_phrases(path: str | Path) -> list[str]:
    """Phrases from a text file: one a line; empty lines and headings, which begin with ``#``, are skipped.

    Of phrases that differ in case and spaces alone, which CLIP's tokenizer does not see, the first stays.

    Raises:
        DataError: no such file, not text, or fewer than two phrases.

    >>> pool = read_phrases(BUILT_IN)
    >>> len(pool) > 500, "damaged object" in pool
    (True, True)
    """
    try:
        lines = read_text(Path(path)).splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable text file ({error}); give a file of phrases, one a line") from error
    return distinct((line for line in lines if not line.lstrip().startswith("#")), str(path))


def distinct(phrases: Iterable[str], source: str = "the pool") -> list[str]:
    """Phrases with single spaces, each once, in their order.

    Args:
        phrases: any; what is empty is skipped.
        source: how a message calls them.

    Raises:
        DataError: a string instead of several, or fewer than two phrases.

    >>> distinct(["red  object", "", "Red object", "wood"])
    ['red object', 'wood']
    """
    if isinstance(phrases, str):
        raise DataError(f"{source} is one string, {phrases!r}; give a list of phrases, or read_phrases(path)")
    once: dict[str, str] = {}
    for phrase in phrases:
        if text := " ".join(phrase.split()):
            once.setdefault(text.lower(), text)
    if len(once) < 2:
        raise DataError(f"{source} has {len(once)} phrases; at least 2 are needed to tell one from another")
    return list(once.values())


@torch.no_grad()
def directions(
    backbone: Backbone,
    phrases: list[str],
    encode: Callable[[Tensor], Tensor] | None = None,
    templates: Sequence[str] = TEMPLATES,
) -> np.ndarray:
    """Unit directions of P phrases, their mean embeddings in ``templates`` minus the mean of all, [P, d_e] float64.

    ``encode`` makes unit embeddings of token ids; the backbone does when None.

    >>> from headlens.backbone import load
    >>> directions(load("mini"), ["red object", "wood", "brain MRI"]).shape
    (3, 128)
    """
    tokens = backbone.tokenizer([template.format(phrase) for phrase in phrases for template in templates])
    encode = encode or partial(backbone.encode_text, normalize=True)
    sentences = encode(tokens.to(backbone.logit_scale.device))
    means = sentences.cpu().double().unflatten(0, (len(phrases), -1)).mean(1)
    return unit((means - means.mean(0)).numpy())


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows [n, d] of unit length; zero stays zero."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1.0)
