"""APRIL-GAN (arXiv 2305.17382): a frozen CLIP, hand-written prompts, and a learned linear map for every tap.

    margin of a patch at a tap    <u, e / |e|> / 0.01      e = W_tap x + b_tap, of the raw output x of the block
    anomaly map                   the mean over taps of σ(margins, enlarged)
    image score                   CLIP's own: CLS against the prompts

The published map is the sum over taps, which is this mean times their number: the order of pixels is the same, and a
mean is a probability. Head weights are not part of it: LHW may be put on it by one line of its settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from headlens.backbone import Backbone, VisionPlan
from headlens.detectors.detector import Detector, MethodConfig, check_blocks
from headlens.detectors.losses import abnormal_dice, pixel_loss
from headlens.detectors.parts.ensemble import PHOTOS, Wording, ensembles
from headlens.detectors.parts.head_weights import HeadWeights, Weighting
from headlens.detectors.parts.projections import TapProjections
from headlens.detectors.parts.texts import KnownTexts
from headlens.detectors.reading import Reading
from headlens.detectors.readout import Readout
from headlens.detectors.scoring import Pool, Prediction, Scoring
from headlens.detectors.stages import Answers, Augment, Stage, TrainingConfig
from headlens.detectors.text import Pair

if TYPE_CHECKING:
    from headlens.backbone.config import TextConfig, VisionConfig

WORDING = Wording(templates=PHOTOS)


@dataclass(frozen=True)
class APRILGANConfig(MethodConfig):
    """APRIL-GAN (arXiv 2305.17382) with the values of its code.

    Args:
        taps: distinct blocks after which patches are read, counted from 0; each has its linear map.
        class_aware: the category in the prompts, as it is written; ``object`` for every image without.
        head_weights: how ``w[layer, head]`` of the image tower is parametrised, as in ``HeadWeights``; not APRIL-GAN's.
        mosaic: as in ``Augment``, in training; the authors take 0.2 on MVTec AD, and none on VisA.
        temperature: of both softmaxes, 1e-6 to 1e6.
        sigma, alpha, pool, top: as in ``Scoring``; the authors do not smooth, and their image score is that of CLS.

    Raises:
        ConfigError: a value that does not exist.

    >>> APRILGANConfig(alpha=0.25).taps
    (5, 11, 17, 23)
    """

    LEARNED: ClassVar = frozenset({"taps", "class_aware", "head_weights", "mosaic"})
    READING: ClassVar = frozenset({"alpha", "pool", "top", "sigma"})
    WITHOUT: ClassVar = {
        "head weights": ("head_weights", "none", frozenset({"head_weights", "lr_heads"})),
        "mosaics": ("mosaic", 0.0, frozenset({"mosaic"})),
    }
    INSTEAD: ClassVar = {"pixel_weight": "one loss, of maps alone"}

    taps: tuple[int, ...] = (5, 11, 17, 23)
    class_aware: bool = True
    head_weights: Weighting = "none"
    mosaic: float = 0.0
    temperature: float = 0.01
    sigma: float = 0.0
    alpha: float = 0.0
    pool: Pool = "max"
    top: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        limits = {
            "taps": bool(self.taps) and len(set(self.taps)) == len(self.taps) and min(self.taps) >= 0,
            "temperature": 1e-6 <= self.temperature <= 1e6,
        }
        self.check_limits(limits)
        self.scoring, self.augment  # noqa: B018  # raise where their fields do not fit

    @property
    def scoring(self) -> Scoring:
        """Margins of every tap are enlarged, corners aligned, and then probabilities, whose mean is the map."""
        return Scoring("mean of probabilities", self.sigma, self.alpha, self.pool, self.top, "pixels", corners=True)

    @property
    def augment(self) -> Augment:
        """What is done to images in training."""
        return Augment(mosaic=self.mosaic)

    def check_fits(self, vision: VisionConfig, text: TextConfig, name: str) -> None:
        """Raises ConfigError for a tap that does not exist."""
        check_blocks({"taps": self.taps}, vision, name)

    def learned_shapes(self, vision: VisionConfig, text: TextConfig) -> dict[str, tuple[int, ...]]:
        """Of all that a detector learns, by the names in its state dict."""
        shapes: dict[str, tuple[int, ...]] = {}
        for tap in self.taps:
            shapes[f"projections.{tap}.weight"] = (vision.d_embed, vision.d_model)
            shapes[f"projections.{tap}.bias"] = (vision.d_embed,)
        if self.head_weights != "none":
            shapes["weights.raw.global"] = (vision.n_layers, vision.n_heads)
        return shapes


@dataclass(frozen=True)
class RawTokens:
    """What training does not change of B images of ``size``, while no head is weighted: raw CLS [B, D] and patches."""

    cls: Tensor
    tapped: dict[int, Tensor]  # {tap: [B, N, D]}
    size: tuple[int, int]


class APRILGAN(Detector):
    """Linear maps of the patches, and fixed prompts; the backbone is frozen.

    Args:
        backbone: it stays as it is.
        config: every choice.
        seed: of the initial maps, the same on every device.

    Raises:
        ConfigError: a tap that this backbone does not have.

    >>> from headlens.backbone import load
    >>> APRILGAN(load("mini")).projections["5"]
    Linear(in_features=128, out_features=128, bias=True)
    """

    method = "april-gan"
    config: APRILGANConfig

    def __init__(self, backbone: Backbone, config: APRILGANConfig | None = None, seed: int = 0) -> None:
        super().__init__(backbone, config := config or APRILGANConfig())
        vision = backbone.vision.cfg
        self.projections = TapProjections(config.taps, backbone.vision, seed=seed)
        self.weights = None
        if config.head_weights != "none":
            grid = (vision.n_layers, vision.n_heads)
            self.weights = HeadWeights(grid, config.head_weights, ("global",), self.device)
        self._texts = KnownTexts()

    @property
    def plan(self) -> VisionPlan:
        """CLIP's own stream, with head weights where there are any."""
        return VisionPlan(self.config.taps, head_weights=self.head_weights())

    def reading(self, images: Tensor, categories: Sequence[str] = ()) -> Reading:
        """Raw patches by a linear map for each tap, and CLS as CLIP reads it."""
        vision, text = self.backbone.vision, self.text_of(categories or ["object"] * len(images))
        return Reading(
            self.plan, Pair(text, self.config.temperature), self.projections.readouts(vision), Readout.of(vision)
        )

    @property
    def scoring(self) -> Scoring:
        """As the settings say."""
        return self.config.scoring

    def stages(self, training: TrainingConfig) -> Sequence[Stage]:
        """One: focal and Dice losses of every tap's map move the linear maps, and head weights, by Adam.

        Nothing moves the image score but head weights, which CLS passes, too.
        """
        groups = [{"params": list(self.projections.parameters()), "lr": training.lr}]
        if self.weights is not None:
            groups.append({"params": list(self.weights.parameters()), "lr": training.lr_heads})
        stage, augment = partial(Stage, groups, self.forward, self._loss), self.config.augment
        if self.weights is not None or augment.on:
            return (stage(augment=augment),)
        return (stage(keep=self._keep, see_features=self._see_features),)

    @property
    def about(self) -> dict[str, object]:
        """What the method says of itself, for people."""
        config = self.config
        joint = f"{1 - config.alpha:g} image score + {config.alpha:g} {config.pool} of the map"
        return {
            "prompts": f"ensemble, of {'the category' if config.class_aware else 'object'}",
            "taps": ", ".join(map(str, config.taps)),
            "joint score": joint if config.alpha else "the image score",
        }

    def head_weights(self) -> dict[str, Tensor]:
        """As ``HeadWeights`` has them, {"global": [layers, heads]}."""
        return self.weights() if self.weights is not None else {}

    def text(self, things: Sequence[str] = ("object",)) -> Tensor:
        """The normal and the abnormal embedding for each thing, [things, 2, d_e], of unit length."""
        return self._texts.of(things, self._text, self.backbone)

    def _text(self, things: Sequence[str]) -> Tensor:
        return ensembles(self.backbone, things, WORDING, self.encode_text)

    def text_of(self, categories: Sequence[str]) -> Tensor:
        """The embeddings for images of ``categories``: [B, 2, d_e], or [2, d_e] where the config is not class-aware."""
        return self.text(categories) if self.config.class_aware else self.text()[0]

    def _loss(self, prediction: Prediction, answers: Answers) -> dict[str, Tensor]:
        return {"pixel": pixel_loss(prediction.tap_margins, answers, corners=True, dice=abnormal_dice)}

    def _keep(self, images: Tensor) -> RawTokens:
        out = self.see(images, self.reading(images))
        return RawTokens(out.cls, out.tapped, (images.shape[2], images.shape[3]))

    def _see_features(self, kept: RawTokens, categories: Sequence[str]) -> Prediction:
        reading = self.reading(kept.cls, categories)
        return self.score(reading.margins(reading.embed(kept.cls, kept.tapped)), kept.size)
