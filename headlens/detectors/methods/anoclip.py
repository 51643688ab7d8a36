"""AnoCLIP, at first called AnoVL (arXiv 2308.15939): V-V attention from the first block, and words of the domain.

    margin of a patch    <u, e / |e|>       e: the local stream at the last block, as CLIP reads it; temperature 1
    anomaly map          σ(margins), each patch the mean of the 3 x 3 around it, enlarged
    image score          CLIP's own: CLS against the prompts

Nothing is trained. With ``steps`` it is AnoCLIP+: each image adapts a small adapter of its patches' embeddings, by
itself, when it is read; from then on that adapter is held.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.backbone import Backbone, LocalStream, VisionPlan
from headlens.detectors.detector import Detector, MethodConfig, check_blocks
from headlens.detectors.parts.adaptation import Adapted, adapt
from headlens.detectors.parts.ensemble import Wording
from headlens.detectors.parts.texts import KnownTexts
from headlens.detectors.parts.views import changed
from headlens.detectors.reading import Reading
from headlens.detectors.readout import Readout
from headlens.detectors.scoring import Margins, Pool, Scoring
from headlens.detectors.text import Pair
from headlens.errors import ConfigError
from headlens.maps import upsample
from headlens.precision import wide
from headlens.units import logit

if TYPE_CHECKING:
    from headlens.backbone.config import TextConfig, VisionConfig

_WITHOUT = ("{} without flaw", "{} without defect", "{} without damage")
_WITH = ("{} with flaw", "{} with defect", "{} with damage")
_NORMAL = ("normal {}", "flawless {}", "perfect {}", "unblemished {}", *_WITHOUT)
_ABNORMAL = ("damaged {}", "abnormal {}", "imperfect {}", "blemished {}", *_WITH)
_LOOKS = ("cropped", "close-up", "bright", "dark", "jpeg corrupted", "blurry")


def _wording(*kinds: str) -> Wording:
    """Seven states, each in 22 sentences about each kind of image, such as ``an industrial photo``."""
    templates = []
    for kind in kinds:
        _, bare = kind.split(" ", 1)
        for article in ("a", "the"):
            templates += [f"a {look} {bare} of {article} {{}}" for look in _LOOKS]
            templates += [f"{kind} of {article} {size}{{}}" for size in ("", "small ", "large ")]
            templates += [f"{kind} of {article} {{}} for {aim}" for aim in ("visual inspection", "anomaly detection")]
    return Wording(_NORMAL, _ABNORMAL, tuple(templates))


OBJECTS = _wording("an industrial photo", "an industrial image", "a manufacturing image")
TEXTURES = _wording("an industrial photo", "a textural photo", "a surface picture")


@dataclass(frozen=True)
class AnoCLIPConfig(MethodConfig):
    """AnoCLIP (arXiv 2308.15939) with the values of its code.

    Args:
        local_start: block at which the V-V stream begins; -1: patches are read from the global stream.
        taps: distinct blocks after which patches are read, counted from 0; empty: after the last, as the authors do.
        class_aware: the category in the prompts, as it is written; ``object`` for every image without.
        textures: categories whose sentences have the words of textures.
        phrases: what categories are called in place of their names, as ``descriptions.read_descriptions`` gives them.
        temperature: of both softmaxes, 1e-6 to 1e6.
        steps: of test-time adaptation, up to 1000; 0 is none, the authors take 5.
        adapter: it goes through the ``sentences`` and a tanh, as on MVTec AD, or is ``linear``, as on VisA.
        loss_at: its loss is taken on the ``grid`` of patches, as on MVTec AD, or at ``pixels``, as on VisA.
        adapter_seed: of the initial adapter and of the noise, the same for every image.
        side: of the square of patches that each is the mean of; 1 leaves them as they are.
        views: the image score is the mean over 22 views of the image, as on MVTec AD; the lens reads no such score.
        sigma, alpha, pool, top: as in ``Scoring``; the authors have no Gaussian, and their image score is that of CLS.

    Raises:
        ConfigError: a value that does not exist.

    >>> AnoCLIPConfig(steps=5).adapter
    'sentences'
    """

    READING: ClassVar = frozenset({"alpha", "pool", "top", "sigma", "side", "views"})
    WITHOUT: ClassVar = {
        "local stream": ("local_start", -1, frozenset({"local_start"})),
        "adaptation": ("steps", 0, frozenset({"steps", "adapter", "loss_at", "adapter_seed"})),
    }

    local_start: int = 0
    taps: tuple[int, ...] = ()
    class_aware: bool = True
    textures: tuple[str, ...] = ("carpet", "leather", "grid", "tile", "wood")
    phrases: tuple[tuple[str, str], ...] = (("macaroni1", "macaroni"), ("macaroni2", "macaroni"))
    temperature: float = 1.0
    steps: int = 0
    adapter: Literal["sentences", "linear"] = "sentences"
    loss_at: Literal["grid", "pixels"] = "grid"
    adapter_seed: int = 0
    side: int = 3
    views: bool = False
    sigma: float = 0.0
    alpha: float = 0.0
    pool: Pool = "max"
    top: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        limits = {
            "local_start": self.local_start >= -1,
            "taps": len(set(self.taps)) == len(self.taps) and min(self.taps, default=0) >= 0,
            "temperature": 1e-6 <= self.temperature <= 1e6,
            "steps": 0 <= self.steps <= 1000,
            "adapter_seed": 0 <= self.adapter_seed < 2**32,
        }
        self.check_limits(limits)
        self.scoring  # noqa: B018  # raises where its fields do not fit

    @property
    def scoring(self) -> Scoring:
        """The mean of neighbours on the grid, and corners aligned."""
        return Scoring(sigma=self.sigma, alpha=self.alpha, pool=self.pool, top=self.top, corners=True, side=self.side)

    def check_fits(self, vision: VisionConfig, text: TextConfig, name: str) -> None:
        """Raises ConfigError for a block that does not exist."""
        check_blocks({"taps": self.taps, "local_start": [self.local_start]}, vision, name)


class AnoCLIP(Detector):
    """A frozen CLIP, read otherwise; nothing is learned.

    Args:
        backbone: it stays as it is.
        config: every choice.
        seed: of nothing; ``adapter_seed`` of the config is the one that counts.

    Raises:
        ConfigError: a block that this backbone does not have.

    >>> from headlens.backbone import load
    >>> AnoCLIP(load("mini"))(torch.zeros(1, 3, 56, 70)).anomaly_map.shape
    torch.Size([1, 56, 70])
    """

    method = "anoclip"
    config: AnoCLIPConfig

    def __init__(self, backbone: Backbone, config: AnoCLIPConfig | None = None, seed: int = 0) -> None:
        super().__init__(backbone, config or AnoCLIPConfig())
        self._texts = KnownTexts()

    @property
    def plan(self) -> VisionPlan:
        """The V-V stream beside CLIP's own, from the first block on."""
        start = self.config.local_start
        return VisionPlan(self.taps, LocalStream(start) if start >= 0 else None)

    @property
    def taps(self) -> tuple[int, ...]:
        """Blocks after which patches are read."""
        return self.config.taps or (self.backbone.vision.cfg.n_layers - 1,)

    def reading(self, images: Tensor, categories: Sequence[str] = ()) -> Reading:
        """CLIP's own read-out for CLS and patches, and behind it what each image has adapted.

        Raises:
            ConfigError: ``views``, of which each would be read by itself.
        """
        if self.config.views:
            raise ConfigError(
                "views = true: the image score is a mean over 22 views of an image, and the lens reads one image at a "
                "time; take detector.with_config(views=False), whose anomaly maps are the same"
            )
        return self._reading(images, categories)

    def margins(
        self, images: Tensor, categories: Sequence[str] = (), gates: Mapping[str, Tensor] | None = None
    ) -> Margins:
        """As of every detector; with ``views``, the image margin is the logit of the mean probability over them."""
        reading = self._reading(images, categories)
        margins = self._seen(images, reading, gates)
        if not self.config.views:
            return margins
        of_cls = replace(reading, plan=VisionPlan())  # which is all that is read of the other views
        gates = {stream: values for stream, values in (gates or {}).items() if stream == "global"}
        each = [margins.image, *(self._seen(view, of_cls, gates).image for view in changed(images))]
        return replace(margins, image=logit(torch.stack(each).sigmoid().mean(0)))

    def _seen(self, images: Tensor, reading: Reading, gates: Mapping[str, Tensor] | None) -> Margins:
        return reading.margins(reading.features(self.see(images, reading, gates)))

    def _reading(self, images: Tensor, categories: Sequence[str]) -> Reading:
        readout, things = Readout.of(self.backbone.vision), categories or ["object"] * len(images)
        text = Pair(self.text_of(things), self.config.temperature)
        taps = dict.fromkeys(self.taps, readout)
        if self.config.steps:
            readout_of = partial(replace, readout, beforehand="adapter of each image")
            taps = {tap: readout_of(tail=tail) for tap, tail in self._adapted(images, things).items()}
        return Reading(self.plan, text, taps, readout)

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
            "local stream": f"from block {config.local_start}" if config.local_start >= 0 else "none",
            "taps": ", ".join(map(str, self.taps)),
            "adaptation": f"{config.steps} steps in each image, {config.adapter}" if config.steps else "none",
            "image score": "the mean over 22 views" if config.views else "of CLS",
            "joint score": joint if config.alpha else "the image score",
        }

    def text(self, things: Sequence[str] = ("object",)) -> Tensor:
        """The normal and the abnormal embedding for each thing, [things, 2, d_e], of unit length.

        The mean of the sentences' embeddings as they are, not of unit ones.
        """
        return F.normalize(self._sentences(things).mean(2), dim=-1)

    def text_of(self, categories: Sequence[str]) -> Tensor:
        """The embeddings for images of ``categories``: [B, 2, d_e], or [2, d_e] where the config is not class-aware."""
        if not self.config.class_aware:
            return self.text()[0]
        different = list(dict.fromkeys(categories))
        return self.text(different)[[different.index(category) for category in categories]]

    def _sentences(self, things: Sequence[str]) -> Tensor:
        """Embeddings of all sentences of either state, of any length, [things, 2, sentences, d_e]."""
        return self._texts.of(things, self._encoded, self.backbone)

    def _encoded(self, things: Sequence[str]) -> Tensor:
        return torch.stack([self._encoded_one(thing) for thing in things])

    def _encoded_one(self, thing: str) -> Tensor:
        wording = TEXTURES if thing in self.config.textures else OBJECTS
        states = wording.sentences(dict(self.config.phrases).get(thing, thing))
        return torch.stack([wide(self.backbone.encode_text(self.backbone.tokenizer(state))) for state in states])

    @torch.no_grad()
    def _adapted(self, images: Tensor, things: Sequence[str]) -> dict[int, Adapted]:
        """Of each tap, the adapters of the images: hooks see only the pass that is then read with them."""
        config, vision = self.config, self.backbone.vision
        out, readout = vision(images, self.plan, hooked=False), Readout.of(vision)
        sentences = None
        if config.adapter == "sentences":
            of = things if config.class_aware else ["object"] * len(images)
            sentences = F.normalize(self._sentences(of), dim=-1).flatten(1, 2)
        return {
            tap: adapt(
                readout(tokens),
                self.text_of(things).expand(len(images), -1, -1),
                steps=config.steps,
                seed=config.adapter_seed,
                temperature=config.temperature,
                sentences=sentences,
                enlarge=partial(self._enlarged, images) if config.loss_at == "pixels" else _as_it_is,
            )
            for tap, tokens in out.tapped.items()
        }

    def _enlarged(self, images: Tensor, logits: Tensor) -> Tensor:
        """Logits of patches [R, N] to those of pixels, [R, h w]."""
        size = (images.shape[2], images.shape[3])
        maps = logits.unflatten(1, self.backbone.vision.grid(*size))
        return upsample(maps, size, 0.0, corners=True).flatten(1)


def _as_it_is(logits: Tensor) -> Tensor:
    return logits
