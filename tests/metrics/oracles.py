"""What the metrics are measured by: scikit-learn, and an AUPRO that visits every threshold and every region."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score


def sklearn_metrics(scores, labels):
    scores, labels = (np.asarray(x).ravel() for x in (scores, labels))
    if labels.all() or not labels.any():
        return {"auroc": np.nan, "ap": np.nan, "f1max": np.nan}
    precision, recall, _ = precision_recall_curve(labels, scores)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    return {
        "auroc": roc_auc_score(labels, scores),
        "ap": average_precision_score(labels, scores),
        "f1max": f1.max(),
    }


def brute_aupro(maps, masks, limit=0.3):
    """The curve through every distinct score, cut at ``limit`` by interpolation."""
    maps, masks = np.asarray(maps), np.asarray(masks).astype(bool)
    regions = []
    for image, mask in enumerate(masks):
        labels, found = ndimage.label(mask, np.ones((3, 3)))
        regions += [maps[image][labels == region] for region in range(1, found + 1)]
    outside = maps[~masks]
    if not regions or not outside.size:
        return np.nan
    x, y = [0.0], [0.0]
    for threshold in np.unique(maps)[::-1]:
        x.append((outside >= threshold).mean())
        y.append(np.mean([(region >= threshold).mean() for region in regions]))
    area = 0.0
    for x0, y0, x1, y1 in zip(x, y, x[1:], y[1:], strict=False):
        if x0 >= limit or x1 == x0:
            continue
        end = min(x1, limit)
        area += (end - x0) * (y0 + y0 + (y1 - y0) * (end - x0) / (x1 - x0)) / 2
    return area / limit


def pixel_oracle(maps, masks, limit=0.3):
    return {**sklearn_metrics(maps, masks), "aupro": brute_aupro(maps, masks, limit)}


def agree(ours, theirs, tolerance=1e-12):
    assert ours.keys() == theirs.keys()
    for name in theirs:
        np.testing.assert_allclose(float(ours[name]), theirs[name], rtol=0, atol=tolerance, err_msg=name)


@st.composite
def images(draw, least=1):
    """Small maps with many ties or none, on masks of any kind: empty, full, touching at corners."""
    shape = draw(st.tuples(st.integers(least, 4), st.integers(1, 9), st.integers(1, 9)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([1, 2, 5, 40, 0]))
    maps = rng.random(shape, dtype=np.float32)
    maps = np.floor(maps * levels).astype(np.float32) / levels if levels else maps
    masks = rng.random(shape) < draw(st.sampled_from([0.0, 0.05, 0.3, 0.7, 1.0]))
    masks[rng.random(shape[0]) < draw(st.sampled_from([0.0, 0.5]))] = False
    if draw(st.booleans()):
        maps = np.clip(maps + 0.25 * masks, 0, 1).astype(np.float32)
    return torch.from_numpy(maps), torch.from_numpy(masks)
