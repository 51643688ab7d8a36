"""Tokens unlike all others: found by their local outlier factor, and replaced by their neighbours in the image.

With ``K_i`` the squared distance of token i to its k-th nearest other token, and ``j`` those k,

    LOF_i = K_i mean_j (1 / K_j)

which is the local outlier factor (Breunig et al., 2000) with each token's own k-distance as its reach, as SC-CLIP
(arXiv 2411.15869) computes it; the textbook's reach is that of the neighbour where it is larger than the distance.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.precision import full_precision, wide

_TINY = 1e-10  # tokens may be equal


def local_outlier_factor(tokens: Tensor, neighbours: int = 30, textbook: bool = False) -> Tensor:
    """How much further from its nearest others each token is than these are from theirs; about 1 for most, [B, N].

    Args:
        tokens: [B, N, D]; every image by itself.
        neighbours: k; N - 1 where there are no more.
        textbook: the reach of i from j is the larger of their distance and ``K_j``.

    >>> tokens = torch.tensor([[[0.0], [1.0], [2.0], [3.0], [40.0]]])
    >>> local_outlier_factor(tokens, 2).argmax()
    tensor(4)
    """
    tokens, count = wide(tokens), tokens.shape[1]
    if count < 2:
        return tokens.new_ones(tokens.shape[:2])
    with full_precision(tokens.device):
        tokens = tokens - tokens.mean(1, keepdim=True)  # what all have in common would round what they differ in
        squares = tokens.square().sum(-1)
        distances = (squares[:, :, None] - 2 * tokens @ tokens.mT + squares[:, None]).clamp(min=0)
    itself = torch.eye(count, dtype=torch.bool, device=tokens.device)
    near, which = distances.masked_fill(itself, torch.inf).topk(min(neighbours, count - 1), largest=False)
    reach = near[..., -1]  # (B, N)
    if not textbook:
        density = 1 / reach.clamp(min=_TINY)
        return reach * _of(density, which).mean(-1)
    density = 1 / (torch.maximum(near, _of(reach, which)).mean(-1) + _TINY)
    return _of(density, which).mean(-1) / density


def _of(values: Tensor, which: Tensor) -> Tensor:
    """Values [B, N] of the tokens ``which`` [B, N, k], [B, N, k]."""
    return values.gather(1, which.flatten(1)).view_as(which)


@torch.no_grad()
def outliers(tokens: Tensor, share: float = 0.05, neighbours: int = 30, textbook: bool = False) -> Tensor:
    """The ``share`` of each image's tokens [B, N, D] with the highest local outlier factor, [B, N] bool.

    Those above its quantile: none where all are alike, or where share is 0.
    """
    if not share:
        return torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    factor = local_outlier_factor(tokens, neighbours, textbook)
    return factor > factor.quantile(1 - share, dim=1, keepdim=True)


def repaired(tokens: Tensor, wrong: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens [B, N, D] of a grid of patches, with the mean of their right neighbours in place of wrong ones.

    Args:
        tokens: row by row.
        wrong: [B, N] bool; one whose up to 8 neighbours are all wrong stays as it is.
        grid: rows and columns.

    >>> repaired(torch.tensor([[[1.0], [9.0], [3.0]]]), torch.tensor([[False, True, False]]), (1, 3)).flatten()
    tensor([1., 2., 3.])
    """
    right = (~wrong).to(wide(tokens))[:, None].unflatten(2, grid)  # (B, 1, rows, columns)
    shares = F.avg_pool2d(right, 3, 1, 1)
    means = F.avg_pool2d(wide(tokens).mT.unflatten(2, grid) * right, 3, 1, 1) / shares.clamp(min=0.1)  # one is 1 / 9
    replaced = (wrong & (shares.flatten(1) > 0))[..., None]
    return torch.where(replaced, means.flatten(2).mT.to(tokens), tokens)
