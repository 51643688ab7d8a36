"""ln_final and projection as one matrix, so that a head's part of a margin is a dot product in its own d channels.

    e = LN(x) proj = x Ĝ / σ + b       Ĝ = G - its mean row,  G = diag(γ) proj,  b = β proj,  σ = sqrt(var(x) + eps)

With ``u`` = abnormal minus normal text embedding, a head that writes ``z W_O^h`` adds ``z · u_h / σ`` to ``e · u``,
where ``u_h = W_O^h Ĝ u`` has d channels: nothing D-sized is ever held for one head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.backbone.vision import VisionTower
from headlens.detectors.scoring import margin
from headlens.heads.clean import Clean, local_here
from headlens.heads.measures import wide
from headlens.heads.response import Kind, Replacement, change
from headlens.precision import full_precision


@dataclass(frozen=True)
class Fold:
    """``embedding = tokens @ matrix / scale(tokens) + bias``: matrix [D, d_e], bias [d_e]; ``eps`` None: scale is 1."""

    matrix: Tensor
    bias: Tensor
    eps: float | None

    @classmethod
    def of(cls, vision: VisionTower, norm: bool = True) -> Fold:
        """The tower's read-out, with ln_final or without."""
        proj = wide(vision.proj)
        if not norm:
            return cls(proj, proj.new_zeros(proj.shape[1]), None)
        matrix = wide(vision.ln_final.weight)[:, None] * proj
        return cls(matrix - matrix.mean(0), wide(vision.ln_final.bias) @ proj, vision.ln_final.eps)

    def scale(self, tokens: Tensor) -> Tensor:
        """σ of tokens [..., D], [..., 1]."""
        if self.eps is None:
            return torch.ones_like(tokens[..., :1])
        return (tokens.var(-1, unbiased=False, keepdim=True) + self.eps).sqrt()

    def embed(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings [..., d_e] of tokens [..., D], and the scale [..., 1] in their way."""
        scale = self.scale(tokens)
        return tokens @ self.matrix / scale + self.bias, scale


def direction(clean: Clean) -> Tensor:
    """``u`` of every image, abnormal minus normal over the temperature, [B, d_e]."""
    difference = (clean.text[..., 1, :] - clean.text[..., 0, :]).to(wide(clean.x[0]))
    return (difference / clean.detector.config.temperature).expand(len(clean), -1)


class TapReading(NamedTuple):
    """A tapped stream as the algebra below needs it: c [B, N, D], yĜ [B, N, d_e]; |c|², yĜ·u, |yĜ|², yĜ·b [B, N].

    ``coarse`` [B, N]: how far its margins as they were read are from finely read ones; nothing in plain float32.
    """

    centred: Tensor
    embedded: Tensor
    squares: Tensor
    u: Tensor
    norm: Tensor
    bias: Tensor
    coarse: Tensor


class Reading(NamedTuple):
    """What is the same for every layer: the fold, ``u``, ``u b``, and each tap where there is a local stream."""

    fold: Fold
    u: Tensor
    u_bias: Tensor
    taps: dict[int, TapReading]


def clean_reading(clean: Clean) -> Reading:
    """Worked out once for each clean forward, as finely as the streams are."""
    if "reading" in clean.kept:
        return clean.kept["reading"]
    vision, config, taps = clean.detector.backbone.vision, clean.detector.config, {}
    margins = clean.margins.taps
    norm, proj = vision.ln_final, wide(vision.proj)
    with full_precision(clean.text.device):
        fold, u = Fold.of(vision), direction(clean)
        for tap in config.taps:
            if local_here(clean.detector, tap) is not None:
                y = wide(clean.tapped(tap))
                c, a = y - y.mean(-1, keepdim=True), y @ fold.matrix
                e = F.layer_norm(y, norm.normalized_shape, wide(norm.weight), wide(norm.bias), norm.eps) @ proj
                coarse = margins[tap] - margin(e, clean.text, config.temperature)
                own = (c.square().sum(-1), torch.einsum("bne,be->bn", a, u), a.square().sum(-1), a @ fold.bias)
                taps[tap] = TapReading(c, a, *own, coarse)
        clean.kept["reading"] = Reading(fold, u, u @ fold.bias, taps)
    return clean.kept["reading"]


@torch.no_grad()
def local_margins(
    clean: Clean, layer: int, kind: Kind = "zero", replacement: Replacement | None = None
) -> dict[int, Tensor]:
    """Patch margins with each local head of ``layer`` ablated by itself, ``{tap: [H, B, N]}``: no forward at all.

    A local head's output reaches a tap as it is, so its ablation adds ``δ = Δz W_O^h`` to the tapped stream. Of that
    the margin needs the new ``e · u``, scale and norm, which are quadratic in ``Δz``:

        D σ'²  = |c|² + 2 Δz · W_O^h c + Δz K Δz            c = centred token, K = centred W_O^h times its transpose
        e' · u = (y Ĝ u + Δz · u_h) / σ' + b · u
        |e'|²  = |yĜ + Δz P|² / σ'² + 2 (yĜ + Δz P) · b / σ' + |b|²                                    P = W_O^h Ĝ

    Image margins do not change.
    """
    read = clean_reading(clean)
    fold, u = read.fold, read.u
    assert fold.eps is not None
    with full_precision(u.device):
        w_o = wide(clean.detector.backbone.vision.blocks[layer].attn.W_O)  # (H, d, D)
        centred = w_o - w_o.mean(-1, keepdim=True)
        into = w_o @ fold.matrix  # P: (H, d, d_e)
        squares_of, norm_of = centred @ centred.mT, into @ into.mT  # (H, d, d)
        u_of = torch.einsum("hde,be->bhd", into, u)
    dz = wide(change(clean, kind, "local", layer, replacement))[:, 1:]  # (B, N, H, d)

    def quadratic(matrix: Tensor) -> Tensor:
        """``Δz Δzᵀ`` weighed by [H, d, d], (B, N, H)."""
        return (torch.einsum("bnhd,hde->bnhe", dz, matrix) * dz).sum(-1)

    own_scale, own_norm = quadratic(squares_of), quadratic(norm_of)
    own_u = torch.einsum("bnhd,bhd->bnh", dz, u_of)
    own_bias = torch.einsum("bnhd,hd->bnh", dz, into @ fold.bias)
    still = (dz == 0).all(3).all(1).T & (kind != "none")  # (H, B): nothing changes, unless rounding is asked for
    found = {}
    for tap in clean.detector.config.taps:
        before = clean.margins.taps[tap]
        if tap < layer or local_here(clean.detector, tap) is None:
            found[tap] = before.expand(w_o.shape[0], -1, -1)
            continue
        own = read.taps[tap]
        # Both products of every head's channels at once: (B, N, D) @ (D, H d). What multiplies a change may be rounded.
        cross = (own.centred @ w_o.flatten(0, 1).T).unflatten(-1, dz.shape[2:]) * dz
        cross_norm = (own.embedded @ into.flatten(0, 1).T).unflatten(-1, dz.shape[2:]) * dz

        def plus(clean_part: Tensor, *changes: Tensor) -> Tensor:
            return sum(changes, clean_part[..., None])  # (B, N) and (B, N, H)

        squares = plus(own.squares, 2 * cross.sum(-1), own_scale)
        scale = (squares / clean.x[0].shape[-1] + fold.eps).sqrt()
        top = plus(own.u, own_u) / scale + read.u_bias[:, None, None]
        norm = plus(own.norm, 2 * cross_norm.sum(-1), own_norm) / scale.square()
        norm = norm + 2 * plus(own.bias, own_bias) / scale + fold.bias.square().sum()
        after = (top / norm.clamp(min=0).sqrt()).permute(2, 0, 1) + own.coarse  # (B, N, H) -> (H, B, N)
        found[tap] = torch.where(still[..., None], before, after)
    return found
