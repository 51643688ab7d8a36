"""WinCLIP, zero-shot (arXiv 2303.14814): CLIP reads the image, and every small window of it by itself.

    margin of a window    <u, e / |e|> / 0.07      e: its CLS, that only met the patches of the window
    anomaly map           at each patch the harmonic mean of σ(margins) of the windows that cover it; then of both sizes
                          of windows, and of the image
    image score           CLIP's own: CLS of the whole image against the prompts

Nothing is trained. An image is several hundred short passes, which stand one behind the other in its stream: ablating a
head takes it away in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor

from headlens.backbone import Backbone, VisionPlan
from headlens.detectors.detector import Detector, MethodConfig
from headlens.detectors.parts.ensemble import Wording, ensembles
from headlens.detectors.parts.texts import KnownTexts
from headlens.detectors.reading import Reading
from headlens.detectors.readout import Readout
from headlens.detectors.scoring import Pool, Scoring
from headlens.detectors.text import Pair
from headlens.errors import ConfigError
from headlens.maps import windows
from headlens.precision import wide

if TYPE_CHECKING:
    from headlens.backbone.config import TextConfig, VisionConfig

_ABNORMAL = ("damaged {}", "{} with flaw", "{} with defect", "{} with damage")
_PHOTOS = tuple(
    f"a {look}photo of {article} {thing}."
    for article in ("a", "the")
    for look, thing in (
        *((f"{look} ", "{}") for look in ("cropped", "close-up", "bright", "dark", "jpeg corrupted", "blurry")),
        *(("", thing) for thing in ("{}", "small {}", "large {}")),
        *(("", f"{{}} for {aim}") for aim in ("visual inspection", "anomaly detection")),
    )
)
_TWICE = "a jpeg corrupted photo of the {}."
_LEFT_OUT = ("a cropped photo of a {}.", "a jpeg corrupted photo of a {}.")
TEMPLATES = {"both": _PHOTOS, "anomalib": (*(photo for photo in _PHOTOS if photo not in _LEFT_OUT), _TWICE)}


@dataclass(frozen=True)
class WinCLIPConfig(MethodConfig):
    """WinCLIP (arXiv 2303.14814), zero-shot; where implementations differ, a switch.

    Args:
        windows: their sides in patches, distinct and from 1; without any, patches are read as CLIP reads them.
        class_aware: the category in the prompts, as it is written; ``object`` for every image without.
        templates: all 11 sentences with ``both`` articles; or the 21 of ``anomalib``, of which two are the same.
        unit_sentences: their embeddings are of unit length before they are averaged.
        temperature: of both softmaxes, 1e-6 to 1e6.
        with_image: the image's score is the third in the harmonic mean over sizes.
        of_normal: harmonic means are of the probability of normal, and the map is what they leave of 1.
        sigma, alpha, pool, top: as in ``Scoring``; the authors do not smooth, and their image score is that of CLS.

    Raises:
        ConfigError: a value that does not exist.

    >>> WinCLIPConfig(alpha=1.0).windows
    (2, 3)
    """

    READING: ClassVar = frozenset({"alpha", "pool", "top", "sigma", "with_image", "of_normal"})
    WITHOUT: ClassVar = {"windows": ("windows", (), frozenset({"windows", "with_image", "of_normal"}))}

    windows: tuple[int, ...] = (2, 3)
    class_aware: bool = True
    templates: Literal["both", "anomalib"] = "both"
    unit_sentences: bool = False
    temperature: float = 0.07
    with_image: bool = True
    of_normal: bool = False
    sigma: float = 0.0
    alpha: float = 0.0
    pool: Pool = "max"
    top: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        limits = {
            "windows": len(set(self.windows)) == len(self.windows) and min(self.windows, default=1) >= 1,
            "temperature": 1e-6 <= self.temperature <= 1e6,
        }
        self.check_limits(limits)
        self.scoring  # noqa: B018  # raises where its fields do not fit

    @property
    def scoring(self) -> Scoring:
        """Harmonic means over windows."""
        read = {name: getattr(self, name) for name in ("windows", "with_image", "of_normal")}
        return Scoring(sigma=self.sigma, alpha=self.alpha, pool=self.pool, top=self.top, **read)

    def check_fits(self, vision: VisionConfig, text: TextConfig, name: str) -> None:
        """Raises ConfigError for windows that are larger than the image the backbone was made for."""
        if beyond := [side for side in self.windows if side > min(vision.grid)]:
            rows, columns = vision.grid
            raise ConfigError(f"windows of {beyond[0]} x {beyond[0]} patches: {name} has {rows} x {columns} patches")


class WinCLIP(Detector):
    """A frozen CLIP, read window by window; nothing is learned.

    Args:
        backbone: it stays as it is.
        config: every choice.
        seed: of nothing.

    Raises:
        ConfigError: windows that no image of this backbone has.

    >>> from headlens.backbone import load
    >>> import torch
    >>> WinCLIP(load("mini"))(torch.zeros(1, 3, 56, 70)).anomaly_map.shape
    torch.Size([1, 56, 70])
    """

    method = "winclip"
    config: WinCLIPConfig

    def __init__(self, backbone: Backbone, config: WinCLIPConfig | None = None, seed: int = 0) -> None:
        super().__init__(backbone, config or WinCLIPConfig())
        self._texts = KnownTexts()

    @property
    def plan(self) -> VisionPlan:
        """CLIP's own stream, read after its last block."""
        return VisionPlan((self.backbone.vision.cfg.n_layers - 1,))

    def reading(self, images: Tensor, categories: Sequence[str] = ()) -> Reading:
        """The windows of images of this size, and CLIP's own read-out of CLS for all of them."""
        config, vision = self.config, self.backbone.vision
        grid = vision.grid(images.shape[-2], images.shape[-1])
        views = tuple(windows(grid, side).to(self.device) for side in config.windows)
        text = Pair(self.text_of(categories or ["object"] * len(images)), config.temperature)
        readout, plan = Readout.of(vision), replace(self.plan, views=views)
        return Reading(plan, text, dict.fromkeys(plan.taps, readout), readout)

    @property
    def scoring(self) -> Scoring:
        """As the settings say."""
        return self.config.scoring

    @property
    def about(self) -> dict[str, object]:
        """What the method says of itself, for people."""
        config = self.config
        joint = f"{1 - config.alpha:g} image score + {config.alpha:g} {config.pool} of the map"
        return {
            "prompts": f"ensemble, of {'the category' if config.class_aware else 'object'}",
            "windows": ", ".join(f"{side} x {side} patches" for side in config.windows) or "none",
            "joint score": joint if config.alpha else "the image score",
        }

    def text(self, things: Sequence[str] = ("object",)) -> Tensor:
        """The normal and the abnormal embedding for each thing, [things, 2, d_e], of unit length."""
        return self._texts.of(things, self._text, self.backbone)

    def _text(self, things: Sequence[str]) -> Tensor:
        wording = Wording(abnormal=_ABNORMAL, templates=TEMPLATES[self.config.templates])
        return ensembles(self.backbone, things, wording, self._sentences)

    def _sentences(self, tokens: Tensor) -> Tensor:
        return wide(self.backbone.encode_text(tokens, normalize=self.config.unit_sentences))

    def text_of(self, categories: Sequence[str]) -> Tensor:
        """The embeddings for images of ``categories``: [B, 2, d_e], or [2, d_e] where the config is not class-aware."""
        return self.text(categories) if self.config.class_aware else self.text()[0]
