"""Which words a backbone has read: an embedded one those of its captions alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from headlens.backbone import embedded
from headlens.backbone.clip import Backbone


def words(text: str) -> set[str]:
    """Words of a text as CLIP's tokenizer parts them: lower case, cut at anything but letters and digits.

    >>> sorted(words("Chest X-ray"))
    ['chest', 'ray', 'x']
    """
    return set(re.findall(r"[^\W_]+", text.lower()))


@cache
def caption_words(name: str = "mini") -> frozenset[str]:
    """All words of the captions that an embedded backbone was trained on; they ship with its weights.

    Categories that were kept from it and anomalies that were held out have never been named to it.
    """
    return frozenset(embedded.weights(name).with_name("words.txt").read_text(encoding="utf-8").split())


def learnt(backbone: Backbone, phrases: Iterable[str]) -> tuple[list[str], list[str]]:
    """Phrases that ``backbone`` can have learnt, and those that it cannot.

    An embedded backbone knows the words of its captions alone: the token embeddings of others are as they were before
    training, and a phrase with such a word points anywhere. Of published weights it is not known; they keep all.

    >>> from headlens.backbone import load
    >>> learnt(load("mini"), ["damaged object", "rusty object"])
    (['damaged object'], ['rusty object'])
    """
    phrases = list(phrases)
    if backbone.provenance.name not in embedded.NAMES:
        return phrases, []
    read = caption_words(backbone.provenance.name)
    known = [phrase for phrase in phrases if words(phrase) <= read]
    return known, [phrase for phrase in phrases if phrase not in known]
