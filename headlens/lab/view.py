"""``HeadView``: what one head attends to in one image, what it contributes, and its weight in each domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from headlens import plots
from headlens.data import DataSet, Preprocess
from headlens.detectors.detector import Detector, detector_of
from headlens.errors import ConfigError, ShapeError
from headlens.heads.clean import CleanRun, clean_forward
from headlens.heads.direct import Part, Parts, pooled_parts, source_maps, tap_parts
from headlens.heads.variants import Head, heads_of, stream_layers
from headlens.lab.gallery import Gallery
from headlens.precision import wide
from headlens.predict import Image
from headlens.results import made_by
from headlens.training.run import Run

if TYPE_CHECKING:
    Runs = Run | Detector | Sequence[Run | Detector]


class HeadView:
    """Images seen by the detectors of one or several domains; each detector runs once per image.

    Args:
        runs: a run or a detector; a list of them, seeds of one method, whose weights are shown together; or a dict of
            these by domain. Maps are those of the first run of each domain.
        images: a data set, one image, or a list of them; see ``headlens.predict``.
        size: images are resized to this square; the size of the first detector when None.

    Raises:
        ConfigError: no run; backbones or local layers that differ.
        ShapeError: no image.

    >>> import headlens
    >>> view = HeadView({"industrial": headlens.load("mini-captions-industrial")}, torch.zeros(3, 56, 56), size=56)
    >>> view.attention("industrial", 0, "L18H7").shape, view.contribution("industrial", 0, "L18H7/local").shape
    ((4, 4), (4, 4))
    """

    def __init__(
        self, runs: Runs | Mapping[str, Runs], images: DataSet | Image | Sequence[Image], *, size: int | None = None
    ) -> None:
        domains = dict(runs) if isinstance(runs, Mapping) else {_name(runs): runs}
        self.detectors = {domain: _detectors(domain, given) for domain, given in domains.items()}
        every = [detector for detectors in self.detectors.values() for detector in detectors]
        if not every:
            raise ConfigError("no run is given; give at least one, such as headlens.load('mini-captions-industrial')")
        self._first = every[0]
        if any(other.backbone.provenance != self._first.backbone.provenance for other in every):
            raise ConfigError("these runs are on different backbones: their heads cannot be compared by number")
        if any(other.plan.local_layers != self._first.plan.local_layers for other in every):
            raise ConfigError("these runs read local heads of different layers; look at each by itself")
        names = {domain: _name(given) for domain, given in domains.items()}
        self._runs = [name if domain == name else f"{domain}: {name}" for domain, name in names.items()]
        self._gallery = Gallery(images)
        self._preprocess = Preprocess(size or self._first.image_size)
        # Each forward keeps all streams of one image, 0.6 GB for ViT-L/14 at 518 px by their shapes.
        self._clean = lru_cache(4)(self._forward)
        self.names = [self._gallery.name(number) for number in range(len(self._gallery))]

    @property
    def made_by(self) -> str:
        """The backbone, and the runs of the maps."""
        return f"{made_by({'backbone': asdict(self._first.backbone.provenance)})} · {', '.join(self._runs)}"

    @property
    def domains(self) -> tuple[str, ...]:
        """In the order in which they were given."""
        return tuple(self.detectors)

    @property
    def streams(self) -> tuple[str, ...]:
        """Those that the first detector has."""
        return self._first.plan.streams

    def layers(self, stream: str) -> range:
        """Layers whose heads are read."""
        return stream_layers(self._first)[stream]

    @property
    def heads(self) -> range:
        """Of every layer."""
        return range(self._first.backbone.vision.cfg.n_heads)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self._first.backbone.vision.grid(self._preprocess.size, self._preprocess.size)

    def peak(self, image: int) -> tuple[int, int]:
        """Row and column of the patch with the highest margin, the mean over taps, by the first domain's detector."""
        clean = self._clean(self.domains[0], self._gallery.check(image))
        margins = clean.margins.taps
        mean = clean.scoring.on_patches(torch.stack(list(margins.values())).mean(0)[0], self.grid)
        row, column = np.unravel_index(int(mean.argmax()), self.grid)
        return int(row), int(column)

    @torch.no_grad()
    def attention(self, domain: str, image: int, head: Head | str, patch: tuple[int, int] | None = None) -> np.ndarray:
        """Attention of one token to every patch in that head, [rows, columns].

        It adds up to 1 minus the attention to CLS; in a local stream that sums n attention matrices, to n minus it.

        Args:
            domain: whose detector.
            image: its number.
            head: such as ``L18H7``, or ``L18H7/local``.
            patch: row and column of the query patch; when None, CLS for a global head, and the peak of the map for a
                local head, whose CLS is not read.

        Raises:
            ShapeError: an image, head or patch that does not exist.
        """
        head, clean = self._head(head), self._clean(domain, self._gallery.check(image))
        token = 0 if (at := self._looks(image, head, patch)) is None else 1 + at[0] * self.grid[1] + at[1]
        pattern = wide(clean.pattern(head.stream, head.layer)[0, head.head, token, clean.patches])
        return pattern.unflatten(0, self.grid).cpu().numpy()

    @torch.no_grad()
    def contribution(self, domain: str, image: int, head: Head | str) -> np.ndarray:
        """Direct effects of the head on the margin, in logits, [rows, columns]; exact in sum.

        Of a global head: its part of the image margin, by the patches that CLS attends to (without CLS itself); if the
        image feature is made of patches only, by those patches. Of a local head: its part of every patch's margin, the
        mean over taps. Arguments are those of ``attention``.
        """
        head, clean = self._head(head), self._clean(domain, self._gallery.check(image))
        if head.stream == "global" and clean.reading.pooling.reads_cls:
            values = source_maps(clean, head.layer)[0, head.head, clean.patches]
        elif head.stream == "global":
            values = _drawn(head, pooled_parts(clean))
        else:
            taps = clean.plan.taps
            values = _drawn(head, {tap: tap_parts(clean, tap) for tap in taps}) / len(taps)
        return values.unflatten(0, self.grid).cpu().numpy()

    def weights(self, stream: str, layer: int) -> pd.DataFrame:
        """Learned weights of a layer: domain, run (its number), head, value; no rows if none are learned."""
        rows = [
            (domain, number, head, float(value))
            for domain, detectors in self.detectors.items()
            for number, detector in enumerate(detectors)
            if (learned := detector.head_weights().get(stream)) is not None
            for head, value in enumerate(learned[layer].detach())
        ]
        return pd.DataFrame(rows, columns=["domain", "run", "head", "value"])

    def plot(self, image: int, head: Head | str, patch: tuple[int, int] | None = None) -> plots.Figure:
        """The image and the weights of the layer; next to them, for each domain, attention above contribution.

        Arguments are those of ``attention``. Returns the figure, and its axes [2, 1 + domains].
        """
        head = self._head(head)
        at = self._looks(image, head, patch)
        panels = {
            domain: plots.Panel(self.attention(domain, image, head, at), self.contribution(domain, image, head))
            for domain in self.domains
        }
        given = self._gallery.pixels(image)
        seen, native = self._preprocess(given), given.image.shape[1:]
        return plots.head_view(
            seen.image.permute(1, 2, 0).numpy(),
            None if seen.mask is None else seen.mask.numpy(),
            panels,
            self.weights(head.stream, head.layer),
            head,
            looks=at,
            shape=(native[0], native[1]),
            name=self.names[image],
            made_by=self.made_by,
        )

    def _forward(self, domain: str, image: int) -> CleanRun:
        if domain not in self.detectors:
            raise ConfigError(f"unknown domain {domain!r}; available: {', '.join(self.domains)}")
        detector = self.detectors[domain][0]
        seen = self._preprocess(self._gallery.pixels(image)).image
        batch = self._preprocess.normalise(seen[None].to(detector.device))
        return clean_forward(detector, batch, [self._gallery.category(image)])

    def _head(self, head: Head | str) -> Head:
        asked = Head.of(head) if isinstance(head, str) else head
        heads_of(self._first, [asked.layer], [asked.head], [asked.stream])  # raises where there is no such head
        return asked

    def _looks(self, image: int, head: Head, patch: tuple[int, int] | None) -> tuple[int, int] | None:
        """The patch that looks; None is CLS."""
        if patch is None:
            return self.peak(image) if head.stream == "local" else None
        rows, columns = self.grid
        if patch[0] not in range(rows) or patch[1] not in range(columns):
            raise ShapeError(f"patch {tuple(patch)} does not exist; rows are 0..{rows - 1}, columns 0..{columns - 1}")
        return patch


def _name(runs: Runs) -> str:
    """Of the first run; a detector has none."""
    first = runs[0] if isinstance(runs, list | tuple) and runs else runs
    return first.folder.name if isinstance(first, Run) else "a detector"


def _detectors(domain: str, runs: Runs) -> list[Detector]:
    several = list(runs) if isinstance(runs, list | tuple) else [runs]
    if not several:
        raise ConfigError(f"{domain}: no run; give at least one")
    return [detector_of(given) for given in several]


def _drawn(head: Head, of: Mapping[int, Parts]) -> Tensor:
    """What a head has at the patches of one image, summed over taps, [N]."""
    part = Part("head", head.stream, head.layer)
    written = [parts.terms[part][0, :, head.head] for parts in of.values() if part in parts.terms]
    return sum(written, torch.zeros_like(next(iter(of.values())).rest[0]))
