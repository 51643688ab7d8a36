"""What models are asked, and how their answers become sentences."""

from __future__ import annotations

import re
import string
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from headlens.errors import ConfigError
from headlens.files import read_text
from headlens.knowledge.rows import ANY, STATES, State
from headlens.printing import did_you_mean, reason

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

To = Literal["text", "image"]
BUILT_IN = Path(__file__).with_name("questions.toml")
"""The questions that are asked when no others are given."""
_FIELDS = ("to", "state", "ask")
_FILLED = ("domain", "category")
_FEWEST_WORDS = 3


@dataclass(frozen=True)
class Question:
    """One question.

    Args:
        to: ``text``, a language model, or ``image``, a model that sees the image.
        state: which state the answer tells.
        ask: one line, in which ``{domain}`` and ``{category}`` stand for their names.

    Raises:
        ConfigError: a value that is none of these.

    >>> Question("text", "normal", "What does a good {category} look like?").filled("industrial", "metal_nut")
    'What does a good metal nut look like?'
    """

    to: To
    state: State
    ask: str

    def __post_init__(self) -> None:
        for name, value, known in (("to", self.to, get_args(To)), ("state", self.state, STATES)):
            if value not in known:
                raise ConfigError(f"{name} is {value!r:.60}; it can be {' or '.join(known)}")
        if not isinstance(self.ask, str) or not self.ask.strip() or not self.ask.isprintable():
            raise ConfigError(f"ask is {self.ask!r:.60}; it is one line of text")
        try:
            fields = [part[1:] for part in string.Formatter().parse(self.ask) if part[1] is not None]
        except ValueError as error:
            raise ConfigError(f"ask has a brace that is not closed or opened ({error}): {self.ask:.60}") from error
        if other := [name for name, *rest in fields if name not in _FILLED or any(rest)]:
            raise ConfigError(f"ask has {{{other[0]}}}; there are {{domain}} and {{category}}: {self.ask:.60}")

    @property
    def of_domain(self) -> bool:
        """Whether it is asked once for the domain: to a language model, without a category."""
        return self.to == "text" and "{category}" not in self.ask

    def filled(self, domain: str, category: str) -> str:
        """What is asked, with the names in words; ``*`` is asked as ``anything``."""
        words = "anything" if category == ANY else re.sub(r"[_\s]+", " ", category)
        return self.ask.format(domain=domain, category=words)


def read_questions(path: str | Path = BUILT_IN) -> tuple[Question, ...]:
    """Questions from a TOML file of tables ``[[question]]``.

    Raises:
        ConfigError: no such file, no TOML, no question, or one that is wrong, by its number from 1.

    >>> len(read_questions())
    6
    """
    try:
        content = tomllib.loads(read_text(Path(path)))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {reason(error)}; expected TOML with tables [[question]]") from error
    tables = content.get("question")
    if [*content] != ["question"] or not isinstance(tables, list) or not tables:
        raise ConfigError(f"{path}: expected tables [[question]] with {', '.join(_FIELDS)}, and nothing else")
    questions = []
    for number, table in enumerate(tables, 1):
        try:
            questions.append(_question(table))
        except ConfigError as error:
            raise ConfigError(f"{path}: question {number}: {error}") from error
    return tuple(questions)


def _question(table: object) -> Question:
    if not isinstance(table, dict):
        raise ConfigError(f"is not a table with {', '.join(_FIELDS)}")
    if unknown := [name for name in table if name not in _FIELDS]:
        raise ConfigError(f"has no field {unknown[0]!r}{did_you_mean(unknown[0], _FIELDS)}")
    if absent := [name for name in _FIELDS if name not in table]:
        raise ConfigError(f"needs {absent[0]}")
    return Question(**table)


def sentences_of(answer: str) -> list[str]:
    r"""The sentences of an answer: each line apart, without list marks, and several on one line at their stops.

    Headings, which end in a colon, and what has fewer than three words ("Sure!") are no sentences.

    >>> sentences_of("Sure! Here are two:\n1. The edge is chipped.\n- **Rust** covers it. A part is missing.")
    ['The edge is chipped.', 'Rust covers it.', 'A part is missing.']
    """
    sentences = []
    for line in answer.splitlines():
        text = re.sub(r"^\s*(?:[-*•–]|\(?\d+[.):])\s+", "", line).replace("**", "")
        for part in re.split(r"(?<=[.!?])\s+(?=[A-Z])", text):
            sentence = " ".join(part.split()).strip("\"'")
            if len(sentence.split()) >= _FEWEST_WORDS and not sentence.endswith(":"):
                sentences.append(sentence)
    return sentences
