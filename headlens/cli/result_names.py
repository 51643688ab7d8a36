"""Names of the files that verbs write for image files: legal on every system, bounded, and never one for two images."""

from __future__ import annotations

import json
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from headlens.files import is_result

LONGEST = 120
"""Bytes in UTF-8 of such a name, which suffixes are added to; file systems take 255, some less."""

_ILLEGAL = frozenset('<>:"/\\|?*')  # on Windows
_RESERVED = {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"} | {
    f"{d}{n}" for d in ("COM", "LPT") for n in "0123456789¹²³"
}
_URI = "file://"
_NO_QUESTION = ("versions", "picture", "skipped")


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


def folded(name: str) -> str:
    """What two names share that are one file on systems that ignore case, or how a letter with an accent is stored."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def result_names(
    files: Sequence[Path], taken: Iterable[str] = (), spell: Callable[[str], str] = legal_name
) -> list[str]:
    """A name for the results of each file: its own, with as many folders in front as it takes to tell them apart.

    Where folders do not tell them apart either, or a name is ``taken``, a digest of the whole path stands behind it.

    Args:
        files: different ones.
        taken: names that belong to others.
        spell: makes a legal name of any.

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
    count = Counter(map(folded, [*names, *taken]))
    return [
        with_digest(spell(path.name), str(path)) if count[folded(name)] > 1 else name
        for name, path in zip(names, paths, strict=True)
    ]


def free_name(out: Path, name: str, abouts: Mapping[str, dict[str, Any]]) -> str:
    """``name`` for results, or, where other questions' results lie there already, with a digest of the question.

    What a result is about is read from its own file, Parquet or npz. Versions of software make no other question, nor
    do the names that the same image has. A figure in its place that headlens did not make is another's, too.

    Args:
        out: where they go.
        name: the beginning of their files' names.
        abouts: the provenance of each, by how its name ends.
    """
    questions = {end: _question(about) for end, about in abouts.items()}
    if all(_is_free(out / f"{name}{end}", question) for end, question in questions.items()):
        return name
    return with_digest(name, "".join(questions.values()))


def _is_free(path: Path, question: str) -> bool:
    figure = path.with_suffix(".png")
    if figure.exists() and not is_result(figure):
        return False
    return not path.exists() or _question(_provenance(path)) == question


def _question(about: dict[str, Any]) -> str:
    return json.dumps({key: about[key] for key in sorted(about) if key not in _NO_QUESTION})


def _provenance(path: Path) -> dict[str, Any]:
    from headlens.attribution.attribute import read_provenance
    from headlens.errors import RunError
    from headlens.heads.results import read_parquet

    try:
        return read_parquet(path)[1] if path.suffix == ".parquet" else read_provenance(path)
    except RunError:
        return {}


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
