"""Parts of a page: the document with its style and script in it, sections, sortable tables, dots of scores."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from headlens import html
from headlens.printing import cell

_HERE = Path(__file__).parent
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""Browsers then load nothing from anywhere, whatever a page says."""
DOTS = 3000
"""Of a strip, at most."""


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page; sections are listed under its title."""
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    body = "\n".join(parts)
    titles = re.findall(r'<section id="([\w-]+)"><h2>(.*?)</h2>', body)
    links = [f'<a href="#{name}">{words}</a>' for name, words in titles]
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{html.text(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{style}</style>\n</head>\n<body>\n<main>\n<h1>{html.text(title)}</h1>\n"
        f"<nav>{' '.join(links)}</nav>\n{body}\n</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A part of a page under its own title."""
    name = re.sub(r"\W+", "-", title.lower()).strip("-")
    return (
        f'<section id="{name}"><h2>{html.text(title)}</h2>\n{chr(10).join(part for part in parts if part)}\n</section>'
    )


def said(words: str, kind: str = "") -> str:
    """A paragraph of plain text; ``note`` is one that must not be missed."""
    return f'<p class="{kind}">{html.text(words)}</p>' if kind else f"<p>{html.text(words)}</p>"


def facts(entries: Mapping[str, object]) -> str:
    """Names and values, those that are known, one below the other.

    >>> facts({"seed": 3, "steps": None})
    '<dl><dt>seed</dt><dd>3</dd></dl>'
    """
    known = {name: value for name, value in entries.items() if value is not None and value != ""}
    lines = [f"<dt>{html.text(name)}</dt><dd>{html.text(cell(value))}</dd>" for name, value in known.items()]
    return f"<dl>{''.join(lines)}</dl>"


def table(frame: pd.DataFrame, about: str = "", kind: str = "") -> str:
    """All rows; a click on the name of a column sorts by it. Long ones scroll, and only their beginning is printed.

    ``words`` are a kind of table whose cells hold text and not numbers.
    """
    kind = f"table {kind or 'numbers'}{' long' if len(frame) > 24 else ''}"
    printed = f'<p class="print">The first 24 of {len(frame)} rows.</p>' if len(frame) > 24 else ""
    above = said(about, "about") if about else ""
    return f'{above}<div class="{kind}">{html.table(frame, most=len(frame))}</div>{printed}'


def figure(drawn: str, caption: str) -> str:
    """An image, such as ``html.figure`` makes it, over its caption."""
    return f"<figure>{drawn.removeprefix('<br>')}<figcaption>{html.text(caption)}</figcaption></figure>"


def tiles(entries: Mapping[str, tuple[str, str]]) -> str:
    """Numbers in a row, each under its name and over what qualifies it."""
    each = [
        f"<div><span>{html.text(name)}</span><b>{html.text(number)}</b><small>{html.text(more)}</small></div>"
        for name, (number, more) in entries.items()
    ]
    return f'<div class="tiles">{"".join(each)}</div>' if each else ""


def strip(scores: pd.DataFrame, threshold: float | None, limits: tuple[float, float]) -> str:
    """A dot for each image at its score, a row for each label, and a line at the threshold; a dot says its name.

    Args:
        scores: name, anomalous, joint.
        threshold: None where there is none.
        limits: of the scores.
    """
    low, high = limits
    width, left, row = 720, 90, 46
    step = -(-len(scores) // DOTS)
    rows = {"normal": scores["anomalous"].eq(False), "anomalous": scores["anomalous"].eq(True)}
    rows["no label"] = scores["anomalous"].isna()
    rows = {label: which.fillna(False).astype(bool) for label, which in rows.items()}
    rows = {label: which for label, which in rows.items() if which.any()}

    def across(score: float) -> float:
        return left + (width - left - 20) * (score - low) / (high - low)

    parts, height = [], row * len(rows) + 30
    for number, (label, which) in enumerate(rows.items()):
        middle = row * number + row / 2 + 4
        parts.append(f'<text x="0" y="{middle + 4:.0f}">{label}</text>')
        chosen = scores[which].iloc[::step]
        spread = (np.arange(len(chosen)) * 0.618) % 1 - 0.5  # so that equal scores do not hide each other
        for one, off in zip(chosen.itertuples(index=False), spread, strict=True):
            at = f'cx="{across(one.joint):.1f}" cy="{middle + 26 * off:.1f}"'
            name = f"<title>{html.text(one.name)}: {one.joint:.3f}</title>"
            parts.append(f'<circle class="{label.replace(" ", "-")}" {at} r="3.5">{name}</circle>')
    if threshold is not None and low <= threshold <= high:
        at = f"{across(threshold):.1f}"
        parts.append(f'<line x1="{at}" y1="0" x2="{at}" y2="{height - 26}"></line>')
    for anchor, value in (("start", low), ("middle", (low + high) / 2), ("end", high)):
        parts.append(f'<text x="{across(value):.0f}" y="{height - 6}" text-anchor="{anchor}">{value:.3g}</text>')
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="joint scores">{"".join(parts)}</svg>'
