"""``Detector``: a frozen backbone, what was learned on top of it, and how a score is read. Every preset is one.

images [B, 3, h, w]
  -> features    CLS [B, d_e], patches {tap: [B, N, d_e]}, under the head weights
  -> score       with the two prompt embeddings: margins, anomaly map [B, h, w], image score [B], joint score [B]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from headlens import html
from headlens.backbone import Backbone, LocalStream
from headlens.backbone.hooks import hooked
from headlens.backbone.vision import VisionOutput
from headlens.detectors.config import DetectorConfig, check_fits
from headlens.detectors.learned import HeadWeights, LearnedPrompts
from headlens.detectors.prompts import ensemble
from headlens.detectors.scoring import joint_score, margin, score_pooled, upsample
from headlens.errors import ConfigError
from headlens.precision import finely

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Features:
    """What the image tower says of ``B`` images of ``size``: ``cls`` [B, d_e], ``patches`` {tap: [B, N, d_e]}."""

    cls: Tensor
    patches: dict[int, Tensor]
    size: tuple[int, int]


@dataclass(frozen=True)
class Prediction:
    """Scores of ``B`` images; higher is more anomalous.

    Args:
        anomaly_map: [B, h, w], 0 to 1.
        image_score: [B], the probability that CLS gives to the abnormal prompt.
        joint_score: [B], ``(1 - alpha) image_score + alpha pool(anomaly_map)``.
        image_margin: [B], abnormal minus normal logit of CLS, before softmax.
        tap_margins: {tap: [B, rows, columns]}, the same of every patch.
    """

    anomaly_map: Tensor
    image_score: Tensor
    joint_score: Tensor
    image_margin: Tensor
    tap_margins: dict[int, Tensor]

    def __len__(self) -> int:
        return len(self.image_score)

    @property
    def frame(self) -> pd.DataFrame:
        """A row for each image: its scores, its margin and the maximum of its map."""
        import pandas as pd

        columns = {
            "joint score": self.joint_score,
            "image score": self.image_score,
            "map maximum": self.anomaly_map.flatten(1).amax(1),
            "image margin (logits)": self.image_margin,
        }
        return pd.DataFrame({name: own.detach().cpu().numpy() for name, own in columns.items()}).rename_axis("image")

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        size = " x ".join(map(str, self.anomaly_map.shape[-2:]))
        facts = {"images": len(self), "maps": f"{size} px", "scores": "0 to 1, higher is more anomalous"}
        return html.card("Prediction", facts, html.table(self.frame.reset_index()))


class Detector(nn.Module):
    """HeadCLIP, and by its config AnomalyCLIP and plain CLIP. The backbone is frozen; only what is learned has state.

    Args:
        backbone: it stays as it is.
        config: every choice.
        seed: of the initial prompts.

    Raises:
        ConfigError: a config that this backbone cannot have: a tap or a text block that does not exist.

    >>> from headlens.backbone import load
    >>> detector = Detector(load("mini"), DetectorConfig())
    >>> detector(torch.zeros(1, 3, 56, 70)).anomaly_map.shape
    torch.Size([1, 56, 70])
    """

    def __init__(self, backbone: Backbone, config: DetectorConfig | None = None, seed: int = 0) -> None:
        super().__init__()
        self.config = config = config or DetectorConfig()
        vision = backbone.vision.cfg
        check_fits(config, vision, backbone.text.cfg, backbone.provenance.name)
        self._backbone = [backbone.requires_grad_(False).eval()]  # in a list: its weights are not this module's state
        self.prompts = LearnedPrompts(backbone, config, seed) if config.prompts == "learned" else None
        self.size = 0  # pixels along a side that it was trained on, where that is another than the backbone's
        self._texts: dict[tuple[object, ...], Tensor] = {}
        self.weights: HeadWeights | None = None
        if config.head_weights != "none":
            self.weights = HeadWeights((vision.n_layers, vision.n_heads), config, self.device)

    @property
    def facts(self) -> dict[str, object]:
        """What it is made of, for people."""
        config, about = self.config, self.backbone.provenance
        return {
            "backbone": f"{about.name} ({about.weights})",
            "activation": None if about.act_fn_known else about.activation,
            "prompts": config.prompts,
            "head weights": ", ".join(
                f"{stream} heads, {own.min():.2f} to {own.max():.2f}" for stream, own in self.head_weights().items()
            )
            or "none",
            "local stream": f"from block {config.local_start}" if self.local is not None else "none",
            "taps": ", ".join(map(str, config.taps)),
            "joint score": f"{1 - config.alpha:g} image score + {config.alpha:g} {config.pool} of the map",
            "learned numbers": sum(own.numel() for own in self.parameters()),
        }

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return html.card("Detector", self.facts)

    @property
    def backbone(self) -> Backbone:
        """The frozen CLIP underneath."""
        return self._backbone[0]

    @property
    def local(self) -> LocalStream | None:
        """The rule of the local stream."""
        config = self.config
        return LocalStream(config.local_start, config.local_attention) if config.local_start >= 0 else None

    @property
    def device(self) -> torch.device:
        """Where the backbone is."""
        return self.backbone.logit_scale.device

    @property
    def image_size(self) -> int:
        """Pixels along a side that it was trained on, or its backbone was made for."""
        return self.size or self.backbone.provenance.image_size[0]

    @property
    def hooks(self) -> list[str]:
        """Names of hook points and modules with hooks, of both towers, and of the detector itself."""
        towers = {"vision": self.backbone.vision, "text": self.backbone.text}
        return [name for own, tower in towers.items() for name in hooked(tower, own)] + hooked(self, "detector")

    def head_weights(self) -> dict[str, Tensor]:
        """Learned weights {stream: [layers, heads]}; empty where none are learned."""
        return self.weights() if self.weights is not None else {}

    def text(self, things: Sequence[str] = ("object",)) -> Tensor:
        """The normal and the abnormal embedding for each thing, [things, 2, d_e], of unit length.

        Where nothing is differentiated, the last answer is kept until things or prompts change (but through ``.data``,
        which torch does not notice), and as fine as weights are, whatever autocast says. Under hooks at the text tower
        or the prompts nothing is kept.
        """
        listening = self.backbone.text.must_call_hooks() or (self.prompts is not None and bool(hooked(self.prompts)))
        if torch.is_grad_enabled() or listening:
            return self._text(things)
        learned = list(self.prompts.parameters()) if self.prompts is not None else []
        known = (*things, *((p.data_ptr(), p._version) for p in (*learned, self.backbone.text.proj)))
        found = self._texts.get(known)
        if found is None:
            with finely(self.device):
                found = self._text(things)
            self._texts = {known: found}
        return found

    def _text(self, things: Sequence[str]) -> Tensor:
        if self.prompts is not None:
            return self.prompts(self.backbone, things)
        return torch.stack([ensemble(self.backbone, [thing]) for thing in things])

    def text_of(self, categories: Sequence[str]) -> Tensor:
        """The embeddings for images of ``categories``: [2, d_e], or [B, 2, d_e] where the config is class-aware."""
        if not self.config.class_aware:
            return self.text()[0]
        things = list(dict.fromkeys(categories))
        known = self.text([thing.replace("_", " ") for thing in things])
        return known[[things.index(category) for category in categories]]

    def features(self, images: Tensor, gates: Mapping[str, Tensor] | None = None) -> Features:
        """Normalised images [B, 3, h, w] through the image tower, under the head weights and analysis ``gates``.

        Hooks at the tower are called.

        Raises:
            ConfigError: a hook that would not be called.
        """
        vision = self.backbone.vision
        out = vision(
            images,
            taps=self.config.taps,
            local=self.local,
            head_weights=self.head_weights() or None,
            gates=gates,
            hooked=vision.must_call_hooks(),
        )
        patches = {tap: tokens.float() for tap, tokens in out.patches.items()}
        return Features(self.image_feature(out), patches, (images.shape[2], images.shape[3]))

    def image_feature(self, out: VisionOutput) -> Tensor:
        """What the config reads from CLS, [B, d_e]."""
        return (out.embedding if self.config.cls_norm else out.cls @ self.backbone.vision.proj).float()

    def score(self, features: Features, text: Tensor) -> Prediction:
        """Everything that is read off: text [2, d_e], or [B, 2, d_e], as ``text_of`` gives it."""
        config = self.config
        grid = self.backbone.vision.grid(*features.size)
        flat = {tap: margin(tokens, text, config.temperature) for tap, tokens in features.patches.items()}  # [B, N]
        taps = {tap: logits.unflatten(1, grid) for tap, logits in flat.items()}
        patch_map = torch.stack([logits.sigmoid() for logits in taps.values()]).mean(0)
        cls = features.cls
        if config.score_pooling:
            cls = score_pooled(cls, features.patches, flat, config.score_pooling)
        image_margin = margin(cls, text, config.temperature)
        maps = upsample(patch_map, features.size, config.sigma * max(features.size) / 518)
        image_score = image_margin.sigmoid()
        joint = joint_score(image_score, maps, config.alpha, config.top if config.pool == "top" else None)
        return Prediction(maps, image_score, joint, image_margin, taps)

    def forward(self, images: Tensor, categories: Sequence[str] = ()) -> Prediction:
        """Normalised images [B, 3, h, w] to scores; ``categories`` [B] only matter to class-aware prompts."""
        return self.score(self.features(images), self.text_of(categories or ["object"] * len(images)))

    def with_config(self, **changes: object) -> Detector:
        """The same learned tensors, read in another way: ``alpha``, ``pool``, ``top``, ``sigma``, ``taps``, ...

        Raises:
            ConfigError: a field that decides what is learned.
        """
        fixed = {"prompts", "context", "deep", "deep_tokens", "head_weights", "streams", "class_aware"} & set(changes)
        if fixed:
            raise ConfigError(f"{sorted(fixed)[0]} decides what is learned: train another detector")
        other = Detector(self.backbone, replace(self.config, **changes))  # type: ignore[arg-type]
        other.load_state_dict(self.state_dict())
        other.size = self.size
        return other.requires_grad_(any(p.requires_grad for p in self.parameters())).train(self.training)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Detector:
        """Where a detector goes, its backbone goes too."""
        self.backbone._apply(fn)
        return super()._apply(fn, recurse)
