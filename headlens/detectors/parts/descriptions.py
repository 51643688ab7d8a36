"""What the things of a data set are called in sentences: phrases for categories, from a file."""

from __future__ import annotations

import json
import reprlib
import sys
from pathlib import Path

from headlens.errors import ConfigError
from headlens.files import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Phrases = tuple[tuple[str, str], ...]
"""Pairs of a category and its phrase: settings, so that a run folder has them."""


def read_descriptions(path: str | Path) -> Phrases:
    """Pairs of a category and a phrase, such as ``dark bottle``, from a JSON or TOML file that is one table of text.

    Raises:
        ConfigError: no such file, another suffix, damaged, or something else than text for each category.
    """
    path = Path(path)
    readers = {".json": json.loads, ".toml": tomllib.loads}
    if path.suffix not in readers:
        raise ConfigError(f"{path}: phrases are read from a .json or .toml file")
    try:
        table = readers[path.suffix](read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: no table of phrases ({error})") from error
    if not isinstance(table, dict) or not table:
        raise ConfigError(f'{path}: expected a table of categories and their phrases, such as bottle = "dark bottle"')
    for category, phrase in table.items():
        if not (isinstance(phrase, str) and phrase.strip() and f"{category}{phrase}".isprintable()):
            raise ConfigError(f"{path}: the phrase of {category!r} is {reprlib.repr(phrase)}; it is one line of text")
    return tuple(table.items())


def described(category: str, phrases: Phrases) -> str:
    """What a category is called: its phrase, or its own name where it has none.

    >>> described("metal_nut", (("bottle", "dark bottle"),))
    'metal nut'
    """
    return dict(phrases).get(category, category.replace("_", " "))
