"""How figures are printed: in which formats, how wide, and with which type; a style sheet changes the rest.

A figure is drawn at the width that its layout was made for, and then laid out again at the one that is asked for, at
the same proportions. Type, dots and lines stay as they are in a wider figure, and shrink with a narrower one.
"""

from __future__ import annotations

import io
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

from headlens.errors import ConfigError
from headlens.files import SOFTWARE, read_text
from headlens.plots.style import COLUMN, PAPER
from headlens.printing import did_you_mean, unknown_name

FORMATS = ("pdf", "png", "svg", "pgf")
_TEX = ("xelatex", "lualatex", "pdflatex")
_INCHES = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72.27}
_ABOUT: dict[str, Any] = {
    "pdf": {"CreationDate": None},
    "png": {"Software": SOFTWARE},
    "svg": {"Date": None},
}
"""Without dates and versions the bytes depend on what is drawn alone."""
_MATHS = {"ρ": r"\rho", "α": r"\alpha", "σ": r"\sigma", "Δ": r"\Delta", "≤": r"\leq", "÷": r"\div", "×": r"\times"}
_MATHS |= {raised: f"^{{{plain}}}" for raised, plain in zip("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789", strict=True)}
_IN_TEX = {letter: f"${maths}$" for letter, maths in _MATHS.items()} | {c: f"\\{c}" for c in "_&#"}
"""What fonts of LaTeX do not have, or LaTeX reads as something else; per cent and minus are matplotlib's care."""


def inches(width: str) -> float:
    """A width as it is typed, in inches: a number and ``in``, ``cm``, ``mm`` or TeX's ``pt``.

    Raises:
        ConfigError: another text, or a width that no figure has.

    >>> inches("3.3in"), round(inches("85 mm"), 3)
    (3.3, 3.346)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(in|cm|mm|pt)\s*", width)
    if match is None:
        raise ConfigError(f"width {width!r}: expected a number and its unit, such as 3.3in, 85mm, 8.5cm or 240pt")
    value = float(match[1]) * _INCHES[match[2]]
    if not 1 <= value <= 20:
        raise ConfigError(f"width {width!r} is {value:.2f} inches: a figure is 1 to 20 inches wide")
    return value


def style_sheet(path: str | Path) -> dict[Any, Any]:
    """The settings of a style sheet of matplotlib; unlike there, a line that says nothing to it is an error.

    Raises:
        ConfigError: a file that cannot be read, an unknown setting or a value that it cannot have; with its line.
    """
    try:
        lines = read_text(Path(path)).splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); expected a style sheet of matplotlib") from error
    settings: dict[Any, Any] = {}
    for number, line in enumerate(lines, 1):
        if not (said := re.sub(r"(^|\s)#.*", "", line).strip()):
            continue
        name, colon, value = (part.strip() for part in said.partition(":"))
        where = f"{path}, line {number}"
        if not colon or name not in mpl.rcParams:
            unknown = f"matplotlib has no setting {name!r}{did_you_mean(name, list(mpl.rcParams))}"
            raise ConfigError(f"{where}: {unknown if colon else f'{said!r} is not `setting: value`'}")
        try:
            settings |= mpl.RcParams({name: value.strip("\"'")})
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from error
    return settings


@dataclass(frozen=True)
class Print:
    """How figures are printed.

    Args:
        formats: of ``FORMATS``.
        width: inches of a figure of one column; one of both columns is in proportion. Those of headlens when None.
        font: a family of fonts that is installed.
        font_size: points of titles and of names of axes.
        style: settings of matplotlib, as ``style_sheet`` reads them.

    Raises:
        ConfigError: another format, no LaTeX for ``pgf``, or a font that is not installed.

    >>> Print(width=6.6).scale, Print(width=1.65).scale
    (2.0, 0.5)
    """

    formats: Sequence[str] = ("pdf", "png")
    width: float | None = None
    font: str | None = None
    font_size: float | None = None
    style: dict[Any, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.formats:
            if name not in FORMATS:
                raise ConfigError(unknown_name("format", name, FORMATS))
        if "pgf" in self.formats and latex() is None:
            raise ConfigError(f"format pgf needs LaTeX, and none of {', '.join(_TEX)} is on this machine: take pdf")
        if self.font is not None and self.font not in (known := font_manager.get_font_names()):
            raise ConfigError(
                f"font {self.font!r} is not installed{did_you_mean(self.font, known)}; "
                "matplotlib.font_manager.get_font_names() lists those that are"
            )
        if self.font_size is not None and not 2 <= self.font_size <= 40:
            raise ConfigError(f"font size {self.font_size}: expected points, 2 to 40")

    @property
    def scale(self) -> float:
        """By which a figure is wider."""
        return 1.0 if self.width is None else self.width / COLUMN

    @property
    def settings(self) -> dict[Any, Any]:
        """Of matplotlib: those of print, those of the style sheet, and font and size."""
        chosen = {**PAPER, **self.style, **({} if self.font is None else {"font.family": [self.font]})}
        points = self.font_size or float(chosen["font.size"]) * min(1.0, self.scale)
        return {**chosen, "font.size": points, "svg.hashsalt": "headlens", "pgf.rcfonts": False} | _texsystem()

    @contextmanager
    def context(self) -> Iterator[None]:
        """Within, figures are drawn and written so; outside nothing changes."""
        with mpl.rc_context(self.settings):
            yield

    def files(self, figure: Figure, name: str, dpi: float) -> dict[str, bytes]:
        """Contents of the files of a figure, by what follows ``name``; of all formats with one layout."""
        with self.context():
            figure.set_size_inches(*(self.scale * side for side in figure.get_size_inches()))
            if self.scale < 1:
                _shrink(figure, self.scale)
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
            contents: dict[str, bytes] = {}
            for kind in sorted(self.formats, key="pgf".__eq__):  # last: it changes letters
                if kind == "pgf":
                    contents |= _pgf(figure, name, dpi)
                    continue
                sink = io.BytesIO()
                figure.savefig(sink, format=kind, dpi=dpi, metadata=_ABOUT[kind])
                contents[f".{kind}"] = sink.getvalue()
        return contents


def _shrink(figure: Figure, by: float) -> None:
    """Lines and dots; type follows from its settings."""
    for artist in figure.findobj(lambda one: not isinstance(one, Text)):
        for name, power in (("linewidth", 1), ("markersize", 1), ("markeredgewidth", 1), ("sizes", 2)):
            if hasattr(artist, f"set_{name}"):
                value = np.asarray(getattr(artist, f"get_{name}")()) * by**power
                getattr(artist, f"set_{name}")(value if value.ndim else float(value))


def latex() -> str | None:
    """The LaTeX of this machine that pgf is laid out with; None where there is none."""
    return next((name for name in _TEX if shutil.which(name)), None)


def _texsystem() -> dict[str, str]:
    system = latex()
    return {} if system is None else {"pgf.texsystem": system}


def _pgf(figure: Figure, name: str, dpi: float) -> dict[str, bytes]:
    """The drawing, and its images as PNG, which it reads from where it is; letters become mathematics."""
    for text in figure.findobj(Text):
        said = text.get_text()
        if "$" not in said.replace(r"\$", ""):
            text.set_text("".join(_IN_TEX.get(letter, letter) for letter in said))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{name}.pgf")
        figure.savefig(path, format="pgf", dpi=dpi)
        return {file.name.removeprefix(name): file.read_bytes() for file in sorted(Path(folder).iterdir())}
