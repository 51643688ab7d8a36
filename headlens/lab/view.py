"""``HeadView``: where one head looks in one picture, what it writes there, and what each domain made of its weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from headlens import plots
from headlens.backbone.plan import STREAMS
from headlens.data import DataSet, Pixels, Preprocess
from headlens.detectors.detector import Detector
from headlens.errors import ConfigError, ShapeError
from headlens.heads.clean import Clean, clean_forward, local_here
from headlens.heads.direct import source_maps, tap_parts
from headlens.heads.measures import wide
from headlens.heads.variants import Head, heads_of, local_layers
from headlens.lab.gallery import Gallery
from headlens.predict import Picture
from headlens.results import made_by

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from headlens.training.run import Run

    Runs = Run | Detector | Sequence[Run | Detector]

_KEPT = 4  # forwards; each keeps all streams of one picture, 0.6 GB for ViT-L/14 at 518 px by their shapes


class HeadView:
    """Pictures under the detectors of one or several domains; a picture goes through each detector once.

    Args:
        pictures: a data set, one picture, or a list of them; see ``headlens.predict``.
        size: they are resized to this square; the first run's own size when None.
        **domains: for each its run, or its runs of several seeds, whose weights are shown together. Maps are those of
            the first.

    Raises:
        ConfigError: no domain, or a domain without a run; backbones that differ.
        ShapeError: no picture.

    >>> import headlens
    >>> view = HeadView(torch.zeros(3, 56, 56), size=56, industrial=headlens.load("mini-industrial"))
    >>> view.attention("industrial", 0, "L18H7").shape, view.contribution("industrial", 0, "L18H7/local").shape
    ((4, 4), (4, 4))
    """

    def __init__(
        self, pictures: DataSet | Picture | Sequence[Picture], *, size: int | None = None, **domains: Runs
    ) -> None:
        self.detectors = {domain: _detectors(domain, runs) for domain, runs in domains.items()}
        every = [detector for own in self.detectors.values() for detector in own]
        if not every:
            raise ConfigError(
                "no domain is given; name at least one, such as industrial=headlens.load('mini-industrial')"
            )
        self._first = every[0]
        if any(other.backbone.provenance != self._first.backbone.provenance for other in every):
            raise ConfigError("these runs are on different backbones: their heads have nothing but numbers in common")
        if any(local_layers(other) != local_layers(self._first) for other in every):
            raise ConfigError("these runs read local heads of different layers; look at each by itself")
        self._runs = [_name(domain, runs) for domain, runs in domains.items()]
        self._gallery = Gallery(pictures)
        self._preprocess = Preprocess(size or self._first.image_size)
        self._clean = lru_cache(_KEPT)(self._forward)
        self.names = [self._gallery.name(number) for number in range(len(self._gallery))]

    @property
    def made_by(self) -> str:
        """Which backbone, and which runs the maps are of."""
        return f"{made_by({'backbone': asdict(self._first.backbone.provenance)})} · {', '.join(self._runs)}"

    @property
    def domains(self) -> tuple[str, ...]:
        """In the order in which they were given."""
        return tuple(self.detectors)

    @property
    def streams(self) -> tuple[str, ...]:
        """Those that the first detector has."""
        return STREAMS if self._first.local is not None else STREAMS[:1]

    def layers(self, stream: str) -> range:
        """Layers whose heads somebody reads."""
        own = [head.layer for head in heads_of(self._first, heads=[0], streams=[stream])]
        return range(own[0], own[-1] + 1)

    @property
    def heads(self) -> range:
        """Of every layer."""
        return range(self._first.backbone.vision.cfg.n_heads)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self._first.backbone.vision.grid(self._preprocess.size, self._preprocess.size)

    def peak(self, picture: int) -> tuple[int, int]:
        """Row and column of the patch with the highest margin, the mean over taps, by the first domain's detector."""
        margins = self._clean(self.domains[0], self._gallery.check(picture)).margins.taps
        row, column = np.unravel_index(int(torch.stack(list(margins.values())).mean(0)[0].argmax()), self.grid)
        return int(row), int(column)

    @torch.no_grad()
    def attention(
        self, domain: str, picture: int, head: Head | str, patch: tuple[int, int] | None = None
    ) -> np.ndarray:
        """How much one token takes from every patch under that head, [rows, columns].

        It adds up to 1 less what the token takes from CLS; of a local stream that sums matrices, to their number.

        Args:
            domain: whose detector.
            picture: its number.
            head: such as ``L18H7``, or ``L18H7/local``.
            patch: row and column of the patch that looks; when None, CLS for a global head, whose CLS is what is read,
                and the picture's peak for a local one, of which nobody reads CLS.

        Raises:
            ShapeError: a picture, head or patch that does not exist.
        """
        head, clean = self._head(head), self._clean(domain, self._gallery.check(picture))
        token = 0 if (at := self._looks(picture, head, patch)) is None else 1 + at[0] * self.grid[1] + at[1]
        block = clean.detector.backbone.vision.blocks[head.layer]
        q, k, v = block.attn.project(block.ln1(clean.x[head.layer]), hooked=False)
        local = local_here(clean.detector, head.layer) if head.stream == "local" else None
        pattern = wide(block.attn.pattern(q, k, v, local or ("qk",)))
        return pattern[0, head.head, token, 1:].unflatten(0, self.grid).cpu().numpy()

    @torch.no_grad()
    def contribution(self, domain: str, picture: int, head: Head | str) -> np.ndarray:
        """What the head writes into the margin, in logits, [rows, columns]; direct effects, exact in sum.

        Of a global head: its part of the image margin, by the patches that CLS takes it from (what it takes from itself
        is left out). Of a local head: its part of every patch's margin, the mean over taps.

        Args:
            domain, picture, head: as for ``attention``.
        """
        head, clean = self._head(head), self._clean(domain, self._gallery.check(picture))
        if head.stream == "global":
            own = source_maps(clean, head.layer)[0, head.head, 1:]
        else:
            taps = clean.detector.config.taps
            above = [tap_parts(clean, tap) for tap in taps if tap >= head.layer]
            drawn = [parts.heads["local"][0, :, parts.layers["local"].index(head.layer), head.head] for parts in above]
            own = torch.stack(drawn).sum(0) / len(taps)
        return own.unflatten(0, self.grid).cpu().numpy()

    def weights(self, stream: str, layer: int) -> pd.DataFrame:
        """Learned weights of a layer: domain, run (its number), head, value; no rows where none are learned."""
        rows = [
            (domain, number, head, float(value))
            for domain, detectors in self.detectors.items()
            for number, detector in enumerate(detectors)
            if (learned := detector.head_weights().get(stream)) is not None
            for head, value in enumerate(learned[layer].detach())
        ]
        return pd.DataFrame(rows, columns=["domain", "run", "head", "value"])

    def plot(self, picture: int, head: Head | str, patch: tuple[int, int] | None = None) -> tuple[Figure, np.ndarray]:
        """The picture and the weights of the layer; beside them, for each domain, attention above contribution.

        Args:
            picture, head, patch: as for ``attention``.

        Returns:
            The figure, and its axes [2, 1 + domains].
        """
        head = self._head(head)
        at = self._looks(picture, head, patch)
        panels = {
            domain: plots.Panel(self.attention(domain, picture, head, at), self.contribution(domain, picture, head))
            for domain in self.domains
        }
        seen, native = self._seen(picture), self._gallery.pixels(picture).image.shape[1:]
        return plots.head_view(
            seen.image.permute(1, 2, 0).numpy(),
            None if seen.mask is None else seen.mask.numpy(),
            panels,
            self.weights(head.stream, head.layer),
            head,
            looks=at,
            shape=(native[0], native[1]),
            name=self.names[picture],
            made_by=self.made_by,
        )

    def _seen(self, picture: int) -> Pixels:
        """As the detectors see it, [3, S, S], and its mask, where there is one."""
        prepared = self._preprocess(self._gallery.pixels(picture))
        return Pixels(prepared.image, prepared.mask)

    def _forward(self, domain: str, picture: int) -> Clean:
        if domain not in self.detectors:
            raise ConfigError(f"no domain is called {domain!r}; there are {', '.join(self.domains)}")
        detector = self.detectors[domain][0]
        image = self._preprocess.normalise(self._seen(picture).image[None].to(detector.device))
        return clean_forward(detector, image, [self._gallery.thing(picture)])

    def _head(self, head: Head | str) -> Head:
        own = Head.of(head) if isinstance(head, str) else head
        heads_of(self._first, [own.layer], [own.head], [own.stream])  # raises where there is no such head
        return own

    def _looks(self, picture: int, head: Head, patch: tuple[int, int] | None) -> tuple[int, int] | None:
        """The patch that looks; None is CLS."""
        if patch is None:
            return self.peak(picture) if head.stream == "local" else None
        rows, columns = self.grid
        if patch[0] not in range(rows) or patch[1] not in range(columns):
            raise ShapeError(f"patch {tuple(patch)} does not exist; rows are 0..{rows - 1}, columns 0..{columns - 1}")
        return patch


def _name(domain: str, runs: Runs) -> str:
    first = runs[0] if isinstance(runs, list | tuple) else runs
    folder = getattr(first, "folder", None)
    return f"{domain}: {'a detector' if folder is None else folder.name}"


def _detectors(domain: str, runs: Runs) -> list[Detector]:
    several = list(runs) if isinstance(runs, list | tuple) else [runs]
    if not several:
        raise ConfigError(f"{domain}: no run; give at least one")
    found = [own if isinstance(own, Detector) else getattr(own, "detector", None) for own in several]
    if not all(isinstance(own, Detector) for own in found):
        raise ConfigError(f"{domain}: {type(several[0]).__name__} is no run; give headlens.load(...) or a detector")
    return [own for own in found if own is not None]
