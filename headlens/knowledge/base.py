"""A knowledge base: rows, and the sentences of a domain, a category or an image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from headlens.errors import DataError
from headlens.knowledge.reading import CONTEXT, encoded, plain_category, read
from headlens.knowledge.rows import ANY, Row, State, plain
from headlens.printing import did_you_mean

if TYPE_CHECKING:
    import pandas as pd

SHIPPED = tuple(Path(__file__).with_name(f"{domain}.jsonl") for domain in ("industrial", "medical"))
"""The files that come with headlens, a domain each; written for it."""


@dataclass(frozen=True)
class Knowledge:
    """Rows in order; those of several files may be concatenated.

    >>> base = shipped()
    >>> len(base.rows) > 500, base.domains
    (True, ('industrial', 'medical'))
    >>> base.sentences("anomalous", "industrial", "zipper")[-1]
    'The slider of the zipper is broken.'
    """

    rows: tuple[Row, ...]

    def sentences(
        self, state: State, domain: str, category: str | None = None, image: str | None = None
    ) -> tuple[str, ...]:
        """Sentences about a state, each once, in the order of rows.

        Args:
            state: ``normal`` or ``anomalous``.
            domain: ``industrial``, ``medical``, ….
            category: sentences of this category and of all categories (``*``). None: all of the domain.
            image: also sentences about this image, by its name in rows. None: general sentences only.

        Raises:
            DataError: there are no sentences.
        """
        name = None if category is None else plain(category)
        known = [
            row.sentence
            for row in self.rows
            if row.state == state
            and plain(row.domain) == plain(domain)
            and (name is None or plain_category(row) in (ANY, name))
            and row.image in ("", image)
        ]
        if not known:
            hint = did_you_mean(domain, self.domains) or f"; available: {', '.join(self.domains)}"
            about = f"domain {domain!r}" + ("" if category is None else f", category {category!r}")
            raise DataError(f"the knowledge base has no {state} sentence of {about}{hint}")
        return tuple(dict.fromkeys(known))

    @property
    def domains(self) -> tuple[str, ...]:
        """In order of appearance."""
        return tuple(dict.fromkeys(row.domain for row in self.rows))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all rows, for provenance."""
        return sha256(encoded(self.rows)).hexdigest()

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each sentence."""
        import pandas as pd

        return pd.DataFrame([vars(row) for row in self.rows])


def load(path: str | Path, context: int = CONTEXT) -> Knowledge:
    """The knowledge base in a file; faults are raised as ``headlens.knowledge.reading.read`` does."""
    return Knowledge(read(path, context))


@cache
def shipped() -> Knowledge:
    """The base that ships: sentences about normal and anomalous objects in both domains.

    General knowledge in plain English, written without looking at the images of any data set.
    """
    return Knowledge(tuple(row for path in SHIPPED for row in read(path)))
