"""What painters give each other: a normal picture, a flaw on it, and the category both belong to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from headlens.data.procedural.canvas import Canvas
from headlens.data.procedural.draw import Draw


@dataclass(frozen=True)
class Scene:
    """A normal picture before anything has happened to it.

    Args:
        image: [B, 3, S, S] in 0..1.
        region: [B, 1, S, S], 1 where a flaw may be (the object, the organ), else 0.
        contrast: [B, 1, 1, 1], what a mass in this tissue looks like: above 0 brighter, below 0 darker. Industrial
            flaws do not read it.
    """

    image: Tensor
    region: Tensor
    contrast: Tensor


@dataclass(frozen=True)
class Flaw:
    """A defect or lesion painted on a scene.

    Args:
        image: [B, 3, S, S], the scene with the flaw on it at full strength.
        alpha: [B, 1, S, S] in 0..1, where it is; exactly 0 outside it.
    """

    image: Tensor
    alpha: Tensor


ScenePainter = Callable[[Draw, Canvas], Scene]
FlawPainter = Callable[[Draw, Canvas, Scene, Tensor], Flaw]
"""``(draw, canvas, scene, severity [B, 1, 1, 1] in 0..1)``; severity 0 is just visible, 1 is obvious."""
Finish = Callable[[Draw, Canvas, Tensor], Tensor]
"""``(draw, canvas, image)`` to the image as this kind of camera or scanner shows it: speckle, film grain."""


@dataclass(frozen=True)
class Category:
    """One kind of picture.

    Args:
        name: as in specs and folders, for instance ``bottle_cap``.
        domain: ``industrial`` or ``medical``.
        words: what captions call it, the usual word first.
        paint: its normal pictures.
        flaws: names of the flaws it can have.
        finish: what its camera or scanner adds, flaw or no flaw.
        texture: whether it fills the picture.
    """

    name: str
    domain: str
    words: tuple[str, ...]
    paint: ScenePainter
    flaws: tuple[str, ...]
    finish: Finish | None = None
    texture: bool = False
