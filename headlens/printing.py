"""Text from strangers, such as the names of their files, on a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""One line that a terminal shows as it is: what could move the cursor or end the line is escaped.

    Names of files may hold such characters, by accident or so that a report says what is not true.

    >>> printable("a\nb\x1b[2J\udce9 é")
    'a\\nb\\x1b[2J\\udce9 é'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
