"""What annotations in JSON say: which labels are flaws, and what is drawn in a file of labelme."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from headlens.data.outlines import Outlines, Shape
from headlens.data.readers.tables import value_in
from headlens.data.readers.tree import is_normal
from headlens.errors import DataError

_BACKGROUND = {"background", "_background_", "__ignore__", "ignore"}


def is_flaw(name: str) -> bool:
    """Whether what is drawn under this name is something that is wrong.

    >>> is_flaw("dent"), is_flaw("OK"), is_flaw("_background_")
    (True, False, False)
    """
    return not is_normal(name) and name.strip().lower() not in _BACKGROUND


def family_of(names: Iterable[str]) -> str:
    """One name for all that is wrong with an image.

    >>> family_of(["scratch", "dent", "dent"])
    'dent+scratch'
    """
    return "+".join(sorted({name.strip() for name in names}))


def size_of(height: Any, width: Any) -> tuple[int, int] | None:
    """Height and width where both are numbers of pixels."""
    sides = (height, width)
    return sides if all(type(side) is int and 0 < side < 2**31 for side in sides) else None


def labelme(path: Path) -> dict[str, Any] | None:
    """What is in a file of labelme; None for any other JSON, such as a table of the set."""
    content = value_in(path)
    if not isinstance(content, dict) or "shapes" not in content or "imagePath" not in content:
        return None
    shapes = content["shapes"]
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        raise DataError(f"{path}: its shapes are no list of objects; save it with labelme")
    content.pop("imageData", None)  # all of the image once more
    return content


def flaws(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The shapes in a file of labelme that are drawn around something that is wrong."""
    return [shape for shape in content.get("shapes", []) if is_flaw(str(shape.get("label", "")))]


def outlines(path: Path, image: Path, content: Mapping[str, Any]) -> Outlines:
    """Those shapes as the mask of ``image``."""
    drawn = (
        Shape(str(shape.get("shape_type") or "polygon"), shape.get("points"), shape.get("mask"))
        for shape in flaws(content)
    )
    return Outlines(path, image.name, size_of(content.get("imageHeight"), content.get("imageWidth")), tuple(drawn))
