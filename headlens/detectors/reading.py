"""A detector's answer for one batch: how the tower is run, and how its tokens become margins.

A ``Reading`` is made once for a batch, and everything in it is held while heads are ablated, gated or attributed: the
text, head weights, and whatever a method computes from the images beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from headlens.backbone.plan import VisionPlan
from headlens.backbone.vision import VisionOutput
from headlens.detectors.pooling import CLSToken, Pooling, Taps
from headlens.detectors.readout import Readout
from headlens.detectors.scoring import Margins
from headlens.detectors.text import Contrast
from headlens.precision import wide


@dataclass(frozen=True)
class Features:
    """Embeddings of ``R`` images, of any length.

    Args:
        cls: [R, d_e].
        taps: ``{tap: [R, N, d_e]}``, as the anomaly map reads patches.
        pooled: the same of taps that the image feature reads otherwise.
    """

    cls: Tensor
    taps: dict[int, Tensor]
    pooled: dict[int, Tensor] = field(default_factory=dict)

    @property
    def of_image(self) -> Taps:
        """``{tap: [R, N, d_e]}``, as the image feature reads patches."""
        return {**self.taps, **self.pooled}


@dataclass(frozen=True)
class Reading:
    """How a batch of images is read.

    Args:
        plan: how the image tower is run.
        text: what embeddings are compared with.
        taps: how patches are read at each tap of the plan.
        image: how CLS is read, and patches of the pooling's ``image_taps`` for the image feature.
        pooling: which embeddings make the image feature.
        image_text: what the image feature is compared with, where that is not ``text``.
        beforehand: names of what was computed from the images to make this, such as prompts; for people.
        follow: where the text depends on the images: the features of ablated rows to their text.
    """

    plan: VisionPlan
    text: Contrast
    taps: Mapping[int, Readout]
    image: Readout
    pooling: Pooling = CLSToken()  # noqa: RUF009  # frozen
    follow: Callable[[Features], Contrast] | None = None
    image_text: Contrast | None = None
    beforehand: tuple[str, ...] = ()

    @property
    def image_contrast(self) -> Contrast:
        """What the image feature is compared with."""
        return self.text if self.image_text is None else self.image_text

    def patches_of_image(self, tap: int) -> Readout:
        """How the image feature reads patches at a tap."""
        return self.image if tap in self.pooling.image_taps else self.taps[tap]

    def features(self, out: VisionOutput) -> Features:
        """What the tower says, as embeddings."""
        return self._features(wide(out.embedding) if self.image.of_tower else self.image(out.cls), out.tapped)

    def embed(self, cls: Tensor, tapped: Mapping[int, Tensor]) -> Features:
        """The same of raw tokens: CLS [R, D], patches ``{tap: [R, N, D]}``."""
        return self._features(self.image(cls), tapped)

    def _features(self, cls: Tensor, tapped: Mapping[int, Tensor]) -> Features:
        taps = {tap: self.taps[tap](tokens) for tap, tokens in tapped.items()}
        return Features(cls, taps, {tap: self.image(tapped[tap]) for tap in self.pooling.image_taps})

    def margins(self, features: Features) -> Margins:
        """Embeddings to the margins of the images [R] and of their patches {tap: [R, N]}."""
        taps = {tap: self.text.margin(embeddings) for tap, embeddings in features.taps.items()}
        return Margins(self.image_contrast.margin(self.pooling(features.cls, features.of_image, taps)), taps)

    def weights(self, features: Features, margins: Taps) -> tuple[Tensor, dict[int, Tensor]]:
        """How much of each unit embedding is in what the image's text is compared with.

        Returns:
            Of CLS [R], and of the patches ``{tap: [R, N]}`` as the image feature reads them, for the embeddings as they
            are and margins {tap: [R, N]}.
        """
        read = features.cls, features.of_image, margins
        of_cls, of_patches = self.pooling.held(*read)
        if not self.image_contrast.unit:
            return of_cls, of_patches
        length = self.pooling(*read).norm(dim=-1)
        return of_cls / length, {tap: weight / length[:, None] for tap, weight in of_patches.items()}

    def rows(self, variants: int) -> Reading:
        """The same for so many variants of every image, variant by variant."""
        image_text = None if self.image_text is None else self.image_text.rows(variants)
        return replace(self, text=self.text.rows(variants), image_text=image_text)
