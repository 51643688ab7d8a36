"""A detector's answer for one batch: how the tower is run, and how its tokens become margins.

A ``Reading`` is made once for a batch, and everything in it is held while heads are ablated, gated or attributed: the
text, head weights, and whatever a method computes from the images beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from headlens.backbone.plan import VisionPlan
from headlens.backbone.vision import VisionOutput
from headlens.detectors.pooling import CLSToken, Pooling
from headlens.detectors.readout import Readout
from headlens.detectors.scoring import Margins
from headlens.detectors.text import Contrast
from headlens.precision import wide


@dataclass(frozen=True)
class Features:
    """Embeddings of ``R`` images: ``cls`` [R, d_e], ``taps`` {tap: [R, N, d_e]}; of any length."""

    cls: Tensor
    taps: dict[int, Tensor]


@dataclass(frozen=True)
class Reading:
    """How a batch of images is read.

    Args:
        plan: how the image tower is run.
        text: what embeddings are compared with.
        taps: how patches are read at each tap of the plan.
        image: how CLS is read.
        pooling: which embeddings make the image feature.
        follow: where the text depends on the images' CLS: raw CLS [R, D] of ablated rows to their text.
    """

    plan: VisionPlan
    text: Contrast
    taps: Mapping[int, Readout]
    image: Readout
    pooling: Pooling = CLSToken()  # noqa: RUF009  # frozen
    follow: Callable[[Tensor], Contrast] | None = None

    def features(self, out: VisionOutput) -> Features:
        """What the tower says, as embeddings."""
        cls = wide(out.embedding) if self.image.of_tower else self.image(out.cls)
        return Features(cls, {tap: self.taps[tap](tokens) for tap, tokens in out.tapped.items()})

    def embed(self, cls: Tensor, tapped: Mapping[int, Tensor]) -> Features:
        """The same of raw tokens: CLS [R, D], patches ``{tap: [R, N, D]}``."""
        return Features(self.image(cls), {tap: self.taps[tap](tokens) for tap, tokens in tapped.items()})

    def margins(self, features: Features) -> Margins:
        """Embeddings to the margins of the images [R] and of their patches {tap: [R, N]}."""
        taps = {tap: self.text.margin(embeddings) for tap, embeddings in features.taps.items()}
        return Margins(self.text.margin(self.pooling(features.cls, features.taps, taps)), taps)

    def rows(self, variants: int) -> Reading:
        """The same for so many variants of every image, variant by variant."""
        return replace(self, text=self.text.rows(variants))
