"""SC-CLIP (arXiv 2411.15869) with hand-written prompts: CLIP's earlier patches calibrate those of its last block.

    margin of a patch    <u, e / |e|> / 0.025      e: the stream of ``parts/self_calibration.py``, as CLIP reads patches
    anomaly map          σ(margins), enlarged, smoothed
    image score          CLIP's own: CLS against the prompts

Nothing is trained. The authors segment images by words, in windows that slide over them; here the whole image is read
at once, and the words are a normal and an abnormal thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from headlens.backbone import Backbone, VisionPlan
from headlens.detectors.detector import Detector, MethodConfig
from headlens.detectors.parts.ensemble import Wording, ensembles
from headlens.detectors.parts.self_calibration import LEVELS, self_calibrated
from headlens.detectors.parts.texts import KnownTexts
from headlens.detectors.reading import Reading
from headlens.detectors.readout import Readout
from headlens.detectors.scoring import Pool, Scoring
from headlens.detectors.text import Pair

_STREAM = ("outlying", "neighbours", "textbook", "similar", "mixed", "levels", "threshold", "sharpness", "cls")


@dataclass(frozen=True)
class SCCLIPConfig(MethodConfig):
    """SC-CLIP (arXiv 2411.15869) with the values of its code; prompts and smoothing are not its authors'.

    Args:
        calibrated: patches are those of the calibrated stream; if not, CLIP's own.
        outlying: share of the patches that are repaired as outliers, below 1; 0 is none.
        neighbours: number of neighbours in the local outlier factor, from 1.
        textbook: that factor is the textbook's; the authors' has another reach.
        similar, mixed, levels: where the two similarities are taken, and what is added up to the second pass, in
            twelfths of the tower, 1 to 11: of 12 blocks the outputs of so many. Without levels there is no second pass.
        threshold: similarities below it are 0; from -1, below 1.
        sharpness: what multiplies similarities in the attention.
        cls: share of CLS in every patch.
        class_aware: the category in the prompts; ``object`` for every image without.
        temperature: of both softmaxes, 1e-6 to 1e6; the authors multiply by 40.
        sigma, alpha, pool, top: as in ``Scoring``.

    Raises:
        ConfigError: a value that does not exist.

    >>> SCCLIPConfig(levels=()).similar
    9
    """

    READING: ClassVar = frozenset({"alpha", "pool", "top", "sigma"})
    WITHOUT: ClassVar = {
        "self-calibration": ("calibrated", False, frozenset({"calibrated", *_STREAM})),
        "repair": ("outlying", 0.0, frozenset({"outlying", "neighbours", "textbook"})),
        "levels": ("levels", (), frozenset({"levels"})),
    }

    calibrated: bool = True
    outlying: float = 0.05
    neighbours: int = 30
    textbook: bool = False
    similar: int = 9
    mixed: int = 4
    levels: tuple[int, ...] = LEVELS
    threshold: float = 0.4
    sharpness: float = 3.0
    cls: float = 0.3
    class_aware: bool = True
    temperature: float = 0.025
    sigma: float = 4.0
    alpha: float = 0.0
    pool: Pool = "max"
    top: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        twelfths = range(1, 12)
        limits = {
            "outlying": 0 <= self.outlying < 1,
            "neighbours": self.neighbours >= 1,
            "similar": self.similar in twelfths,
            "mixed": self.mixed in twelfths,
            "levels": all(level in twelfths for level in self.levels),
            "threshold": -1 <= self.threshold < 1,
            "temperature": 1e-6 <= self.temperature <= 1e6,
        }
        self.check_limits(limits)
        self.scoring  # noqa: B018  # raises where its fields do not fit

    @property
    def scoring(self) -> Scoring:
        """One tap's probabilities, smoothed."""
        return Scoring(sigma=self.sigma, alpha=self.alpha, pool=self.pool, top=self.top)


class SCCLIP(Detector):
    """A frozen CLIP whose patches are calibrated; nothing is learned.

    Args:
        backbone: it stays as it is.
        config: every choice.
        seed: of nothing: nothing in it is random.

    >>> from headlens.backbone import load
    >>> import torch
    >>> SCCLIP(load("mini"))(torch.zeros(1, 3, 56, 70)).anomaly_map.shape
    torch.Size([1, 56, 70])
    """

    method = "sc-clip"
    config: SCCLIPConfig

    def __init__(self, backbone: Backbone, config: SCCLIPConfig | None = None, seed: int = 0) -> None:
        super().__init__(backbone, config or SCCLIPConfig())
        self._texts = KnownTexts()

    @property
    def plan(self) -> VisionPlan:
        """CLIP's own stream, and the calibrated one in its last block; of square images."""
        return self._plan(None)

    def _plan(self, grid: tuple[int, int] | None) -> VisionPlan:
        depth, config = self.backbone.vision.cfg.n_layers, self.config
        settings = {name: getattr(config, name) for name in _STREAM}
        return VisionPlan((depth - 1,), self_calibrated(depth, grid, **settings) if config.calibrated else None)

    def reading(self, images: Tensor, categories: Sequence[str] = ()) -> Reading:
        """The stream for images of this size, and CLIP's own read-out of its patches and of CLS."""
        readout = Readout.of(self.backbone.vision)
        plan = self._plan(self.backbone.vision.grid(images.shape[-2], images.shape[-1]))
        text = Pair(self.text_of(categories or ["object"] * len(images)), self.config.temperature)
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
        levels = f", {len(config.levels)} levels" if config.levels else ""
        repaired = f"{100 * config.outlying:g} % of patches repaired" if config.outlying else "no repair"
        return {
            "prompts": f"ensemble, of {'the category' if config.class_aware else 'object'}",
            "patches": f"self-calibrated, {repaired}{levels}" if config.calibrated else "CLIP's",
            "joint score": joint if config.alpha else "the image score",
        }

    def text(self, things: Sequence[str] = ("object",)) -> Tensor:
        """The normal and the abnormal embedding for each thing, [things, 2, d_e], of unit length."""
        return self._texts.of(things, self._text, self.backbone)

    def _text(self, things: Sequence[str]) -> Tensor:
        return ensembles(self.backbone, things, Wording(), self.encode_text)

    def text_of(self, categories: Sequence[str]) -> Tensor:
        """The embeddings for images of ``categories``: [B, 2, d_e], or [2, d_e] where the config is not class-aware."""
        if not self.config.class_aware:
            return self.text()[0]
        return self.text([category.replace("_", " ") for category in categories])
