"""``Figure``: what every function that draws returns, and what a notebook shows as an image."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.figure
from matplotlib import pyplot

from headlens.errors import ConfigError
from headlens.files import SOFTWARE, write


@dataclass(frozen=True, eq=False, repr=False)
class Figure:
    """A figure and the axes that were drawn on. In a notebook, the last line of a cell shows it as an image.

    Args:
        figure: matplotlib's.
        axes: one ``Axes``, or an array of them; colour bars are not among them.

    >>> import numpy as np
    >>> from headlens import plots
    >>> drawn = plots.overlay(None, np.array([[0.2, 0.8]]), "a map")
    >>> drawn.axes.get_title()
    'a map'
    >>> fig, ax = drawn  # the same two, as matplotlib's own functions return them
    """

    figure: matplotlib.figure.Figure
    axes: Any

    def save(self, path: str | Path, dpi: float = 160) -> Path:
        """Writes ``.png``, ``.pdf``, ``.svg``, or another format of matplotlib's; never a partial file.

        Args:
            path: its suffix is the format.
            dpi: of pixels, in PDF and SVG of those of images.

        Raises:
            ConfigError: a suffix that is none of matplotlib's formats.
            RunError: the file cannot be written.
        """
        path, sink = Path(path), io.BytesIO()
        kind, known = path.suffix[1:].lower(), self.figure.canvas.get_supported_filetypes()
        if kind not in known:
            raise ConfigError(f"{path}: figures are saved as {', '.join(f'.{name}' for name in sorted(known))}")
        about = {"Software": SOFTWARE} if kind == "png" else None
        self.figure.savefig(sink, format=kind, dpi=dpi, metadata=about)
        write(path, sink.getvalue())
        return path

    def __iter__(self) -> Iterator[Any]:
        return iter((self.figure, self.axes))

    def __repr__(self) -> str:
        width, height = self.figure.get_size_inches()
        return f"Figure({width:.3g} x {height:.3g} inches, {len(self.figure.axes)} axes)"

    def _repr_png_(self) -> bytes | None:
        """None of a figure of pyplot's, which shows it itself, when the cell ends."""
        if pyplot.fignum_exists(getattr(self.figure, "number", 0)):
            return None
        sink = io.BytesIO()
        self.figure.savefig(sink, format="png")
        return sink.getvalue()
