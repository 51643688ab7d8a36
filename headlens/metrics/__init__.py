"""Image and pixel AUROC, AP, F1max, AUPRO and mAD as torchmetrics classes. Knows no model."""

from typing import TYPE_CHECKING

from headlens.lazily import lazily

if TYPE_CHECKING:
    from headlens.metrics.bootstrap import PerImage
    from headlens.metrics.cflow import cflow200
    from headlens.metrics.image import ImageMetrics, image_metrics
    from headlens.metrics.pixel import PixelMetrics, pixel_metrics
    from headlens.metrics.table import MetricTable
    from headlens.metrics.truth import Truth

__all__ = [
    "ImageMetrics",
    "MetricTable",
    "PerImage",
    "PixelMetrics",
    "Truth",
    "cflow200",
    "image_metrics",
    "pixel_metrics",
]

lazily(
    __name__,
    {
        "bootstrap": ("PerImage",),
        "cflow": ("cflow200",),
        "image": ("ImageMetrics", "image_metrics"),
        "pixel": ("PixelMetrics", "pixel_metrics"),
        "table": ("MetricTable",),
        "truth": ("Truth",),
    },
)
