"""What a row of a knowledge base is: one sentence about the normal or the anomalous state of a thing."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

from headlens.errors import DataError
from headlens.printing import did_you_mean

State = Literal["normal", "anomalous"]
STATES: tuple[State, ...] = get_args(State)
ANY = "*"
"""The category of what holds for all categories of a domain."""
NEEDED = ("domain", "category", "state", "sentence", "source")
KEYS = (*NEEDED, "image")
MOST_LETTERS = 1000
"""Characters of the longest text of a row: far beyond what CLIP's 77 tokens hold, and enough for a prompt."""


@dataclass(frozen=True)
class Row:
    """One sentence. Spaces around texts do not count.

    Args:
        domain: ``industrial``, ``medical``, or any other.
        category: as a data set calls it, such as ``metal_nut``; ``*`` where it holds for all of the domain.
        state: ``normal`` or ``anomalous``: which state of the thing the sentence tells.
        sentence: one line of English.
        source: who says so: a project, a book, or a model with its revision and the prompt.
        image: of what is said of one image alone, its path in the data set, with ``/``; empty for general knowledge.

    Raises:
        DataError: a text that is empty, too long or more than one line, another state, letters outside the Latin
            script, or an image that is not a path inside a data set or that has no category.

    >>> Row("industrial", "screw", "anomalous", "The tip of the screw is bent.", "headlens").image
    ''
    >>> Row("industrial", "screw", "broken", "The tip of the screw is bent.", "headlens")
    Traceback (most recent call last):
    headlens.errors.DataError: the state is 'broken'; there are normal and anomalous
    """

    domain: str
    category: str
    state: State
    sentence: str
    source: str
    image: str = ""

    def __post_init__(self) -> None:
        for key, value in asdict(self).items():
            object.__setattr__(self, key, _line(key, value))
        if self.state not in STATES:
            hint = did_you_mean(self.state, STATES)
            raise DataError(f"the state is {self.state!r}; there are {' and '.join(STATES)}{hint}")
        _check_script(self.sentence)
        if self.image:
            _check_image(self.image, self.category)

    def table(self) -> dict[str, Any]:
        """What is written of it: its fields, ``image`` only where there is one."""
        return {key: value for key, value in asdict(self).items() if value}


def row_of(table: object) -> Row:
    """The row that an object of JSON is.

    Raises:
        DataError: no object, a key that is missing or unknown, or what ``Row`` refuses.

    >>> row_of({"domain": "medical", "category": "*", "state": "normal", "sentense": "All is well."})
    Traceback (most recent call last):
    headlens.errors.DataError: unknown key 'sentense'; did you mean sentence?
    """
    if not isinstance(table, dict):
        raise DataError(f"is not an object with the keys {', '.join(NEEDED)}")
    if unknown := [key for key in table if key not in KEYS]:
        known = did_you_mean(unknown[0], KEYS) or f"; available: {', '.join(KEYS)}"
        raise DataError(f"unknown key {unknown[0]!r:.60}{known}")
    if absent := [key for key in NEEDED if key not in table]:
        raise DataError(f"has no {absent[0]}; every row has {', '.join(NEEDED)}")
    if table.get("image", "-") == "":
        raise DataError("the image is empty; leave the key out where no image is meant")
    return Row(**table)


def plain(name: str) -> str:
    """A domain or category as it is compared: in lower case, with ``_`` for spaces and hyphens.

    >>> plain("Head-CT"), plain("metal nut")
    ('head_ct', 'metal_nut')
    """
    return re.sub(r"[\s_-]+", "_", name.casefold()).strip("_")


def _line(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise DataError(f"the {key} is {value!r:.60}, which is not text")
    value = value.strip()
    if not value and key != "image":
        raise DataError(f"the {key} is empty")
    if len(value) > MOST_LETTERS:
        raise DataError(f"the {key} has {len(value)} characters; at most {MOST_LETTERS} are read")
    if not value.isprintable():
        odd = next(c for c in value if not c.isprintable())
        raise DataError(f"the {key} has the character U+{ord(odd):04X}; it is one line of plain text")
    return value


def _check_script(sentence: str) -> None:
    letters = [c for c in sentence if c.isalpha()]
    if not letters:
        raise DataError(f"the sentence {sentence!r:.60} has no letters")
    if other := next((c for c in letters if not unicodedata.name(c, "").startswith("LATIN ")), None):
        name = unicodedata.name(other, f"U+{ord(other):04X}").lower()
        raise DataError(f"the sentence has the letter {other!r} ({name}), which is not Latin; sentences are English")


def _check_image(image: str, category: str) -> None:
    path = PurePosixPath(image)
    if path.is_absolute() or ".." in path.parts or "\\" in image or re.match(r"\w:", image):
        raise DataError(f"the image {image!r:.80} is not a path inside a data set, such as screw/test/bent/003.png")
    if category == ANY:
        raise DataError(f"the image {image!r:.80} is of one category; name it in place of {ANY}")
