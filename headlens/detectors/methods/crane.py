"""Crane (arXiv 2504.11055): prompts that are shown the image, patches by three kinds of attention, pooled by anomaly.

    patches          a second stream from ``local_start`` on: softmax(qqᵀ) + softmax(kkᵀ) + softmax(vvᵀ)       (E-Attn)
    image feature    half of it CLS, half of it the patches' mean, weighted by their anomaly
    prompts          [V1]..[Vn] [image] object.   and   [W1]..[Wn] [image] damaged object.

Crane+ has a second copy of each patch, whose heads attend by the similarities of a second network, such as DINOv2
(D-Attn): ``Crane(…, second=network)``, or ``detector.with_second(network)``.

``[image]`` is CLIP's unit embedding of the image, one more token of context. In training the prompts are shown it; at
test its authors leave it out, so that the text is the same for all images, unless ``conditioned`` says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.backbone import Backbone, LocalStream, VisionPlan
from headlens.detectors.detector import Detector, MethodConfig, check_blocks
from headlens.detectors.losses import abnormal_dice, image_loss, pixel_loss
from headlens.detectors.parts.ensemble import ensemble
from headlens.detectors.parts.prompts import LearnedPrompts, check_prompts, prompt_shapes
from headlens.detectors.parts.second_network import GivenAttention, PatchNetwork, affinity
from headlens.detectors.parts.texts import KnownTexts
from headlens.detectors.pooling import CLSToken, ScorePooled
from headlens.detectors.reading import Features, Reading
from headlens.detectors.readout import Readout
from headlens.detectors.scoring import Pool, Scoring
from headlens.detectors.stages import Answers, Stage, TrainingConfig
from headlens.detectors.text import Pair
from headlens.errors import ConfigError
from headlens.precision import wide

if TYPE_CHECKING:
    from typing_extensions import Self

    from headlens.backbone.config import TextConfig, VisionConfig


@dataclass(frozen=True)
class CraneConfig(MethodConfig):
    """Crane (arXiv 2504.11055) with the values of its code.

    Args:
        prompts: ``learned``, or a fixed ``ensemble`` of sentences, with which nothing is left to train.
        context, deep, deep_tokens: of learned prompts, as in ``HeadCLIPConfig``.
        conditioned: prompts are shown the image when it is scored, too; its authors do not by default.
        train_conditioned: they are shown it in training.
        local_start: block at which the second stream begins; -1: patches are read from the global stream.
        local_attention: what attends to what in it: any of ``qq``, ``kk``, ``vv``, ``qk``, whose softmaxes are summed.
        second: the second network is read, too (Crane+); no run folder has it in it.
        taps: distinct blocks after which patches are read, counted from 0. The authors name four; what their code reads
            is the last block, four times.
        score_pooling: share of the patches in the image feature, 0 to 1; the rest is CLS.
        temperature: of the softmaxes of scores, and of the maps in training, 1e-6 to 1e6.
        image_temperature: of the image in training, 1e-6 to 1e6.
        pixel_weight: of the focal and the Dice loss of each tap. With the last block four times it is 8.
        image_weight: of the cross-entropy of the image.
        betas: of Adam, each from 0 and below 1.
        sigma, alpha, pool, top: as in ``Scoring``.

    Raises:
        ConfigError: a value that does not exist.

    >>> CraneConfig(conditioned=True).taps
    (23,)
    """

    LEARNED: ClassVar = frozenset(
        {"prompts", "context", "deep", "deep_tokens", "train_conditioned", "image_temperature", "pixel_weight"}
        | {"image_weight", "betas"}
    )
    READING: ClassVar = frozenset({"alpha", "pool", "top", "sigma", "conditioned"})
    WITHOUT: ClassVar = {
        "the image in prompts": ("train_conditioned", False, frozenset({"train_conditioned"})),
        "score pooling": ("score_pooling", 0.0, frozenset({"score_pooling"})),
        "deep prompts": ("deep", 0, frozenset({"deep", "deep_tokens"})),
    }
    INSTEAD: ClassVar = {"pixel_weight": "pixel_weight in table detector", "betas": "betas in table detector"}

    prompts: Literal["learned", "ensemble"] = "learned"
    context: int = 12
    deep: int = 8
    deep_tokens: int = 4
    conditioned: bool = False
    train_conditioned: bool = True
    local_start: int = 5
    local_attention: tuple[str, ...] = ("qq", "kk", "vv")
    second: bool = False
    taps: tuple[int, ...] = (23,)
    score_pooling: float = 0.5
    temperature: float = 0.07
    image_temperature: float = 0.01
    pixel_weight: float = 2.0
    image_weight: float = 0.2
    betas: tuple[float, float] = (0.6, 0.999)
    sigma: float = 4.0
    alpha: float = 0.0
    pool: Pool = "max"
    top: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        limits = {
            "context": self.context >= 0,
            "deep": self.deep >= 0,
            "deep_tokens": self.deep_tokens >= 1,
            "conditioned": not self.conditioned or self.prompts == "learned",
            "local_start": self.local_start >= -1,
            "local_attention": bool(self.local_attention) and set(self.local_attention) <= {"qq", "kk", "vv", "qk"},
            "second": not self.second or (len(self.taps) == 1 and 0 <= self.local_start <= self.taps[0]),
            "taps": bool(self.taps) and len(set(self.taps)) == len(self.taps) and min(self.taps) >= 0,
            "score_pooling": 0 <= self.score_pooling <= 1,
            "temperature": 1e-6 <= self.temperature <= 1e6,
            "image_temperature": 1e-6 <= self.image_temperature <= 1e6,
            "pixel_weight": self.pixel_weight >= 0,
            "image_weight": self.image_weight >= 0,
            "betas": all(0 <= beta < 1 for beta in self.betas),
        }
        self.check_limits(limits)
        self.scoring  # noqa: B018  # raises where its fields do not fit

    @property
    def scoring(self) -> Scoring:
        """The mean over taps, and over both copies of a patch, of p(abnormal), smoothed, and the joint score."""
        return Scoring(sigma=self.sigma, alpha=self.alpha, pool=self.pool, top=self.top, copies=1 + self.second)

    def check_fits(self, vision: VisionConfig, text: TextConfig, name: str) -> None:
        """Raises ConfigError for a block that does not exist, or more learned tokens than the text tower reads."""
        check_blocks({"taps": self.taps, "local_start": [self.local_start]}, vision, name)
        if self.prompts == "learned":
            check_prompts(self.context, self.deep, self.deep_tokens, text, name, shown=1)
        if self.conditioned:
            check_widths(vision.d_embed, text.d_model, name, "conditioned")

    def learned_shapes(self, vision: VisionConfig, text: TextConfig) -> dict[str, tuple[int, ...]]:
        """Of all that a detector learns, by the names in its state dict."""
        learned = self.prompts == "learned"
        return prompt_shapes(self.context, self.deep, self.deep_tokens, text) if learned else {}


def check_widths(embedding: int, text: int, name: str, field: str) -> None:
    """Raises ConfigError where an image's embedding is no token of the text tower of the backbone ``name``."""
    if embedding != text:
        raise ConfigError(
            f"{field}: {name} embeds images in {embedding} numbers, but its text tower reads tokens of {text}: its "
            f"prompts cannot be shown an image; set {field} = false"
        )


