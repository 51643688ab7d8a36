"""HeadCLIP (arXiv 2505.22259), and by its config AnomalyCLIP (arXiv 2310.18961), plain CLIP, and Crane's pooling.

Learnable prompts in the text tower, a learnable weight for every attention head of the image tower, and a joint score
that lets the anomaly map decide at image level, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.backbone import Backbone, LocalStream, VisionPlan
from headlens.backbone.plan import STREAMS
from headlens.detectors.detector import Detector, MethodConfig, check_blocks
from headlens.detectors.losses import image_margin, objective
from headlens.detectors.methods.headclip_features import LocalParts, assemble, local_parts
from headlens.detectors.parts.ensemble import FINDINGS, ensemble
from headlens.detectors.parts.head_weights import HeadWeights, Weighting
from headlens.detectors.parts.prompts import LearnedPrompts, check_prompts, prompt_shapes
from headlens.detectors.parts.texts import KnownTexts
from headlens.detectors.pooling import CLSToken, ScorePooled
from headlens.detectors.reading import Reading
from headlens.detectors.readout import Readout
from headlens.detectors.scoring import Pool, Prediction, Scoring
from headlens.detectors.stages import Stage, TrainingConfig
from headlens.detectors.text import Pair
from headlens.errors import ConfigError

if TYPE_CHECKING:
    from headlens.backbone.config import TextConfig, VisionConfig

Prompts = Literal["learned", "ensemble"]


@dataclass(frozen=True)
class HeadCLIPConfig(MethodConfig):
    """HeadCLIP (arXiv 2505.22259) as headlens reads it: the paper's abstract fixes the ideas, not these values.

    Args:
        prompts: ``learned`` context before ``object`` and ``damaged object``, or a fixed ``ensemble`` of sentences.
        class_aware: the category's name in place of ``object``.
        findings: of the sentences ``There is <finding>.``, whose mean is abnormal, and ``There is no finding.``, in
            place of those about objects (OFF-CLIP, arXiv 2503.01794); none by default.
        context: learned tokens of each of the two prompts, from 0.
        deep: text blocks 1..deep have their own learned tokens; 0 is shallow prompts only.
        deep_tokens: learned tokens in each of these blocks, from 1.
        head_weights: how ``w[stream, layer, head]`` is parametrised, as in ``HeadWeights``; ``none``: not at all.
        streams: the weighted streams, each once: ``local``, ``global`` or both.
        local_start: block at which the local stream begins; -1: patches are read from the global stream.
        local_attention: what attends to what in it: any of ``qq``, ``kk``, ``vv``, ``qk``, whose softmaxes are summed.
        taps: distinct blocks after which patches are read, counted from 0.
        cls_norm: False leaves ``ln_post`` out for CLS, as AnomalyCLIP's published code does.
        score_pooling: share of the patches' mean, weighted by their anomaly, in the image feature next to CLS (Crane),
            0 to 1.
        temperature: of both softmaxes, 1e-6 to 1e6.
        sigma, alpha, pool, top: as in ``Scoring``; sigma is 0 to 518, alpha 0 to 1, top above 0 and up to 1.

    Raises:
        ConfigError: a value that does not exist.

    >>> HeadCLIPConfig(alpha=0.25).taps
    (5, 11, 17, 23)
    """

    LEARNED: ClassVar = frozenset(
        {"prompts", "context", "deep", "deep_tokens", "head_weights", "streams", "class_aware"} | {"findings"}
    )
    READING: ClassVar = frozenset({"alpha", "pool", "top", "sigma"})
    WITHOUT: ClassVar = {
        "head weights": ("head_weights", "none", frozenset({"head_weights", "streams", "lr_heads"})),
        "deep prompts": ("deep", 0, frozenset({"deep", "deep_tokens"})),
    }

    prompts: Prompts = "learned"
    class_aware: bool = False
    findings: tuple[str, ...] = ()
    context: int = 12
    deep: int = 8
    deep_tokens: int = 4
    head_weights: Weighting = "free"
    streams: tuple[str, ...] = ("local",)
    local_start: int = 5
    local_attention: tuple[str, ...] = ("vv",)
    taps: tuple[int, ...] = (5, 11, 17, 23)
    cls_norm: bool = True
    score_pooling: float = 0.0
    temperature: float = 0.07
    sigma: float = 4.0
    alpha: float = 0.5
    pool: Pool = "max"
    top: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := set(self.streams) - set(STREAMS):
            raise ConfigError(f"streams: {sorted(unknown)[0]!r} does not exist; streams are {', '.join(STREAMS)}")
        limits = {
            "findings": not self.findings or (all(map(str.strip, self.findings)) and not self.class_aware),
            "context": self.context >= 0,
            "deep": self.deep >= 0,
            "deep_tokens": self.deep_tokens >= 1,
            "streams": bool(self.streams) and len(set(self.streams)) == len(self.streams),
            "taps": bool(self.taps) and len(set(self.taps)) == len(self.taps) and min(self.taps) >= 0,
            "local_start": self.local_start >= -1,
            "local_attention": bool(self.local_attention) and set(self.local_attention) <= {"qq", "kk", "vv", "qk"},
            "score_pooling": 0 <= self.score_pooling <= 1,
            "temperature": 1e-6 <= self.temperature <= 1e6,
            "sigma": 0 <= self.sigma <= 518,
            "alpha": 0 <= self.alpha <= 1,
            "top": 0 < self.top <= 1,
        }
        self.check_limits(limits)
        if self.head_weights != "none" and "local" in self.streams and self.local_start < 0:
            raise ConfigError("streams has 'local', but local_start=-1 says that there is no local stream")

    def check_fits(self, vision: VisionConfig, text: TextConfig, name: str) -> None:
        """Raises ConfigError for a block that does not exist, or more learned tokens than the text tower reads."""
        check_blocks({"taps": self.taps, "local_start": [self.local_start]}, vision, name)
        if self.prompts == "learned":
            check_prompts(self.context, self.deep, self.deep_tokens, text, name)

    def learned_shapes(self, vision: VisionConfig, text: TextConfig) -> dict[str, tuple[int, ...]]:
        """Of all that a detector learns, by the names in its state dict."""
        shapes: dict[str, tuple[int, ...]] = {}
        if self.prompts == "learned":
            shapes |= prompt_shapes(self.context, self.deep, self.deep_tokens, text)
        if self.head_weights != "none":
            shapes |= {f"weights.raw.{stream}": (vision.n_layers, vision.n_heads) for stream in self.streams}
        return shapes


class HeadCLIP(Detector):
    """HeadCLIP, and by its config AnomalyCLIP and plain CLIP. The backbone is frozen; only what is learned has state.

    Args:
        backbone: it stays as it is.
        config: every choice.
        seed: of the initial prompts.

    Raises:
        ConfigError: a config that this backbone cannot have: a tap or a text block that does not exist.

    >>> from headlens.backbone import load
    >>> from headlens.detectors import HeadCLIP
    >>> detector = HeadCLIP(load("mini"))
    >>> detector(torch.zeros(1, 3, 56, 70)).anomaly_map.shape
    torch.Size([1, 56, 70])
    """

    method = "headclip"
    config: HeadCLIPConfig

    def __init__(self, backbone: Backbone, config: HeadCLIPConfig | None = None, seed: int = 0) -> None:
        super().__init__(backbone, config := config or HeadCLIPConfig())
        vision = backbone.vision.cfg
        self.prompts = self.weights = None
        if config.prompts == "learned":
            self.prompts = LearnedPrompts(backbone, config.context, config.deep, config.deep_tokens, seed)
        if config.head_weights != "none":
            grid = (vision.n_layers, vision.n_heads)
            self.weights = HeadWeights(grid, config.head_weights, config.streams, self.device)
        self._texts = KnownTexts()

    @property
    def plan(self) -> VisionPlan:
        """Both streams, the taps and the head weights."""
        config = self.config
        local = LocalStream(config.local_start, config.local_attention) if config.local_start >= 0 else None
        return VisionPlan(config.taps, local, self.head_weights())

    def reading(self, images: Tensor, categories: Sequence[str] = ()) -> Reading:
        """Both streams, the two prompts, and CLS or Crane's pooling."""
        config, vision = self.config, self.backbone.vision
        patches = Readout.of(vision)
        return Reading(
            self.plan,
            Pair(self.text_of(categories or ["object"] * len(images)), config.temperature),
            taps=dict.fromkeys(config.taps, patches),
            image=Readout.of(vision, config.cls_norm),
            pooling=ScorePooled(config.score_pooling) if config.score_pooling else CLSToken(),
        )

    @property
    def scoring(self) -> Scoring:
        """The mean over taps of p(abnormal), smoothed, and the joint score."""
        config = self.config
        return Scoring("mean of probabilities", config.sigma, config.alpha, config.pool, config.top)

    def stages(self, training: TrainingConfig) -> Sequence[Stage]:
        """One: AnomalyCLIP's losses move prompts and head weights by Adam."""
        parts = ((self.prompts, training.lr), (self.weights, training.lr_heads))
        groups = [{"params": list(part.parameters()), "lr": lr} for part, lr in parts if part is not None]
        if not any(group["params"] for group in groups):
            return ()
        weights, stage = (
            {"pixel": training.pixel_weight},
            partial(Stage, groups, self.forward, objective, margins=image_margin),
        )
        if self.weights is not None and "global" in self.config.streams:
            return (stage(weights),)
        return (stage(weights, keep=self._keep, see_features=self._see_features),)

    @property
    def about(self) -> dict[str, object]:
        """What the method says of itself, for people."""
        config = self.config
        return {
            "prompts": config.prompts,
            "local stream": f"from block {config.local_start}" if config.local_start >= 0 else "none",
            "taps": ", ".join(map(str, config.taps)),
            "joint score": f"{1 - config.alpha:g} image score + {config.alpha:g} {config.pool} of the map",
        }

    def head_weights(self) -> dict[str, Tensor]:
        """As ``HeadWeights`` has them, {stream: [layers, heads]}."""
        return self.weights() if self.weights is not None else {}

    def text(self, things: Sequence[str] = ("object",)) -> Tensor:
        """The normal and the abnormal embedding for each thing, [things, 2, d_e], of unit length."""
        parts = [self.prompts] if self.prompts is not None else []
        return self._texts.of(things, self._text, self.backbone, parts)

    def _text(self, things: Sequence[str]) -> Tensor:
        findings = list(self.config.findings)
        if self.prompts is None:
            if findings:
                return ensemble(self.backbone, findings, FINDINGS).expand(len(things), -1, -1)
            return torch.stack([ensemble(self.backbone, [thing]) for thing in things])
        if findings:
            pairs = self.prompts(self.backbone, findings, sentences=FINDINGS)[:, :, 0]
            return F.normalize(pairs.mean(0), dim=-1).expand(len(things), -1, -1)
        return self.prompts(self.backbone, things)[:, :, 0]

    def text_of(self, categories: Sequence[str]) -> Tensor:
        """The embeddings for images of ``categories``: [2, d_e], or [B, 2, d_e] where the config is class-aware."""
        if not self.config.class_aware:
            return self.text()[0]
        return self.text([category.replace("_", " ") for category in categories])

    def _keep(self, images: Tensor) -> LocalParts:
        return local_parts(self.backbone.vision, self.reading(images), images)

    def _see_features(self, parts: LocalParts, categories: Sequence[str]) -> Prediction:
        reading = self.reading(parts.cls, categories)
        features = assemble(self.backbone.vision, reading, parts)
        return self.score(reading.margins(features), parts.size)
