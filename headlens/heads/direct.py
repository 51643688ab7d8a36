"""Exact direct effects: what every head writes straight into the image margin and into every tap's margin map.

With the scale of the read-out's LayerNorm and the norm of the embedding held at what they are, the margin is a sum over
everything that was ever written into the residual stream; no part is left out and none is counted twice. A part is a
*direct* effect: what would really happen without the head is asked of ``headlens.heads.ablation``.

    image margin = Σ global heads + Σ MLPs + biases + embedding + read-out                               [B]
    tap margin   = Σ local heads + Σ global heads below the local stream's start + Σ their MLPs + ...    [B, N]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from headlens.detectors.detector import Detector
from headlens.errors import IdentityError, ShapeError
from headlens.heads.clean import Clean, clean_forward
from headlens.heads.closed_form import Fold, direction
from headlens.heads.measures import wide


@dataclass(frozen=True)
class Parts:
    """A margin, part by part. ``...`` is [B] for the image and [B, N] for the patches of a tap.

    Args:
        heads: ``{stream: [..., layers, H]}``.
        layers: ``{stream: which}``; others write nothing that is read here.
        mlps: [..., layers of the global stream].
        biases: [...], the output biases of attention.
        embedding: [...], patch and position: the stream that enters block 0.
        readout: [...], the bias of ln_final behind the projection.
    """

    heads: dict[str, Tensor]
    layers: dict[str, range]
    mlps: Tensor
    biases: Tensor
    embedding: Tensor
    readout: Tensor

    @property
    def total(self) -> Tensor:
        """Their sum, the margin: [...]."""
        heads = sum(own.flatten(-2).sum(-1) for own in self.heads.values())
        return heads + self.mlps.sum(-1) + self.biases + self.embedding + self.readout


@torch.no_grad()
def image_parts(clean: Clean) -> Parts:
    """The image margins of B images, part by part."""
    layers = range(len(clean.mid))
    fold = Fold.of(clean.detector.backbone.vision, clean.detector.config.cls_norm)
    found = _parts(clean, fold, slice(0, 1), clean.x[-1][:, :1], {"global": layers})
    return Parts(
        {stream: own[:, 0] for stream, own in found.heads.items()},
        found.layers,
        *(part[:, 0] for part in (found.mlps, found.biases, found.embedding, found.readout)),
    )


@torch.no_grad()
def tap_parts(clean: Clean, tap: int) -> Parts:
    """The margin of every patch at ``tap``, part by part.

    The local stream starts as a copy of the global one, so heads of both write into it.

    Raises:
        ShapeError: a tap that the detector does not read.
    """
    if tap not in clean.margins.taps:
        raise ShapeError(f"tap {tap} is not read; taps are {', '.join(map(str, clean.margins.taps))}")
    local = clean.y[tap] is not None
    start = clean.detector.config.local_start if local else tap + 1
    layers = {"global": range(start)} | ({"local": range(start, tap + 1)} if local else {})
    return _parts(clean, Fold.of(clean.detector.backbone.vision), slice(1, None), clean.tapped(tap), layers)


def _parts(clean: Clean, fold: Fold, tokens: slice, read: Tensor, layers: dict[str, range]) -> Parts:
    """Parts of the margins of ``read`` [B, n, D], the raw ``tokens`` of the stream that those ``layers`` made."""
    blocks, read = clean.detector.backbone.vision.blocks, wide(read)
    embedding, scale = fold.embed(read)
    norm = embedding.norm(dim=-1, keepdim=True)
    u = direction(clean)  # (B, d_e)
    into = u @ fold.matrix.T  # Ĝ u: (B, D)
    each = 1 / (scale * norm)  # what Ĝ u is divided by at each token: (B, n, 1)

    def dot(stream: Tensor) -> Tensor:
        return torch.einsum("bnd,bd->bn", wide(stream), into) * each[..., 0]

    heads = {}
    for stream, own in layers.items():
        rows = []
        for layer in own:
            u_h = torch.einsum("hdm,bm->bhd", wide(blocks[layer].attn.W_O), into)
            written = wide(clean.wrote(stream, layer)[:, tokens])
            rows.append(torch.einsum("bnhd,bhd->bnh", written, u_h) * each)
        heads[stream] = torch.stack(rows, 2) if rows else read.new_zeros(*read.shape[:2], 0, blocks[0].attn.heads)
    mlps = [dot(wide(clean.x[layer + 1][:, tokens]) - wide(clean.mid[layer][:, tokens])) for layer in layers["global"]]
    bias = sum((blocks[layer].attn.b_O for own in layers.values() for layer in own), blocks[0].attn.b_O * 0)
    return Parts(
        heads,
        layers,
        torch.stack(mlps, -1) if mlps else read.new_zeros(*read.shape[:2], 0),
        dot(bias.expand(*read.shape)),
        dot(clean.x[0][:, tokens]),
        (u @ fold.bias)[:, None] / norm[..., 0],
    )


def check(parts: Parts, margin: Tensor, what: str, precision: torch.dtype) -> None:
    """Raises IdentityError where parts do not add up to the margin, beyond what rounding in ``precision`` explains."""
    size = sum(own.abs().flatten(-2).sum(-1) for own in parts.heads.values())
    size = size + parts.mlps.abs().sum(-1) + parts.biases.abs() + parts.embedding.abs() + parts.readout.abs()
    allowed = 16 * torch.finfo(precision).eps * float(size.max())
    off = float((parts.total - margin).abs().max())
    if not off <= allowed:
        raise IdentityError(f"parts of the {what} miss it by {off:.3g}; rounding explains {allowed:.3g}")


@torch.no_grad()
def source_maps(clean: Clean, layer: int) -> Tensor:
    """Where CLS takes each global head's direct effect from, [B, H, T]: ``w A[CLS, t] (v_t · u_h) / (σ |e|)``.

    Its sum over source tokens t is the head's part of the image margin.

    Raises:
        ShapeError: a layer that does not exist.
    """
    detector = clean.detector
    blocks = detector.backbone.vision.blocks
    if layer not in range(len(blocks)):
        raise ShapeError(f"layer {layer} does not exist; layers are 0..{len(blocks) - 1}")
    block = blocks[layer]
    q, k, v = block.attn.project(block.ln1(clean.x[layer]), hooked=False)
    pattern = wide(block.attn.pattern(q[:, :1], k, v, ("qk",)))[:, :, 0]  # (B, H, T)
    fold = Fold.of(detector.backbone.vision, detector.config.cls_norm)
    embedding, scale = fold.embed(wide(clean.x[-1][:, 0]))
    u_h = torch.einsum("hdm,bm->bhd", wide(block.attn.W_O), direction(clean) @ fold.matrix.T)
    u_h = u_h / (scale * embedding.norm(dim=-1, keepdim=True))[..., None]
    weight = wide(clean.weights["global"][layer])[:, None]
    return pattern * torch.einsum("bthd,bhd->bht", wide(v), u_h) * weight


@torch.no_grad()
def head_maps(detector: Detector, images: Tensor, things: Sequence[str] = ()) -> dict[int, dict[str, Tensor]]:
    """What every head draws into every tap's margin map, ``{tap: {stream: [B, layers, H, rows, columns]}}``.

    ``tap_parts`` says which layers, and what else the map is made of.

    >>> from headlens.backbone import load

    >>> from headlens.detectors import HeadCLIP
    >>> maps = head_maps(HeadCLIP(load("mini")), torch.zeros(1, 3, 28, 42))
    >>> {stream: tuple(own.shape) for stream, own in maps[11].items()}
    {'global': (1, 5, 16, 2, 3), 'local': (1, 7, 16, 2, 3)}
    """
    clean = clean_forward(detector, images, things)
    return {
        tap: {
            stream: own.permute(0, 2, 3, 1).unflatten(-1, clean.grid)  # (B, N, l, H) -> (B, l, H, rows, columns)
            for stream, own in tap_parts(clean, tap).heads.items()
        }
        for tap in detector.config.taps
    }
