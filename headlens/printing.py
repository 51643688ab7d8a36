"""Values, and text from elsewhere, such as the names of their files, as people are shown them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import TypeVar

Item = TypeVar("Item")

_SPELLED = {"ct": "CT", "legrad": "LeGrad", "mri": "MRI", "oct": "OCT", "shap": "SHAP", "xray": "X-ray"}
"""Words that are not written as they stand in the names of categories and methods."""


def printable(text: str) -> str:
    r"""One line that a terminal shows as it is: what could move the cursor or end the line is escaped.

    Names of files may hold such characters, by accident or so that a report says what is not true.

    >>> printable("a\nb\x1b[2J\udce9 é")
    'a\\nb\\x1b[2J\\udce9 é'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def unicode(text: str) -> str:
    r"""The same text, where bytes of a file's name that are no UTF-8 are escaped: tables and JSON hold nothing else.

    >>> unicode("pr\udcfcf é")
    'pr\\udcfcf é'
    """
    return text.encode("utf-8", "backslashreplace").decode()


def brief(error: object, most: int = 200) -> str:
    r"""The first line of what an error says, whole words of it, as ``printable``; its kind where it says nothing.

    >>> brief(ValueError("one two three\nmore"), most=9)
    'one two …'
    >>> brief(KeyError())
    'KeyError'
    """
    said = str(error).strip()
    line = printable(said.splitlines()[0].strip()) if said else type(error).__name__
    if len(line) <= most:
        return line
    start = line[: most - 1]
    return (start.rsplit(" ", 1)[0] if " " in start else start) + " …"


def did_you_mean(word: str, names: Iterable[str], cutoff: float = 0.6) -> str:
    """The end of a message about a name that does not exist; empty where no other is like it.

    >>> did_you_mean("mvtek", ["mvtec", "visa"])
    '; did you mean mvtec?'
    """
    near = get_close_matches(word, list(names), 1, cutoff)
    return f"; did you mean {near[0]}?" if near else ""


def unknown_name(what: str, word: str, names: Iterable[str]) -> str:
    """A message about a name that is none of these, with all of them, and the one that may have been meant.

    >>> unknown_name("layout", "mvtek", ["mvtec", "visa"])
    "unknown layout 'mvtek'; available: mvtec, visa; did you mean mvtec?"
    """
    known = list(names)
    return f"unknown {what} {word!r}; available: {', '.join(known)}{did_you_mean(word, known)}"


def reason(error: Exception) -> str:
    """Why a file could not be read, where the message names it already.

    >>> reason(FileNotFoundError(2, "No such file or directory", "a.json")), reason(RecursionError())
    ('No such file or directory', 'nested too deeply')
    """
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return brief(error.strerror if isinstance(error, OSError) and error.strerror else error)


def alike(items: Iterable[Item], message: Callable[[Item], str] = str) -> list[list[Item]]:
    """Items in groups whose messages say the same of different files, but for numbers and what is in brackets.

    >>> alike(["/x y/1.png: cut short at 99", "/x y/b.png: cut short at 7", "c.png: no image (RIFF)"])
    [['/x y/1.png: cut short at 99', '/x y/b.png: cut short at 7'], ['c.png: no image (RIFF)']]
    """
    groups: dict[str, list[Item]] = {}
    for item in items:
        what = message(item).rpartition("/")[2].partition(": ")[2] or message(item)
        groups.setdefault(re.sub(r"\(.*?\)|\S*\d\S*", "", what), []).append(item)
    return list(groups.values())


def cell(value: object) -> str:
    """One value of a frame as a table shows it: four digits, and ``-`` where there is none.

    >>> cell(0.123456), cell(float("nan")), cell(None), cell("L18H7")
    ('0.1235', '-', '-', 'L18H7')
    """
    if value is None or str(value) == "<NA>":  # pandas' NA, without importing pandas
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if value == value else "-"
    return str(value)


def spelled(name: str) -> str:
    """A category, a method or a quantity as one writes it in a sentence.

    >>> spelled("head_ct"), spelled("legrad"), spelled("metal_nut")
    ('head CT', 'LeGrad', 'metal nut')
    """
    return " ".join(_SPELLED.get(word, word) for word in name.split("_"))
