"""Image and pixel AUROC, AP, F1max, AUPRO and mAD as torchmetrics classes, independent of any model."""

from typing import TYPE_CHECKING

from headlens.lazily import lazily

if TYPE_CHECKING:
    from headlens.metrics.bootstrap import PerImage as PerImage
    from headlens.metrics.cflow import cflow200 as cflow200
    from headlens.metrics.image import ImageMetrics as ImageMetrics
    from headlens.metrics.image import accuracy as accuracy
    from headlens.metrics.image import image_metrics as image_metrics
    from headlens.metrics.pixel import PixelMetrics as PixelMetrics
    from headlens.metrics.pixel import pixel_metrics as pixel_metrics
    from headlens.metrics.table import MetricTable as MetricTable
    from headlens.metrics.truth import Truth as Truth

lazily(__name__)
