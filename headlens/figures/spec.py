"""What every figure of the paper has: a drawing, a caption with its numbers, tables, what it was made of; and files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from headlens import plots
from headlens.data import DataSet
from headlens.errors import RunError
from headlens.figures.context import FigureContext, mean_and_interval
from headlens.figures.printed import Print
from headlens.files import write
from headlens.printing import unicode
from headlens.provenance import versions
from headlens.training.run import Run

DPI = 300  # at most


@dataclass(frozen=True, repr=False)
class RenderedFigure:
    """A figure that was drawn.

    Args:
        figure: at the size at which it is printed.
        caption: what is shown, of how many runs and images, what intervals are, and the numbers to take away.
        runs: it is of these.
        images: and of these; empty where no image has a part in it.
        tables: the same numbers as text, by suffix: ``.tex``, ``.csv``; ``.md`` is put below the caption.
        dpi: of the PNG, and of images within the PDF: lower where there are many.
    """

    figure: Figure
    caption: str
    runs: Sequence[Run]
    images: Sequence[DataSet] = ()
    tables: dict[str, str] = field(default_factory=dict)
    dpi: int = 300

    def __repr__(self) -> str:
        return repr(plots.Figure(self.figure, self.figure.axes))

    def _repr_png_(self) -> bytes | None:
        return plots.Figure(self.figure, self.figure.axes)._repr_png_()


@dataclass(frozen=True)
class FigureSpec:
    """A figure that can be drawn.

    Args:
        name: of its files, and at the shell.
        about: a line.
        draw: from the context; raises HeadlensError where that does not suffice.
    """

    name: str
    about: str
    draw: Callable[[FigureContext], RenderedFigure]

    def printed(self, context: FigureContext, how: Print = Print()) -> RenderedFigure:  # noqa: B008  # frozen
        """Drawn with the type of a paper, as it is saved."""
        with how.context():
            return self.draw(context)


def counted(number: int, thing: str) -> str:
    """A number and its noun.

    >>> counted(1, "run"), counted(3, "industrial run")
    ('1 run', '3 industrial runs')
    """
    return f"{number} {thing}" + ("" if number == 1 else "s")


def with_interval(values: Sequence[float], digits: int = 2, signed: bool = False) -> str:
    """Mean and half of the 95 % interval; the mean alone of one value.

    >>> with_interval([1.0, 2.0, 3.0]), with_interval([1.0], 1, signed=True)
    ('2.00 ± 2.48', '+1.0')
    """
    mean, half = mean_and_interval(values)
    text = f"{mean:{'+' if signed else ''}.{digits}f}"
    return text if np.isnan(half) else f"{text} ± {half:.{digits}f}"


def listed(words: Sequence[str]) -> str:
    """Words as a sentence has them.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def images_of(context: FigureContext, subset: bool = True) -> str:
    """Of which images something is: of those that heads are ablated on (``subset``), else of all."""
    words = []
    for data in (domain.subset if subset else domain.images for domain in context):
        unread = context.left_out.get(data.name, {}).keys() & {record.name for record in data.records}
        without = f"; {len(unread)} unread and left out" if unread else ""
        words.append(f"{counted(len(data), 'image')} of {data.name} ({_categories(data)}{without})")
    return listed(words)


def _categories(data: DataSet) -> str:
    """How many there are, and in how many of them metrics are defined where not in all."""
    every = [data.where(lambda record, wanted=category: record.category == wanted) for category in data.categories]  # type: ignore[misc]
    defined = {"image": sum(part.has_normals for part in every), "pixel": sum(part.has_masks for part in every)}
    fewer = [f"{level} metrics are defined in {count}" for level, count in defined.items() if 0 < count < len(every)]
    return "; ".join([f"{len(every)} categories", *fewer])


def made_on(context: FigureContext) -> str:
    """The end of every caption: which backbone."""
    known = {run.detector.backbone.provenance for domain in context for run in domain.runs.whole}
    names = sorted(f"{backbone.name} ({backbone.weights})" for backbone in known)
    return f"{'Backbone' if len(names) == 1 else 'Backbones'} {listed(names)}."


def check_free(name: str, out: Path, question: str) -> None:
    """Raises RunError where the figure of that name is there already and answers another question."""
    page = out / f"{name}.md"
    if page.exists() and f"| question | {question} |" not in page.read_text(encoding="utf-8", errors="replace"):
        raise RunError(f"{page} belongs to other runs, images or settings; name another --out, or remove it")


def save(
    rendered: RenderedFigure,
    name: str,
    title: str,
    out: Path,
    command: str,
    question: str,
    how: Print = Print(),  # noqa: B008  # frozen
) -> list[Path]:
    """Writes the drawing, ``NAME.pdf`` and ``NAME.png``, ``NAME.md`` (the caption and what it was made of) and tables.

    Args:
        name, title: of the figure.
        out: a folder, made if need be.
        command: what makes it again.
        question: a digest of what it depends on.
        how: it is printed, and in which other formats.

    Returns:
        The files.

    Raises:
        RunError: one cannot be written.
    """
    contents = how.files(rendered.figure, name, min(rendered.dpi, DPI))
    shown = next((suffix for suffix in (".png", ".svg", ".pdf") if suffix in contents), "")
    contents |= {suffix: unicode(text).encode() for suffix, text in rendered.tables.items() if suffix != ".md"}
    contents[".md"] = unicode(_page(rendered, shown and name + shown, title, command, question)).encode()
    written = []
    for suffix, content in contents.items():
        written.append(out / f"{name}{suffix}")
        write(written[-1], content)
    return written


def _page(rendered: RenderedFigure, file: str, title: str, command: str, question: str) -> str:
    drawing = f"{'[' if file.endswith('.pdf') else '!['}{title}]({file})\n\n" if file else ""
    rows = {"made by": [f"`{command}`"], "question": [question]}
    backbones = {run.detector.backbone.provenance for run in rendered.runs}
    rows["backbone"] = sorted(f"{one.name} ({one.weights}), SHA-256 {_short(one.sha256)}" for one in backbones)
    rows["runs"] = [f"{run.folder.name} ({_short(run.card.get('model_sha256'))})" for run in rendered.runs]
    rows["images"] = [f"{data.name}, {len(data)} (fingerprint {_short(data.fingerprint)})" for data in rendered.images]
    known = versions("torch", "open_clip_torch", "transformer-lens", "matplotlib")
    rows["versions"] = [f"{package} {number}" for package, number in known.items()]
    table = "\n".join(f"| {key} | {', '.join(values) or 'none'} |" for key, values in rows.items())
    below = f"\n{rendered.tables['.md']}\n" if ".md" in rendered.tables else ""
    return f"# {title}\n\n{drawing}{rendered.caption}\n{below}\n| | |\n|---|---|\n{table}\n"


def _short(digest: str | None) -> str:
    return digest[:12] if digest else "unknown"
