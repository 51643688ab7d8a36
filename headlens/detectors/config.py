"""What a detector is made of. Every choice that HeadCLIP's abstract leaves open is a field with its alternatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

from headlens.backbone.vision import STREAMS
from headlens.errors import ConfigError

if TYPE_CHECKING:
    from typing_extensions import Self

Prompts = Literal["learned", "ensemble"]
Weighting = Literal["none", "free", "sigmoid", "softmax"]
Pool = Literal["max", "top"]


class Settings:
    """What both tables of ``config.toml`` can do; a dataclass inherits from it."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From a table of ``config.toml``.

        Raises:
            ConfigError: a field that does not exist.
        """
        known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        if unknown := [name for name in values if name not in known]:
            raise ConfigError(f"{cls.__name__} has no field {unknown[0]!r}; there are {', '.join(known)}")
        return cls(**values)

    def table(self) -> dict[str, Any]:
        """For ``config.toml``."""
        return asdict(self)  # type: ignore[call-overload]


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
        for name, known in (("prompts", Prompts), ("head_weights", Weighting), ("pool", Pool)):
            if getattr(self, name) not in get_args(known):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it can be {', '.join(get_args(known))}")
        for name in ("streams", "local_attention", "taps"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if unknown := set(self.streams) - set(STREAMS):
            raise ConfigError(f"streams: {sorted(unknown)[0]!r} does not exist; streams are {', '.join(STREAMS)}")
        limits = {
            "context": self.context >= 0,
            "deep": self.deep >= 0,
            "deep_tokens": self.deep_tokens >= 1,
            "streams": bool(self.streams),
            "taps": bool(self.taps) and len(set(self.taps)) == len(self.taps),
            "local_start": self.local_start >= -1,
            "local_attention": bool(self.local_attention) and set(self.local_attention) <= {"qq", "kk", "vv", "qk"},
            "score_pooling": 0 <= self.score_pooling <= 1,
            "temperature": self.temperature > 0,
            "sigma": self.sigma >= 0,
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
