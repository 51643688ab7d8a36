"""What a notebook shows of a result: its name, facts, the head of a frame, a figure. No model runs for it.

Viewers that show no HTML, such as PDF, get the same as text and as an image.

Everything that comes from elsewhere, such as the names of files, is escaped.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from headlens.printing import cell, printable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MOST = 8  # rows of a frame that are shown
_PNG = re.compile(r'<img alt="([^"]*)" src="data:image/png;base64,([^"]*)">')


class Shown:
    """Shows itself in a notebook: a subclass makes a page of the functions below, and everything else is made of it."""

    def _repr_html_(self) -> str:
        raise NotImplementedError

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        page = self._repr_html_()
        image = _PNG.search(page)
        return {"text/html": page, "text/plain": plain(page), **({"image/png": image[2]} if image else {})}


def plain(page: str) -> str:
    r"""What a page says, without markup: columns of tables are aligned, and a figure is named.

    >>> plain(card("Run", {"seed": 3}) + "<table><tr><th>head</th></tr><tr><td>L18H7</td></tr></table>")
    'Run\nseed: 3\n head\nL18H7'
    """
    page = re.sub(r"<table>.*?</table>", lambda found: _aligned(found[0]), _PNG.sub(r"\n[\1]\n", page))
    page = re.sub(r"</?(?:br|p|div|small)\b[^>]*>", "\n", page)
    words = html.unescape(re.sub(r"<[^>]+>", "", page))
    return re.sub(r"\n\n+", "\n", words).strip("\n")


def _aligned(page: str) -> str:
    rows = [re.findall(r"<t[hd]>(.*?)</t[hd]>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]
    rows = [[html.unescape(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return html.escape("\n".join(["", *lines, ""]))


def card(title: str, facts: Mapping[str, object], *parts: str) -> str:
    """A name, under it the facts that are not None or empty, and parts: HTML, as the functions below make it.

    >>> card("Run", {"trained on": "<mine>", "seed": None})
    '<div><b>Run</b><br><small>trained on: &lt;mine&gt;</small></div>'
    """
    lines = [f"{text(name)}: {text(value)}" for name, value in facts.items() if value is not None and value != ""]
    small = f"<br><small>{'<br>'.join(lines)}</small>" if lines else ""
    return f"<div><b>{text(title)}</b>{small}{''.join(parts)}</div>"


def text(value: object) -> str:
    """One line of text, escaped."""
    return html.escape(printable(str(value)))


def paragraph(words: str) -> str:
    """A paragraph of plain text."""
    return f'<p style="max-width: 50em">{text(words)}</p>'


def table(frame: pd.DataFrame, caption: str = "", most: int = MOST) -> str:
    """The first ``most`` rows of a frame under a caption, and how many more there are; its index is not shown.

    >>> import pandas as pd
    >>> table(pd.DataFrame({"head": ["L18H7", "L18H8"], "effect": [0.5, 0.25]}), most=1)
    '<table><thead><tr><th>head</th><th>effect</th></tr></thead><tbody><tr><td>L18H7</td><td>0.5</td></tr></tbody></table><small>… and 1 more</small>'
    """  # noqa: E501
    header = "".join(f"<th>{text(name)}</th>" for name in frame.columns)
    rows = [
        "<tr>" + "".join(f"<td>{text(cell(value))}</td>" for value in row) + "</tr>"
        for row in frame.head(most).itertuples(index=False)
    ]
    above = f"<p>{text(caption)}</p>" if caption else ""
    left = len(frame) - len(rows)
    below = f"<small>… and {left} more</small>" if left else "" if rows else "<small>no rows</small>"
    return f"{above}<table><thead><tr>{header}</tr></thead><tbody>{''.join(rows)}</tbody></table>{below}"


def figure(fig: Figure, about: str, dpi: float = 72) -> str:
    """A figure as a PNG in the page itself; 72 dpi are as wide as a cell's output. See ``image`` for ``about``."""
    sink = io.BytesIO()
    fig.savefig(sink, format="png", dpi=dpi)
    return f"<br>{image(sink.getvalue(), 'png', about)}"


def image(content: bytes, kind: str, about: str) -> str:
    """A file of an image in the page itself; ``about`` is read out where images are not seen.

    >>> image(b"...", "png", "a map")
    '<img alt="a map" src="data:image/png;base64,Li4u">'
    """
    return f'<img alt="{text(about)}" src="data:image/{kind};base64,{base64.b64encode(content).decode()}">'


def either(parts: Callable[[], Iterable[str]], frame: pd.DataFrame) -> list[str]:
    """``parts()``; or, of a frame that they cannot be made of, its first rows: a cell always shows what is there."""
    try:
        return list(parts())
    except Exception:  # whatever is odd about a frame, looking at it must not fail
        return [table(frame)]
