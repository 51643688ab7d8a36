"""Names of the files that verbs write: legal on every system, bounded, and never one for two images."""

from __future__ import annotations

import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote_to_bytes

LONGEST = 120
"""Bytes in UTF-8 of such a name, which suffixes are added to; file systems take 255, some less."""

_ILLEGAL = frozenset('<>:"/\\|?*')  # on Windows
_RESERVED = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"} | {
    f"{d}{n}" for d in ("COM", "LPT") for n in "0123456789¹²³"
}
_URI = "file://"


def legal_name(text: str, longest: int = LONGEST) -> str:
    r"""``text`` as a file can be called on any system, and as it is if it can be.

    Bytes that are no text become ``%FC``; what no file may be called becomes ``_``; of a name that is too long the
    beginning stays, with a digest of it all.

    >>> legal_name("photo 1.png"), legal_name("pr\udcfcf.png"), legal_name("a/b?.png"), legal_name("con.png")
    ('photo 1.png', 'pr%FCf.png', 'a_b_.png', '_con.png')
    >>> legal_name("long" * 50)[-16:]
    'longl-55b71ce20d'
    """
    name = "".join(map(_legal, text))
    name = name.rstrip(". ") + "_" * (len(name) - len(name.rstrip(". ")))
    if name.startswith(".") or name.split(".")[0].rstrip().upper() in {*_RESERVED, ""}:
        name = f"_{name}"
    return name if len(name.encode()) <= longest else with_digest(name, text, longest)


def _legal(letter: str) -> str:
    if "\ud800" <= letter <= "\udfff":  # of a name that is not UTF-8: Python's way to keep the byte
        return f"%{ord(letter) & 0xFF:02X}"
    return "_" if letter in _ILLEGAL or not (letter.isprintable() or letter == " ") else letter


def with_digest(name: str, of: str, longest: int = LONGEST) -> str:
    """``name``, cut where it must be, and a digest of what it stands for."""
    digest = sha256(of.encode("utf-8", "surrogatepass")).hexdigest()[:10]
    cut = name.encode()[: longest - len(digest) - 1].decode(errors="ignore").rstrip(". ")
    return f"{cut}-{digest}"


def slug(*parts: object) -> str:
    """Parts as one name of a file.

    >>> slug("ablate", "mini-captions-industrial", "procedural:medical", "")
    'ablate-mini-captions-industrial-procedural-medical'
    """
    whole = "-".join(str(part) for part in parts if str(part))
    name = "".join(c if c.isalnum() or c in "-_.+" else "-" for c in whole)
    return name if len(name.encode()) <= LONGEST else with_digest(name, whole)


def name_slug(text: str) -> str:
    """The name of an image as a part of a result's name: ``a b.png`` as ``a-b-png``."""
    return slug(legal_name(text)).replace(".", "-")


def folded(name: str) -> str:
    """What two names share that are one file on systems that ignore case, or how a letter with an accent is stored."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def result_names(
    files: Sequence[Path], taken: Iterable[str] = (), spell: Callable[[str], str] = legal_name
) -> list[str]:
    """A name for the results of each file: its own, with as many folders in front as it takes to tell them apart.

    Where folders do not tell them apart either, or a name is ``taken`` by others, a digest of the whole path stands
    behind it. ``spell`` makes a legal name of any.

    >>> result_names([Path("a/x.png"), Path("b/x.png"), Path("b/y.png")])
    ['a-x.png', 'b-x.png', 'y.png']
    """
    paths = [Path(os.path.abspath(file)) for file in files]  # noqa: PTH100  links are not resolved
    names = [spell(path.name) for path in paths]
    for depth in range(2, max((len(path.parts) for path in paths), default=0)):
        count = Counter(map(folded, names))
        if len(count) == len(names):
            break
        names = [
            spell("-".join(path.parts[1:][-depth:])) if count[folded(name)] > 1 else name
            for name, path in zip(names, paths, strict=True)
        ]
    given = {*map(folded, taken)}
    count = Counter([*map(folded, names), *given])
    return [
        _with_free_digest(spell(path.name), str(path), given) if count[folded(name)] > 1 else name
        for name, path in zip(names, paths, strict=True)
    ]


def _with_free_digest(name: str, path: str, taken: set[str]) -> str:
    tries = (with_digest(name, path + "/" * number) for number in itertools.count())
    return next(one for one in tries if folded(one) not in taken)


def as_text(path: Path) -> str:
    r"""A path as text files hold it, in UTF-8: itself, or its address where it is not UTF-8; see ``from_text``.

    >>> as_text(Path("a.png")), as_text(Path(os.fsdecode(b"/pr\xfcf.png")))
    ('a.png', 'file:///pr%FCf.png')
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return path.absolute().as_uri()
    return str(path)


def from_text(text: str) -> Path:
    r"""The path that ``as_text`` wrote.

    >>> from_text("file:///pr%FCf.png") == Path(os.fsdecode(b"/pr\xfcf.png"))
    True
    """
    return Path(os.fsdecode(unquote_to_bytes(text.removeprefix(_URI)))) if text.startswith(_URI) else Path(text)


def other_than(value: object, default: object, text: str = "{}") -> str:
    """A setting as a part of a name, empty where it is the default.

    >>> other_than(4, 10, "{}-each"), other_than(10, 10, "{}-each"), other_than(None, 3)
    ('4-each', '', '')
    """
    return "" if value is None or value == default else text.format(value)