@dataclass(frozen=True)
class Embedded:
    """What training does not change of B images: embeddings of CLS and of the patches, and the grid of these."""

    cls: Tensor  # [B, d_e]
    taps: dict[int, Tensor]  # {tap: [B, N, d_e]}
    grid: tuple[int, int]


@dataclass(frozen=True)
class Seen:
    """What losses read of B images: the margins of the image [B], and of patches as maps [B, rows, columns]."""

    image: Tensor
    maps: dict[int, Tensor]


class Crane(Detector):
    """Learned prompts, shown the image or not, on a frozen backbone.

    Args:
        backbone: it stays as it is.
        config: every choice.
        seed: of the initial prompts.
        second: the second network of Crane+, where images are; it stays as it is.

    Raises:
        ConfigError: a config that this backbone cannot have.

    >>> from headlens.backbone import load
    >>> Crane(load("mini"), CraneConfig(conditioned=True))(torch.zeros(1, 3, 56, 70)).anomaly_map.shape
    torch.Size([1, 56, 70])
    """

    method = "crane"
    config: CraneConfig

    def __init__(
        self,
        backbone: Backbone,
        config: CraneConfig | None = None,
        seed: int = 0,
        second: PatchNetwork | None = None,
    ) -> None:
        super().__init__(backbone, config := config or CraneConfig())
        self._second = [second]  # in a list: its weights are not this module's state
        self.prompts: LearnedPrompts | None = None
        if config.prompts == "learned":
            self.prompts = LearnedPrompts(backbone, config.context, config.deep, config.deep_tokens, seed)
        self._texts = KnownTexts()

    @property
    def plan(self) -> VisionPlan:
        """CLIP's own stream, and the second one beside it; what a second network adds depends on the images."""
        config = self.config
        local = LocalStream(config.local_start, config.local_attention) if config.local_start >= 0 else None
        return VisionPlan(config.taps, local)

    def _plan(self, images: Tensor) -> VisionPlan:
        """The same with the second copy of each patch, where there is one."""
        plan, (network,) = self.plan, self._second
        if not self.config.second or plan.local is None:
            return plan
        if network is None:
            raise ConfigError(
                "second = true, but there is no second network: detector.with_second(network) gives it one, such as "
                "DINOv2, or second = false leaves it out"
            )
        grid = self.backbone.vision.grid(images.shape[2], images.shape[3])
        more = GivenAttention(affinity(network, images, grid))
        return replace(plan, local=replace(plan.local, more=more))

    def with_second(self, network: PatchNetwork) -> Self:
        """The same with a second network, as Crane+ has one."""
        other = self.with_config(second=True)
        other._second = [network]
        return other

    def on(self, backbone: Backbone, config: MethodConfig | None = None) -> Self:
        """As of every detector, with the same second network."""
        other = super().on(backbone, config)
        other._second = self._second
        return other

    def reading(self, images: Tensor, categories: Sequence[str] = ()) -> Reading:
        """The same text for all images, or that of each, which follows its CLS where that is asked for."""
        plan = self._plan(images)
        if not self.config.conditioned:
            return self._reading(plan, self.text()[0])
        with torch.no_grad():  # hooks see only the pass that is then read with this text
            seen = self.backbone.vision(images, VisionPlan(), hooked=False)
        return replace(self._reading(plan, self.shown(wide(seen.embedding))), follow=self._followed)

    def _reading(self, plan: VisionPlan, text: Tensor) -> Reading:
        config, readout = self.config, Readout.of(self.backbone.vision)
        return Reading(
            plan,
            Pair(text, config.temperature),
            taps=dict.fromkeys(config.taps, readout),
            image=readout,
            pooling=ScorePooled(config.score_pooling, 1 + config.second) if config.score_pooling else CLSToken(),
            beforehand=("features of the second network",) if config.second else (),
        )

    def _followed(self, features: Features) -> Pair:
        """The text of images with these features."""
        return Pair(self.shown(features.cls), self.config.temperature)

    @property
    def scoring(self) -> Scoring:
        """As the settings say."""
        return self.config.scoring

    def stages(self, training: TrainingConfig) -> Sequence[Stage]:
        """One: the losses of the image and of every tap's map move the prompts by Adam.

        Raises:
            ConfigError: prompts cannot be shown an image: the text tower is of another width than the joint space.
        """
        config, backbone = self.config, self.backbone
        if self.prompts is None:
            return ()
        if config.train_conditioned:
            widths = (backbone.vision.cfg.d_embed, backbone.text.cfg.d_model)
            check_widths(*widths, backbone.provenance.name, "train_conditioned")
        groups = [{"params": list(self.prompts.parameters()), "lr": training.lr, "betas": config.betas}]
        weights = {"image": config.image_weight, "pixel": config.pixel_weight}
        stage = partial(Stage, groups, lambda images, categories: self._see(self._keep(images), categories), self._loss)
        return (stage(weights, keep=self._keep, see_features=self._see, margins=attrgetter("image")),)

    @property
    def about(self) -> dict[str, object]:
        """What the method says of itself, for people."""
        config = self.config
        joint = f"{1 - config.alpha:g} image score + {config.alpha:g} {config.pool} of the map"
        return {
            "prompts": f"{config.prompts}, of {'the image' if config.conditioned else 'an object'}",
            "local stream": f"from block {config.local_start}" if config.local_start >= 0 else "none",
            "second network": "read" if config.second else "none",
            "taps": ", ".join(map(str, config.taps)),
            "image feature": f"{1 - config.score_pooling:g} CLS + {config.score_pooling:g} anomalous patches",
            "joint score": joint if config.alpha else "the image score",
        }

    def text(self, things: Sequence[str] = ("object",)) -> Tensor:
        """The normal and the abnormal embedding for each thing, [things, 2, d_e], of unit length; no image is shown."""
        return self._texts.of(things, self._text, self.backbone, [self.prompts] if self.prompts is not None else [])

    def _text(self, things: Sequence[str]) -> Tensor:
        if self.prompts is not None:
            return self.prompts(self.backbone, things)[:, :, 0]
        return torch.stack([ensemble(self.backbone, [thing]) for thing in things])

    def shown(self, images: Tensor) -> Tensor:
        """The normal and the abnormal embedding of each image, [B, 2, d_e], of unit length.

        Args:
            images: their embeddings, [B, d_e], of any length.
        """
        assert self.prompts is not None
        return self.prompts(self.backbone, ["object"] * len(images), F.normalize(images, dim=-1))[:, :, 0]

    def _keep(self, images: Tensor) -> Embedded:
        vision, readout = self.backbone.vision, Readout.of(self.backbone.vision)
        out = vision(images, self._plan(images), hooked=vision.must_call_hooks())
        patches = {tap: readout(tokens) for tap, tokens in out.tapped.items()}
        return Embedded(wide(out.embedding), patches, vision.grid(images.shape[2], images.shape[3]))

    def _see(self, embedded: Embedded, categories: Sequence[str]) -> Seen:
        text = self.shown(embedded.cls) if self.config.train_conditioned else self.text()[0]
        margins = self._reading(self.plan, text).margins(Features(embedded.cls, embedded.taps))
        # Each copy of the patches makes a map of its own, which counts as a tap.
        maps = [flat for both in margins.taps.values() for flat in both.chunk(1 + self.config.second, 1)]
        return Seen(margins.image, {number: flat.unflatten(1, embedded.grid) for number, flat in enumerate(maps)})

    def _loss(self, seen: Seen, answers: Answers) -> dict[str, Tensor]:
        sharper = self.config.temperature / self.config.image_temperature
        return {
            "image": image_loss(sharper * seen.image, answers),
            "pixel": pixel_loss(seen.maps, answers, mode="nearest", dice=abnormal_dice),
        }
