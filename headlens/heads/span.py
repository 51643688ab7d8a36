"""TextSpan on second moments: which directions of a pool span rows ``C = R W``, without ever holding C.

Gandelsman, Efros and Steinhardt (arXiv 2310.05916) take an SVD of C [N, d_e] itself. Variance explained needs no more
than its covariance ``Wᵀ Cov(R) W``, so what is kept is d x d, whatever N is, and no row has to be left out.

    project all texts into C's row space; until there are enough:
        take the text t whose projection has the largest variance        max  Var(C t)
        q = t / |t|; remove q from all texts                             t <- t - (t·q) q

What is removed stays removed: the q are orthogonal, the variance of C along them adds up, and to remove q from C too
would change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

ROUNDING = 1e-12  # a variance below this share of what it is compared with is rounding, of float32 too
_ROW_SPACE = 1e-6  # of the strongest direction's variance: weaker ones are no part of a row space


def _zero() -> Tensor:
    return torch.zeros((), dtype=torch.float64)


@dataclass
class Moments:
    """Moments of rows with k columns, for each of H heads, over batches of any size (Chan et al., 1979).

    Args:
        count: how many rows, [H].
        mean: [H, k].
        scatter: sums of products of what they are off the mean, [H, k, k].

    >>> moments = Moments()
    >>> moments.add(Moments.of(torch.tensor([[[1.0]], [[2.0]]])))
    >>> moments.add(Moments.of(torch.tensor([[[6.0]]])))
    >>> moments.mean.item(), moments.covariance.item()
    (3.0, 4.666666666666667)
    """

    count: Tensor = field(default_factory=_zero)
    mean: Tensor = field(default_factory=_zero)
    scatter: Tensor = field(default_factory=_zero)

    @classmethod
    def of(cls, rows: Tensor) -> Moments:
        """Of rows [n, H, k]; in float64 on the CPU, which always has it."""
        rows = rows.cpu().double().transpose(0, 1)  # (H, n, k)
        mean = rows.mean(1)
        rows = rows - mean[:, None]
        return cls(torch.full(mean.shape[:1], rows.shape[1], dtype=torch.float64), mean, rows.mT @ rows)

    def add(self, other: Moments) -> None:
        """Takes in more rows of the same heads."""
        total, off = self.count + other.count, other.mean - self.mean
        between = off[:, :, None] * off[:, None, :] * (self.count * other.count / total)[:, None, None]
        self.scatter = self.scatter + other.scatter + between
        self.mean = self.mean + off * (other.count / total)[:, None]
        self.count = total

    @property
    def covariance(self) -> Tensor:
        """[H, k, k], over N rows: divided by N."""
        return self.scatter / self.count[:, None, None]


@dataclass(frozen=True)
class Span:
    """The texts that were taken, in this order.

    Args:
        chosen: [k], into the pool.
        share: [k], of the variance along ``axes``.
        axes: [k, d_e], orthonormal: what each text adds to those before it, in the row space.
    """

    chosen: np.ndarray
    share: np.ndarray
    axes: np.ndarray


def row_space(covariance: np.ndarray, into: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The principal axes of rows ``C = R into``: standard deviations [r], falling, and axes [r, d_e].

    Args:
        covariance: of R, [d, d].
        into: [d, d_e].
    """
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(values.clip(min=0))).T @ into  # rootᵀ root = Cov(C)
    _, deviation, axes = np.linalg.svd(root, full_matrices=False)
    strong = deviation**2 > _ROW_SPACE * deviation[0] ** 2
    return deviation[strong], axes[strong]


def text_span(deviation: np.ndarray, axes: np.ndarray, texts: np.ndarray, count: int = 5) -> Span:
    """TextSpan of rows with these principal axes.

    Args:
        deviation: standard deviations along the axes, [r].
        axes: orthonormal, [r, d_e].
        texts: unit directions, [P, d_e].
        count: how many to take; fewer where no text, or no direction, is left.

    >>> span = text_span(np.array([2.0, 1.0]), np.eye(2, 3), np.array([[0.0, 1, 0], [0.8, 0.6, 0], [0, 0, 1]]))
    >>> span.chosen.tolist(), span.share.round(3).tolist()
    ([1, 0], [0.584, 0.416])
    """
    texts = texts @ axes.T  # (P, r), in the row space
    total = np.square(deviation).sum()
    chosen, shares, along = [], [], []
    for _ in range(min(count, len(deviation))):
        carried = np.square(texts * deviation).sum(1)
        best = int(carried.argmax())
        if carried[best] <= ROUNDING * total:
            break
        q = texts[best] / np.linalg.norm(texts[best])
        texts = texts - np.outer(texts @ q, q)
        chosen.append(best)
        shares.append(np.square(q * deviation).sum() / total)
        along.append(q @ axes)
    return Span(np.array(chosen, int), np.array(shares), np.array(along).reshape(-1, axes.shape[1]))
