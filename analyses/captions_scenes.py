"""Rich scenes for pre-training on sentences: what there is in them is known, and nothing about flaws but words.

A pool of images on the device, most of them without a flaw. A batch shows them turned, cropped or close, some with
a second thing in part of the image, some with coloured marks, some grey, dark, bright or blurred. Masks of flaws
serve one purpose: a caption must not call damaged what the crop has cut away. They are in no batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from captions_clinic import CLINIC
from captions_echoes import ECHOES
from captions_kinds import KINDS_MORE
from captions_scans import SCANS
from mini_stream import SEEN, Pool, looked_at, sent, views
from torch import Tensor

from headlens.data.procedural.captions import kind
from headlens.data.procedural.catalogue import CATEGORIES, FAMILIES, HELD_OUT
from headlens.data.procedural.draw import Draw
from headlens.data.procedural.render import COLOURS, as_bytes, colour_of, place_of, render

_EARLIER = {name: CATEGORIES[name] for name in SEEN} | SCANS
EARLIER_NAMES = tuple(_EARLIER)  # of the first two cycles, whose recipes go on to have these alone
_THIRD = _EARLIER | KINDS_MORE
THIRD_NAMES = tuple(_THIRD)  # of the third cycle
SCANS_MORE = ECHOES | CLINIC  # of the fourth
THINGS = _THIRD | SCANS_MORE
NAMES = tuple(THINGS)  # the earlier ones first: their numbers are what they were
KINDS = tuple(dict.fromkeys(kind(category) for category in THINGS.values()))
FLAWS = tuple(dict.fromkeys(f for category in THINGS.values() for f in category.flaws if f not in HELD_OUT))
SHAPES = ("dot", "ring", "square", "triangle", "cross", "line", "spot", "streak", "cloud")
SHARP = 6  # of the shapes; the others have soft edges, and may be faint
TONES = ("black and white", "dark", "bright", "blurred")
# What a caption may state of a image, one column each; -1 is "none", or "unknown".
CATEGORY, KIND, COLOUR, STATE, FLAW, SECOND, SECOND_PLACE, MARK, MARK_COLOUR, MARK_PLACE, COUNT, NEAR, TONE = range(13)
_OFTEN = {"part": 3, "random_surface": 3, "phantom": 2, "random_scan": 3, "random_echo": 3, "random_slide": 2}
_OFTEN |= dict.fromkeys(("printed_paper", "knit", "wicker", "grains", "embossed_sheet"), 2)
_OFTEN |= dict.fromkeys(("control_panel", "hoses", "label"), 2)
_OFTEN |= {"assembly": 3, "random_layers": 2, "random_xray": 3, "fluorescence": 2, "gastroscopy": 2}
_OFTEN |= dict.fromkeys(("random_soft_tissue", "random_muscle", "random_abdomen", "random_organ"), 3)
_OFTEN |= dict.fromkeys(("random_joint", "random_ct", "random_soft_xray", "random_photograph", "random_uptake"), 2)
_RGB = (
    *((0.05, 0.05, 0.05), (0.5, 0.5, 0.5), (0.97, 0.97, 0.97), (0.45, 0.27, 0.1), (0.85, 0.1, 0.1)),
    *((0.95, 0.55, 0.1), (0.95, 0.9, 0.15), (0.15, 0.65, 0.2), (0.15, 0.3, 0.85), (0.5, 0.15, 0.65), (0.95, 0.5, 0.7)),
)


@dataclass(frozen=True)
class SceneBatch:
    """``images`` [B, 3, S, S] in 0..1; ``attributes`` [B, 13] on the CPU; ``shares`` [b, K, g, g] of the first b.

    A share says how much of a patch shows each of ``NAMES``, each of ``SHAPES``, or the background, in this order.
    """

    images: Tensor
    attributes: Tensor
    shares: Tensor


def areas(kinds: Tensor, at: Tensor, size: int) -> Tensor:
    """Parts of a image as [n, 1, size, size] in 0..1: ellipses (0), boxes (1), half planes (2), blobs (3).

    Args:
        kinds: [n].
        at: [n, 6]: centre, radii, angle, phase.
        size: pixels along a side.
    """
    x, y = _plane(size, at.device)
    cx, cy, rx, ry, angle, phase = at[:, :, None, None].unbind(1)
    u = (x - cx) * angle.cos() + (y - cy) * angle.sin()
    v = (y - cy) * angle.cos() - (x - cx) * angle.sin()
    radius = ((u / rx).square() + (v / ry).square() + 1e-9).sqrt()
    which = kinds[:, None, None]
    distance = torch.where(which == 1, torch.maximum(u.abs() / rx, v.abs() / ry) - 1, radius - 1)
    distance = torch.where(which == 2, (u + 0.1 * (3 * v + phase).sin()) / rx, distance)
    blob = radius - 1 - 0.3 * (3 * torch.atan2(v, u) + phase).sin() * (2 * u + phase).cos()
    distance = torch.where(which == 3, blob, distance) * torch.minimum(rx, ry)
    return (0.5 - distance * size / 2).clamp(0, 1)[:, None]


def strokes(shapes: Tensor, counts: Tensor, at: Tensor, size: int) -> Tensor:
    """Marks as [n, 1, size, size] in 0..1: ``counts`` copies of each of ``SHAPES`` side by side.

    Args:
        shapes, counts: [n]; a shape of -1 is nothing.
        at: [n, 5]: centre of them all, size, angle, direction in which copies follow each other.
        size: pixels along a side.
    """
    x, y = _plane(size, at.device)
    cx, cy, scale, angle, along = at[:, :, None, None].unbind(1)
    nearest = torch.full_like(x + cx, 9.0)
    for copy in range(3):
        shift = 2.6 * scale * (copy - (counts[:, None, None] - 1) / 2)
        dx, dy = (x - cx - shift * along.cos()) / scale, (y - cy - shift * along.sin()) / scale
        u, v = dx * angle.cos() + dy * angle.sin(), dy * angle.cos() - dx * angle.sin()
        radius, box = (u.square() + v.square()).sqrt(), torch.maximum(u.abs(), v.abs())
        bars = torch.minimum(torch.maximum(u.abs() - 0.25, v.abs() - 1), torch.maximum(v.abs() - 0.25, u.abs() - 1))
        forms = (
            *(radius - 0.9, (radius - 0.8).abs() - 0.2, box - 0.8),
            *(torch.maximum(u.abs() * 0.866 + v * 0.5, -v) - 0.5, bars),
            torch.maximum(v.abs() - 0.14, u.abs() - 1.25),
        )
        wave, turn = v + 0.3 * (2 * u + along).sin(), torch.atan2(v, u)
        ragged = radius * (1 + 0.3 * (3 * turn + along).sin() + 0.2 * (5 * turn - along).sin())
        forms += (radius - 0.7, torch.maximum(wave.abs() - 0.12, u.abs() - 1.25), ragged - 0.7)
        form = torch.full_like(radius, 9.0)
        for number, distance in enumerate(forms):
            form = torch.where(shapes[:, None, None] == number, distance, form)
        nearest = torch.minimum(nearest, torch.where(copy < counts[:, None, None], form * scale, 9.0))
    soft = torch.where(shapes[:, None, None] < SHARP, 2 / size, 0.6 * scale)  # width of an edge
    return (0.5 - nearest / soft).clamp(0, 1)[:, None]


def _plane(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    axis = (torch.arange(size, dtype=torch.float32, device=device) + 0.5) * (2 / size) - 1
    return axis[None, None, :], axis[None, :, None]


class Scenes(Pool):
    """A pool of images, and batches of scenes made of them; ``regions`` are the things, without their backdrops.

    Args:
        size, pool, fresh, seed, device: as in ``Pool``.
        flawed: share of images with a flaw.
        names: categories, of ``NAMES``.
        rich: share of images with a second thing, and share of those with marks.
        shapes: how many of ``SHAPES`` marks have.
    """

    def __init__(
        self,
        size: int,
        pool: int,
        fresh: int,
        seed: int,
        device: torch.device,
        *,
        flawed: float = 0.3,
        names: tuple[str, ...] = NAMES,
        rich: float = 0.35,
        shapes: int = len(SHAPES),
    ) -> None:
        often = [name for name in names for _ in range(_OFTEN.get(name, 1))]
        super().__init__(size, pool, fresh, seed, device, 5, often)
        self.flawed, self.rich, self.shapes = flawed, rich, shapes

    def refresh(self, ease: float = 0.0) -> None:
        """Replace the oldest images by some of one category, with flaws of one family of severity ``ease``..1."""
        name = self._chance.choice(self._names)
        category = THINGS[name]
        family = self._chance.choice([family for family in category.flaws if family not in HELD_OUT])
        index = torch.arange(self.fresh, device=self.device, dtype=torch.int32) + self.made
        count = round(self.flawed * self.fresh + self._chance.random() - 0.5)
        for part, own in ((index[:count], family), (index[count:], None)):
            if not len(part):
                continue
            painter = None if own is None else FAMILIES[category.domain][own]
            made = render(category, painter, Draw.of(self.seed, f"scenes/{name}", part), self.size, ease)
            flawed = made.mask.flatten(1).any(1).long()
            columns = (
                *(torch.full_like(flawed, NAMES.index(name)), torch.full_like(flawed, KINDS.index(kind(category)))),
                *(colour_of(made.image, made.region), flawed),
                flawed * (FLAWS.index(family) + 1) - 1,  # -1 as well where the flaw that was asked for has no room
            )
            slot = part.long() % len(self.images)
            thing = category.domain == "industrial" and not category.texture
            self.images[slot] = as_bytes(made.image)
            self.regions[slot] = (
                made.region[:, 0] > 0.5 if thing else torch.ones_like(made.region[:, 0], dtype=torch.bool)
            )
            self.attributes[slot.cpu()] = torch.stack(columns, 1).cpu()
            self.small[slot.cpu()] = F.adaptive_max_pool2d(made.mask.half(), 28)[:, 0].cpu()
        self.made += self.fresh

    def described(self, n: int) -> Tensor:
        """What is known of ``n`` scenes, without painting them: attributes [n, 13]."""
        return self._planned(n)[0]

    def batch(self, n: int) -> SceneBatch:
        """``n`` scenes; of the first quarter it is known which patch shows what."""
        rows, plan = self._planned(n)
        plan = {name: sent(tensor, self.device) for name, tensor in plan.items()}
        first, other, u = _first(n), plan["other"], plan["u"]
        cover = areas(plan["part"], plan["part_at"], self.size) * plan["has_part"][:, None, None, None]
        mark = strokes(plan["shape"], plan["count"], plan["mark_at"], self.size)
        faintest = torch.where(plan["shape"] < SHARP, 0.75, 0.2)
        opacity = (faintest + (1 - faintest) * u[:, 4])[:, None, None, None]
        images = self._seen(plan["pick"], plan["theta"], plan["order"])
        images = images + (images[other] - images) * cover
        u = u[:, :, None, None]
        gain = 0.8 + 0.4 * u[:, 5:6] + 0.1 * (u[:, 6:9] - 0.5)
        images = images * gain + 0.15 * (u[:, 9:10] - 0.5)
        images = images + (plan["rgb"][:, :, None, None] - images) * mark * opacity
        images = _toned(images, plan["tone"][:, None, None, None])
        grain = torch.randn_like(images) * 0.03 * u[:, 10:11] * (u[:, 11:12] < 0.4)
        parts = [tensor[:first] for tensor in (plan["pick"], plan["theta"], other, cover, mark)]
        return SceneBatch((images + grain).clamp(0, 1), rows, self._shares(rows, *parts))

    def _planned(self, n: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Attributes [n, 13] of scenes, and all that is needed to paint them."""
        first = _first(n)
        pick = torch.randint(len(self.images), (n,), generator=self._generator)
        u = torch.rand(n, 24, generator=self._generator)
        theta, near = self._cropped(u, n)
        # The second thing is another row's image; rows of the first quarter stay among themselves.
        other = torch.cat([torch.arange(first).roll(1), torch.arange(first, n).roll(1)])
        rows = torch.full((n, 13), -1)
        rows[:, [CATEGORY, KIND, COLOUR, STATE, FLAW]] = self.attributes[pick]
        swapped, order = u[:, 0] < 0.2, torch.rand(n, 3, generator=self._generator).argsort(1)
        order = torch.where(swapped[:, None], order, torch.arange(3))
        rows[swapped, COLOUR] = -1  # what its colours are called now is unknown

        part, part_at = self._part(u)
        has_part = (u[:, 1] < self.rich) & (rows[:, CATEGORY] != rows[other, CATEGORY])
        small_part = areas(part, part_at, 28) * has_part[:, None, None, None]
        rows[:, SECOND] = torch.where(has_part, rows[other, CATEGORY], -1)
        rows[:, SECOND_PLACE] = place_of(small_part > 0.5)
        shape, count, colour, mark_at = self._mark(u)
        marked = u[:, 2] < self.rich
        shape = torch.where(marked, shape, -1)
        rows[:, MARK] = shape
        rows[marked, MARK_COLOUR], rows[marked, COUNT] = colour[marked], count[marked]
        rows[marked, MARK_PLACE] = _place(*mark_at[marked, :2].unbind(1))
        tone = torch.where(u[:, 3] < 0.2, (u[:, 3] * 20).long().clamp(max=3), -1)
        rows[:, NEAR], rows[:, TONE] = near.long(), tone
        altered = (tone >= 0) & (tone < 3)  # black and white, dark, bright: colours have lost their names
        rows[altered, COLOUR], rows[altered, MARK_COLOUR] = -1, -1
        self._visible(rows, pick, theta, small_part[:, 0])
        plan = {"pick": pick, "theta": theta, "other": other, "order": order, "u": u, "tone": tone}
        plan |= {"part": part, "part_at": part_at, "has_part": has_part}
        return rows, plan | {"shape": shape, "count": count, "mark_at": mark_at, "rgb": torch.tensor(_RGB)[colour]}

    def _cropped(self, u: Tensor, n: int) -> tuple[Tensor, Tensor]:
        """Views [n, 2, 3], a fifth of them close up, and which those are."""
        theta, near = views(n, self._generator), u[:, 12] < 0.2
        zoom = torch.where(near, 0.35 + 0.3 * u[:, 13], 1.0)
        shift = (1 - zoom)[:, None] * (2 * u[:, 14:16] - 1) * 0.8
        theta = torch.cat([theta[:, :, :2] * zoom[:, None, None], theta[:, :, 2:] + shift[:, :, None]], 2)
        return theta, near

    def _part(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Where the second thing is: anything between a spot and half of the image."""
        kinds = (u[:, 16] * 4).long()
        rx = 0.12 + 0.5 * u[:, 17].square()
        ry = rx * (0.5 + u[:, 18])
        reach = torch.where(kinds == 2, 0.4, 0.8)
        return kinds, torch.stack(
            [(2 * u[:, 19] - 1) * reach, (2 * u[:, 20] - 1) * reach, rx, ry, 6.2832 * u[:, 21], 6.2832 * u[:, 22]], 1
        )

    def _mark(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Shape, count, colour and place of marks."""
        v = torch.rand(len(u), 7, generator=self._generator)
        shape, colour = (v[:, 0] * self.shapes).long(), (v[:, 1] * len(COLOURS)).long()
        count = torch.where(v[:, 2] < 0.6, 1, torch.where(v[:, 2] < 0.8, 2, 3))
        scale = (
            (0.05 + 0.17 * v[:, 3].square()) / (0.5 + 0.5 * count) * torch.where((shape == 5) | (shape == 7), 1.8, 1.0)
        )
        at = torch.stack([1.7 * u[:, 23] - 0.85, 1.7 * v[:, 4] - 0.85, scale, 6.2832 * v[:, 5], 6.2832 * v[:, 6]], 1)
        return shape, count, colour, at

    def _visible(self, rows: Tensor, pick: Tensor, theta: Tensor, cover: Tensor) -> None:
        """What a crop or a second thing has hidden is no flaw any more; what is half hidden is not spoken of."""
        before = self.small[pick].float()
        after = looked_at(before, theta) * (1 - cover)
        zoomed = torch.linalg.det(theta[:, :, :2]).abs()  # what is close is larger
        share = after.sum((1, 2)) * zoomed / before.sum((1, 2)).clamp(min=1e-6)
        flawed = rows[:, STATE] == 1
        gone = flawed & (after.amax((1, 2)) < 0.05)
        unsure = flawed & ~gone & (share < 0.4)
        rows[gone, STATE], rows[unsure, STATE] = 0, -1
        rows[gone | unsure, FLAW] = -1

    def _seen(self, pick: Tensor, theta: Tensor, order: Tensor) -> Tensor:
        grid = F.affine_grid(theta, [len(pick), 1, self.size, self.size], align_corners=False)
        images = self.images[pick].gather(1, order[:, :, None, None].expand(-1, -1, self.size, self.size))
        return F.grid_sample(images.float() / 255, grid, padding_mode="reflection", align_corners=False)

    def _shares(self, rows: Tensor, pick: Tensor, theta: Tensor, other: Tensor, cover: Tensor, mark: Tensor) -> Tensor:
        """[b, K, g, g]: how much of every patch is which thing."""
        b, g = len(pick), self.size // 14
        grid = F.affine_grid(theta, [b, 1, self.size, self.size], align_corners=False)
        region = F.grid_sample(
            self.regions[pick][:, None].float(), grid, "nearest", padding_mode="reflection", align_corners=False
        )
        mark = (mark > 0.4).float()
        base, second = (1 - cover) * (1 - mark), cover * (1 - mark)
        ground = base * (1 - region) + second * (1 - region[other])
        layers = torch.cat([base * region, second * region[other], mark, ground], 1)
        layers = F.adaptive_avg_pool2d(layers, g)  # (b, 4, g, g)
        names, last = len(NAMES), len(NAMES) + len(SHAPES)
        index = torch.stack(
            [
                rows[:b, CATEGORY],
                rows[:b, SECOND].clamp(min=0),
                names + rows[:b, MARK].clamp(min=0),
                torch.full((b,), last),
            ],
            1,
        )
        shares = layers.new_zeros(b, last + 1, g, g)
        return shares.scatter_add(1, sent(index, self.device)[:, :, None, None].expand_as(layers), layers)


def _first(n: int) -> int:
    """Of how many scenes of a batch it is known which patch shows what."""
    return max(1, n // 4)


def _place(x: Tensor, y: Tensor) -> Tensor:
    """Where points are, as ``place_of`` names it."""
    off = torch.where(x.abs() > y.abs(), torch.where(x < 0, 1, 2), torch.where(y < 0, 3, 4))
    return torch.where(torch.maximum(x.abs(), y.abs()) < 0.3, 0, off)


def _toned(images: Tensor, tone: Tensor) -> Tensor:
    """Black and white (0), dark (1), bright (2) or blurred (3) images."""
    images = torch.where(tone == 0, images.mean(1, keepdim=True), images)
    images = torch.where(tone == 1, images * 0.4, images)
    images = torch.where(tone == 2, images * 0.5 + 0.5, images)
    width = max(3, images.shape[-1] // 32 * 2 + 1)
    soft = F.avg_pool2d(images, width, 1, width // 2, count_include_pad=False)
    return torch.where(tone == 3, soft, images)
