"""Image and pixel AUROC, AP, F1max, AUPRO and mAD as torchmetrics classes. Knows no model."""
