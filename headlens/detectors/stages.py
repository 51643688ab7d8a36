"""How a method is trained: the settings, and one or more stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from headlens.detectors.scoring import Prediction
from headlens.errors import ConfigError
from headlens.settings import Settings

_LARGEST_SEED = 2**32
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class TrainingConfig(Settings):
    """Settings of one training run. Where HeadCLIP's abstract gives no values, they are AnomalyCLIP's.

    Args:
        epochs: passes over the auxiliary set.
        batch: images per step on each device.
        accumulate: steps whose gradients are accumulated before an update.
        lr: learning rate of the prompts.
        lr_heads: learning rate of the head weights.
        betas: of Adam.
        pixel_weight: weight of the pixel terms relative to the image term.
        off_diagonal: weight of OFF-CLIP's term about normal images, in our reading (``losses.off_diagonal``), which any
            method can take whose training moves image margins; 0 is none.
        size: images are resized to this square; 0 is the size of the backbone.
        precision: precision of the forward pass; learned parameters stay float32.
        seed: seed of the initial prompts and the order of images.
        save_every: steps between saved states, from which a killed run resumes.

    Raises:
        ConfigError: an invalid value.
    """

    epochs: int = 5
    batch: int = 8
    accumulate: int = 1
    lr: float = 1e-3
    lr_heads: float = 5e-3
    betas: tuple[float, float] = (0.5, 0.999)
    pixel_weight: float = 4.0
    off_diagonal: float = 0.0
    size: int = 0
    precision: Precision = "float32"
    seed: int = 0
    save_every: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        least = {"epochs": 1, "batch": 1, "accumulate": 1, "lr": 0, "lr_heads": 0, "pixel_weight": 0, "size": 0}
        least["off_diagonal"] = 0
        for name, low in {**least, "save_every": 1}.items():
            if not getattr(self, name) >= low:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it is at least {low}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas are {self.betas}; each is at least 0 and below 1")
        if abs(self.seed) > _LARGEST_SEED:
            raise ConfigError(f"seed is {self.seed}; it is at most {_LARGEST_SEED}")


@dataclass(frozen=True)
class Schedule(Settings):
    """Learning rates that fall in steps, as ``torch.optim.lr_scheduler.MultiStepLR`` stepped after every step.

    Args:
        milestones: steps of the stage after each of which all rates are multiplied by ``factor``.
        factor: above 0.

    Raises:
        ConfigError: milestones that do not rise from 1 on, or a factor that is not above 0.

    >>> [Schedule((2, 3), 0.5).after(steps) for steps in range(5)]
    [1.0, 1.0, 0.5, 0.25, 0.25]
    """

    milestones: tuple[int, ...]
    factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if [*self.milestones] != sorted({*self.milestones}) or min(self.milestones, default=1) < 1:
            raise ConfigError(f"milestones are {self.milestones}; they are steps, from 1 on, each after the one before")
        if not self.factor > 0:
            raise ConfigError(f"factor is {self.factor!r}; it is above 0")

    def after(self, steps: int) -> float:
        """What the rates of the stage's groups are multiplied by when so many steps have been taken."""
        return float(self.factor ** sum(steps >= milestone for milestone in self.milestones))


@dataclass(frozen=True)
class Augment(Settings):
    """Augmentation of images and masks in training, each kind with a probability; none by default.

    Applied in the order of the fields, and determined by the seed, the epoch and the index of the image.

    Args:
        mosaic: probability that an image is replaced by a mosaic of four images of its category, each of a random kind
            of anomaly or normal, as in APRIL-GAN (arXiv 2305.17382). It is anomalous if one of them is.
        colour: probability of each: brightness, contrast and saturation are changed, in this order.
        strength: their factors are between 1 - ``strength`` and 1 + ``strength``.
        rotation: probability that it is turned.
        degrees: at most so far, either way.
        translation: probability that it is moved.
        share: at most so much of a side, either way.
        flip: probability of each: left and right are exchanged, top and bottom are.

    Rotation, translation and flips are one step: pixels are the nearest ones, those from outside have the mean colour,
    and are not anomalous. The other defaults are AA-CLIP's (arXiv 2503.06661).

    Raises:
        ConfigError: a probability or a share that is not within 0 and 1, or more than 180 degrees.

    >>> Augment(mosaic=0.2).on, Augment(degrees=90).on
    (True, False)
    """

    mosaic: float = 0.0
    colour: float = 0.0
    strength: float = 0.5
    rotation: float = 0.0
    degrees: float = 30.0
    translation: float = 0.0
    share: float = 0.15
    flip: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in self.table().items():
            most = 180 if name == "degrees" else 1
            if not 0 <= value <= most:
                raise ConfigError(f"{name} is {value!r}; it is from 0 to {most}")

    @property
    def moves(self) -> bool:
        """Whether pixels may change their places."""
        return max(self.rotation, self.translation, self.flip) > 0

    @property
    def on(self) -> bool:
        """Whether anything may happen."""
        return self.moves or max(self.mosaic, self.colour) > 0


