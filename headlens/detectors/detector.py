"""``Detector``: a frozen backbone, what a method learned on top of it, and how its scores are read.

A method answers four questions; the rest of headlens does not know which method it is:

    plan                           which streams, taps and head weights the tower has, whatever the batch
    reading(images, categories)    how the tower is run on a batch, and how its tokens become margins
    scoring                        how margins become maps and scores
    stages(training)               how it is trained; empty for a training-free method

images [B, 3, h, w]  -> reading -> tower -> features -> margins -> scoring -> Prediction
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from headlens import html
from headlens.backbone import Backbone, VisionOutput, VisionPlan
from headlens.backbone.hooks import hooked
from headlens.detectors.reading import Reading
from headlens.detectors.scoring import Margins, Prediction, Scoring
from headlens.detectors.stages import Ends, Stage, TrainingConfig
from headlens.errors import ConfigError
from headlens.settings import Settings, documented
from headlens.units import Unit

if TYPE_CHECKING:
    from typing_extensions import Self

    from headlens.backbone.config import TextConfig, VisionConfig


_OF_TORCH = ("eval", "load_state_dict", "named_parameters", "parameters", "state_dict", "to", "train")


class MethodConfig(Settings):
    """The settings of a method: a frozen dataclass inherits from it, and declares the following.

    Args:
        LEARNED: fields that decide what is learned, and cannot be changed afterwards.
        READING: fields that training does not depend on.
        WITHOUT: parts that can be switched off: the field, the value that switches it off, and all fields of config and
            training that then have no effect.
        UNIT: unit of the method's scores.
        INSTEAD: training settings that the method ignores, and what it uses instead.
    """

    LEARNED: ClassVar[frozenset[str]] = frozenset()
    READING: ClassVar[frozenset[str]] = frozenset()
    WITHOUT: ClassVar[Mapping[str, tuple[str, object, frozenset[str]]]] = {}
    UNIT: ClassVar[Unit] = "probability"
    INSTEAD: ClassVar[Mapping[str, str]] = {}

    def check_limits(self, limits: Mapping[str, bool]) -> None:
        """Raises ConfigError for the first field whose value does not fit: ``{field: whether it does}``."""
        for name, fits in limits.items():
            if not fits:
                meaning = documented(type(self), name)
                says = f"; {type(self).__name__} says of it: {meaning}" if meaning else ""
                raise ConfigError(f"{name} is {getattr(self, name)!r}, which is not a value it can have{says}")

    def check_fits(self, vision: VisionConfig, text: TextConfig, name: str) -> None:
        """Raises ConfigError where the backbone ``name`` with these towers cannot have such a detector."""

    def learned_shapes(self, vision: VisionConfig, text: TextConfig) -> dict[str, tuple[int, ...]]:
        """Shapes of everything a detector learns, by the names in its state dict."""
        return {}


class Detector(html.Shown, nn.Module, ABC):
    """A frozen backbone and a method on it. A method answers ``plan``, ``reading``, ``scoring`` and ``stages``.

    Args:
        backbone: frozen; its weights are not changed.
        config: the method's settings.

    Raises:
        ConfigError: a config that this backbone cannot have.

    >>> from headlens.backbone import load
    >>> from headlens.detectors import build
    >>> build(load("mini"), "headclip")(torch.zeros(1, 3, 56, 70)).anomaly_map.shape
    torch.Size([1, 56, 70])
    """

    method: ClassVar[str]
    decides_at: ClassVar[float | None] = None  # the joint score above which it calls an image anomalous, if it has one
    config: Any

    def __init__(self, backbone: Backbone, config: MethodConfig) -> None:
        super().__init__()
        config.check_fits(backbone.vision.cfg, backbone.text.cfg, backbone.provenance.name)
        self.config = config
        self._backbone = [backbone.base.requires_grad_(False).eval()]  # in a list: its weights are not this one's state
        self.size = 0  # pixels along a side that it was trained on, where that is another than the backbone's

    @property
    @abstractmethod
    def plan(self) -> VisionPlan:
        """How the image tower is run: streams, taps and head weights, which are the same for every batch.

        A reading may add to it what depends on its images.
        """

    @abstractmethod
    def reading(self, images: Tensor, categories: Sequence[str] = ()) -> Reading:
        """How normalised images [B, 3, h, w] of these categories [B] are read; differentiable where gradients are on.

        Categories may be empty where a method does not read them, or takes every image for an ``object``.
        """

    @property
    @abstractmethod
    def scoring(self) -> Scoring:
        """How margins become scores."""

    def stages(self, training: TrainingConfig) -> Sequence[Stage]:
        """How it is trained."""
        return ()

    def settled(self, ends: Ends) -> MethodConfig:
        """The settings with what follows from the trained detector's scores of the training set."""
        return self.config

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Token ids of sentences [P, n] to unit embeddings [P, d_e], in the space that image tokens are read into."""
        return self._backbone[0].encode_text(tokens, normalize=True)

    def head_weights(self) -> dict[str, Tensor]:
        """Learned head weights {stream: [layers, heads]}; empty where none are learned."""
        return {}

    @property
    def about(self) -> dict[str, object]:
        """A short description of the method."""
        return {}

    @property
    def facts(self) -> dict[str, object]:
        """Facts about the detector, for display."""
        made = self.backbone.provenance
        weights = ", ".join(f"{s} heads, {w.min():.2f} to {w.max():.2f}" for s, w in self.head_weights().items())
        return {
            "method": self.method,
            "backbone": f"{made.name} ({made.weights})",
            "activation": None if made.act_fn_known and not made.because else made.activation,
            "head weights": weights or "none",
            **self.about,
            "learned numbers": sum(parameter.numel() for parameter in self.parameters()),
        }

    def _repr_html_(self) -> str:
        return html.card("Detector", self.facts)

    def __dir__(self) -> list[str]:
        """What a notebook completes: what detectors and the method define, and of torch's what is used with them."""
        ours = {name for kind in type(self).__mro__ if issubclass(kind, Detector) for name in vars(kind)}
        parts = {*self.__dict__, *self._parameters, *self._modules} - nn.Module().__dict__.keys()
        return sorted(name for name in {*ours, *parts, *_OF_TORCH} if not name.startswith("_"))

    @property
    def backbone(self) -> Backbone:
        """The frozen CLIP underneath, as the method runs it: with changes of its image tower, where it learns some."""
        return self._backbone[0]

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        return self._backbone[0].logit_scale.device

    @property
    def image_size(self) -> int:
        """Image side in pixels: that of its training, or that of its backbone."""
        return self.size or self.backbone.provenance.image_size[0]

    @property
    def reads_map(self) -> bool:
        """Whether there is an anomaly map; where there is none, that of a prediction is empty."""
        return bool(self.plan.taps)

    @property
    def reads_categories(self) -> bool:
        """Whether scores depend on the category of an image."""
        return bool(getattr(self.config, "class_aware", False))

    @property
    def hooks(self) -> list[str]:
        """Names of hook points and modules with hooks, of both towers, and of the detector itself."""
        towers = {"vision": self.backbone.vision, "text": self.backbone.text}
        return [name for side, tower in towers.items() for name in hooked(tower, side)] + hooked(self, "detector")

    def see(
        self, images: Tensor, reading: Reading, gates: Mapping[str, Tensor] | None = None, hooked: bool = False
    ) -> VisionOutput:
        """Normalised images [B, 3, h, w] through the image tower, as ``reading`` plans it.

        Args:
            images: of the batch that the reading was made of.
            reading: of ``self.reading``.
            gates: analysis multipliers of heads, ``{stream: [B, L, H]}``.
            hooked: call hook points in any case; hooks that are set are called anyway.

        Raises:
            ConfigError: a hook that would not be called.
        """
        vision = self.backbone.vision
        return vision(images, reading.plan, gates=gates, hooked=hooked or vision.must_call_hooks())

    def margins(
        self, images: Tensor, categories: Sequence[str] = (), gates: Mapping[str, Tensor] | None = None
    ) -> Margins:
        """Margins of normalised images [B, 3, h, w], in the precision of the backbone, at least float32."""
        reading = self.reading(images, categories)
        return reading.margins(reading.features(self.see(images, reading, gates)))

    def score(self, margins: Margins, size: tuple[int, int]) -> Prediction:
        """Margins of images of that size to their scores."""
        return self.scoring(margins, self.backbone.vision.grid(*size), size)

    def forward(self, images: Tensor, categories: Sequence[str] = ()) -> Prediction:
        """Normalised images [B, 3, h, w] to scores; ``categories`` [B] only matter to methods that read them."""
        return self.score(self.margins(images, categories), (images.shape[2], images.shape[3]))

    def with_config(self, **changes: object) -> Self:
        """The same learned tensors with other settings: ``alpha``, ``pool``, ``top``, ``sigma``, ``taps``, ...

        Raises:
            ConfigError: a field that decides what is learned, or that does not exist.
        """
        if fixed := sorted(self.config.LEARNED & set(changes)):
            raise ConfigError(f"{fixed[0]} decides what is learned: train another detector")
        return self.on(self.backbone, type(self.config).of(self.config.table() | changes))

    def on(self, backbone: Backbone, config: MethodConfig | None = None) -> Self:
        """The same learned tensors on another backbone of that architecture, or with another config."""
        other = type(self)(backbone, config or self.config)
        other.load_state_dict(self.state_dict())
        other.size = self.size
        return other.requires_grad_(any(p.requires_grad for p in self.parameters())).train(self.training)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Where a detector goes, its backbone goes too."""
        self._backbone[0]._apply(fn)
        return super()._apply(fn, recurse)


class HasDetector(Protocol):
    """A run, or any other object with a detector."""

    @property
    def detector(self) -> Detector:
        """The detector."""


def detector_of(given: object) -> Detector:
    """The detector itself, or that of a run; every function of the lens calls this on its first argument.

    Raises:
        ConfigError: neither.
    """
    detector = given if isinstance(given, Detector) else getattr(given, "detector", None)
    if not isinstance(detector, Detector):
        name = repr(given) if isinstance(given, str) else "..."
        raise ConfigError(
            f"{type(given).__name__} is neither a detector nor a run; give headlens.load({name}) or its .detector"
        )
    return detector


def check_blocks(blocks: Mapping[str, Iterable[int]], vision: VisionConfig, name: str) -> None:
    """Raises ConfigError for a block, by the field that has it, beyond those of the backbone ``name``."""
    for field, numbers in blocks.items():
        if beyond := [block for block in numbers if block >= vision.n_layers]:
            raise ConfigError(
                f"{field}: block {beyond[0]} does not exist: {name} has {vision.n_layers}, counted from 0"
            )


def check_size(size: int, vision: VisionConfig, what: str = "size") -> None:
    """Raises ConfigError for images smaller than a patch, or much larger than the backbone was made for."""
    least, most = vision.patch_size, 16 * max(vision.image_size)  # a wrong number is larger by far
    if not least <= size <= most:
        raise ConfigError(f"{what} is {size}: images have {least} px, one patch, to {most} px along a side")
