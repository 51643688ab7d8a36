"""AdaCLIP's image feature (arXiv 2407.15795): CLS, and the mean of the centres of clusters of anomalous patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.detectors.pooling import Blended, Taps
from headlens.precision import full_precision

_MOST = 300  # steps of Lloyd's algorithm, as scikit-learn


@dataclass(frozen=True)
class ClusterPooled(Blended):
    """The patches with the highest mean margin are clustered; each cluster counts as much as any other.

        w_n = 1 / (clusters · patches in the cluster of n)      0 for patches that are not among the highest

    so that ``a`` is the mean of the clusters' centres. A patch is clustered by its unit embeddings at all taps, one
    behind the other. Clusters are held, as everything is that is chosen and not computed.

    Args:
        clusters: at most; fewer where there are fewer patches, or fewer that differ.
        patches: how many are clustered, at most.
        seed: of the first centres, the same for every image and on every device.
    """

    loops: ClassVar[str] = "it clusters patches until no cluster changes, which share = 0 leaves out"
    clusters: int
    patches: int
    seed: int = 0

    @torch.no_grad()
    def patch_weights(self, taps: Taps, margins: Taps) -> Tensor:
        """The weight of every patch, [R, N]; those of an image add up to 1."""
        mean = torch.stack(list(margins.values())).mean(0)
        highest = mean.topk(min(self.patches, mean.shape[1]), dim=1).indices  # (R, n)
        chosen = [F.normalize(tokens, dim=-1).take_along_dim(highest[..., None], 1) for tokens in taps.values()]
        members = F.one_hot(k_means(torch.cat(chosen, -1), self.clusters, self.seed)).to(mean)  # (R, n, clusters)
        sizes = members.sum(1)
        each = (members / sizes.clamp(min=1)[:, None]).sum(2) / (sizes > 0).sum(1, keepdim=True)
        return torch.zeros_like(mean).scatter(1, highest, each)


@torch.no_grad()
def k_means(points: Tensor, clusters: int, seed: int) -> Tensor:
    """The clusters of n points in each of R rows, [R, n, d] to numbers [R, n], each row by itself.

    Lloyd's algorithm until nothing changes, from centres by k-means++ (Arthur and Vassilvitskii, 2007). Distances are
    taken from the products of points alone, however wide these are:

        |x_i - c|² = |x_i|² - 2 mean_j <x_i, x_j> + mean_jk <x_j, x_k>      with j, k the points of cluster c

    Args:
        points: at least float32.
        clusters: at most. Those that lose all their points stay where they were, and may stay empty.
        seed: of the first centres.

    >>> k_means(torch.tensor([[[0.0], [9.0], [0.1], [9.1]]]), 2, seed=0).tolist() in ([[0, 1, 0, 1]], [[1, 0, 1, 0]])
    True
    """
    with full_precision(points.device):
        products = points @ points.mT
        centres = F.one_hot(first_centres(products, clusters, seed), points.shape[1]).to(points).mT  # (R, n, clusters)
        numbers = None
        for _ in range(_MOST):
            along = products @ centres
            distances = (centres * along).sum(1, keepdim=True) - 2 * along  # but for |x|², the same for all centres
            before, numbers = numbers, distances.argmin(2)
            if before is not None and torch.equal(before, numbers):
                break
            members = F.one_hot(numbers, centres.shape[2]).to(points)
            sizes = members.sum(1, keepdim=True)
            centres = torch.where(sizes > 0, members / sizes.clamp(min=1), centres)
    assert numbers is not None
    return numbers


def first_centres(products: Tensor, clusters: int, seed: int) -> Tensor:
    """Which points k-means++ begins with, [R, clusters], of the products [R, n, n] of points.

    Each is drawn with a probability in proportion to its squared distance from those before: what is the largest after
    division by exponential numbers is drawn so, and the numbers are the same for every row.
    """
    count = products.shape[1]
    clusters = min(clusters, count)
    draws = torch.empty(clusters, count, dtype=torch.float64)
    draws = draws.exponential_(generator=torch.Generator().manual_seed(seed)).to(products)
    squares = products.diagonal(dim1=1, dim2=2)  # (R, n)
    nearest, centres = torch.ones_like(squares), []
    for draw in draws:
        centres.append((nearest / draw).argmax(1, keepdim=True))
        along = products.take_along_dim(centres[-1][..., None], 2)[..., 0]  # (R, n)
        distance = (squares - 2 * along + squares.gather(1, centres[-1])).clamp(min=0)
        nearest = distance if len(centres) == 1 else torch.minimum(nearest, distance)
    return torch.cat(centres, 1)
