"""Names of splits, of folders as in listings."""

from __future__ import annotations

import re
from pathlib import Path

from headlens.data.readers.tree import Root

SPLITS = {
    "train": ("train", "training", "trainval"),
    "test": ("test", "testing"),
    "valid": ("valid", "validation", "val"),
}
"""Names of folders and words in listings, in lower case, that stand for a split."""


def split_of(word: str | None) -> str | None:
    """The split that a word stands for; None if it stands for none.

    >>> split_of("Training"), split_of("val"), split_of("bottle")
    ('train', 'valid', None)
    """
    return next((split for split, words in SPLITS.items() if word and word.lower() in words), None)


def split_on_the_way(root: Root, path: Path) -> str:
    """The split of a file by the folders that it is in, or by a word in its name (``instances_val2017.json``)."""
    parts = path.relative_to(root.path).with_suffix("").parts
    words = [*parts[:-1], *re.split(r"[^A-Za-z]+|(?<=[a-z])(?=\d)", parts[-1])]
    return next((split for word in reversed(words) if (split := split_of(word))), "test")
