"""What is attributed: one number for each image, as a function of the image that can be differentiated.

    image_margin   abnormal minus normal logit of the image                                    logits
    joint_score    (1 - alpha) image score + alpha pool(anomaly map)                           the unit of the detector
    joint_margin   log(joint score / (1 - joint score)), or the score where that is a logit    logits
    map_margin     mean over taps of the patches' margins, mean over a region                  logits
    L18H7          direct effect of that head on the image margin                              logits
    L18H7/local    direct effect of that local head on the map margin                          logits

A head's direct effect is its part of a sum that is exact with the read-out's scale and norm, and the weights of a
pooled image feature, as they are in that image (``headlens.heads.direct``). As a function of the image they change with
it, so they are differentiated too: the attributed number is the one that ``contributions`` reports. Everything else in
    a ``Reading`` is held fixed, including the text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.backbone.vision import VisionOutput
from headlens.detectors.detector import Detector, detector_of
from headlens.detectors.reading import Features, Reading
from headlens.detectors.readout import Readout
from headlens.detectors.scoring import Margins, check_map
from headlens.detectors.text import Contrast
from headlens.errors import ConfigError, ShapeError
from headlens.heads.exactness import check_image_summed, check_summed, check_unadapted, check_unhooked
from headlens.heads.variants import Head, heads_of
from headlens.precision import full_precision, wide
from headlens.printing import unknown_name

if TYPE_CHECKING:
    from typing_extensions import Self

SCORES = ("joint_margin", "joint_score", "image_margin", "map_margin")


@dataclass(frozen=True)
class Forward:
    """Images of one ``size`` (height, width) through the detector, as targets read them."""

    reading: Reading
    out: VisionOutput
    features: Features
    margins: Margins
    size: tuple[int, int]
    written: Tensor | None = None  # [B, T, d], of a head that is the target, weighted


@dataclass(frozen=True)
class Target(ABC):
    """Maps normalised images [B, 3, h, w] to one number each, [B], independently of each other.

    Args:
        detector: any.
        name: see the table above.
        category: what the images show; only class-aware prompts use it.
        region: [h, w], where a map is read, 0 to 1; all of it when None.
        head_weights: ``{stream: [L, H]}`` in place of the detector's.
        held: the reading of one image, used for all variants of it; the detector reads each image anew when None.
    """

    detector: Detector
    name: str
    category: str = "object"
    region: Tensor | None = None
    head_weights: Mapping[str, Tensor] | None = None
    held: Reading | None = None

    def __call__(self, images: Tensor, hooked: bool = False) -> Tensor:
        """The number of every image, [B]; ``hooked`` lets hooks at the image tower see the forward."""
        return self.read(self.forward(images, hooked=hooked))

    @abstractmethod
    def read(self, forward: Forward) -> Tensor:
        """The number of every image, [B]."""

    @torch.no_grad()
    def reading(self, images: Tensor) -> Reading:
        """How the images are read; nothing in it is differentiated."""
        reading = self.held or self.detector.reading(images, [self.category] * len(images))
        if self.head_weights is None:
            return reading
        return replace(reading, plan=replace(reading.plan, head_weights=self.head_weights))

    def holding(self, images: Tensor) -> Self:
        """The same target for all variants of these images, with their reading held."""
        return replace(self, held=self.reading(images))

    def forward(self, images: Tensor, reading: Reading | None = None, hooked: bool = False) -> Forward:
        """One forward of the images; how they are read is asked when ``reading`` is None."""
        reading = self.reading(images) if reading is None else reading
        out = self.detector.see(images, reading, hooked=hooked)
        features = reading.features(out)
        return Forward(reading, out, features, reading.margins(features), (images.shape[2], images.shape[3]))

    def anomaly_map(self, forward: Forward) -> Tensor:
        """What the detector shows, [B, h, w]."""
        grid, scoring = self.detector.backbone.vision.grid(*forward.size), self.detector.scoring
        return scoring.enlarge(scoring.patch_maps(forward.margins, grid), forward.size)

    def share(self, size: tuple[int, int]) -> Tensor:
        """How much of the region lies in each patch of an image of that size, [N]; adds up to 1.

        Raises:
            ShapeError: a region of another size, or one that no patch meets.
        """
        vision = self.detector.backbone.vision
        grid, patch = vision.grid(*size), vision.cfg.patch_size
        if self.region is None:
            return wide(vision.proj).new_full((grid[0] * grid[1],), 1 / (grid[0] * grid[1]))
        if tuple(self.region.shape) != size:
            raise ShapeError(f"the region has shape {tuple(self.region.shape)}; images are {size}, and it must be too")
        region = self.region.to(wide(vision.proj))[None, None, : grid[0] * patch, : grid[1] * patch]
        covered = F.avg_pool2d(region, patch).flatten()
        if not covered.sum() > 0:
            raise ShapeError("the region is empty, or covers no patch; mark at least one pixel")
        return covered / covered.sum()


class ScoreTarget(Target):
    """One of ``SCORES``."""

    def read(self, forward: Forward) -> Tensor:
        """The number of every image, [B], a function of ``forward.margins`` alone."""
        if self.name == "image_margin":
            return forward.margins.image
        if self.name == "map_margin":
            mean = torch.stack(list(forward.margins.taps.values())).mean(0)  # (B, N)
            mean = self.detector.scoring.on_patches(mean, self.detector.backbone.vision.grid(*forward.size))
            return (mean * self.share(forward.size)).sum(1)  # a product of matrices would be rounded under autocast
        scoring = self.detector.scoring
        score = scoring.joint(forward.margins.image, self.anomaly_map(forward))
        return score if self.name == "joint_score" else scoring.joint_margin(score)


class HeadTarget(Target):
    """The direct effect of one head: ``z · u_h / (σ |e|)``, summed over the tokens that are read.

    Of a global head those that make the image feature, by their weights in it; of a local one the patches of a region.
    """

    @cached_property
    def head(self) -> Head:
        """Which."""
        return Head.of(self.name)

    def forward(self, images: Tensor, reading: Reading | None = None, hooked: bool = False) -> Forward:
        """One forward of the images; always hooked, for that is how the head is read."""
        written: list[Tensor] = []

        def store(z: Tensor, *, hook: Any) -> None:
            written.append(z[:, :, self.head.head])  # (B, T, d), weighted

        point = f"blocks.{self.head.layer}.attn.hook_{'local_' * (self.head.stream == 'local')}z"
        with self.detector.backbone.vision.hooks([(point, store)]):
            forward = super().forward(images, reading, hooked=True)
        return replace(forward, written=written[0])

    def read(self, forward: Forward) -> Tensor:
        """The direct effect in every image, [B]."""
        reading = forward.reading
        check_unadapted(reading.plan, self.head)
        with full_precision(forward.margins.image.device):
            if self.head.stream == "local":
                taps, text = reading.plan.taps, reading.text
                for tap in taps:
                    check_summed(reading.taps[tap], f"margins of patches at tap {tap}")
                drawn = torch.stack([self._drawn(forward, tap, reading.taps[tap], text) for tap in taps]).mean(0)
                grid = self.detector.backbone.vision.grid(*forward.size)
                return self.detector.scoring.on_patches(drawn, grid) @ self.share(forward.size)
            check_image_summed(reading)
            text = reading.image_contrast
            of_cls, of_patches = reading.weights(forward.features, forward.margins.taps)
            effect = torch.zeros_like(of_cls)
            if reading.pooling.reads_cls:
                effect = of_cls * self._part(forward, reading.image, text, forward.out.cls[:, None], 0)[:, 0]
            for tap, weight in of_patches.items():
                effect = effect + (weight * self._drawn(forward, tap, reading.patches_of_image(tap), text)).sum(1)
            return effect

    def _drawn(self, forward: Forward, tap: int, readout: Readout, text: Contrast) -> Tensor:
        """The head's part of the margins of patches at a tap, [B, N]; 0 where nothing of it is read."""
        if self.head.layer not in forward.reading.plan.writers(tap).get(self.head.stream, ()):
            return torch.zeros_like(forward.margins.taps[tap])
        return self._part(forward, readout, text, forward.out.tapped[tap], 1)

    def _part(self, forward: Forward, readout: Readout, text: Contrast, tokens: Tensor, first: int) -> Tensor:
        """The head's part of the margins of raw ``tokens`` [B, n, D], which stand from ``first`` on: [B, n]."""
        assert forward.written is not None
        w_o = self.detector.backbone.vision.blocks[self.head.layer].attn.W_O[self.head.head]
        written = forward.written[:, first : first + tokens.shape[1], None]  # (B, n, 1, d)
        missing = tokens.shape[1] - written.shape[1]  # at a second copy of patches it may write nothing
        written = F.pad(written, (0, 0, 0, 0, 0, missing)) if missing else written
        reads = readout.held(tokens, text).reads
        each = [covector.of_heads(written if at is None else written[:, at], w_o[None]) for at, covector in reads]
        return torch.stack(each).sum(0)[..., 0]


