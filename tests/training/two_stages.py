"""A method with two stages: first prompts move, then the read-out of the patches, by another loss and optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headlens.backbone import Backbone, VisionPlan
from headlens.detectors.detector import Detector, MethodConfig
from headlens.detectors.losses import objective
from headlens.detectors.parts.ensemble import ensemble
from headlens.detectors.reading import Features, Reading
from headlens.detectors.readout import Readout
from headlens.detectors.scoring import Prediction, Scoring
from headlens.detectors.stages import Answers, Augment, Schedule, Stage, TrainingConfig
from headlens.detectors.text import Pair
from headlens.precision import wide


@dataclass(frozen=True)
class TwoStagesConfig(MethodConfig):
    """Its scores are margins.

    Args:
        tap: block after which patches are read.
        shift: standard deviation of what is added to the prompts before training.
        text_batch: images of a step of the first stage on each device.
        milestones: steps of the second stage after which its learning rate is halved.
        augmented: whether images of the second stage are mosaics, of other colours, and moved.
    """

    LEARNED: ClassVar = frozenset({"shift"})
    UNIT: ClassVar = "logit"

    tap: int = 3
    shift: float = 0.01
    text_batch: int = 2
    milestones: tuple[int, ...] = ()
    augmented: bool = False

    def learned_shapes(self, vision, text) -> dict[str, tuple[int, ...]]:
        return {"shift": (2, text.d_embed), "matrix": (vision.d_model, vision.d_embed)}


@dataclass(frozen=True)
class Kept:
    """What the second stage cannot change: ``margin`` [B] of the images, ``tokens`` {tap: [B, N, D]}."""

    margin: Tensor
    tokens: dict[int, Tensor]
    size: tuple[int, int]


class TwoStages(Detector):
    """Prompts of plain CLIP with a learned shift, and a learned projection of the patches."""

    method = "two-stages"
    config: TwoStagesConfig

    def __init__(self, backbone: Backbone, config: TwoStagesConfig | None = None, seed: int = 0) -> None:
        super().__init__(backbone, config := config or TwoStagesConfig())
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(2, backbone.text.cfg.d_embed, generator=generator)
        self.shift = nn.Parameter(config.shift * noise)
        self.matrix = nn.Parameter(wide(backbone.vision.proj).clone())
        self.plain = ensemble(backbone)

    @property
    def plan(self) -> VisionPlan:
        return VisionPlan((self.config.tap,))

    @property
    def scoring(self) -> Scoring:
        return Scoring("mean margin", sigma=0.0)

    def reading(self, images: Tensor, categories: Sequence[str] = ()) -> Reading:
        vision = self.backbone.vision
        text = F.normalize(self.plain + self.shift, dim=-1)
        taps = {self.config.tap: Readout(self.matrix, vision.ln_final)}
        return Reading(self.plan, Pair(text), taps, Readout.of(vision))

    def stages(self, training: TrainingConfig) -> Sequence[Stage]:
        def label_loss(margin: Tensor, answers: Answers) -> dict[str, Tensor]:
            return {"label": F.binary_cross_entropy_with_logits(margin, answers.labels.to(margin))}

        return (
            Stage(
                [{"params": [self.shift], "lr": 0.01, "weight_decay": 0.1}],
                see=lambda images, categories: self.margins(images, categories).image,
                loss=label_loss,
                name="text",
                optimiser="adamw",
                epochs=1,
                batch=self.config.text_batch,
            ),
            Stage(
                [{"params": [self.matrix], "lr": training.lr}],
                see=self.forward,
                loss=objective,
                weights={"pixel": 0.5},
                name="image",
                keep=None if self.config.augmented else self.keep,
                see_features=self.see_features,
                schedule=Schedule(self.config.milestones, 0.5) if self.config.milestones else None,
                augment=ALL if self.config.augmented else Augment(),
            ),
        )

    def keep(self, images: Tensor) -> Kept:
        reading = self.reading(images)
        out = self.see(images, reading)
        margin = reading.margins(reading.features(out)).image
        return Kept(margin, out.tapped, (images.shape[2], images.shape[3]))

    def see_features(self, kept: Kept, categories: Sequence[str]) -> Prediction:
        reading = self.reading(kept.margin, categories)
        features = {tap: reading.taps[tap](tokens) for tap, tokens in kept.tokens.items()}
        cls = kept.margin.new_ones(len(kept.margin), self.matrix.shape[1])  # its margin is known
        margins = reading.margins(Features(cls, features))
        return self.score(type(margins)(kept.margin, margins.taps), kept.size)


ALL = Augment(mosaic=0.3, colour=0.7, rotation=0.5, translation=0.5, flip=0.5)
KNOWN = {TwoStages.method: (TwoStages, TwoStagesConfig)}
"""What ``METHODS`` has to have."""
