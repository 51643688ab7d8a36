"""Every local head of a layer ablated by itself, without any forward: the local stream above it is linear.

A local head's output reaches a tap as it is, so its ablation adds ``δ = Δz W_O^h`` to the tapped stream. Of that the
margin needs the new ``e · u``, scale and norm, which are quadratic in ``Δz``:

    D σ'²  = |c|² + 2 Δz · W_O^h c + Δz K Δz            c = centred token, K = centred W_O^h times its transpose
    e' · u = (y Ĝ u + Δz · u_h) / σ' + b · u            u_h = W_O^h Ĝ u
    |e'|²  = |yĜ + Δz P|² / σ'² + 2 (yĜ + Δz P) · b / σ' + |b|²                                    P = W_O^h Ĝ

Ĝ, σ and b are those of ``headlens.detectors.readout``; u is what the text says. A head has d channels, so nothing of
the stream's width is held for one head.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from headlens.detectors.reading import Reading
from headlens.detectors.readout import Folded
from headlens.heads.clean import CleanRun
from headlens.heads.response import Kind, Replacement, change
from headlens.precision import full_precision, wide


def applies(reading: Reading) -> bool:
    """Whether local heads can be ablated so: all is linear on their way, no patch in the image feature, norms."""
    taps_above = [reading.taps[tap] for tap in reading.plan.taps if tap in reading.plan.local_layers]
    linear = reading.plan.beside is not None and reading.plan.local_is_linear
    linear = linear and reading.plan.copies == 1 and reading.text.linear
    return (
        linear and not reading.pooling.reads_patches and all(r.norm is not None and r.tail is None for r in taps_above)
    )


class LocalTap(NamedTuple):
    """A tapped local stream y as the algebra needs it: c [B, N, D], yĜ [B, N, d_e]; |c|², yĜ·u, |yĜ|², yĜ·b [B, N].

    ``offset`` [B, N]: how far its margins, as they were read, are from those in full precision; 0 in plain float32.
    """

    centred: Tensor
    embedded: Tensor
    squares: Tensor
    along_u: Tensor
    norm: Tensor
    along_bias: Tensor
    offset: Tensor


class LocalTaps:
    """What single local heads move, in a clean run whose reading ``applies``; what all layers need is made once."""

    def __init__(self, clean: CleanRun) -> None:
        reading, self.clean = clean.reading, clean
        self.taps: dict[int, tuple[Folded, LocalTap]] = {}
        with full_precision(clean.margins.image.device):
            self.u = reading.text.held(wide(clean.x[0])).expand(len(clean), -1)  # (B, d_e)
            for tap in reading.plan.taps:
                if tap in reading.plan.local_layers:
                    self.taps[tap] = reading.taps[tap].folded, self._tap(tap)

    def _tap(self, tap: int) -> LocalTap:
        clean, reading = self.clean, self.clean.reading
        y, folded = wide(clean.tapped(tap)), reading.taps[tap].folded
        centred, embedded = y - y.mean(-1, keepdim=True), y @ folded.matrix
        offset = clean.margins.taps[tap] - reading.text.margin(reading.taps[tap].in_full_precision(y))
        along_u = torch.einsum("bne,be->bn", embedded, self.u)
        squares, norm = centred.square().sum(-1), embedded.square().sum(-1)
        return LocalTap(centred, embedded, squares, along_u, norm, embedded @ folded.bias, offset)

    @torch.no_grad()
    def margins(self, layer: int, kind: Kind = "zero", replacement: Replacement | None = None) -> dict[int, Tensor]:
        """Patch margins with each local head of ``layer`` ablated by itself, ``{tap: [H, B, N]}``.

        Image margins do not change.
        """
        clean = self.clean
        delta = wide(change(clean, kind, "local", layer, replacement))[:, clean.patches]  # (B, N, H, d)
        unchanged = (delta == 0).all(3).all(1).T & (kind != "none")  # (H, B); unless rounding is asked for
        with full_precision(self.u.device):
            w_o = wide(clean.tower.blocks[layer].attn.W_O)  # (H, d, D)
            centred = w_o - w_o.mean(-1, keepdim=True)
            squares_of = centred @ centred.mT
        added_squares = _quadratic(delta, squares_of)  # what multiplies a change may be rounded
        result, by_readout = {}, dict[int, _Added]()
        for tap in clean.plan.taps:
            before = clean.margins.taps[tap]
            if tap < layer or tap not in self.taps:
                result[tap] = before.expand(w_o.shape[0], -1, -1)
                continue
            folded, local = self.taps[tap]
            if id(folded) not in by_readout:
                by_readout[id(folded)] = _added(delta, w_o, folded, self.u)
            added = by_readout[id(folded)]
            # Both products of every head's channels at once: (B, N, D) @ (D, H d).
            cross = (local.centred @ w_o.flatten(0, 1).T).unflatten(-1, delta.shape[2:]) * delta
            cross_norm = (local.embedded @ added.into.flatten(0, 1).T).unflatten(-1, delta.shape[2:]) * delta
            squares = _plus(local.squares, 2 * cross.sum(-1), added_squares)
            assert folded.eps is not None
            scale = (squares / clean.x[0].shape[-1] + folded.eps).sqrt()
            top = _plus(local.along_u, added.along_u) / scale + added.u_bias[:, None, None]
            norm = _plus(local.norm, 2 * cross_norm.sum(-1), added.norm) / scale.square()
            norm = norm + 2 * _plus(local.along_bias, added.along_bias) / scale + folded.bias.square().sum()
            after = (top / norm.clamp(min=0).sqrt()).permute(2, 0, 1) + local.offset  # (B, N, H) -> (H, B, N)
            after = after + clean.reading.text.offset
            result[tap] = torch.where(unchanged[..., None], before, after)
        return result


class _Added(NamedTuple):
    """What ablations add to a read-out's terms, [B, N, H] each; ``into`` [H, d, d_e] is P, ``u_bias`` [B] is u · b."""

    into: Tensor
    norm: Tensor
    along_u: Tensor
    along_bias: Tensor
    u_bias: Tensor


def _added(delta: Tensor, w_o: Tensor, folded: Folded, u: Tensor) -> _Added:
    with full_precision(u.device):
        into = w_o @ folded.matrix  # P: (H, d, d_e)
        by_channel = torch.einsum("hde,be->bhd", into, u)
        norm_of, u_bias = into @ into.mT, u @ folded.bias
    return _Added(
        into,
        _quadratic(delta, norm_of),
        torch.einsum("bnhd,bhd->bnh", delta, by_channel),
        torch.einsum("bnhd,hd->bnh", delta, into @ folded.bias),
        u_bias,
    )


def _quadratic(delta: Tensor, matrix: Tensor) -> Tensor:
    """``Δz M Δz`` of every head, (B, N, H); matrix [H, d, d]."""
    return (torch.einsum("bnhd,hde->bnhe", delta, matrix) * delta).sum(-1)


def _plus(before: Tensor, *changes: Tensor) -> Tensor:
    """[B, N] and what every head's ablation adds to it [B, N, H], [B, N, H]."""
    return sum(changes, before[..., None])