@dataclass(frozen=True)
class Ends:
    """The lowest and the highest ``anomaly_map`` pixel and ``image_score`` of a training set; NaN: there is none."""

    anomaly_map: tuple[float, float]
    image_score: tuple[float, float]


@dataclass(frozen=True)
class Answers:
    """Labels and masks of ``B`` images of a training set.

    Args:
        labels: [B], 0 normal, 1 anomalous, -1 not known; on the CPU.
        masks: [B, H, W] bool, on the device.
        has_mask: [B] bool, whether the mask is known; on the CPU.
        families: [B], the kind of anomaly of each image, or of its clip; ``good`` if there is none, empty if unknown.
        lengths: images of each clip.
        captions: [B], as the set has them; empty where there is none.
    """

    labels: Tensor
    masks: Tensor
    has_mask: Tensor
    families: tuple[str, ...] = ()
    lengths: tuple[int, ...] = ()
    captions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """One stage of training: parameters, loss, optimiser and length.

    Parameters of the detector that are in none of its groups get no gradient.

    Raises:
        ConfigError: both ``keep`` and ``augment``.

    Args:
        groups: parameter groups for the optimiser, ``{"params": [...], "lr": ...}``; ``weight_decay`` and ``betas`` may
            be in them, too, which are 0 (0.01 of ``adamw``) and those of the training's settings else.
        see: maps normalised images [B, 3, h, w] and their categories to the inputs of the loss, differentiably.
        loss: maps the result of ``see``, and the answers, to named terms, each a scalar.
        weights: factor of each term in the sum; 1 if not named.
        name: empty for the only stage of a method.
        keep: maps images to the part of ``see`` that this stage cannot change, computed once per image: a frozen
            dataclass of tensors [B, ...] or dicts of them.
        see_features: the same as ``see``, from the result of ``keep`` and the categories.
        predict: the detector's scores from the result of ``keep`` and the categories; where it is None, and ``see`` is
            not the detector's ``forward``, images are seen once more to be scored.
        clips: whether a batch is of clips, each with all of its images; else it is of images.
        optimiser: which.
        epochs, batch: those of the training settings when None.
        schedule: schedule of the learning rates; constant when None.
        augment: augmentation of its images; none by default.
        margins: of the result of ``see``, the margins of the images [B], if the stage moves what they depend on.

    >>> from headlens.backbone import load
    >>> from headlens.detectors import build
    >>> (stage,) = build(load("mini"), "headclip").stages(TrainingConfig())
    >>> stage.optimiser, stage.weights, [group["lr"] for group in stage.groups]
    ('adam', {'pixel': 4.0}, [0.001, 0.005])
    """

    groups: Sequence[dict[str, Any]]
    see: Callable[[Tensor, Sequence[str]], Any]
    loss: Callable[[Any, Answers], dict[str, Tensor]]
    weights: Mapping[str, float] = field(default_factory=dict)
    name: str = ""
    keep: Callable[[Tensor], Any] | None = None
    see_features: Callable[[Any, Sequence[str]], Any] | None = None
    predict: Callable[[Any, Sequence[str]], Prediction] | None = None
    clips: bool = False
    optimiser: Literal["adam", "adamw"] = "adam"
    epochs: int | None = None
    batch: int | None = None
    schedule: Schedule | None = None
    augment: Augment = Augment()
    margins: Callable[[Any], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.keep is not None and self.augment.on:
            raise ConfigError(
                f"stage {self.name!r} has both keep and augment, but an augmented image is another one each time: "
                "leave out one of them"
            )
