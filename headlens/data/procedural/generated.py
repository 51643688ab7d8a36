"""Generated images and real ones: each photo has a twin that a generator has made of it, whose marks are all it leaves.

What generators are known by is painted, not learned: grids of transposed convolutions, enlarged pixels, blocks of a
codebook, noise that was taken away, few colours, and compression on top. Those of training and of test are different
ones, and so is what photos show. A twin says nothing about its photo but by these marks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.data.procedural import camera
from headlens.data.procedural.canvas import blur
from headlens.data.procedural.captions import shown
from headlens.data.procedural.catalogue import CATEGORIES, ROLES, Role
from headlens.data.procedural.draw import Draw
from headlens.data.procedural.render import Rendered, render
from headlens.data.procedural.scene import Category
from headlens.data.procedural.worlds import World

Generator = Callable[[Draw, Tensor], Tensor]
"""``(draw, photo [B, 3, S, S] in 0..1)`` to its twin."""
FAMILY = "generated"


def nearest(draw: Draw, photo: Tensor) -> Tensor:
    """Half as large, and each pixel doubled."""
    return _up(_down(photo, 2), photo, "nearest")


def checkerboard(draw: Draw, photo: Tensor) -> Tensor:
    """A transposed convolution whose kernel does not divide by its stride: every other pixel is brighter."""
    uneven = draw.uniform(0.05, 0.16)
    x, y = (_every(photo.shape[axis], 2, photo).view(shape) for axis, shape in ((3, (1, 1, 1, -1)), (2, (1, 1, -1, 1))))
    return _up(_down(photo, 2), photo, "bilinear") * (1 + uneven * (x + y - 1))


def denoised(draw: Draw, photo: Tensor) -> Tensor:
    """What is fine is gone, and noise of one coarseness is in its place."""
    unit = photo.shape[-1] / 224
    noise = blur(draw.normal(tuple(photo.shape[1:])), 0.8 * unit)
    return blur(photo, draw.uniform().mean().item() * unit + 1.2 * unit) + draw.uniform(0.03, 0.07) * noise


def palette(draw: Draw, photo: Tensor) -> Tensor:
    """A few levels of each colour."""
    levels = 6 + draw.integers(8)
    return (photo * levels).round() / levels


def bilinear(draw: Draw, photo: Tensor) -> Tensor:
    """A quarter as large, and enlarged again, with edges that ring."""
    smooth = _up(_down(photo, 4), photo, "bilinear")
    return smooth + draw.uniform(0.3, 0.9) * (smooth - blur(smooth, photo.shape[-1] / 112))


def subpixel(draw: Draw, photo: Tensor) -> Tensor:
    """Four by four pixels from the channels of one, each with a gain of its own: a grid of period 4."""
    gains = draw.uniform(-0.09, 0.09, (1, 4, 4))
    rows, columns = (-(-side // 4) for side in photo.shape[-2:])
    tiled = gains.repeat(1, 1, rows, columns)[..., : photo.shape[-2], : photo.shape[-1]]
    return _up(_down(photo, 2), photo, "bicubic") * (1 + tiled)


def reencoded(draw: Draw, photo: Tensor) -> Tensor:
    """Compressed twice, the second time with its blocks elsewhere."""
    once = camera.jpeg(draw, photo, p=1.0)
    return camera.jpeg(draw, once.roll((3, 5), (-2, -1)), p=1.0).roll((-3, -5), (-2, -1))


def blocks(draw: Draw, photo: Tensor) -> Tensor:
    """Blocks of 4 x 4 pixels of a codebook: their means, and a share of what is in them."""
    means = _up(_down(photo, 4), photo, "nearest")
    return means + draw.uniform(0.2, 0.6) * (photo - means)


GENERATORS: dict[Role, dict[str, Generator]] = {
    "aux": {one.__name__: one for one in (nearest, checkerboard, denoised, palette)},
    "unseen": {one.__name__: one for one in (bilinear, subpixel, reencoded, blocks)},
}
"""By role: those of training, and those that no training has seen."""


class Generated(World):
    """Photos and their twins: a category for each generator, its first half photos, its second half their twins.

    >>> world = Generated("procedural:generated", per_category=4, size=56)
    >>> world.categories, world.name(2), world.caption(2)
    (('bilinear', 'subpixel', 'reencoded', 'blocks'), 'bilinear/terrazzo/1_fake/002', 'a photo of a terrazzo')
    """

    specs = ("procedural:generated", "procedural:generated/aux")
    masked = False

    def _categories(self, domain: str, role: Role) -> tuple[str, ...]:
        self._generators = GENERATORS[role]
        self._scenes = [c for n, c in CATEGORIES.items() if c.domain == "industrial" and ROLES[n] == role]
        return tuple(self._generators)

    def category(self, name: str) -> Category:
        """The generator of that name as a category; what it shows differs from photo to photo."""
        return Category(name, self.domain, (name,), self._scenes[0].paint, (FAMILY,))

    def families(self, category: str) -> tuple[str, ...]:
        """One."""
        return (FAMILY,)

    def scene(self, i: int) -> Category:
        """What sample ``i`` shows: a photo and its twin the same."""
        return self._scenes[self._photo(self.place(i)[2]) % len(self._scenes)]

    def _photo(self, number: int) -> int:
        """The number of a photo, or of that a twin is made of."""
        photos = self.per_category // 2
        return number - photos if number >= photos else number

    def name(self, i: int) -> str:
        """As in a folder: ``generator/what it shows/1_fake/012``."""
        category, family, number = self.place(i)
        kind = "0_real" if family == "good" else "1_fake"
        return f"{category.name}/{self.scene(i).name}/{kind}/{number:03d}"

    def caption(self, i: int) -> str:
        """What it shows, photo or twin."""
        return shown(self.scene(i).name)

    def _render(
        self, category: Category, family: str, numbers: Sequence[int], device: torch.device | str | None = None
    ) -> Rendered:
        return _joined([self._one(category, family, number, device) for number in numbers])

    def _one(self, category: Category, family: str, number: int, device: torch.device | str | None) -> Rendered:
        photo = self._photo(number)
        index = torch.tensor([photo], dtype=torch.int32, device=device)
        draw = Draw.of(self.seed, f"{self.spec}/{category.name}", index)
        made = render(self._scenes[photo % len(self._scenes)], None, draw.fork("photo"), self.size)
        if family == "good":
            return made
        twin = self._generators[category.name](draw.fork("generator"), made.image).clamp(0, 1)
        return Rendered(twin, twin, made.mask, made.severity, made.region)


def _joined(parts: Sequence[Rendered]) -> Rendered:
    return Rendered(*(torch.cat([getattr(part, name) for part in parts]) for name in vars(parts[0])))


def _down(photo: Tensor, factor: int) -> Tensor:
    size = [max(1, side // factor) for side in photo.shape[-2:]]
    return F.interpolate(photo, size=size, mode="area")


def _up(small: Tensor, photo: Tensor, mode: str) -> Tensor:
    corners = None if mode == "nearest" else False
    return F.interpolate(small, size=photo.shape[-2:], mode=mode, align_corners=corners)


def _every(length: int, period: int, like: Tensor) -> Tensor:
    """1 at every so many pixels, else 0."""
    return (torch.arange(length, device=like.device) % period == 0).to(like)
