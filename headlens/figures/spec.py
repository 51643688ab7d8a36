"""What every figure of the paper has: a drawing, a caption with its numbers, tables, and what it was made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.figure import Figure

from headlens.data import DataSet
from headlens.figures.context import FigureContext, mean_and_interval
from headlens.training.run import Run


@dataclass(frozen=True)
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
    """Of which images something is.

    Args:
        context: all of it.
        subset: of those that heads are ablated on, else of all.
    """
    sets = [domain.subset if subset else domain.images for domain in context]
    return listed(
        [f"{counted(len(one), 'image')} of {one.name} ({_categories(one)}{_without(one, context)})" for one in sets]
    )


def _without(data: DataSet, context: FigureContext) -> str:
    unread = context.left_out.get(data.name, {}).keys() & {record.name for record in data.records}
    return f"; {len(unread)} unread and left out" if unread else ""


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
