"""What VadCLIP (arXiv 2308.11681) adds to the frames of a clip so that each knows of the others: its LGT adapter.

    x <- x + position
    x <- transformer, in which a frame attends to those of its window alone
    z <- act(A (x W) + residual), twice, on each of two graphs:      act is QuickGELU
         similarity    A = softmax over frames of cosines, those up to a threshold set to 0
         distance      A = exp(-|i - j| / e)
    v <- W [z of similarity, z of distance] + b

It reads windows of T frames. Behind the frames of a shorter one stand zeros, which the transformer and the graph of
distances see, and the graph of similarities does not, as published.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headlens.detectors.parts.projections import seeded_linear
from headlens.precision import full_precision

STD = 0.01  # of initial positions
KERNEL = 5  # frames that the residual of a graph's first layer sees


def quick_gelu(x: Tensor) -> Tensor:
    """x σ(1.702 x)."""
    return x * (1.702 * x).sigmoid()


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """A layer that was learned in float32, in the precision of ``x``."""
    return F.linear(x, layer.weight.to(x.dtype), None if layer.bias is None else layer.bias.to(x.dtype))


class MLP(nn.Module):
    """To four times the width, QuickGELU, and back.

    Args:
        width: of what it reads.
        generator: of the initial values, on the CPU.
        device: where.
    """

    def __init__(self, width: int, generator: torch.Generator, device: torch.device | None = None) -> None:
        super().__init__()
        self.up = seeded_linear(width, 4 * width, generator=generator, device=device)
        self.down = seeded_linear(4 * width, width, generator=generator, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to the same shape."""
        return linear(self.down, quick_gelu(linear(self.up, x)))


class WindowBlock(nn.Module):
    """A pre-norm block of one head, whose frames attend to those of their window.

    Args:
        width: of the frames.
        window: frames of a window; T is a multiple of it.
        generator, device: as of ``MLP``.
    """

    def __init__(self, width: int, window: int, generator: torch.Generator, device: torch.device | None = None) -> None:
        super().__init__()
        self.window = window
        self.ln1, self.ln2 = nn.LayerNorm(width, device=device), nn.LayerNorm(width, device=device)
        self.qkv = seeded_linear(width, 3 * width, init="xavier", generator=generator, device=device)
        self.out = seeded_linear(width, width, generator=generator, device=device)
        with torch.no_grad():
            self.qkv.bias.zero_()
            self.out.bias.zero_()
        self.mlp = MLP(width, generator, device)

    def forward(self, x: Tensor) -> Tensor:
        """Windows of frames [R, T, width] to the same shape."""
        parted = _normed(self.ln1, x).unflatten(1, (-1, self.window))  # (R, T / w, w, D)
        q, k, v = linear(self.qkv, parted).chunk(3, -1)
        pattern = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        x = x + linear(self.out, pattern @ v).flatten(1, 2)
        return x + self.mlp(_normed(self.ln2, x))


class Graph(nn.Module):
    """Two layers on one graph: to half the width, with a convolution over frames beside it, and on.

    Args:
        width: of the frames, which is even.
        generator, device: as of ``MLP``.
    """

    def __init__(self, width: int, generator: torch.Generator, device: torch.device | None = None) -> None:
        super().__init__()
        half = width // 2
        self.first = seeded_linear(width, half, bias=False, init="xavier", generator=generator, device=device)
        self.second = seeded_linear(half, half, bias=False, init="xavier", generator=generator, device=device)
        reach = seeded_linear(width * KERNEL, half, generator=generator, device=device)  # uniform as torch's Conv1d is
        self.kernel = nn.Parameter(reach.weight.detach().unflatten(1, (width, KERNEL)).contiguous())
        self.bias = nn.Parameter(reach.bias.detach())

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        """Frames [R, T, width] with an adjacency [R or 1, T, T], [R, T, width / 2]."""
        beside = F.conv1d(x.mT, self.kernel.to(x.dtype), self.bias.to(x.dtype), padding=KERNEL // 2).mT
        first = quick_gelu(adjacency @ linear(self.first, x) + beside)
        return quick_gelu(adjacency @ linear(self.second, first) + first)


class TemporalAdapter(nn.Module):
    """See above.

    Args:
        width: of the frames, which is even.
        length: T.
        layers, window: of the transformer.
        threshold: up to which a cosine is 0.
        generator, device: as of ``MLP``.

    >>> adapter = TemporalAdapter(8, 6, layers=1, window=3, threshold=0.7, generator=torch.Generator().manual_seed(0))
    >>> adapter(torch.ones(2, 6, 8), torch.tensor([6, 4])).shape
    torch.Size([2, 6, 8])
    """

    def __init__(
        self,
        width: int,
        length: int,
        layers: int,
        window: int,
        threshold: float,
        generator: torch.Generator,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.threshold = threshold
        self.position = nn.Parameter((STD * torch.randn(length, width, generator=generator)).to(device))
        self.blocks = nn.ModuleList([WindowBlock(width, window, generator, device) for _ in range(layers)])
        self.similarity, self.distance = Graph(width, generator, device), Graph(width, generator, device)
        self.merge = seeded_linear(width, width, generator=generator, device=device)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Windows of frames [R, T, width], of which the first ``lengths`` [R] are frames, to the same shape."""
        with full_precision(x.device):
            x = x + self.position.to(x.dtype)
            for block in self.blocks:
                x = block(x)
            alike = self.similarity(x, self._similar(x, lengths))
            near = self.distance(x, _near(x))
            return linear(self.merge, torch.cat([alike, near], -1))

    def _similar(self, x: Tensor, lengths: Tensor) -> Tensor:
        """[R, T, T]; rows and columns of what is no frame are 0."""
        unit = F.normalize(x, dim=-1)
        cosines = unit @ unit.mT
        frames = torch.arange(x.shape[1], device=x.device) < lengths[:, None]  # (R, T)
        both = frames[:, :, None] & frames[:, None]
        kept = torch.where(cosines > self.threshold, cosines, 0.0)
        rows = kept.masked_fill(~frames[:, None], -torch.inf).softmax(-1)  # there is one frame at least
        return rows * both


def _near(x: Tensor) -> Tensor:
    """exp(-|i - j| / e), [T, T]."""
    at = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)
    return (-(at[:, None] - at).abs() / torch.e).exp()


def _normed(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight.to(x.dtype), norm.bias.to(x.dtype), norm.eps)
