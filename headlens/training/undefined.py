"""Why metrics of a data set are undefined: labels or masks that it lacks."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd


def undefined(frame: pd.DataFrame, scores: pd.DataFrame) -> Iterator[str]:
    """Of each data set: what is undefined in which categories, by the reason.

    Args:
        frame, scores: of an ``Evaluation``.
    """
    for dataset, metrics in frame.groupby("dataset", sort=False):
        images = scores[scores["dataset"] == dataset]
        why: dict[tuple[str, str], list[str]] = {}
        for level, score in (("image", "joint"), ("pixel", "pixel")):
            rows = metrics[metrics["score"] == score]
            if rows.empty:
                why[level, "no mask is known"] = ["all categories"]
            categories = rows["category"].unique()
            missing = [c for c in categories if rows.loc[rows["category"] == c, "value"].isna().any()]
            for category in missing:
                reason = _reason(images[images["category"] == category], level == "pixel")
                why.setdefault((level, reason), []).append(str(category))
        for (level, reason), named in why.items():
            yield f"{dataset}: {level} metrics of {', '.join(named)} are undefined: {reason}"


def _reason(images: pd.DataFrame, pixel: bool) -> str:
    """Why metrics of the images of one category are undefined."""
    labels = images["anomalous"]
    if images.empty:
        return "no image could be read"
    if pixel and not (images["has_mask"] & (labels == True)).any():  # noqa: E712 None is neither
        return "no anomalous image has a mask that can be used"
    if pixel:
        return "every pixel is anomalous, or none"
    if labels.isna().all():
        return "no image is labelled"
    return "no image is anomalous" if not (labels == True).any() else "no image is normal"  # noqa: E712
