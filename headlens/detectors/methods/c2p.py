"""C2P-CLIP (arXiv 2408.09647): deepfakes are one more domain; a linear head on CLIP's image feature, which LoRA tunes.

    score = σ(w f + b)      f: the unit image feature of CLS; 0.5 decides
    training                cross-entropy of the score, and a contrastive loss of f with captions of the images, each
                            with a phrase that all real images share, or all generated ones

The score is as published. Training code is not: where the paper's pages say nothing, the settings are our reading.
No patch is read, and there is no anomaly map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from headlens.backbone import Backbone, VisionPlan
from headlens.detectors.detector import Detector, MethodConfig
from headlens.detectors.losses import caption_contrast, image_loss
from headlens.detectors.parts.head_weights import HeadWeights, Weighting
from headlens.detectors.parts.low_rank import LowRank, low_rank_shapes
from headlens.detectors.parts.texts import KnownTexts
from headlens.detectors.reading import Reading
from headlens.detectors.readout import Readout
from headlens.detectors.scoring import Scoring
from headlens.detectors.stages import Answers, Stage, TrainingConfig
from headlens.detectors.text import LinearHead
from headlens.precision import full_precision, wide

if TYPE_CHECKING:
    from headlens.backbone.config import TextConfig, VisionConfig

_STD = 0.02  # of the head's initial weights, as published


@dataclass(frozen=True)
class C2PConfig(MethodConfig):
    """C2P-CLIP (arXiv 2408.09647). Its training code is not published: all values but the head are our reading.

    Args:
        rank: of LoRA on the attention matrices of every image block; with 0 the tower stays as it is.
        head_lr, lora_lr: learning rates of the linear head and of LoRA.
        contrast: weight of the contrastive loss of images and captions, from 0; with 0 no text is read.
        caption: of images that come without one.
        real, generated: the phrases that are added to the captions of real and of generated images.
        temperature: of the contrastive loss, 1e-6 to 1e6.
        head_weights: how ``w[layer, head]`` of the image tower is parametrised, as in ``HeadWeights``; not C2P-CLIP's.

    Raises:
        ConfigError: a value that does not exist.

    >>> C2PConfig(rank=0).contrast
    1.0
    """

    LEARNED: ClassVar = frozenset(
        {"rank", "head_lr", "lora_lr", "contrast", "caption", "real", "generated", "temperature", "head_weights"}
    )
    WITHOUT: ClassVar = {
        "LoRA": ("rank", 0, frozenset({"rank", "lora_lr"})),
        "captions": ("contrast", 0.0, frozenset({"contrast", "caption", "real", "generated", "temperature"})),
        "head weights": ("head_weights", "none", frozenset({"head_weights", "lr_heads"})),
    }
    INSTEAD: ClassVar = {"pixel_weight": "no map", "lr": "head_lr and lora_lr in table detector"}

    rank: int = 4
    head_lr: float = 0.05
    lora_lr: float = 1e-3
    contrast: float = 1.0
    caption: str = "a photo"
    real: str = "camera"
    generated: str = "deepfake"
    temperature: float = 0.07
    head_weights: Weighting = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        limits = {
            "rank": self.rank >= 0,
            "head_lr": self.head_lr >= 0,
            "lora_lr": self.lora_lr >= 0,
            "contrast": self.contrast >= 0,
            "generated": self.generated != self.real,  # or no caption tells them apart
            "temperature": 1e-6 <= self.temperature <= 1e6,
        }
        self.check_limits(limits)

    def learned_shapes(self, vision: VisionConfig, text: TextConfig) -> dict[str, tuple[int, ...]]:
        """Of all that a detector learns, by the names in its state dict."""
        shapes: dict[str, tuple[int, ...]] = {"head.weight": (1, vision.d_embed), "head.bias": (1,)}
        if self.rank:
            shapes |= low_rank_shapes(vision, self.rank)
        if self.head_weights != "none":
            shapes["weights.raw.global"] = (vision.n_layers, vision.n_heads)
        return shapes


@dataclass(frozen=True)
class Seen:
    """What losses read of B images: features [B, d_e] of any length, and margins [B]."""

    features: Tensor
    margins: Tensor


@dataclass(frozen=True)
class Frozen:
    """CLS as an embedding [B, d_e], where training does not change it."""

    cls: Tensor


class C2PCLIP(Detector):
    """A linear head on the image feature, and LoRA in the image tower.

    Args:
        backbone: it stays as it is; ``detector.backbone`` has LoRA's changes in its image tower.
        config: every choice.
        seed: of the initial values, the same on every device.

    >>> from headlens.backbone import load
    >>> prediction = C2PCLIP(load("mini"))(torch.zeros(1, 3, 56, 70))
    >>> prediction.image_score.shape, prediction.has_map
    (torch.Size([1]), False)
    """

    method = "c2p-clip"
    decides_at = 0.5
    config: C2PConfig

    def __init__(self, backbone: Backbone, config: C2PConfig | None = None, seed: int = 0) -> None:
        super().__init__(backbone, config := config or C2PConfig())
        vision, made = backbone.vision.cfg, torch.Generator().manual_seed(seed)
        self.head = nn.Linear(vision.d_embed, 1, device=self.device)
        with torch.no_grad():
            self.head.weight.copy_(_STD * torch.randn(1, vision.d_embed, generator=made))
            self.head.bias.zero_()
        self.lora = LowRank(vision, config.rank, made, self.device) if config.rank else None
        self.weights: HeadWeights | None = None
        if config.head_weights != "none":
            grid = (vision.n_layers, vision.n_heads)
            self.weights = HeadWeights(grid, config.head_weights, ("global",), self.device)
        self._tuned: tuple[object, Backbone] | None = None
        self._texts = KnownTexts()

    @property
    def backbone(self) -> Backbone:
        """The CLIP underneath, with LoRA's changes in its image tower: made again when they have changed."""
        clip = self._backbone[0]
        if self.lora is None:
            return clip
        attention = [linear.weight for block in clip.vision.blocks for linear in (block.attn.qkv, block.attn.out)]
        made_of = tuple((w.data_ptr(), w._version) for w in (self.lora.down, self.lora.up, *attention))
        if self._tuned is None or self._tuned[0] != made_of:
            with full_precision(self.device), torch.inference_mode(False), torch.no_grad():
                self._tuned = made_of, clip.with_image_weights(self.lora.changed(clip.vision))
        return self._tuned[1]

    @property
    def plan(self) -> VisionPlan:
        """CLIP's own stream without taps, with head weights where there are any."""
        return VisionPlan(head_weights=self.head_weights())

    def reading(self, images: Tensor, categories: Sequence[str] = ()) -> Reading:
        """CLS as CLIP reads it, against the head."""
        return Reading(self.plan, self._contrast, taps={}, image=Readout.of(self.backbone.vision))

    @property
    def _contrast(self) -> LinearHead:
        return LinearHead(self.head.weight[0], self.head.bias[0])

    @property
    def scoring(self) -> Scoring:
        """The probability of the image margin."""
        return Scoring(alpha=0.0)

    @property
    def about(self) -> dict[str, object]:
        """What the method says of itself, for people."""
        config, blocks = self.config, self._backbone[0].vision.cfg.n_layers
        captions = f"weight {config.contrast:g}, {config.real!r} and {config.generated!r} (our reading)"
        return {
            "image score": "a linear head on the image feature",
            "anomaly map": "none",
            "LoRA": f"rank {config.rank}, attention of all {blocks} blocks" if config.rank else "none",
            "captions": captions if config.contrast else "none",
        }

    def head_weights(self) -> dict[str, Tensor]:
        """As ``HeadWeights`` has them, {"global": [layers, heads]}."""
        return self.weights() if self.weights is not None else {}

    def stages(self, training: TrainingConfig) -> Sequence[Stage]:
        """One, by Adam: cross-entropy moves head, LoRA and head weights; the contrastive loss all but the head."""
        groups: list[dict[str, Any]] = [{"params": list(self.head.parameters()), "lr": self.config.head_lr}]
        for part, lr in ((self.lora, self.config.lora_lr), (self.weights, training.lr_heads)):
            groups += [{"params": list(part.parameters()), "lr": lr}] if part is not None else []
        weights = {"captions": self.config.contrast}
        stage = partial(Stage, groups, self._see, self._loss, weights, margins=attrgetter("margins"))
        if len(groups) > 1:
            return (stage(),)
        return (stage(keep=self._keep, see_features=self._see_features),)

    def _see(self, images: Tensor, categories: Sequence[str] = ()) -> Seen:
        """LoRA's changes are made in the forward, so that they are differentiated."""
        vision = self._backbone[0].vision
        tuned = self.lora.changed(vision) if self.lora is not None else {}
        out = functional_call(vision, tuned, (images, self.plan), {"hooked": False})
        return self._see_features(Frozen(wide(out.embedding)))

    def _keep(self, images: Tensor) -> Frozen:
        return Frozen(wide(self._backbone[0].vision(images, self.plan, hooked=False).embedding))

    def _see_features(self, kept: Frozen, categories: Sequence[str] = ()) -> Seen:
        return Seen(kept.cls, self._contrast.margin(kept.cls))

    def _loss(self, seen: Seen, answers: Answers) -> dict[str, Tensor]:
        terms, config = {"image": image_loss(seen.margins, answers)}, self.config
        known = (answers.labels >= 0).nonzero().flatten().tolist()
        if not config.contrast or (self.lora is None and self.weights is None):  # there is nothing that it could move
            return terms
        phrases, captions = (config.real, config.generated), answers.captions or [""] * len(answers.labels)
        said = [f"{captions[i] or config.caption}, {phrases[int(answers.labels[i])]}" for i in known]
        different = list(dict.fromkeys(said))
        which = torch.tensor([different.index(sentence) for sentence in said], device=seen.features.device)
        embedded = self._texts.of(different, self._encoded, self._backbone[0])
        features = F.normalize(seen.features[known], dim=-1)
        return terms | {"captions": caption_contrast(features, embedded, which, config.temperature)}

    def _encoded(self, sentences: Sequence[str]) -> Tensor:
        return self.encode_text(self._backbone[0].tokenizer(list(sentences)))
