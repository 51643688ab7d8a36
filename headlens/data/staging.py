"""Images on their way to a GPU: copied and resized there, beside whatever else it is doing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor

from headlens.data.preprocess import Prepared, Preprocess
from headlens.data.samples import Pixels

_SIZES = 16  # each must first be held against PIL: where all images differ in size, the CPU's threads are faster


class Stage:
    """Resizes the images of a batch on a CUDA device, on a stream of its own, and waits for that stream alone."""

    def __init__(self, device: torch.device, preprocess: Preprocess) -> None:
        self.device, self.preprocess = device, preprocess
        self._sizes: set[torch.Size] = set()
        self._stream: torch.cuda.Stream | None = None

    def takes(self, pixels: Pixels) -> bool:
        """Whether it can resize an image as it was read, to the bytes that PIL would make of it."""
        size = pixels.image.shape
        if size not in self._sizes and (len(self._sizes) >= _SIZES or size[1] * size[2] > 2**22):
            return False  # many sizes, or many large images at once, which would take too much of the device
        self._sizes.add(size)
        return self.preprocess.same_on_device((size[1], size[2]), self.device)

    def __call__(self, rows: Sequence[Prepared]) -> tuple[Tensor, list[Prepared]]:
        """Images it takes, or resized ones, to images [B, 3, S, S] uint8 there, and rows whose masks are resized."""
        self._stream = self._stream or torch.cuda.Stream(self.device, priority=-1)  # little work, waited for
        images: list[Tensor] = []
        done: list[Prepared] = []
        with torch.cuda.stream(self._stream):
            for _, group in groupby(rows, key=lambda row: row.image.shape):
                alike = list(group)
                large = self._sent([row.image for row in alike])
                if large.shape[2:] != (self.preprocess.size, self.preprocess.size):
                    large, alike = self.preprocess.images_on_device(large), self._masked(alike)
                images.append(large)
                done += alike
            together = torch.cat(images)
            self._stream.synchronize()
        return together, done

    def _masked(self, rows: list[Prepared]) -> list[Prepared]:
        """With masks resized; most have nothing in them."""
        marked = {i: row.mask for i, row in enumerate(rows) if row.mask is not None and row.mask.numpy().any()}
        small: dict[int, Tensor] = {}
        if marked:
            large = self._sent(list(marked.values()))
            small = dict(zip(marked, self.preprocess.masks_on_device(large).cpu(), strict=True))
        empty = torch.zeros(self.preprocess.size, self.preprocess.size, dtype=torch.bool)
        return [row if row.mask is None else replace(row, mask=small.get(i, empty)) for i, row in enumerate(rows)]

    def _sent(self, tensors: list[Tensor]) -> Tensor:
        """Stacked in memory that the device copies from by itself."""
        first = tensors[0]
        pinned = torch.empty((len(tensors), *first.shape), dtype=first.dtype, pin_memory=True)
        torch.stack(tensors, out=pinned)
        return pinned.to(self.device, non_blocking=True)


def arrived(images: Tensor, device: torch.device) -> Tensor:
    """Images of a batch for work on ``device``'s current stream, wherever they were made."""
    if images.is_cuda:
        images.record_stream(torch.cuda.current_stream(images.device))  # else it would be given away too early
        return images
    return images.to(device, non_blocking=device.type != "cpu")
