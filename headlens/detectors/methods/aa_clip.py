"""AA-CLIP (arXiv 2503.06661): adapters in both towers of a frozen CLIP, trained one tower after the other.

First sentences learn to part normal from abnormal: adapters after the first text blocks and a new projection, against
patches of a frozen teacher. Then patches learn to meet these sentences: adapters after the first image blocks, a
projection of the patches for each tap, and one of the last tap's patches, whose mean is the image feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headlens.backbone import Backbone, VisionPlan
from headlens.backbone.text import TextExtensions
from headlens.detectors.detector import Detector, MethodConfig, check_blocks
from headlens.detectors.losses import image_loss, pixel_loss
from headlens.detectors.parts.adapters import LeakyProjection, ResidualAdapters
from headlens.detectors.parts.descriptions import described
from headlens.detectors.parts.ensemble import Wording, ensembles
from headlens.detectors.parts.head_weights import HeadWeights, Weighting
from headlens.detectors.parts.projections import TapProjections, seeded_linear
from headlens.detectors.parts.teacher import Taught, teach, teacher_stream
from headlens.detectors.parts.texts import KnownTexts
from headlens.detectors.pooling import PatchMean
from headlens.detectors.reading import Reading
from headlens.detectors.readout import Readout
from headlens.detectors.scoring import Affine, Pool, Scoring
from headlens.detectors.stages import Answers, Augment, Ends, Schedule, Stage, TrainingConfig
from headlens.detectors.text import AbnormalAlone, Pair
from headlens.errors import ConfigError
from headlens.precision import full_precision, wide

if TYPE_CHECKING:
    from headlens.backbone.config import TextConfig, VisionConfig

TEMPERATURE = 0.01
MOVED = Augment(rotation=0.5, translation=0.5, flip=0.5)
WORDING = Wording(
    normal=("{}", "a {}", "the {}"),
    abnormal=("a damaged {}", "a broken {}", "a {} with flaw", "a {} with defect", "a {} with damage"),
    templates=("{}.", "a photo of {}."),
)


@dataclass(frozen=True)
class AACLIPConfig(MethodConfig):
    """AA-CLIP (arXiv 2503.06661) with the values of its code, but for two quirks, which are off.

    Args:
        taps: distinct blocks after which patches are read, counted from 0.
        adapt_text, adapt_image: how many text and image blocks, from the first, have an adapter; from 0.
        mix: share of an adapter in its output, 0 to 1.
        class_aware: categories in the sentences; ``object`` for every image without.
        phrases: pairs of a category and how it is called, as ``read_descriptions`` has them; others by their names.
        head_weights: how ``w[layer, head]`` of the image tower is parametrised, as in ``HeadWeights``; not AA-CLIP's.
        sigma, kernel: of the Gaussian on the grid of patches, in patches: standard deviation, and its width, which is
            odd.
        alpha, pool, top: as in ``Scoring``.
        map_ends, image_ends: the lowest and the highest score of the training set, in this order, which are scaled to 0
            and 1; empty leaves scores as they are. Training sets them. This is our reading: the authors take the ends
            of the test set, with which a score depends on other images.
        text_epochs, text_batch, text_lr: of the first stage; with 0 epochs the text is CLIP's.
        orthogonality: what multiplies the square of the product of both prompts in its loss.
        teacher_start: the first block of the teacher whose attention is softmax(v vᵀ).
        across_batch: as the authors' code does, that attention goes from image to image of a batch.
        last_tap: as the authors' code does, the first stage takes the loss of the last tap alone.
        image_epochs, image_batch, image_lr: of the second stage, which must have epochs if the first has none or heads
            are weighted; with 0 epochs patches are those of the teacher, read as CLIP
            reads CLS, without the CLS that the teacher adds.
        milestones, factor: steps of the second stage after which its rates are multiplied by ``factor``.
        augment: whether images of both stages are rotated, moved and flipped, and of the second one changed in colour.

    Raises:
        ConfigError: a value that does not exist.

    >>> AACLIPConfig(alpha=0.25).adapt_image
    6
    """

    LEARNED: ClassVar = frozenset(
        {"taps", "adapt_text", "adapt_image", "class_aware", "head_weights", "orthogonality", "milestones", "factor"}
        | {"text_epochs", "text_batch", "text_lr", "image_epochs", "image_batch", "image_lr"}
        | {"teacher_start", "across_batch", "last_tap", "augment"}
    )
    READING: ClassVar = frozenset({"alpha", "pool", "top", "sigma", "kernel", "map_ends", "image_ends"})
    WITHOUT: ClassVar = {"head weights": ("head_weights", "none", frozenset({"head_weights", "lr_heads"}))}
    UNIT: ClassVar = "logit"
    INSTEAD: ClassVar = {
        "epochs": "text_epochs and image_epochs in table detector",
        "batch": "text_batch and image_batch in table detector",
        "lr": "text_lr and image_lr in table detector",
        "pixel_weight": "a weight of 1",
    }

    taps: tuple[int, ...] = (5, 11, 17, 23)
    adapt_text: int = 3
    adapt_image: int = 6
    mix: float = 0.1
    class_aware: bool = True
    phrases: tuple[tuple[str, str], ...] = ()
    head_weights: Weighting = "none"
    sigma: float = 1.0
    kernel: int = 7
    alpha: float = 0.5
    pool: Pool = "max"
    top: float = 0.01
    map_ends: tuple[float, ...] = ()
    image_ends: tuple[float, ...] = ()
    text_epochs: int = 5
    text_batch: int = 16
    text_lr: float = 1e-5
    orthogonality: float = 0.1
    teacher_start: int = 5
    across_batch: bool = False
    last_tap: bool = False
    image_epochs: int = 20
    image_batch: int = 2
    image_lr: float = 5e-4
    milestones: tuple[int, ...] = (16000, 32000)
    factor: float = 0.5
    augment: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        ends = (self.map_ends, self.image_ends)
        limits = {
            "taps": bool(self.taps) and len(set(self.taps)) == len(self.taps) and min(self.taps) >= 0,
            "mix": 0 <= self.mix <= 1,
            "image_epochs": self.image_epochs >= (0 if self.text_epochs else 1),
            "head_weights": self.head_weights == "none" or self.image_epochs > 0,  # which trains them
            "kernel": self.kernel >= 1 and self.kernel % 2 == 1,
            "map_ends": not ends[0] or (len(ends[0]) == 2 and ends[0][0] < ends[0][1]),
            "image_ends": not ends[1] or (len(ends[1]) == 2 and ends[1][0] < ends[1][1]),
        }
        least = {"adapt_text": 0, "adapt_image": 0, "teacher_start": 0, "orthogonality": 0, "text_lr": 0, "image_lr": 0}
        least |= {"text_epochs": 0, "text_batch": 1, "image_batch": 1}
        limits |= {name: getattr(self, name) >= low for name, low in least.items()}
        self.check_limits(limits)
        self.scoring, self.schedule  # noqa: B018  # raise where their fields do not fit

    @property
    def scoring(self) -> Scoring:
        """Over taps the sum of (abnormal logit + 1 - normal logit) / 2, and (product with abnormal + 1) / 2."""
        half = len(self.taps) / 2
        return Scoring(
            "mean margin",
            sigma=self.sigma,
            alpha=self.alpha,
            pool=self.pool,
            top=self.top,
            corners=True,
            kernel=self.kernel,
            of_map=Affine(half, half).between(self.map_ends),
            of_image=Affine(0.5, 0.5).between(self.image_ends),
        )

    @property
    def schedule(self) -> Schedule:
        """Of the second stage's learning rates."""
        return Schedule(self.milestones, self.factor)

    def check_fits(self, vision: VisionConfig, text: TextConfig, name: str) -> None:
        """Raises ConfigError for a block that does not exist."""
        check_blocks({"taps": self.taps, "teacher_start": [self.teacher_start]}, vision, name)
        for field, tower in (("adapt_image", vision), ("adapt_text", text)):
            if getattr(self, field) > tower.n_layers:
                side = field.removeprefix("adapt_")
                raise ConfigError(f"{field} is {getattr(self, field)}: the {side} tower of {name} has {tower.n_layers}")

    def learned_shapes(self, vision: VisionConfig, text: TextConfig) -> dict[str, tuple[int, ...]]:
        """Of all that a detector learns, by the names in its state dict."""
        shapes: dict[str, tuple[int, ...]] = {}
        if self.text_epochs:
            shapes |= {f"text_adapters.{i}.linear.weight": (text.d_model,) * 2 for i in range(self.adapt_text)}
            shapes["text_projection.linear.weight"] = (text.d_embed, text.d_model)
        if self.image_epochs:
            shapes |= {f"image_adapters.{i}.linear.weight": (vision.d_model,) * 2 for i in range(self.adapt_image)}
            for name in ("image", *(f"patches.{tap}" for tap in self.taps)):
                shapes[f"{name}.weight"] = (vision.d_embed, vision.d_model)
        if self.head_weights != "none":
            shapes["weights.raw.global"] = (vision.n_layers, vision.n_heads)
        return shapes


