"""``HeadView``: what one head attends to in one image, what it contributes, and its weight in each domain."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from headlens import plots
from headlens.backbone.plan import STREAMS
from headlens.data import DataSet, Pixels, Preprocess
from headlens.detectors.detector import Detector, detector_of
from headlens.errors import ConfigError, HeadlensError, ShapeError
from headlens.heads.clean import CleanRun, clean_forward
from headlens.heads.direct import Parts, image_parts, pooled_parts, source_maps, tap_parts
from headlens.heads.exactness import check_reached
from headlens.heads.variants import Head, heads_of, stream_layers
from headlens.lab.gallery import Gallery
from headlens.precision import wide
from headlens.predict import Image
from headlens.results import made_by
from headlens.training.run import Run

if TYPE_CHECKING:
    Runs = Run | Detector | Sequence[Run | Detector]


class HeadView:
    """Images seen by one or several detectors; each runs once per image.

    Args:
        runs: a run or a detector; a list of them, seeds of one method, whose weights are shown together; or a dict of
            these by domain, or by method. Maps are those of the first run of each. Where one has no such head, or no
            such map, the figure says why in its place.
        images: a data set, one image, or a list of them; see ``headlens.predict``.
        size: images are resized to this square; the size of the first detector when None.

    Raises:
        ConfigError: no run; backbones that differ.
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
        names = {domain: _name(given) for domain, given in domains.items()}
        self._runs = [name if domain == name else f"{domain}: {name}" for domain, name in names.items()]
        self._gallery = Gallery(images)
        self._preprocess = Preprocess(size or self._first.image_size)
        # Each forward keeps all streams of one image, 0.6 GB for ViT-L/14 at 518 px by their shapes.
        self._clean = lru_cache(max(4, len(domains)))(self._forward)
        # So that another patch, or another head, costs no more than what is new about it.
        self.pixels = lru_cache(4)(self._pixels)
        self._pattern = lru_cache(4 * len(domains))(self._attends)
        self._of_patches = lru_cache(8 * len(domains))(self._patch_parts)
        self._of_image = lru_cache(4 * len(domains))(self._image_parts)
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
        """Those that any detector has."""
        return tuple(stream for stream in STREAMS if any(stream in each.plan.streams for each in self._shown))

    @property
    def shared_streams(self) -> tuple[str, ...]:
        """Those that all detectors have."""
        return tuple(stream for stream in self.streams if all(stream in each.plan.streams for each in self._shown))

    def layers(self, stream: str) -> range:
        """Layers whose heads any detector reads."""
        there = [layers for each in self._shown if (layers := stream_layers(each)[stream])]
        return range(min(each[0] for each in there), max(each[-1] for each in there) + 1) if there else range(0)

    @property
    def heads(self) -> range:
        """Of every layer."""
        return range(self._first.backbone.vision.cfg.n_heads)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self._first.backbone.vision.grid(self._preprocess.size, self._preprocess.size)

    @property
    def first_anomalous(self) -> int:
        """Number of the first image with an anomaly, by its label or its mask; 0 if there is none, or none is known."""
        return next(filter(self._gallery.anomalous, range(len(self._gallery))), 0)

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
            ConfigError: a domain that does not exist, or whose heads have no such map; the message says why.
        """
        head = self._head(head, domain)
        token = 0 if (at := self.query(image, head, patch)) is None else 1 + at[0] * self.grid[1] + at[1]
        return wide(self._pattern(domain, self._gallery.check(image), head)[token]).unflatten(0, self.grid).numpy()

    @torch.no_grad()
    def contribution(self, domain: str, image: int, head: Head | str) -> np.ndarray:
        """Direct effects of the head on the margin, in logits, [rows, columns]; exact in sum.

        Of a global head: its part of the image margin, by the patches that CLS attends to (without CLS itself); if the
        image feature is made of patches only, by those patches. Of a local head: its part of every patch's margin, the
        mean over taps. Arguments are those of ``attention``.
        """
        head, clean = self._head(head, domain), self._clean(domain, self._gallery.check(image))
        if head.stream == "global" and clean.reading.pooling.reads_cls:
            values = source_maps(clean, head.layer)[0, head.head, clean.patches]
        else:
            parts = self._of_patches(domain, image, head.stream)
            check_reached(parts, head.stream, head.layer)
            values = parts[head.stream, head.layer][:, head.head]
        return values.unflatten(0, self.grid).cpu().numpy()

    @torch.no_grad()
    def effects(self, domain: str, image: int, stream: str) -> np.ndarray:
        """Direct effects of all heads of a stream on one image, in logits, [layers, heads]; layers are ``layers``.

        Of a global head: its part of the image margin. Of a local head: the mean size of what it adds to the margins
        of patches. NaN where the detector reads no such head.

        Raises:
            ShapeError: an image that does not exist.
            ConfigError: a domain that does not exist, or whose margins are no sums over these heads.
        """
        self._detector(domain)
        self._gallery.check(image)
        if stream == "global":
            rows = self._of_image(domain, image)
        else:
            rows = {layer: part.abs().mean(0) for (_, layer), part in self._of_patches(domain, image, stream).items()}
        missing = torch.full((len(self.heads),), torch.nan)
        return torch.stack([wide(rows.get(layer, missing)).cpu() for layer in self.layers(stream)]).numpy()

    def learned(self, domain: str, stream: str) -> np.ndarray:
        """Learned weights of a domain's runs, [runs that learn them, layers, heads]; layers are ``layers``.

        NaN where a detector reads no such head.
        """
        self._detector(domain)
        tables = [
            [
                learned[layer].tolist() if layer in stream_layers(detector)[stream] else [np.nan] * len(self.heads)
                for layer in self.layers(stream)
            ]
            for detector in self.detectors[domain]
            if (learned := detector.head_weights().get(stream)) is not None
        ]
        return np.array(tables).reshape(len(tables), len(self.layers(stream)), len(self.heads))

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
        given = self.pixels(image)
        seen, native = self._preprocess(given), given.image.shape[1:]
        return plots.head_view(
            seen.image.permute(1, 2, 0).numpy(),
            None if seen.mask is None else seen.mask.numpy(),
            self.panels(image, head, patch),
            self.weights(head.stream, head.layer),
            head,
            looks=self.query(image, head, patch),
            shape=(native[0], native[1]),
            name=self.names[image],
            made_by=self.made_by,
        )

    def panels(
        self, image: int, head: Head | str, patch: tuple[int, int] | None = None
    ) -> dict[str, tuple[np.ndarray | str, np.ndarray | str]]:
        """By domain what the head attends to and contributes, or why that cannot be shown; arguments as above."""
        at = self.query(image, head, patch)
        return {
            domain: (
                or_why(partial(self.attention, domain, image, head, at)),
                or_why(partial(self.contribution, domain, image, head)),
            )
            for domain in self.domains
        }

    def query(self, image: int, head: Head | str, patch: tuple[int, int] | None = None) -> tuple[int, int] | None:
        """The patch that looks, as of ``attention``; None is CLS.

        Raises:
            ShapeError: an image, head or patch that does not exist.
        """
        head = self._head(head)
        if patch is None:
            return self.peak(image) if head.stream == "local" else None
        rows, columns = self.grid
        if patch[0] not in range(rows) or patch[1] not in range(columns):
            raise ShapeError(f"patch {tuple(patch)} does not exist; rows are 0..{rows - 1}, columns 0..{columns - 1}")
        return patch

    @property
    def _shown(self) -> list[Detector]:
        """Those whose maps are shown."""
        return [detectors[0] for detectors in self.detectors.values()]

    def _detector(self, domain: str) -> Detector:
        if domain not in self.detectors:
            raise ConfigError(f"unknown domain {domain!r}; available: {', '.join(self.domains)}")
        return self.detectors[domain][0]

    def _pixels(self, image: int) -> Pixels:
        return self._gallery.pixels(self._gallery.check(image))

    def _forward(self, domain: str, image: int) -> CleanRun:
        detector = self._detector(domain)
        seen = self._preprocess(self.pixels(image)).image
        batch = self._preprocess.normalise(seen[None].to(detector.device))
        return clean_forward(detector, batch, [self._gallery.category(image)])

    def _attends(self, domain: str, image: int, head: Head) -> Tensor:
        """What each token of a head attends to among the patches, [T, N]."""
        clean = self._clean(domain, image)
        return clean.pattern(head.stream, head.layer, head.head)[0, :, clean.patches].cpu()

    def _patch_parts(self, domain: str, image: int, stream: str) -> dict[tuple[str, int], Tensor]:
        """What heads have at patches, by stream and layer, [N, H]: of the image margin, or of the patches' margins."""
        clean = self._clean(domain, image)
        if stream == "global":
            return _summed(stream, pooled_parts(clean))
        taps = clean.plan.taps
        drawn = _summed(stream, {tap: tap_parts(clean, tap) for tap in taps})
        return {place: values / len(taps) for place, values in drawn.items()}

    def _image_parts(self, domain: str, image: int) -> dict[int, Tensor]:
        """What global heads have of the image margin, by layer, [H]."""
        terms = image_parts(self._clean(domain, image)).terms
        return {part.layer: value[0] for part, value in terms.items() if part[:2] == ("head", "global")}

    def _head(self, head: Head | str, domain: str | None = None) -> Head:
        """Raises where that domain's detector, or every detector, has no such head."""
        asked = Head.of(head) if isinstance(head, str) else head
        refusals = []
        for detector in self._shown if domain is None else [self._detector(domain)]:
            try:
                heads_of(detector, [asked.layer], [asked.head], [asked.stream])
            except HeadlensError as refusal:
                refusals.append(refusal)
            else:
                return asked
        raise refusals[0]


def _name(runs: Runs) -> str:
    """Of the first run; a detector has none."""
    first = runs[0] if isinstance(runs, list | tuple) and runs else runs
    return first.folder.name if isinstance(first, Run) else "a detector"


def _detectors(domain: str, runs: Runs) -> list[Detector]:
    several = list(runs) if isinstance(runs, list | tuple) else [runs]
    if not several:
        raise ConfigError(f"{domain}: no run; give at least one")
    return [detector_of(given) for given in several]


def _summed(stream: str, of: Mapping[int, Parts]) -> dict[tuple[str, int], Tensor]:
    """Parts of the heads of a stream at the patches of one image, summed over taps, [N, H] by stream and layer."""
    sums: dict[tuple[str, int], Tensor] = {}
    for parts in of.values():
        for part, values in parts.terms.items():
            if part[:2] == ("head", stream):
                sums[part[1:]] = sums.get(part[1:], 0) + values[0]
    return sums


def or_why(made: Callable[[], np.ndarray]) -> np.ndarray | str:
    """A map, or why there is none."""
    try:
        return made()
    except HeadlensError as refusal:
        return str(refusal)
