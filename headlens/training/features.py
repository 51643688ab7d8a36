"""Features of images that nothing learned influences: computed once, and kept."""

from __future__ import annotations

import torch
from torch import Tensor

from headlens.data import Batch
from headlens.detectors.headclip import Detector, Features


class FeatureStore:
    """Keeps CLS and patch tokens of images in memory, as far as the budget goes; others are computed each time.

    Args:
        detector: without head weights, so that its image tower stays as it is.
        budget: bytes that may be kept.
    """

    def __init__(self, detector: Detector, budget: int = 4 * 2**30) -> None:
        self.detector, self.room = detector, budget
        self._kept: dict[int, tuple[Tensor, dict[int, Tensor]]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    @torch.no_grad()
    def of(self, batch: Batch, images: Tensor) -> Features:
        """Features of the normalised ``images`` [B, 3, h, w] of ``batch``."""
        numbers = batch.index.tolist()
        if all(number in self._kept for number in numbers):
            kept = [self._kept[number] for number in numbers]
            patches = {tap: torch.stack([own[1][tap] for own in kept]).to(images.device) for tap in kept[0][1]}
            cls = torch.stack([own[0] for own in kept]).to(images.device)
            return Features(cls, patches, (images.shape[2], images.shape[3]))
        features = self.detector.features(images)
        for row, number in enumerate(numbers):
            if number in self._kept:
                continue
            # Copies: a row of a batch would keep the whole batch.
            own = features.cls[row].cpu().clone(), {t: p[row].cpu().clone() for t, p in features.patches.items()}
            size = sum(part.numel() * part.element_size() for part in (own[0], *own[1].values()))
            if size <= self.room:
                self._kept[number] = own
                self.room -= size
        return features
