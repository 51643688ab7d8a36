"""Names from other people, of files, categories and sets, as figures write them: one line that breaks nothing."""

from __future__ import annotations

import textwrap
from functools import cache
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.font_manager import FontProperties

from headlens.printing import printable

_FALLBACKS = (  # of scripts that matplotlib's own font has not; taken where they are installed
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans CJK KR",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "Droid Sans Fallback",
    "Microsoft YaHei",
    "SimHei",
    "PingFang SC",
    "Hiragino Sans GB",
    "Malgun Gothic",
    "Arial Unicode MS",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Noto Emoji",
)
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def plain(text: object, most: int = 72) -> str:
    r"""What ``text`` says, for any text of a figure: no mathematics, no line ends, no letters that have no glyph.

    What cannot be drawn is escaped, as in ``\u6c49``; of more than ``most`` characters the middle is left out.

    >>> plain("part_$1$\n" + 90 * "x", most=20)
    'part_\\$1\\$\\nx…xxxxxxxx'
    """
    known = _glyphs(tuple(mpl.rcParams["font.family"]))
    drawn = "".join(c if ord(c) in known else c.encode("unicode_escape").decode() for c in printable(str(text)))
    if len(drawn) > most:
        drawn = f"{drawn[: most - 1 - most * 2 // 5]}…{drawn[-(most * 2 // 5) :]}"
    return drawn.replace("$", r"\$")


def wrapped(text: object, width: float, lines: int = 2) -> str:
    r"""The same on so many lines of ``width`` inches, in small type.

    >>> wrapped("12345678901234567890", 1.0)
    '1234567890123\n4567890'
    """
    points = FontProperties(size="small").get_size_in_points()
    each = max(12, int(width * 72 / (0.64 * points)))
    return "\n".join(textwrap.wrap(plain(text, lines * each * 4 // 5), each, break_on_hyphens=False))


def short(value: float) -> str:
    """One digit and its power of ten.

    >>> short(0.0237), short(1.0), short(8e-05)
    ('2·10⁻²', '1', '8·10⁻⁵')
    """
    digit, power = f"{value:.0e}".split("e")
    return digit if int(power) == 0 else f"{digit}·10{str(int(power)).translate(_RAISED)}"


def font() -> dict[str, Any]:
    """Arguments of a text that ``plain`` has made: the font that is set, and those that stand in for it."""
    installed = _installed()
    return {"fontfamily": [*mpl.rcParams["font.family"], *installed]} if installed else {}


@cache
def _installed() -> tuple[str, ...]:
    names = {entry.name for entry in font_manager.fontManager.ttflist}
    return tuple(name for name in _FALLBACKS if name in names)


@cache
def _glyphs(families: tuple[str, ...]) -> frozenset[int]:
    """The characters that those fonts, or the ones that stand in for them, can draw."""
    characters: set[int] = set()
    for family in (*families, *_installed()):
        path = font_manager.findfont(FontProperties(family=[family]))
        characters |= set(font_manager.get_font(path).get_charmap())
    return frozenset(characters)
