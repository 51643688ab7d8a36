"""Where a picture is painted: coordinates [B, 1, S, S] under a pose, and what is seen of a shape there.

Everything is painted as a function of coordinates, so a rotation, a squash or a perspective costs no resampling and
a picture looks the same at any size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.data.procedural.draw import Draw


@dataclass(frozen=True)
class Canvas:
    """Coordinates of every pixel: x to the right, y down, the whole picture is [-1, 1] in both.

    Args:
        x, y: [B, 1, S, S].
        pixel: [B, 1, 1, 1], about the width of one pixel in these coordinates.
    """

    x: Tensor
    y: Tensor
    pixel: Tensor

    @classmethod
    def blank(cls, batch: int, size: int, device: torch.device | str | None = None) -> Canvas:
        """The upright canvas of ``size`` x ``size`` pixels."""
        axis = (torch.arange(size, dtype=torch.float32, device=device) + 0.5) * (2 / size) - 1
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        shape = (batch, 1, size, size)
        pixel = torch.full((batch, 1, 1, 1), 2 / size, device=device)
        return cls(x.expand(shape).contiguous(), y.expand(shape).contiguous(), pixel)

    @property
    def size(self) -> int:
        """Pixels along one side."""
        return self.x.shape[-1]

    def turned(self, angle: Tensor) -> Canvas:
        """The picture rotated by ``angle`` [B, 1, 1, 1] in radians."""
        cos, sin = angle.cos(), angle.sin()
        return replace(self, x=cos * self.x + sin * self.y, y=cos * self.y - sin * self.x)

    def scaled(self, sx: Tensor | float, sy: Tensor | float | None = None) -> Canvas:
        """What is painted at [-1, 1] becomes ``sx`` wide and ``sy`` high."""
        sy = sx if sy is None else sy
        return Canvas(self.x / sx, self.y / sy, self.pixel * 2 / (sx + sy))

    def moved(self, dx: Tensor | float, dy: Tensor | float) -> Canvas:
        """What is painted at (0, 0) moves to (dx, dy)."""
        return replace(self, x=self.x - dx, y=self.y - dy)

    def tilted(self, px: Tensor, py: Tensor) -> Canvas:
        """Perspective: the plane leans away to one side; |px| + |py| < 0.5."""
        depth = 1 / (1 + px * self.x + py * self.y)
        return replace(self, x=self.x * depth, y=self.y * depth)

    def tiled(self, n: Tensor) -> Canvas:
        """``n`` x ``n`` copies [B, 1, 1, 1] of the whole picture side by side."""
        x = torch.remainder((self.x + 1) * n, 2.0) - 1
        y = torch.remainder((self.y + 1) * n, 2.0) - 1
        return Canvas(x, y, self.pixel * n)

    def bent(self, dx: Tensor, dy: Tensor) -> Canvas:
        """Every point displaced by a field [B, 1, S, S]: irregular outlines."""
        return replace(self, x=self.x + dx, y=self.y + dy)

    def posed(
        self, draw: Draw, turn: float = 3.1416, scale: tuple[float, float] = (0.6, 0.9), shift: float = 0.2
    ) -> Canvas:
        """A random pose: shift, squash of up to 20 percent, perspective, scale and turn (radians to each side)."""
        squash = draw.uniform(-0.1, 0.1)
        moved = self.moved(draw.uniform(-shift, shift), draw.uniform(-shift, shift))
        tilted = moved.tilted(draw.uniform(-0.15, 0.15), draw.uniform(-0.15, 0.15))
        size = draw.uniform(*scale)
        return tilted.scaled(size * (1 + squash), size * (1 - squash)).turned(draw.uniform(-turn, turn))

    def fill(self, distance: Tensor) -> Tensor:
        """Coverage in 0..1 of a shape given by its signed distance [B, 1, S, S] (negative inside), edge antialiased."""
        return (0.5 - distance / self.pixel).clamp(0, 1)

    def line(self, distance: Tensor, width: Tensor | float) -> Tensor:
        """Coverage of a stroke of ``width`` around the zero of ``distance``; thinner than a pixel it gets fainter."""
        half = width / 2 / self.pixel
        return (half + 0.5 - distance.abs() / self.pixel).clamp(0, 1) * (2 * half).clamp(max=1)

    # Signed distances (exact for disc, box and segment; the others are good near their edge).
    def disc(self, radius: Tensor | float) -> Tensor:
        """A disc around (0, 0)."""
        return (self.x.square() + self.y.square() + 1e-12).sqrt() - radius

    def ellipse(self, rx: Tensor | float, ry: Tensor | float) -> Tensor:
        """An ellipse around (0, 0), of radii rx and ry."""
        k = ((self.x / rx).square() + (self.y / ry).square() + 1e-12).sqrt()
        slope = ((self.x / (rx * rx)).square() + (self.y / (ry * ry)).square() + 1e-12).sqrt()
        return k * (k - 1) / slope

    def box(self, width: Tensor | float, height: Tensor | float, radius: Tensor | float = 0.0) -> Tensor:
        """A rectangle of half sizes ``width`` and ``height`` around (0, 0), its corners rounded."""
        qx, qy = self.x.abs() - width + radius, self.y.abs() - height + radius
        outside = (qx.clamp(min=0).square() + qy.clamp(min=0).square() + 1e-12).sqrt()
        return outside + torch.maximum(qx, qy).clamp(max=0) - radius

    def polygon(self, corners: int | Tensor, radius: Tensor | float) -> Tensor:
        """A regular polygon; ``radius`` is that of its inner circle."""
        angle, step = torch.atan2(self.y, self.x), 2 * torch.pi / corners
        nearest = torch.floor(angle / step + 0.5) * step
        return (angle - nearest).cos() * (self.disc(0.0)) - radius

    def segment(self, x0: Tensor, y0: Tensor, x1: Tensor, y1: Tensor) -> Tensor:
        """Distance (never negative) to the straight line between two points."""
        dx, dy = x1 - x0, y1 - y0
        along = ((self.x - x0) * dx + (self.y - y0) * dy) / (dx * dx + dy * dy + 1e-9)
        along = along.clamp(0, 1)
        return ((self.x - x0 - along * dx).square() + (self.y - y0 - along * dy).square() + 1e-12).sqrt()

    def walk(self, draw: Draw, x: Tensor, y: Tensor, angle: Tensor, length: Tensor, bend: float, n: int = 8) -> Tensor:
        """Distance to a random walk of ``n`` segments from (x, y): cracks, hairs, vessels. All [B, 1, 1, 1]."""
        distance = torch.full_like(self.x, 9.0)
        for _ in range(n):
            angle = angle + draw.uniform(-bend, bend)
            x1, y1 = x + angle.cos() * length / n, y + angle.sin() * length / n
            distance = torch.minimum(distance, self.segment(x, y, x1, y1))
            x, y = x1, y1
        return distance


def over(below: Tensor, colour: Tensor | float, alpha: Tensor) -> Tensor:
    """``colour`` laid over ``below`` [B, 3, S, S] where ``alpha`` [B, 1, S, S] says so."""
    return below + (colour - below) * alpha


def blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of [B, C, S, S], ``sigma`` in pixels; the border is mirrored."""
    if sigma < 0.15:
        return image
    radius = min(max(1, round(3 * sigma)), image.shape[-1] - 1)
    t = torch.arange(-radius, radius + 1, dtype=torch.float32, device=image.device)
    kernel = (-0.5 * (t / sigma).square()).exp()
    kernel = kernel / kernel.sum()
    b, c, h, w = image.shape
    flat = F.pad(image.reshape(b * c, 1, h, w), (radius, radius, radius, radius), mode="reflect")
    flat = F.conv2d(flat, kernel.view(1, 1, 1, -1))
    return F.conv2d(flat, kernel.view(1, 1, -1, 1)).view(b, c, h, w)