@dataclass(frozen=True)
class Seen:
    """What losses read of B images.

    Args:
        taps: margins ``{tap: [B, rows, columns]}``.
        image: [B], the margin of the image feature, not divided by a temperature; None where only text is trained.
        alike: the mean product of both prompts.
    """

    taps: dict[int, Tensor]
    image: Tensor | None = None
    alike: Tensor | None = None


class AACLIP(Detector):
    """Adapters in both towers; the backbone is frozen.

    Args:
        backbone: it stays as it is.
        config: every choice.
        seed: of the initial matrices, the same on every device.

    Raises:
        ConfigError: a config that this backbone cannot have.

    >>> from headlens.backbone import load
    >>> AACLIP(load("mini"))(torch.zeros(1, 3, 56, 70)).anomaly_map.shape
    torch.Size([1, 56, 70])
    """

    method = "aa-clip"
    config: AACLIPConfig

    def __init__(self, backbone: Backbone, config: AACLIPConfig | None = None, seed: int = 0) -> None:
        super().__init__(backbone, config := config or AACLIPConfig())
        vision, text, device = backbone.vision.cfg, backbone.text.cfg, self.device
        made = torch.Generator().manual_seed(seed)
        self.text_adapters: ResidualAdapters | None = None
        self.text_projection: LeakyProjection | None = None
        self.image_adapters: ResidualAdapters | None = None
        self.image: nn.Linear | None = None
        self.patches: TapProjections | None = None
        self.weights: HeadWeights | None = None
        if config.text_epochs:
            self.text_adapters = ResidualAdapters(config.adapt_text, text.d_model, config.mix, made, device)
            self.text_projection = LeakyProjection(text.d_model, text.d_embed, made, device)
        if config.image_epochs:
            self.image_adapters = ResidualAdapters(config.adapt_image, vision.d_model, config.mix, made, device)
            sizes, drawn = (vision.d_model, vision.d_embed), int(torch.randint(2**31, (), generator=made))
            self.image = seeded_linear(*sizes, bias=False, init="xavier", generator=made, device=device)
            self.patches = TapProjections(config.taps, backbone.vision, bias=False, init="xavier", seed=drawn)
        if config.head_weights != "none":
            grid = (vision.n_layers, vision.n_heads)
            self.weights = HeadWeights(grid, config.head_weights, ("global",), device)
        self._texts = KnownTexts()

    @property
    def plan(self) -> VisionPlan:
        """CLIP's own stream, with adapters and head weights; the teacher's without image adapters."""
        taps, weights = self.config.taps, self.head_weights()
        if self.image_adapters is None:
            return VisionPlan(taps, teacher_stream(self.config.teacher_start), weights)
        return VisionPlan(taps, head_weights=weights, adapters={"global": self.image_adapters.by_block})

    def reading(self, images: Tensor, categories: Sequence[str] = ()) -> Reading:
        """A read-out for each tap, and one for the mean of the last tap's patches, which meets one prompt alone."""
        vision, text = self.backbone.vision, self.text_of(categories or ["object"] * len(images))
        image = Readout.of(vision)
        taps = dict.fromkeys(self.config.taps, image)
        if self.image is not None and self.patches is not None:
            image, taps = Readout.linear(self.image, vision, norm=True), self.patches.readouts(vision, norm=True)
        return Reading(
            self.plan,
            Pair(text, TEMPERATURE),
            taps=taps,
            image=image,
            pooling=PatchMean(max(self.config.taps)),
            image_text=AbnormalAlone(text[..., 1, :]),
        )

    @property
    def scoring(self) -> Scoring:
        """As the config says."""
        return self.config.scoring

    @property
    def about(self) -> dict[str, object]:
        """What the method says of itself, for people."""
        config = self.config
        adapters = {"text": self.text_adapters, "image": self.image_adapters}
        return {
            "sentences of": f"the category, {len(config.phrases)} phrases" if config.class_aware else "object",
            "adapters": ", ".join(f"{len(part or ())} {side} blocks" for side, part in adapters.items()),
            "taps": ", ".join(map(str, config.taps)),
            "joint score": f"{1 - config.alpha:g} image score + {config.alpha:g} {config.pool} of the map",
            "scores 0 and 1": "the ends of the training set (our reading)" if config.map_ends else "of no set",
        }

    def settled(self, ends: Ends) -> AACLIPConfig:
        """The config with the ends of both scores, where it has none, and both have two that differ."""
        given, of_map, of_image = self.config.map_ends or self.config.image_ends, ends.anomaly_map, ends.image_score
        if given or not (of_map[0] < of_map[1] and of_image[0] < of_image[1]):  # a single image has one score
            return self.config
        return replace(self.config, map_ends=of_map, image_ends=of_image)

    def head_weights(self) -> dict[str, Tensor]:
        """As ``HeadWeights`` has them, {"global": [layers, heads]}."""
        return self.weights() if self.weights is not None else {}

    def text(self, things: Sequence[str] = ("object",)) -> Tensor:
        """The normal and the abnormal embedding for each thing, [things, 2, d_e], of unit length."""
        learned = [part for part in (self.text_adapters, self.text_projection) if part is not None]
        return self._texts.of(things, self._text, self.backbone, learned)

    def _text(self, things: Sequence[str]) -> Tensor:
        return ensembles(self.backbone, things, WORDING, self.encode_text)

    def text_of(self, categories: Sequence[str]) -> Tensor:
        """The embeddings for images of ``categories``: [B, 2, d_e], or [2, d_e] where the config is not class-aware."""
        if not self.config.class_aware:
            return self.text()[0]
        return self.text([described(category, self.config.phrases) for category in categories])

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Token ids [P, n] through adapters and the new projection, if there are any, to unit embeddings [P, d_e]."""
        adapters = {} if self.text_adapters is None else self.text_adapters.by_block
        extensions = TextExtensions(adapters, self.text_projection)
        hooked = self.backbone.text.must_call_hooks()
        embedding = self.backbone.encode_text(tokens, extensions=extensions, hooked=hooked)
        return F.normalize(wide(embedding), dim=-1)

    def stages(self, training: TrainingConfig) -> Sequence[Stage]:
        """Text, then image; a stage without epochs is left out."""
        return [stage for stage in (self._text_stage(), self._image_stage(training)) if stage.epochs]

    def _text_stage(self) -> Stage:
        config = self.config
        # What depends on the other images of a batch, or on how an image is drawn this time, is not kept.
        keeps = not config.augment and not config.across_batch
        return Stage(
            _groups(config.text_lr, self.text_adapters, self.text_projection),
            see=lambda images, categories: self._compare(self._teach(images), categories),
            loss=self._text_loss,
            weights={"orthogonality": config.orthogonality},
            name="text",
            keep=self._teach if keeps else None,
            see_features=self._compare,
            epochs=config.text_epochs,
            batch=config.text_batch,
            augment=MOVED if config.augment else Augment(),
        )

    def _image_stage(self, training: TrainingConfig) -> Stage:
        config = self.config
        return Stage(
            _groups(config.image_lr, self.image_adapters, self.patches, self.image)
            + _groups(training.lr_heads, self.weights),
            see=self._see_image,
            loss=self._image_loss,
            name="image",
            epochs=config.image_epochs,
            batch=config.image_batch,
            schedule=config.schedule,
            margins=attrgetter("image"),
            augment=replace(MOVED, colour=0.7) if config.augment else Augment(),
        )

    def _teach(self, images: Tensor) -> Taught:
        config = self.config
        taps = [max(config.taps)] if config.last_tap else config.taps  # what is kept is as small as it can be
        return teach(self.backbone.vision, images, taps, config.teacher_start, config.across_batch)

    def _compare(self, taught: Taught, categories: Sequence[str]) -> Seen:
        grid = self.backbone.vision.grid(*taught.size)
        text = self.text_of(categories)
        u = (text[..., 1, :] - text[..., 0, :]).expand(len(categories), -1)
        with full_precision(self.device):  # autocast would round margins, and the loss with them
            taps = {tap: torch.einsum("bnd,bd->bn", patches, u) / TEMPERATURE for tap, patches in taught.taps.items()}
        alike = (text[..., 0, :] * text[..., 1, :]).sum(-1).mean()
        return Seen({tap: margins.unflatten(1, grid) for tap, margins in taps.items()}, alike=alike)

    def _see_image(self, images: Tensor, categories: Sequence[str]) -> Seen:
        reading, grid = self.reading(images, categories), self.backbone.vision.grid(*images.shape[2:])
        features = reading.features(self.see(images, reading))
        margins = reading.margins(features)
        text = self.text_of(categories)
        feature = reading.pooling(features.cls, features.of_image, margins.taps)
        image = (feature * (text[..., 1, :] - text[..., 0, :])).sum(-1)
        return Seen({tap: flat.unflatten(1, grid) for tap, flat in margins.taps.items()}, image)

    def _text_loss(self, seen: Seen, answers: Answers) -> dict[str, Tensor]:
        assert seen.alike is not None
        last = max(seen.taps)
        taps = {last: seen.taps[last]} if self.config.last_tap else seen.taps
        return {"pixel": pixel_loss(taps, answers, corners=True), "orthogonality": seen.alike.square()}

    def _image_loss(self, seen: Seen, answers: Answers) -> dict[str, Tensor]:
        assert seen.image is not None
        return {"image": image_loss(seen.image, answers), "pixel": pixel_loss(seen.taps, answers, corners=True)}


def _groups(lr: float, *parts: nn.Module | None) -> list[dict[str, Any]]:
    """One group of all that the parts learn; none without parts."""
    learned = [parameter for part in parts if part is not None for parameter in part.parameters()]
    return [{"params": learned, "lr": lr}] if learned else []