def target_of(
    detector: Any, name: str = "joint_margin", category: str = "object", region: Tensor | None = None
) -> Target:
    """The target of that name; see the table above.

    Args:
        detector: any, or a run.
        name, category, region: as of ``Target``.

    Raises:
        ConfigError: an unknown target, or a region for one that reads no map.
        ShapeError: a head that does not exist.

    >>> from headlens.backbone import load
    >>> from headlens.detectors import HeadCLIP
    >>> detector, images = HeadCLIP(load("mini")), torch.zeros(2, 3, 28, 42)
    >>> [target_of(detector, name)(images).shape for name in ("joint_margin", "L18H7/local")]
    [torch.Size([2]), torch.Size([2])]
    """
    detector = detector_of(detector)
    check_unhooked(detector, "attribution", calls_tower=True)
    if name == "map_margin":
        check_map(detector.reads_map, "the target map_margin")
    if name in SCORES:
        made: Target = ScoreTarget(detector, name, category, region)
    elif name.startswith("L"):
        head = Head.of(name)
        heads_of(detector, [head.layer], [head.head], [head.stream])  # raises where there is no such head
        check_unhooked(detector, f"the direct effect of {head}")
        made = HeadTarget(detector, str(head), category, region)
    else:
        raise ConfigError(unknown_name("target", name, [*SCORES, "heads such as L18H7"]))
    if region is not None and not (name == "map_margin" or name.endswith("/local")):
        raise ConfigError(f"{name} reads no region; only map_margin and local heads do: leave region out")
    return made
