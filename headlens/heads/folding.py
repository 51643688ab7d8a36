"""ln_final and projection as one matrix, so that a head's part of a margin is a dot product in its own d channels.

    e = LN(x) proj = x Ĝ / σ + b       Ĝ = G - its mean row,  G = diag(γ) proj,  b = β proj,  σ = sqrt(var(x) + eps)

With ``u`` = abnormal minus normal text embedding, a head that writes ``z W_O^h`` adds ``z · u_h / σ`` to ``e · u``,
where ``u_h = W_O^h Ĝ u`` has d channels: nothing D-sized is ever held for one head.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from headlens.backbone.vision import VisionTower
from headlens.heads.cache import Clean, local_here
from headlens.heads.response import Kind, Replacement, change
from headlens.heads.targets import wide


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
    vision = clean.detector.backbone.vision
    fold, u = Fold.of(vision), direction(clean)
    assert fold.eps is not None
    w_o = wide(vision.blocks[layer].attn.W_O)  # (H, d, D)
    centred = w_o - w_o.mean(-1, keepdim=True)
    into = w_o @ fold.matrix  # P: (H, d, d_e)
    dz = wide(change(clean, kind, "local", layer, replacement))[:, 1:]  # (B, N, H, d)

    def quadratic(matrix: Tensor) -> Tensor:
        """``Δz Δzᵀ`` weighed by [H, d, d], (B, N, H)."""
        return (torch.einsum("bnhd,hde->bnhe", dz, matrix) * dz).sum(-1)

    own_scale, own_norm = quadratic(centred @ centred.mT), quadratic(into @ into.mT)
    own_u = torch.einsum("bnhd,bhd->bnh", dz, torch.einsum("hde,be->bhd", into, u))
    own_bias = torch.einsum("bnhd,hd->bnh", dz, into @ fold.bias)
    still = (dz == 0).all(3).all(1).T & (kind != "none")  # (H, B): nothing changes, unless rounding is asked for
    found = {}
    for tap in clean.detector.config.taps:
        before = clean.margins.taps[tap]
        if tap < layer or local_here(clean.detector, tap) is None:
            found[tap] = before.expand(w_o.shape[0], -1, -1)
            continue
        y = wide(clean.tapped(tap))
        c = y - y.mean(-1, keepdim=True)
        a = y @ fold.matrix  # (B, N, d_e)
        # Both products of every head's channels at once: (B, N, D) @ (D, H d).
        cross = (c @ w_o.flatten(0, 1).T).unflatten(-1, dz.shape[2:]) * dz
        cross_norm = (a @ into.flatten(0, 1).T).unflatten(-1, dz.shape[2:]) * dz

        def plus(clean_part: Tensor, *changes: Tensor) -> Tensor:
            return sum(changes, clean_part[..., None])  # (B, N) and (B, N, H)

        squares = plus(c.square().sum(-1), 2 * cross.sum(-1), own_scale)
        scale = (squares / y.shape[-1] + fold.eps).sqrt()
        top = plus(torch.einsum("bne,be->bn", a, u), own_u) / scale + (u @ fold.bias)[:, None, None]
        norm = plus(a.square().sum(-1), 2 * cross_norm.sum(-1), own_norm) / scale.square()
        norm = norm + 2 * plus(a @ fold.bias, own_bias) / scale + fold.bias.square().sum()
        margin = (top / norm.clamp(min=0).sqrt()).permute(2, 0, 1)  # (B, N, H) -> (H, B, N)
        found[tap] = torch.where(still[..., None], before, margin)
    return found
