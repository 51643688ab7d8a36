"""Images, maps and masks as small files that stand in the page itself."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from PIL import Image
from scipy.ndimage import binary_dilation

from headlens import html
from headlens.plots.display import smaller
from headlens.plots.overlay import CMAP
from headlens.plots.style import DIVERGING, RISING

SIDE = 384
"""Pixels along the longer side of an image in a page."""
_QUALITY = 85


def fitted(shape: Sequence[int], side: int = SIDE) -> tuple[int, int]:
    """Height and width of an image of that shape in a page.

    >>> fitted((1000, 500)), fitted((100, 50)), fitted((1, 5000))
    ((384, 192), (100, 50), (1, 384))
    """
    scale = min(1.0, side / max(shape))
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def photo(image: np.ndarray, about: str) -> str:
    """An image [H, W, 3] uint8 as an element; ``about`` is read out where images are not seen."""
    return _element(_resized(image), about)


def overlaid(
    image: np.ndarray, values: np.ndarray, about: str, limits: tuple[float, float], sign: bool | None = None
) -> str:
    """The image in grey under a map, the denser the further from where colours begin, as figures draw it.

    Args:
        image: [H, W, 3] uint8.
        values: [h, w], stretched over the image.
        about: read out where images are not seen.
        limits: of the colours.
        sign: of an attribution, whether it has one; None of an anomaly map.
    """
    base = _resized(image)
    height, width = base.shape[:2]
    stretched = Image.fromarray(np.nan_to_num(values).astype(np.float32)).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    share = np.clip((np.asarray(stretched) - limits[0]) / (limits[1] - limits[0]), 0, 1)
    colours = colormaps[colour_map(sign)](share)[..., :3] * 255
    grey = base.mean(2, keepdims=True)
    if sign is None:
        density = 0.85 * share
    else:  # pale grey below, as ``plots.overlaid`` draws it
        grey = (grey + 255) / 2
        density = 0.9 * np.abs(2 * share - 1) ** 0.5 if sign else 0.75 * share**0.5
    density = density[..., None]
    return _element((grey * (1 - density) + colours * density).round().astype(np.uint8), about)


def outlined(mask: np.ndarray, shape: Sequence[int]) -> str:
    """A transparent image with a black line in a white one around what a mask [H, W] marks; empty where nothing is.

    Args:
        mask: bool.
        shape: height and width of the image.
    """
    if not mask.any() or mask.all():
        return ""
    height, width = fitted(shape)
    marked = np.asarray(Image.fromarray(smaller(mask)).resize((width, height), Image.Resampling.NEAREST))
    once, thrice = binary_dilation(marked, iterations=1), binary_dilation(marked, iterations=3)
    twice = binary_dilation(marked, iterations=2)
    pixels = np.zeros((height, width, 2), np.uint8)
    pixels[thrice & ~marked] = 255
    pixels[twice & ~once] = (0, 255)
    sink = io.BytesIO()
    Image.fromarray(pixels, "LA").save(sink, "png", optimize=True)
    return html.image(sink.getvalue(), "png", "outline of the mask")


def colour_map(sign: bool | None) -> str:
    """The name of the colours of an anomaly map (None), and of attributions with and without a sign."""
    return CMAP if sign is None else DIVERGING if sign else RISING


def gradient(sign: bool | None) -> str:
    """The colours of a map from left to right, as CSS.

    >>> gradient(None)[:40]
    'linear-gradient(to right, #000004, #1d11'
    """
    steps = [to_hex(colormaps[colour_map(sign)](at)) for at in np.linspace(0, 1, 9)]
    return f"linear-gradient(to right, {', '.join(steps)})"


def _resized(image: np.ndarray) -> np.ndarray:
    height, width = fitted(image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def _element(pixels: np.ndarray, about: str) -> str:
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "jpeg", quality=_QUALITY)
    return html.image(sink.getvalue(), "jpeg", about)
