"""AdaCLIP (arXiv 2407.15795): prompts in both towers that depend on the image, and an image feature of clusters.

    z                 CLIP's embedding of the image, before anything else
    tokens            static + linear(z), behind the patches of the first image blocks, over the first words of the text
    patch at a tap    a linear map of the block's raw output
    image feature     0.8 CLS, as CLIP reads it and then a linear map, and 0.2 the centres of clusters of patches
    map               the probability of the mean margin over taps

Each image has its own prompts, and with them its own text: nothing of an image depends on the others in its batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.backbone import Backbone, VisionPlan
from headlens.detectors.clusters import ClusterPooled
from headlens.detectors.detector import Detector, MethodConfig, check_blocks
from headlens.detectors.losses import both_dice, focal_of_margin, image_loss, image_margin, pixel_loss, row_dice
from headlens.detectors.parts.conditioned import ConditionedPrompts
from headlens.detectors.parts.ensemble import Wording, ensembles
from headlens.detectors.parts.head_weights import HeadWeights, Weighting
from headlens.detectors.parts.projections import TapProjections, seeded_linear
from headlens.detectors.parts.texts import KnownTexts
from headlens.detectors.pooling import CLSToken
from headlens.detectors.reading import Reading
from headlens.detectors.readout import Readout
from headlens.detectors.scoring import Pool, Prediction, Scoring
from headlens.detectors.stages import Answers, Augment, Stage, TrainingConfig
from headlens.detectors.text import Pair
from headlens.errors import ConfigError
from headlens.precision import full_precision, wide

if TYPE_CHECKING:
    from headlens.backbone.config import TextConfig, VisionConfig

WORDING = Wording(
    templates=(
        "a bad photo of a {}.",
        "a low resolution photo of the {}.",
        "a bad photo of the {}.",
        "a cropped photo of the {}.",
    )
)
TOWERS = ("image", "text")
_ROOM = 6  # tokens of the shortest sentence between its ends, whatever the category is called


@dataclass(frozen=True)
class AdaCLIPConfig(MethodConfig):
    """AdaCLIP (arXiv 2407.15795) with the values of its code, but for two quirks, which are off.

    Args:
        taps: distinct blocks after which patches are read, counted from 0; each has its linear map.
        prompted: towers that have prompts: ``image``, ``text``, both or none.
        static, dynamic: whether prompts have a part that is the same for all images, and one made from the image
            embedding; prompts need one of them.
        depth: number of first blocks that have prompts, from 1; the text's first block reads the sentence as it is.
        length: tokens of a prompt, from 1; at most 6 in the text, where they replace the first words.
        class_aware: the category in the sentences, as it is written, but with spaces for hyphens; ``object`` without.
        head_weights: how ``w[layer, head]`` of the image tower is parametrised, as in ``HeadWeights``; not AdaCLIP's.
        share: of clusters in the image feature, 0 to 1; 0 is only CLS.
        clusters, patches, cluster_seed: as in ``ClusterPooled``.
        mosaic: as in ``Augment``, in training; the authors take 0.2 on MVTec AD, and none on other sets.
        row_dice: as the authors' code does, the Dice losses are taken of every row of pixels.
        half_prompts: as the authors' code does, prompts are rounded to half precision.
        temperature: of all softmaxes, 1e-6 to 1e6.
        sigma, alpha, pool, top: as in ``Scoring``; in the authors' image score the map has no part.

    Raises:
        ConfigError: a value that does not exist.

    >>> AdaCLIPConfig(alpha=0.25).depth
    4
    """

    LEARNED: ClassVar = frozenset(
        {"taps", "prompted", "static", "dynamic", "depth", "length", "class_aware", "head_weights", "mosaic"}
        | {"row_dice"}
    )
    READING: ClassVar = frozenset({"alpha", "pool", "top", "sigma"})
    WITHOUT: ClassVar = {
        "head weights": ("head_weights", "none", frozenset({"head_weights", "lr_heads"})),
        "static prompts": ("static", False, frozenset({"static"})),
        "dynamic prompts": ("dynamic", False, frozenset({"dynamic"})),
        "clusters": ("share", 0.0, frozenset({"share", "clusters", "patches", "cluster_seed"})),
        "mosaics": ("mosaic", 0.0, frozenset({"mosaic"})),
    }
    INSTEAD: ClassVar = {"pixel_weight": "a weight of 1 for every loss"}

    taps: tuple[int, ...] = (5, 11, 17, 23)
    prompted: tuple[str, ...] = TOWERS
    static: bool = True
    dynamic: bool = True
    depth: int = 4
    length: int = 5
    class_aware: bool = True
    head_weights: Weighting = "none"
    share: float = 0.2
    clusters: int = 20
    patches: int = 100
    cluster_seed: int = 0
    mosaic: float = 0.0
    row_dice: bool = False
    half_prompts: bool = False
    temperature: float = 0.01
    sigma: float = 4.0
    alpha: float = 0.0
    pool: Pool = "max"
    top: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        limits = {
            "taps": bool(self.taps) and len(set(self.taps)) == len(self.taps) and min(self.taps) >= 0,
            "prompted": set(self.prompted) <= set(TOWERS) and len(set(self.prompted)) == len(self.prompted),
            "dynamic": self.dynamic or self.static or not self.prompted,
            "depth": self.depth >= 1,
            "length": 1 <= self.length <= (_ROOM if "text" in self.prompted else 1000),
            "share": 0 <= self.share <= 1,
            "clusters": self.clusters >= 1,
            "patches": self.patches >= 1,
            "temperature": 1e-6 <= self.temperature <= 1e6,
        }
        self.check_limits(limits)
        self.scoring, self.augment  # noqa: B018  # raise where their fields do not fit

    @property
    def scoring(self) -> Scoring:
        """The mean margin over taps is enlarged, corners aligned, then a probability, and smoothed."""
        reading = {name: getattr(self, name) for name in ("sigma", "alpha", "pool", "top")}
        return Scoring("probability of mean margin", **reading, fuse_at="pixels", corners=True)

    @property
    def augment(self) -> Augment:
        """What is done to images in training."""
        return Augment(mosaic=self.mosaic)

    @property
    def blocks(self) -> dict[str, range]:
        """Which blocks have prompts, by tower."""
        every = {"image": range(self.depth), "text": range(1, self.depth)}
        return {tower: blocks for tower, blocks in every.items() if tower in self.prompted and blocks}

    def check_fits(self, vision: VisionConfig, text: TextConfig, name: str) -> None:
        """Raises ConfigError for a block that does not exist."""
        check_blocks({"taps": self.taps}, vision, name)
        for tower, layers in (("image", vision.n_layers), ("text", text.n_layers)):
            if tower in self.blocks and self.depth > layers:
                raise ConfigError(f"depth is {self.depth}: the {tower} tower of {name} has {layers} blocks")

    def learned_shapes(self, vision: VisionConfig, text: TextConfig) -> dict[str, tuple[int, ...]]:
        """Of all that a detector learns, by the names in its state dict."""
        shapes: dict[str, tuple[int, ...]] = {}
        widths, d_embed = {"image": vision.d_model, "text": text.d_model}, vision.d_embed
        for tower, blocks in self.blocks.items():
            at, width = f"{tower}_prompts", widths[tower]
            shapes |= {f"{at}.static.{i}": (self.length, width) for i in range(len(blocks)) if self.static}
            if self.dynamic:
                shapes[f"{at}.dynamic.weight"] = (self.length * width, d_embed)
                shapes[f"{at}.dynamic.bias"] = (self.length * width,)
        for layer, width in {**{f"projections.{tap}": vision.d_model for tap in self.taps}, "image": d_embed}.items():
            shapes |= {f"{layer}.weight": (d_embed, width), f"{layer}.bias": (d_embed,)}
        if self.head_weights != "none":
            shapes["weights.raw.global"] = (vision.n_layers, vision.n_heads)
        return shapes


class AdaCLIP(Detector):
    """Prompts of each image in both towers, and linear maps behind CLIP's; the backbone is frozen.

    Args:
        backbone: it stays as it is.
        config: every choice.
        seed: of the initial values, the same on every device.

    Raises:
        ConfigError: a config that this backbone cannot have.

    >>> from headlens.backbone import load
    >>> AdaCLIP(load("mini"))(torch.zeros(1, 3, 56, 70)).anomaly_map.shape
    torch.Size([1, 56, 70])
    """

    method = "adaclip"
    config: AdaCLIPConfig

    def __init__(self, backbone: Backbone, config: AdaCLIPConfig | None = None, seed: int = 0) -> None:
        super().__init__(backbone, config := config or AdaCLIPConfig())
        vision, made = backbone.vision.cfg, torch.Generator().manual_seed(seed)
        drawn = int(torch.randint(2**31, (), generator=made))
        self.projections = TapProjections(config.taps, backbone.vision, seed=drawn)
        self.image = seeded_linear(vision.d_embed, vision.d_embed, generator=made, device=self.device)
        self.image_prompts = self._prompts("image", vision.d_model, made)
        self.text_prompts = self._prompts("text", backbone.text.cfg.d_model, made)
        self.weights: HeadWeights | None = None
        if config.head_weights != "none":
            grid = (vision.n_layers, vision.n_heads)
            self.weights = HeadWeights(grid, config.head_weights, ("global",), self.device)
        self._texts = KnownTexts()  # where they depend on no image

    def _prompts(self, tower: str, width: int, generator: torch.Generator) -> ConditionedPrompts | None:
        config = self.config
        if tower not in config.blocks:
            return None
        return ConditionedPrompts(
            config.blocks[tower],
            config.length,
            width,
            self.backbone.vision.cfg.d_embed,
            static=config.static,
            dynamic=config.dynamic,
            generator=generator,
            device=self.device,
        )

    @property
    def plan(self) -> VisionPlan:
        """CLIP's own stream, with head weights where there are any; a reading adds the prompts of its images."""
        return VisionPlan(self.config.taps, head_weights=self.head_weights())

    def reading(self, images: Tensor, categories: Sequence[str] = ()) -> Reading:
        """CLIP sees the images as they are, and from what it says come their prompts, in both towers."""
        config, vision, embedding = self.config, self.backbone.vision, self._embedding(images)
        clusters = ClusterPooled(config.share, config.clusters, config.patches, config.cluster_seed)
        return Reading(
            replace(self.plan, tokens=self._tokens(self.image_prompts, embedding)),
            Pair(self._text(categories or ["object"] * len(images), embedding), config.temperature),
            taps=self.projections.readouts(vision),
            image=self._image_readout(),
            pooling=clusters if config.share else CLSToken(),
            beforehand=("prompts of each image",) if config.dynamic and config.blocks else (),
        )

    @torch.no_grad()
    def _embedding(self, images: Tensor) -> Tensor:
        """CLIP's embeddings of images [B, d_e]: hooks, gates and head weights are those of the pass that is read."""
        if not (self.config.dynamic and self.config.blocks):
            return self.backbone.vision.proj.new_zeros(len(images), self.backbone.vision.cfg.d_embed)  # of no use
        return self.backbone.vision(images, hooked=False).embedding

    def _tokens(self, prompts: ConditionedPrompts | None, embedding: Tensor) -> dict[int, Tensor]:
        """Prompts of each block, as ``ConditionedPrompts`` has them; none without any."""
        tokens = {} if prompts is None else prompts(embedding)
        if not self.config.half_prompts:
            return tokens
        return {block: token.half().to(token) for block, token in tokens.items()}

    def _image_readout(self) -> Readout:
        """CLIP's read-out of CLS, and the linear map behind it, as one."""
        vision, layer = self.backbone.vision, self.image
        with full_precision(self.device):
            matrix = wide(vision.proj) @ layer.weight.T.to(wide(vision.proj))
        return Readout(matrix.to(vision.proj.dtype), vision.ln_final, layer.bias.to(matrix))

    @property
    def scoring(self) -> Scoring:
        """As the settings say."""
        return self.config.scoring

    @property
    def about(self) -> dict[str, object]:
        """What the method says of itself, for people."""
        config = self.config
        kinds = " + ".join(kind for kind in ("static", "dynamic") if getattr(config, kind))
        towers = ", ".join(f"{len(blocks)} {tower} blocks" for tower, blocks in config.blocks.items())
        joint = f"{1 - config.alpha:g} image score + {config.alpha:g} {config.pool} of the map"
        return {
            "sentences of": "the category" if config.class_aware else "object",
            "prompts": f"{kinds}, {config.length} tokens in {towers}" if towers else "none",
            "taps": ", ".join(map(str, config.taps)),
            "image feature": f"{1 - config.share:g} CLS + {config.share:g} clusters of patches",
            "joint score": joint if config.alpha else "the image score",
        }

    def head_weights(self) -> dict[str, Tensor]:
        """As ``HeadWeights`` has them, {"global": [layers, heads]}."""
        return self.weights() if self.weights is not None else {}

    def text(self, things: Sequence[str] = ("object",), images: Tensor | None = None) -> Tensor:
        """The normal and the abnormal embedding for each thing, [B, 2, d_e], of unit length.

        Args:
            things: [B].
            images: normalised, [B, 3, h, w], whose prompts are in the sentences; None where these depend on no image.

        Raises:
            ConfigError: no images, and prompts that depend on them.
        """
        if images is None and self._text_is_of_image:
            raise ConfigError("the text of this detector depends on the image: give images, one for each thing")
        none = self.backbone.vision.proj.new_zeros(len(things), self.backbone.vision.cfg.d_embed)
        return self._text(things, none if images is None else self._embedding(images))

    @property
    def _text_is_of_image(self) -> bool:
        return self.text_prompts is not None and self.config.dynamic

    def _text(self, things: Sequence[str], embedding: Tensor) -> Tensor:
        """Of things [B] in images with these embeddings [B, d_e]."""
        names = [thing.replace("-", " ") for thing in things] if self.config.class_aware else ["object"] * len(things)
        encode = partial(self._encoded, prompts=self._tokens(self.text_prompts, embedding))
        made = partial(ensembles, self.backbone, wording=WORDING, encode=encode)
        if self._text_is_of_image:
            return made(names)
        return self._texts.of(names, made, self.backbone, [] if self.text_prompts is None else [self.text_prompts])

    def _encoded(self, sentences: Tensor, prompts: Mapping[int, Tensor]) -> Tensor:
        """Token ids of the sentences of B images, as many of each, [P, n], to unit embeddings [P, d_e]."""
        text = self.backbone.text
        deep = {
            block: tokens.repeat_interleave(len(sentences) // len(tokens), 0) if tokens.ndim == 3 else tokens
            for block, tokens in prompts.items()
        }
        return F.normalize(wide(text(sentences, deep_prompts=deep, hooked=text.must_call_hooks())), dim=-1)

    def stages(self, training: TrainingConfig) -> Sequence[Stage]:
        """One: focal loss of the image score, focal and both Dice losses of every tap's map, by AdamW."""
        learned = [p for name, p in self.named_parameters() if not name.startswith("weights.")]
        groups = [{"params": learned, "lr": training.lr}]
        if self.weights is not None:
            groups.append({"params": list(self.weights.parameters()), "lr": training.lr_heads})
        how: dict[str, Any] = {"optimiser": "adamw", "augment": self.config.augment, "margins": image_margin}
        return (Stage(groups, self.forward, self._loss, **how),)

    def _loss(self, prediction: Prediction, answers: Answers) -> dict[str, Tensor]:
        dice = row_dice if self.config.row_dice else both_dice
        return {
            "image": image_loss(prediction.image_margin, answers, focal_of_margin),
            "pixel": pixel_loss(prediction.tap_margins, answers, corners=True, dice=dice),
        }
