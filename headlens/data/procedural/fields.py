"""Random fields on a canvas: smooth noise, cells, relief, and the colours they are turned into."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.data.procedural.canvas import Canvas
from headlens.data.procedural.draw import Draw

REACH = 1.6  # a lattice covers [-REACH, REACH]; beyond it the field is mirrored


def noise(
    draw: Draw,
    at: Canvas,
    cells: float,
    octaves: int = 1,
    gain: float = 0.5,
    stretch: float = 1.0,
) -> Tensor:
    """Smooth noise [B, 1, S, S], about -1..1: ``cells`` bumps over the width of the canvas, finer ones added.

    Args:
        draw, at: whose, and where.
        cells: bumps along x over [-1, 1]; every octave doubles them.
        octaves, gain: how many, and how much each one weighs against the one before.
        stretch: bumps along y are this much longer than along x.
    """
    total = torch.zeros_like(at.x)
    weight, norm = 1.0, 0.0
    grid = torch.cat([at.x, at.y], 1).permute(0, 2, 3, 1) / REACH  # (B, S, S, 2)
    for octave in range(octaves):
        across = cells * 2**octave
        lattice = draw.uniform(-1, 1, (1, max(4, round(across / stretch * REACH)), max(4, round(across * REACH))))
        # Bicubic is smooth where bumps are wide; where a bump is a few pixels, bilinear looks the same and is faster.
        mode = "bicubic" if across < at.size / 12 else "bilinear"
        total = total + weight * F.grid_sample(lattice, grid, mode, "reflection", align_corners=False)
        norm += weight**2
        weight *= gain
    return total * (1.4 / norm**0.5)


def cells(draw: Draw, at: Canvas, n: float, jitter: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Cells around scattered points (Worley): distances to the nearest and the next point, in cells, and an id.

    Args:
        draw, at: whose, and where.
        n: cells along one side of the canvas.
        jitter: 0 is a square lattice, 1 fully scattered.
    """
    count = max(3, round(n * 3))  # enough lattice for poses beyond the canvas; it repeats outside
    points = draw.uniform(0, 1, (3, count * count))  # dx, dy, id
    u, v = (at.x + 1) * (n / 2), (at.y + 1) * (n / 2)
    cell_u, cell_v = u.floor(), v.floor()
    first = torch.full_like(u, 9.0)
    second, ident = first, torch.zeros_like(u)
    for dv in (-1, 0, 1):
        for du in (-1, 0, 1):
            cu, cv = cell_u + du, cell_v + dv
            flat = (torch.remainder(cv, count) * count + torch.remainder(cu, count)).long().flatten(1)  # (B, S S)
            px, py, own = points.gather(2, flat[:, None].expand(-1, 3, -1)).unflatten(2, u.shape[2:]).split(1, 1)
            px = cu + 0.5 + jitter * (px - 0.5) - u
            py = cv + 0.5 + jitter * (py - 0.5) - v
            distance = (px * px + py * py).sqrt()
            nearer = distance < first
            second = torch.where(nearer, first, torch.minimum(second, distance))
            ident = torch.where(nearer, own, ident)
            first = torch.minimum(first, distance)
    return first, second, ident


def relief(height: Tensor, draw: Draw, strength: Tensor | float = 1.0) -> Tensor:
    """Light and shade [B, 1, S, S], about -1..1, of a height field lit from a random side.

    ``height`` is in widths of the canvas: its slope, not its pixels, makes the shade.
    """
    scale = height.shape[-1] / 2
    padded = F.pad(height, (1, 1, 1, 1), mode="replicate")
    gx = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) * (scale / 2)
    gy = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) * (scale / 2)
    angle = draw.uniform(0, 6.2832)
    return torch.tanh(-(gx * angle.cos() + gy * angle.sin()) * strength)


def smooth(low: Tensor | float, high: Tensor | float, x: Tensor) -> Tensor:
    """0 below ``low``, 1 above ``high``, a smooth step between."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def grain(draw: Draw, at: Canvas, channels: int = 1) -> Tensor:
    """White noise, one value for each pixel: [B, channels, S, S], standard deviation 1."""
    return draw.uniform(-1.7320508, 1.7320508, (channels, at.size, at.size))


def hsv(hue: Tensor, saturation: Tensor | float, value: Tensor | float) -> Tensor:
    """Colours [B, 3, ...] of hue (0..1, cyclic), saturation and value, [B, 1, ...]."""
    channels = []
    for offset in (5.0, 3.0, 1.0):
        k = torch.remainder(offset + hue * 6, 6.0)
        channels.append(value - value * saturation * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.cat(channels, 1)


def colour(draw: Draw, hue: tuple[float, float], saturation: tuple[float, float], value: tuple[float, float]) -> Tensor:
    """One colour for each sample, [B, 3, 1, 1]."""
    return hsv(draw.uniform(*hue), draw.uniform(*saturation), draw.uniform(*value))


def ramp(t: Tensor, *stops: Tensor) -> Tensor:
    """Colours [B, 3, S, S] along evenly spaced ``stops`` [B, 3, 1, 1] at t in 0..1 [B, 1, S, S]."""
    t = t.clamp(0, 1) * (len(stops) - 1)
    mixed = stops[0] + (stops[1] - stops[0]) * t.clamp(0, 1)
    for i in range(2, len(stops)):
        mixed = mixed + (stops[i] - stops[i - 1]) * (t - i + 1).clamp(0, 1)
    return mixed


def centre(draw: Draw, region: Tensor) -> tuple[Tensor, Tensor]:
    """A random place in ``region`` [B, 1, S, S], rather inside it than at its edge: x and y [B, 1, 1, 1], upright.

    Without any region, a place anywhere.
    """
    size = region.shape[-1]
    spread = max(1, size // 28)
    here = region > 0.5
    outside = F.pad((~here).float(), (spread, spread, spread, spread), value=1.0)
    inner = F.max_pool2d(outside, 2 * spread + 1, 1) < 0.5
    weight = (here.long() + 15 * inner.long()).flatten(1)
    weight = torch.where(weight.sum(1, keepdim=True) > 0, weight, 1)
    total = weight.cumsum(1)  # of integers: the same in any order
    wanted = (draw.uniform(shape=(1,)).double() * total[:, -1:]).long() + 1
    best = torch.searchsorted(total, wanted)  # (B, 1)
    x = ((best % size) + 0.5) * (2 / size) - 1
    y = (torch.div(best, size, rounding_mode="floor") + 0.5) * (2 / size) - 1
    return x[:, :, None, None].float(), y[:, :, None, None].float()
