"""Image and pixel AUROC, AP, F1max, AUPRO and mAD as torchmetrics classes. Knows no model."""

from headlens.metrics.image import ImageMetrics, image_metrics
from headlens.metrics.pixel import PixelMetrics, pixel_metrics
from headlens.metrics.truth import Truth

__all__ = ["ImageMetrics", "PixelMetrics", "Truth", "image_metrics", "pixel_metrics"]
