"""The overlays of ``headlens score``: an image under its map, on one of three scales; the colour bar says which."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from headlens.files import SOFTWARE

if TYPE_CHECKING:
    import numpy as np

    from headlens.units import Unit

Scale = Enum("Scale", {"ABSOLUTE": "absolute", "SET": "set", "IMAGE": "image"}, type=str)


@dataclass(frozen=True)
class Colours:
    """What the lowest and the highest colour stand for.

    Args:
        limits: the values of the two.
        label: of the colour bar.
    """

    limits: tuple[float, float]
    label: str

    @classmethod
    def of(cls, maps: Iterable[np.ndarray], scale: Scale, unit: Unit) -> Colours:
        """Those of a scale: absolute is 0 to 1; else from the lowest to the highest value of these maps.

        Logits have no ends, so that absolute means the ends of these maps, too.

        >>> import numpy as np
        >>> Colours.of([np.eye(2) / 4, np.eye(2) / 2], Scale.SET, "probability")
        Colours(limits=(0.0, 0.5), label='anomaly map, scale of 2 images')
        """
        from headlens.plots.overlay import MAP_LABEL, limits_of

        if scale is Scale.ABSOLUTE and unit == "probability":
            return cls((0.0, 1.0), MAP_LABEL[unit])
        ends, count = [], 0
        for shown in maps:
            ends += [shown.min(), shown.max()]
            count += 1
        whose = f"{count} images" if scale is Scale.SET else "this image"
        return cls(limits_of(ends, "logit"), f"{MAP_LABEL[unit]}, scale of {whose}")


def overlay_png(image: np.ndarray, anomaly_map: np.ndarray, title: str, colours: Colours) -> bytes:
    """The drawing, which says that headlens made it; ``image`` is [H, W, 3] uint8, ``anomaly_map`` [H, W]."""
    from headlens.plots.overlay import overlay

    figure, _ = overlay(image, anomaly_map, title, limits=colours.limits, label=colours.label)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=120, metadata={"Software": SOFTWARE})
    return drawn.getvalue()
