"""The paper's figures from run folders: each has a name, a drawing and a caption with its numbers.

    context = FigureContext([domain("industrial", ["mini-captions-industrial"]), ...], Path("figures/data"))
    for name, made in make(context, Path("figures")):
        ...

What takes long is computed once, kept, and used again only if runs, images, settings and versions are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from headlens.errors import ConfigError, HeadlensError
from headlens.figures import (
    ablation,
    agreement,
    atlas,
    difference,
    gallery,
    head_maps,
    importance,
    joint,
    layers,
    method,
    variance,
    weights,
)
from headlens.figures.context import Domain, FigureContext
from headlens.figures.printed import Print, inches, style_sheet
from headlens.figures.spec import FigureSpec, check_free, save
from headlens.printing import unknown_name
from headlens.training.grouping import grouped

__all__ = [
    "FIGURES",
    "Domain",
    "FigureContext",
    "FigureSpec",
    "Print",
    "chosen",
    "grouped",
    "inches",
    "make",
    "style_sheet",
]

FIGURES: tuple[FigureSpec, ...] = (
    weights.SPEC,
    difference.SPEC,
    importance.SPEC,
    ablation.SPEC,
    layers.SPEC,
    head_maps.SPEC,
    gallery.SPEC,
    joint.SPEC,
    method.SPEC,
    atlas.SPEC,
    agreement.SPEC,
    variance.SPEC,
)
"""In the order of the paper."""


def __dir__() -> list[str]:
    return __all__


def chosen(names: Sequence[str] = ()) -> list[FigureSpec]:
    """The figures of these names, in the order of the paper; all when none is named.

    Raises:
        ConfigError: an unknown name.

    >>> [spec.name for spec in chosen(["layers", "weights"])]
    ['weights', 'layers']
    """
    known = [spec.name for spec in FIGURES]
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(unknown_name("figure", unknown[0], known))
    return [spec for spec in FIGURES if not names or spec.name in names]


def make(
    context: FigureContext,
    out: Path,
    names: Sequence[str] = (),
    command: Callable[[str], str] = lambda name: f"headlens figures {name}",
    how: Print = Print(),  # noqa: B008  # frozen
) -> Iterator[tuple[FigureSpec, list[Path] | HeadlensError]]:
    """Draws and writes figures one by one; one that cannot be made does not keep the others from being made.

    Args:
        out: a folder for the files.
        names: which; all by default.
        command: what makes the figure of that name again; it stands below its caption.
        how: they are printed: in which formats, how wide, with which type.

    Yields:
        Each figure, and its files or why there are none; one that is there already of other runs, images or settings
        is not written over.

    Raises:
        ConfigError: an unknown name.
    """
    question = context.question
    for spec in chosen(names):
        try:
            check_free(spec.name, out, question)
            rendered = spec.printed(context, how)
            yield spec, save(rendered, spec.name, spec.about, out, command(spec.name), question, how)
        except HeadlensError as error:
            yield spec, error
