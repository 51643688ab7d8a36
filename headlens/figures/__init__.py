"""The paper's figures from run folders: each has a name, a drawing and a caption with its numbers.

    material = Material([subject("industrial", ["mini-industrial"]), ...], Path("figures/data"))
    for name, made in make(material, Path("figures")):
        ...

What takes long is computed once, kept, and used again only if runs, pictures, settings and versions are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from headlens.errors import ConfigError, HeadlensError
from headlens.figures import ablation, difference, gallery, head_maps, importance, joint, layers, method, weights
from headlens.figures.context import Material, Subject
from headlens.figures.spec import Drawn, Recipe
from headlens.figures.writing import check_free, save
from headlens.plots.style import paper
from headlens.training.grouping import Group, grouped

FIGURES: tuple[Recipe, ...] = (
    weights.RECIPE,
    difference.RECIPE,
    importance.RECIPE,
    ablation.RECIPE,
    layers.RECIPE,
    head_maps.RECIPE,
    gallery.RECIPE,
    joint.RECIPE,
    method.RECIPE,
)
"""In the order of the paper."""

__all__ = ["FIGURES", "Drawn", "Group", "Material", "Recipe", "Subject", "chosen", "grouped", "make", "save"]


def chosen(names: Sequence[str] = ()) -> list[Recipe]:
    """The figures of these names, in the order of the paper; all when none is named.

    Raises:
        ConfigError: an unknown name.

    >>> [recipe.name for recipe in chosen(["layers", "weights"])]
    ['weights', 'layers']
    """
    known = [recipe.name for recipe in FIGURES]
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"no figure is called {unknown[0]!r}; there are {', '.join(known)}")
    return [recipe for recipe in FIGURES if not names or recipe.name in names]


def make(
    material: Material,
    out: Path,
    names: Sequence[str] = (),
    command: Callable[[str], str] = lambda name: f"headlens figures {name}",
) -> Iterator[tuple[Recipe, list[Path] | HeadlensError]]:
    """Draws and writes figures one by one; one that cannot be made does not keep the others from being made.

    Args:
        material: of what.
        out: a folder for the files.
        names: which; all by default.
        command: what makes the figure of that name again; it stands below its caption.

    Yields:
        Each figure, and its files or why there are none; one that is there already of other runs, images or settings
        is not written over.

    Raises:
        ConfigError: an unknown name.
    """
    question = material.question
    for recipe in chosen(names):
        try:
            check_free(recipe.name, out, question)
            with paper():
                drawn = recipe.draw(material)
            yield recipe, save(drawn, recipe.name, recipe.about, out, command(recipe.name), question)
        except HeadlensError as error:
            yield recipe, error
