"""What a detector is made of. Every choice that HeadCLIP's abstract leaves open is a field with its alternatives."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from headlens.backbone.vision import STREAMS
from headlens.detectors.settings import Settings
from headlens.errors import ConfigError

if TYPE_CHECKING:
    from headlens.backbone.config import TextConfig, VisionConfig

Prompts = Literal["learned", "ensemble"]
Weighting = Literal["none", "free", "sigmoid", "softmax"]
Pool = Literal["max", "top"]


@dataclass(frozen=True)
class DetectorConfig(Settings):
    """HeadCLIP (arXiv 2505.22259) as headlens reads it: the paper's abstract fixes the ideas, not these values.

    Args:
        prompts: ``learned`` context before ``object`` and ``damaged object``, or a fixed ``ensemble`` of sentences.
        class_aware: the category's name in place of ``object``.
        context: learned tokens of each of the two prompts.
        deep: text blocks 1..deep have learned tokens of their own; 0 is shallow prompts only.
        deep_tokens: how many each.
        head_weights: how ``w[stream, layer, head]`` is parametrised: not at all, ``free``, ``sigmoid`` (2σ(a)), or
            ``softmax`` (H softmax(a) over the heads of a layer). All begin at 1.
        streams: those that are weighted.
        local_start: block at which the local stream begins; -1: patches are read from the global stream.
        local_attention: what attends to what in it: any of ``qq``, ``kk``, ``vv``, ``qk``, whose softmaxes are summed.
        taps: blocks after which patches are read, counted from 0.
        cls_norm: False leaves ``ln_post`` out for CLS, as AnomalyCLIP's published code does.
        score_pooling: share of the patches' mean, weighted by their anomaly, in the image feature beside CLS (Crane).
        temperature: of both softmaxes.
        sigma: of the Gaussian on maps, in pixels at 518 px, and in proportion elsewhere.
        alpha: share of the map in the joint score; 0 is the image score.
        pool: the map's ``max``, or the mean of its ``top`` fraction.
        top: that fraction.

    Raises:
        ConfigError: a value that does not exist.

    >>> preset("anomalyclip").head_weights
    'none'
    """

    prompts: Prompts = "learned"
    class_aware: bool = False
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
        for name, fits in limits.items():
            if not fits:
                raise ConfigError(f"{name} is {getattr(self, name)!r}, which makes no detector; see DetectorConfig")
        if self.head_weights != "none" and "local" in self.streams and self.local_start < 0:
            raise ConfigError("streams has 'local', but local_start=-1 says that there is no local stream")


_HEADCLIP = DetectorConfig()
_ANOMALYCLIP = replace(_HEADCLIP, head_weights="none", alpha=0.0)
PRESETS = {
    "headclip": _HEADCLIP,
    "anomalyclip": _ANOMALYCLIP,
    "anomalyclip-published": replace(_ANOMALYCLIP, taps=(23,), cls_norm=False),
    "crane": replace(_ANOMALYCLIP, taps=(23,), local_attention=("qq", "kk", "vv"), score_pooling=0.5),
    "clip": replace(_ANOMALYCLIP, prompts="ensemble"),
}
"""HeadCLIP; HeadCLIP without head weights and joint score, which is AnomalyCLIP (arXiv 2310.18961) with several taps;
AnomalyCLIP as its scripts run it, last tap and CLS without ln_post; Crane (arXiv 2504.11055) without its second
backbone, whose scripts name four taps, but all of them show the last one; and CLIP with hand-written prompts."""


def preset(name: str, **changes: Any) -> DetectorConfig:
    """One of ``PRESETS``, with fields changed.

    Raises:
        ConfigError: an unknown preset or field.
    """
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
    return DetectorConfig.of(PRESETS[name].table() | changes)


LARGEST = 16
"""Times the side that a backbone was made for: no larger image is scored. A wrong number is larger by far."""


def check_fits(config: DetectorConfig, vision: VisionConfig, text: TextConfig, name: str) -> None:
    """Before anything is made: whether the backbone ``name`` with these towers can have that detector.

    Raises:
        ConfigError: a block that does not exist, or more learned tokens than the text tower reads.
    """
    if beyond := [block for block in (*config.taps, config.local_start) if block >= vision.n_layers]:
        raise ConfigError(f"block {beyond[0]} does not exist: {name} has {vision.n_layers}")
    if config.prompts != "learned":
        return
    if config.context > text.n_ctx - 3:  # the start, a word and the end are read, too
        raise ConfigError(f"context is {config.context}, but the text tower of {name} reads {text.n_ctx} tokens in all")
    if config.deep >= text.n_layers:
        raise ConfigError(
            f"deep is {config.deep}, but the text tower has blocks 0..{text.n_layers - 1}, and 0 takes none"
        )
    if config.deep and config.deep_tokens > config.context:
        raise ConfigError(
            f"deep_tokens is {config.deep_tokens}: they overwrite context, which has {config.context} tokens"
        )


def check_size(size: int, vision: VisionConfig, what: str = "size") -> None:
    """Raises ConfigError for images smaller than a patch, or much larger than the backbone was made for."""
    least, most = vision.patch_size, LARGEST * max(vision.image_size)
    if not least <= size <= most:
        raise ConfigError(f"{what} is {size}: images have {least} px, one patch, to {most} px along a side")


def learned_shapes(config: DetectorConfig, vision: VisionConfig, text: TextConfig) -> dict[str, tuple[int, ...]]:
    """Of all that a detector learns, by the names in its state dict."""
    shapes: dict[str, tuple[int, ...]] = {}
    if config.prompts == "learned":
        shapes["prompts.context"] = (2, config.context, text.d_model)
        shapes |= {f"prompts.deep.{block}": (config.deep_tokens, text.d_model) for block in range(config.deep)}
    if config.head_weights != "none":
        shapes |= {f"weights.raw.{stream}": (vision.n_layers, vision.n_heads) for stream in config.streams}
    return shapes
