"""KAnoCLIP (arXiv 2501.03786) as headlens reads it: its abstract names the parts, and no code has been published.

    prompts     several normal and abnormal ones, learned; a knowledge base keeps them near its sentences while they are
    patches     V-V attention beside CLIP's own, read as CLS is, in the joint space, at several levels
    patches     e <- e + |e| (Conv-Adapter of the grid + what each patch takes from the prompts)
    prompts     t <- t + the mean over levels of what each prompt takes from the patches; then of unit length
    image       CLS, with a Conv-Adapter of its own

Whatever is added has a gate that begins at 0. Nothing of the knowledge base is needed to score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.backbone import Backbone, LocalStream, VisionPlan
from headlens.detectors.detector import Detector, MethodConfig, check_blocks
from headlens.detectors.losses import image_loss, pixel_loss
from headlens.detectors.parts.conv_adapter import ConvAdapter
from headlens.detectors.parts.cross_attention import CrossAttention
from headlens.detectors.parts.distillation import Assign, Distance, Taught, distillation, taught
from headlens.detectors.parts.interaction import Interaction
from headlens.detectors.parts.prompts import LearnedPrompts, check_prompts, prompt_shapes
from headlens.detectors.parts.texts import KnownTexts
from headlens.detectors.reading import Features, Reading
from headlens.detectors.readout import Readout
from headlens.detectors.scoring import Pool, Scoring
from headlens.detectors.stages import Answers, Ends, Stage, TrainingConfig
from headlens.detectors.text import PromptSets
from headlens.errors import ConfigError
from headlens.precision import wide

if TYPE_CHECKING:
    from headlens.backbone.config import TextConfig, VisionConfig


@dataclass(frozen=True)
class KAnoCLIPConfig(MethodConfig):
    """Our reading of KAnoCLIP (arXiv 2501.03786): every value that the abstract leaves open is a setting.

    Args:
        prompt_count: number of normal prompts, and of abnormal prompts, from 1.
        context: learned tokens of each prompt, from 1.
        deep: text blocks 1..deep have their own learned tokens; 0 is shallow prompts only.
        deep_tokens: learned tokens in each of these blocks, from 1.
        reduce: how the prompts of a state become one: ``mean`` or ``max``, as in ``PromptSets``.
        base: file of a knowledge base (docs/knowledge.md); empty is the shipped base, for an embedded backbone together
            with the catalogue of its worlds. Read by training alone.
        domains: domains of the base that are used; all when empty.
        kd_weight: weight of the distillation loss, from 0; with 0 no base is read.
        kd_distance, kd_assign: between prompts and sentences, as in ``parts.distillation``.
        kd_temperature: of its softmin, 1e-6 to 1e6.
        base_sha256: fingerprint of the base that was used; set by training.
        local_start: block at which the V-V stream begins; -1: patches are read from the global stream.
        taps: distinct blocks after which patches are read, counted from 0: the levels.
        cross: which side attends to the other: ``both``, the ``patches``, the ``prompts``, or ``none``.
        cross_heads: heads of this attention, from 1; they share the channels of the joint space.
        conv: what has a Conv-Adapter: ``both``, the ``patches``, the ``image``, or ``none``.
        conv_width: channels between its two matrices, from 1.
        conv_kernel: side of its kernels in patches, odd.
        conv_act: between its matrices: ``relu`` or ``none``.
        temperature: of both softmaxes over states, and of the attention, 1e-6 to 1e6.
        matrix_lr: learning rate of matrices and kernels of attention and Conv-Adapter, from 0; prompts and gates have
            the rate of the training.
        global_weight, local_weight: of the image's cross-entropy and of the maps' focal and Dice losses, from 0.
        sigma, alpha, pool, top: as in ``Scoring``.

    Raises:
        ConfigError: a value that does not exist.

    >>> KAnoCLIPConfig(cross="none").conv
    'both'
    """

    LEARNED: ClassVar = frozenset(
        {"prompt_count", "context", "deep", "deep_tokens", "taps", "cross", "cross_heads"}
        | {"conv", "conv_width", "conv_kernel", "conv_act", "base", "domains", "base_sha256"}
        | {"kd_weight", "kd_distance", "kd_temperature", "kd_assign"}
        | {"matrix_lr", "global_weight", "local_weight"}
    )
    READING: ClassVar = frozenset({"alpha", "pool", "top", "sigma"})
    WITHOUT: ClassVar = {
        "knowledge": (
            *("kd_weight", 0.0),
            frozenset({"kd_weight", "kd_distance", "kd_temperature", "kd_assign", "base", "domains", "base_sha256"}),
        ),
        "V-V attention": ("local_start", -1, frozenset({"local_start"})),
        "cross attention": ("cross", "none", frozenset({"cross", "cross_heads"})),
        "Conv-Adapter": ("conv", "none", frozenset({"conv", "conv_width", "conv_kernel", "conv_act"})),
    }
    INSTEAD: ClassVar = {
        "pixel_weight": "global_weight and local_weight in table detector",
        "lr_heads": "no head weights",
    }

    prompt_count: int = 4
    context: int = 12
    deep: int = 8
    deep_tokens: int = 4
    reduce: Literal["mean", "max"] = "mean"
    base: str = ""
    domains: tuple[str, ...] = ()
    kd_weight: float = 1.0
    kd_distance: Distance = "cosine"
    kd_temperature: float = 0.05
    kd_assign: Assign = "both"
    base_sha256: str = ""
    local_start: int = 5
    taps: tuple[int, ...] = (5, 11, 17, 23)
    cross: Literal["both", "patches", "prompts", "none"] = "both"
    cross_heads: int = 1
    conv: Literal["both", "patches", "image", "none"] = "both"
    conv_width: int = 64
    conv_kernel: int = 3
    conv_act: Literal["relu", "none"] = "relu"
    temperature: float = 0.07
    matrix_lr: float = 1e-4
    global_weight: float = 1.0
    local_weight: float = 1.0
    sigma: float = 4.0
    alpha: float = 0.5
    pool: Pool = "max"
    top: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        least: dict[str, float] = {"prompt_count": 1, "context": 1, "deep": 0, "deep_tokens": 1, "local_start": -1}
        least |= {"cross_heads": 1, "conv_width": 1, "kd_weight": 0}
        least |= {"matrix_lr": 0, "global_weight": 0, "local_weight": 0}
        limits = {name: getattr(self, name) >= low for name, low in least.items()}
        limits |= {
            "kd_temperature": 1e-6 <= self.kd_temperature <= 1e6,
            "temperature": 1e-6 <= self.temperature <= 1e6,
            "taps": bool(self.taps) and len(set(self.taps)) == len(self.taps) and min(self.taps) >= 0,
            "conv_kernel": self.conv_kernel >= 1 and self.conv_kernel % 2 == 1,
        }
        self.check_limits(limits)
        self.scoring  # noqa: B018  # raises where its fields do not fit

    @property
    def scoring(self) -> Scoring:
        """The mean over taps of p(abnormal), smoothed, and the joint score."""
        return Scoring("mean of probabilities", self.sigma, self.alpha, self.pool, self.top)

    def has(self, field: Literal["cross", "conv"], what: str) -> bool:
        """Whether that part is there for the patches, the prompts or the image."""
        return getattr(self, field) in ("both", what)

    def check_fits(self, vision: VisionConfig, text: TextConfig, name: str) -> None:
        """Raises ConfigError for a block that does not exist, too many learned tokens, or heads that do not fit."""
        check_blocks({"taps": self.taps, "local_start": [self.local_start]}, vision, name)
        check_prompts(self.context, self.deep, self.deep_tokens, text, name)
        if self.cross != "none" and vision.d_embed % self.cross_heads:
            raise ConfigError(f"cross_heads is {self.cross_heads}: they share the {vision.d_embed} channels of {name}")

    def learned_shapes(self, vision: VisionConfig, text: TextConfig) -> dict[str, tuple[int, ...]]:
        """Of all that a detector learns, by the names in its state dict."""
        shapes = prompt_shapes(self.context, self.deep, self.deep_tokens, text, self.prompt_count)
        width, levels = vision.d_embed, len(self.taps)
        for what in ("patches", "prompts"):
            if self.has("cross", what):
                shapes |= {f"{what}_ask.{name}": (width, width) for name in ("asking", "asked", "value", "out")}
                shapes[f"{what}_ask.gate"] = (levels,)
        for what, kernel, gates in (("patches", self.conv_kernel, levels), ("image", 1, 1)):
            if self.has("conv", what):
                shapes |= {f"{what}_conv.down.weight": (self.conv_width, width), f"{what}_conv.gate": (gates,)}
                shapes |= {f"{what}_conv.up.weight": (width, self.conv_width)}
                shapes[f"{what}_conv.kernel"] = (self.conv_width, kernel, kernel)
        return shapes


@dataclass(frozen=True)
class Embedded:
    """What CLIP says of ``B`` images of ``size`` (height, width): nothing that is learned has a part in it.

    Args:
        cls: [B, d_e].
        taps: {tap: [B, N, d_e]}.
    """

    cls: Tensor
    taps: dict[int, Tensor]
    size: tuple[int, int]


@dataclass(frozen=True)
class Seen:
    """What the loss reads: margins of ``B`` images [B] and patches {tap: [B, rows, columns]}, prompts [2, P, d_e]."""

    image: Tensor
    taps: dict[int, Tensor]
    prompts: Tensor


class KAnoCLIP(Detector):
    """KAnoCLIP as headlens reads it. The backbone is frozen; what is learned stands in the joint space.

    Args:
        backbone: it stays as it is.
        config: every choice.
        seed: of the initial prompts and matrices, the same on every device.

    Raises:
        ConfigError: a config that this backbone cannot have.

    >>> from headlens.backbone import load
    >>> KAnoCLIP(load("mini"))(torch.zeros(1, 3, 56, 70)).anomaly_map.shape
    torch.Size([1, 56, 70])
    """

    method = "kanoclip"
    config: KAnoCLIPConfig

    def __init__(self, backbone: Backbone, config: KAnoCLIPConfig | None = None, seed: int = 0) -> None:
        super().__init__(backbone, config := config or KAnoCLIPConfig())
        width, levels, device = backbone.vision.cfg.d_embed, len(config.taps), self.device
        made = torch.Generator().manual_seed(seed)
        prompts = (config.context, config.deep, config.deep_tokens, seed, config.prompt_count)
        self.prompts = LearnedPrompts(backbone, *prompts)
        self.patches_ask: CrossAttention | None = None
        self.prompts_ask: CrossAttention | None = None
        self.patches_conv: ConvAdapter | None = None
        self.image_conv: ConvAdapter | None = None
        if config.has("cross", "patches"):
            self.patches_ask = CrossAttention(width, config.cross_heads, config.temperature, levels, device)
        if config.has("cross", "prompts"):
            self.prompts_ask = CrossAttention(width, config.cross_heads, config.temperature, levels, device)
        relu = config.conv_act == "relu"
        if config.has("conv", "patches"):
            sizes = (width, config.conv_width, config.conv_kernel)
            self.patches_conv = ConvAdapter(*sizes, relu, levels, made, device)
        if config.has("conv", "image"):
            self.image_conv = ConvAdapter(width, config.conv_width, 1, relu, 1, made, device)
        self._texts = KnownTexts()

    @property
    def plan(self) -> VisionPlan:
        """CLIP's own stream and the V-V stream beside it."""
        start = self.config.local_start
        return VisionPlan(self.config.taps, LocalStream(start) if start >= 0 else None)

    def reading(self, images: Tensor, categories: Sequence[str] = ()) -> Reading:
        """CLS and patches as CLIP reads them, what is added to them, and the prompts as these images change them.

        Where prompts ask patches, the images go through the tower once before they are read.
        """
        states = self._states()[0]
        reading = self._reading(states, self.backbone.vision.grid(images.shape[2], images.shape[3]))
        if self.prompts_ask is None:
            return reading
        text = self._answered(states, _tailed(reading, self._embed(images)))
        return replace(reading, text=text, follow=partial(self._answered, states))

    @property
    def scoring(self) -> Scoring:
        """As the settings say."""
        return self.config.scoring

    @property
    def about(self) -> dict[str, object]:
        """What the method says of itself, for people."""
        config = self.config
        knowledge = f"{config.base or 'shipped'}, {config.base_sha256[:12]}" if config.base_sha256 else "not taught"
        return {
            "reading": "ours: the abstract alone is known",
            "prompts": f"{config.prompt_count} normal, {config.prompt_count} abnormal, {config.reduce}",
            "knowledge": knowledge,
            "local stream": f"V-V from block {config.local_start}" if config.local_start >= 0 else "none",
            "taps": ", ".join(map(str, config.taps)),
            "cross attention": config.cross,
            "Conv-Adapter": config.conv,
            "joint score": f"{1 - config.alpha:g} image score + {config.alpha:g} {config.pool} of the map",
        }

    def text(self, things: Sequence[str] = ("object",)) -> Tensor:
        """The mean of the normal and that of the abnormal prompts for each thing, [things, 2, d_e], of unit length."""
        return F.normalize(self._states(things).mean(2), dim=-1)

    def _states(self, things: Sequence[str] = ("object",)) -> Tensor:
        """All prompts for each thing, before they ask any patch, [things, 2, P, d_e]."""
        return self._texts.of(things, lambda named: self.prompts(self.backbone, named), self.backbone, [self.prompts])

    def settled(self, ends: Ends) -> KAnoCLIPConfig:
        """The config with the fingerprint of the base that was taught."""
        return replace(self.config, base_sha256=self._taught.fingerprint) if self.config.kd_weight else self.config

    def stages(self, training: TrainingConfig) -> Sequence[Stage]:
        """One: distillation, the image's cross-entropy, and the maps' focal and Dice losses move all that is learned.

        Raises:
            DataError: a knowledge base that cannot be read, or that says nothing for these prompts.
        """
        config = self.config
        weights = {"global": config.global_weight, "local": config.local_weight}
        if config.kd_weight:
            weights["knowledge"] = config.kd_weight
            self._taught  # noqa: B018  # read before anything is trained
        fast: list[Tensor] = []
        slow: list[Tensor] = []
        for name, parameter in self.named_parameters():
            (fast if name.startswith("prompts.") or name.endswith(".gate") else slow).append(parameter)
        groups: list[dict[str, Any]] = [{"params": fast, "lr": training.lr}]
        groups += [{"params": slow, "lr": config.matrix_lr}] if slow else []
        kept: dict[str, Any] = {"keep": self._embed, "see_features": self._see_features}
        return (Stage(groups, self._see, self._loss, weights, margins=attrgetter("image"), **kept),)

    @cached_property
    def _taught(self) -> Taught:
        return taught(self.backbone, self.config.base, self.config.domains)

    @cached_property
    def _sentences(self) -> list[Tensor]:
        return self._taught.embedded(self.backbone)

    @torch.no_grad()
    def _embed(self, images: Tensor) -> Embedded:
        """Hooks see only the pass that is read with the result."""
        vision = self.backbone.vision
        readout, out = Readout.of(vision), vision(images, self.plan, hooked=False)
        taps = {tap: readout(tokens) for tap, tokens in out.tapped.items()}
        return Embedded(wide(out.embedding), taps, (images.shape[2], images.shape[3]))

    def _reading(self, states: Tensor, grid: tuple[int, int]) -> Reading:
        """With the prompts [2, P, d_e] as they are before any image."""
        config, readout = self.config, Readout.of(self.backbone.vision)
        taps, image = dict.fromkeys(config.taps, readout), readout
        if self.patches_conv is not None or self.patches_ask is not None:
            parts = (self.patches_conv, self.patches_ask, states.flatten(0, 1))
            for level, tap in enumerate(config.taps):
                taps[tap] = replace(readout, tail=Interaction(level, grid, *parts))
        if self.image_conv is not None:
            image = replace(readout, of_tower=False, tail=Interaction(0, (1, 1), self.image_conv))
        return Reading(self.plan, PromptSets(states, config.temperature, config.reduce), taps, image)

    def _answered(self, states: Tensor, features: Features) -> PromptSets:
        """Prompts [2, P, d_e] that have asked the patches of R images."""
        assert self.prompts_ask is not None
        asking, taken = states.flatten(0, 1)[None], []
        for level, tap in enumerate(self.config.taps):
            unit = F.normalize(features.taps[tap], dim=-1)
            taken.append(self.prompts_ask(asking.to(unit).expand(unit.shape[0], -1, -1), unit, level))
        answered = F.normalize(asking + torch.stack(taken).mean(0), dim=-1)  # (R, 2 P, d_e)
        return PromptSets(answered.unflatten(1, (2, -1)), self.config.temperature, self.config.reduce)

    def _see(self, images: Tensor, categories: Sequence[str] = ()) -> Seen:
        return self._see_features(self._embed(images), categories)

    def _see_features(self, seen: Embedded, categories: Sequence[str] = ()) -> Seen:
        states, grid = self._states()[0], self.backbone.vision.grid(*seen.size)
        reading = self._reading(states, grid)
        features = _tailed(reading, seen)
        if self.prompts_ask is not None:
            reading = replace(reading, text=self._answered(states, features))
        margins = reading.margins(features)
        return Seen(margins.image, {tap: flat.unflatten(1, grid) for tap, flat in margins.taps.items()}, states)

    def _loss(self, seen: Seen, answers: Answers) -> dict[str, Tensor]:
        terms = {"global": image_loss(seen.image, answers), "local": pixel_loss(seen.taps, answers)}
        if self.config.kd_weight:
            config = self.config
            settings = (config.kd_distance, config.kd_temperature, config.kd_assign)
            terms["knowledge"] = distillation(seen.prompts, self._sentences, *settings)
        return terms


def _tailed(reading: Reading, seen: Embedded) -> Features:
    """What CLIP says, as the reading changes it."""

    def changed(readout: Readout, embeddings: Tensor) -> Tensor:
        return embeddings if readout.tail is None else readout.tail(embeddings)

    taps = {tap: changed(reading.taps[tap], embeddings) for tap, embeddings in seen.taps.items()}
    return Features(changed(reading.image, seen.cls), taps)
