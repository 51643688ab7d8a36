"""VadCLIP (arXiv 2308.11681): which frames of a video are anomalous, learned from labels of whole videos alone.

    frame t       the CLS embedding of a frozen CLIP; then v_t of ``TemporalAdapter``, which knows of the clip's others
    classifier    a_t = w (v_t + MLP v_t) + b                          the frame's score is σ(a_t)
    alignment     m_tc = cos(v_t, t'_c) / 0.07                         t' = (t + u) + MLP(t + u)
                  t: a learned sentence for each kind of anomaly, and for normal
                  u: Σ_t a_t v_t at unit length, what the clip shows
    loss          cross-entropy of the mean of the highest σ(a_t); of the kinds, by the means of their highest m_tc; and
                  0.1 times the mean |cos| of normal with other sentences

Frames are read one by one, so that the heads of the frame encoder are what they are everywhere; above it everything
mixes the frames of a clip, and no sum over heads is a score. There is no anomaly map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from headlens.backbone import Backbone, VisionPlan
from headlens.clips import kind_key, lengths_of
from headlens.detectors.detector import Detector, MethodConfig
from headlens.detectors.parts.clip_head import TEMPERATURE, AmongFrames, Branch, ClipHead, Logits, clip_head_shapes
from headlens.detectors.parts.clip_windows import Windows, averaged
from headlens.detectors.parts.kind_prompts import KindPrompts
from headlens.detectors.parts.texts import KnownTexts
from headlens.detectors.reading import Reading
from headlens.detectors.readout import Readout
from headlens.detectors.scoring import Margins, Prediction, Scoring
from headlens.detectors.stages import Answers, Schedule, Stage, TrainingConfig
from headlens.detectors.text import Pair
from headlens.errors import ConfigError
from headlens.precision import wide

if TYPE_CHECKING:
    from headlens.backbone.config import TextConfig, VisionConfig

BELTS = ("normal", "contamination", "missing", "spill", "dark", "standstill")
UCF = (
    *("normal", "abuse", "arrest", "arson", "assault", "burglary", "explosion", "fighting", "road accidents"),
    *("robbery", "shooting", "shoplifting", "stealing", "vandalism"),
)
XD = ("normal", "fighting", "shooting", "riot", "abuse", "car accident", "explosion")


@dataclass(frozen=True)
class VadCLIPConfig(MethodConfig):
    """VadCLIP (arXiv 2308.11681), made smaller for short clips and a small CLIP; ``vadclip-ucf`` is as published.

    Args:
        kinds: what a clip may show: normal first, then the kinds of anomalies, which are the families of the data.
        branch: which one a frame's score is of; both are trained.
        length: T, frames of a window; a longer clip is several to be scored, and averaged to one to be learned from.
        layers, window: of the transformer over frames: how many, and frames that see each other. T is a multiple.
        context: learned tokens before a kind's name, and as many behind it.
        threshold: up to which a cosine of two frames is none.
        apart: weight of the third term of the loss.
        lr: learning rate.
        milestones, factor: steps after which it is multiplied by ``factor``.
        epochs, batch: passes over the clips, and clips of a step.

    Raises:
        ConfigError: a value that does not exist.

    >>> VadCLIPConfig(branch="alignment").kinds[:2]
    ('normal', 'contamination')
    """

    LEARNED: ClassVar = frozenset(
        {"kinds", "length", "layers", "window", "context", "threshold", "apart", "lr", "milestones", "factor"}
        | {"epochs", "batch"}
    )
    READING: ClassVar = frozenset({"branch"})
    INSTEAD: ClassVar = {
        "epochs": "epochs in table detector",
        "batch": "batch in table detector, of clips",
        "lr": "lr in table detector",
        "pixel_weight": "no map",
    }

    kinds: tuple[str, ...] = BELTS
    branch: Branch = "classifier"
    length: int = 48
    layers: int = 1
    window: int = 48
    context: int = 4
    threshold: float = 0.7
    apart: float = 0.1
    lr: float = 3e-4
    milestones: tuple[int, ...] = ()
    factor: float = 0.1
    epochs: int = 20
    batch: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        limits = {
            "kinds": len({kind_key(kind) for kind in self.kinds}) == len(self.kinds) >= 2,
            "length": self.length >= 1,
            "window": self.window >= 1 and self.length % self.window == 0,
            "threshold": -1 <= self.threshold <= 1,
        }
        least = {"layers": 0, "context": 0, "apart": 0, "lr": 0, "epochs": 1, "batch": 1}
        limits |= {name: getattr(self, name) >= low for name, low in least.items()}
        self.check_limits(limits)
        self.schedule  # noqa: B018  # raises where its fields do not fit

    @property
    def schedule(self) -> Schedule:
        """Of the learning rate."""
        return Schedule(self.milestones, self.factor)

    def check_fits(self, vision: VisionConfig, text: TextConfig, name: str) -> None:
        """Raises ConfigError for more learned tokens than a sentence has, and embeddings that have no two halves."""
        if 2 * self.context > text.n_ctx - 3:  # the start, a word and the end are read, too
            raise ConfigError(
                f"context is {self.context}, twice, but the text tower of {name} reads {text.n_ctx} tokens"
            )
        if vision.d_embed % 2:
            raise ConfigError(
                f"{name} has embeddings of {vision.d_embed} numbers, which two graphs cannot share evenly"
            )

    def learned_shapes(self, vision: VisionConfig, text: TextConfig) -> dict[str, tuple[int, ...]]:
        """Of all that a detector learns, by the names in its state dict."""
        above = clip_head_shapes(vision.d_embed, self.length, self.layers)
        return {"prompts.table": (text.n_ctx, text.d_model), **{f"above.{name}": one for name, one in above.items()}}


@dataclass(frozen=True)
class Frames:
    """CLS embeddings of B frames, [B, d_e], which training does not change."""

    embeddings: Tensor


@dataclass(frozen=True)
class Seen:
    """What losses read of K clips: logits [K, T] of windows, of which some are frames [K], and sentences [C, d_e]."""

    logits: Logits
    lengths: Tensor
    text: Tensor


class VadCLIP(Detector):
    """A frozen CLIP that reads frames, and what knows of clips.

    Args:
        backbone: it stays as it is.
        config: every choice.
        seed: of the initial values, the same on every device.

    Raises:
        ConfigError: settings that this backbone cannot have.

    >>> from headlens.backbone import load
    >>> from headlens.clips import Shown
    >>> clip = Shown(("belt",) * 3, lengths=(3,))
    >>> VadCLIP(load("mini"))(torch.zeros(3, 3, 56, 56), clip).image_score.shape
    torch.Size([3])
    """

    method = "vadclip"
    config: VadCLIPConfig

    def __init__(self, backbone: Backbone, config: VadCLIPConfig | None = None, seed: int = 0) -> None:
        super().__init__(backbone, config := config or VadCLIPConfig())
        width, made = backbone.vision.cfg.d_embed, torch.Generator().manual_seed(seed)
        self.prompts = KindPrompts(backbone, config.context, made)
        sizes = (config.length, config.layers, config.window, config.threshold)
        self.above = ClipHead(width, *sizes, made, self.device)
        self._texts = KnownTexts()

    @property
    def plan(self) -> VisionPlan:
        """CLIP's own stream; no patch is read."""
        return VisionPlan()

    def reading(self, images: Tensor, categories: Sequence[str] = ()) -> Reading:
        """Frames as CLIP reads CLS, each against its clip: which are one clip, ``categories`` says as ``Shown``."""
        windows = Windows.of(lengths_of(categories, len(images)), self.config.length, self.device)
        return self._reading(windows)

    def _reading(self, windows: Windows) -> Reading:
        text = self.text()
        of_frames = F.normalize(torch.stack([text[0], text[1:].mean(0)]), dim=-1)
        return Reading(
            self.plan,
            Pair(of_frames, TEMPERATURE),
            taps={},
            image=Readout.of(self.backbone.vision),
            image_text=AmongFrames(self.above, text, windows, self.config.branch),
        )

    @property
    def scoring(self) -> Scoring:
        """The probability of the margin."""
        return Scoring(alpha=0.0)

    @property
    def about(self) -> dict[str, object]:
        """What the method says of itself, for people."""
        config = self.config
        return {
            "reads": f"clips, {config.length} frames at a time",
            "score": f"of a frame, by the {config.branch}",
            "kinds": ", ".join(config.kinds),
            "anomaly map": "none",
        }

    def text(self) -> Tensor:
        """The learned sentence of each kind before it is shown a clip, [C, d_e], of any length."""
        return self._texts.of(
            self.config.kinds, lambda kinds: self.prompts(self.backbone, kinds), self.backbone, [self.prompts]
        )

    def forward(self, images: Tensor, categories: Sequence[str] = ()) -> Prediction:
        """Normalised frames [B, 3, h, w] of clips to their scores, and the probability of each kind of anomaly."""
        reading = self.reading(images, categories)
        size = (images.shape[2], images.shape[3])
        return self._predicted(reading, reading.features(self.see(images, reading)).cls, size)

    def _predicted(self, reading: Reading, cls: Tensor, size: tuple[int, int]) -> Prediction:
        contrast = reading.image_contrast
        assert isinstance(contrast, AmongFrames)
        kinds = contrast.logits(cls).kinds.softmax(-1)
        named = dict(zip(self.config.kinds[1:], kinds.unbind(-1)[1:], strict=True))
        return replace(self.score(Margins(contrast.margin(cls), {}), size), kinds=named)

    def stages(self, training: TrainingConfig) -> Sequence[Stage]:
        """One, by AdamW, of clips: frames are read once, and what knows of clips is trained on their embeddings."""
        config = self.config
        return (
            Stage(
                [{"params": list(self.parameters()), "lr": config.lr, "weight_decay": 0.01, "betas": (0.9, 0.999)}],
                see=lambda images, categories: self._see(self._keep(images), categories),
                loss=self._loss,
                weights={"apart": config.apart},
                keep=self._keep,
                see_features=self._see,
                predict=self._predict,
                clips=True,
                optimiser="adamw",
                epochs=config.epochs,
                batch=config.batch,
                schedule=config.schedule if config.milestones else None,
            ),
        )

    @torch.no_grad()
    def _keep(self, images: Tensor) -> Frames:
        vision = self.backbone.vision
        return Frames(wide(vision(images, self.plan, hooked=False).embedding))

    def _predict(self, kept: Frames, categories: Sequence[str]) -> Prediction:
        side, lengths = self.image_size, lengths_of(categories, len(kept.embeddings))
        reading = self._reading(Windows.of(lengths, self.config.length, self.device))
        return self._predicted(reading, kept.embeddings, (side, side))

    def _see(self, kept: Frames, categories: Sequence[str]) -> Seen:
        clips = kept.embeddings.split(lengths_of(categories, len(kept.embeddings)))
        most = [averaged(frames, self.config.length) for frames in clips]
        lengths = torch.tensor([len(frames) for frames in most], device=kept.embeddings.device)
        padded = torch.stack([F.pad(frames, (0, 0, 0, self.config.length - len(frames))) for frames in most])
        text = self.text()
        return Seen(self.above(padded, lengths, text), lengths, text)

    def _loss(self, seen: Seen, answers: Answers) -> dict[str, Tensor]:
        anomalous, kinds, logits = [], [], seen.logits
        lengths = seen.lengths.tolist()
        labels = self._labels(answers)
        for k, (length, label) in enumerate(zip(lengths, labels, strict=True)):
            top = length // 16 + 1
            if label.anomalous is not None:
                highest = logits.anomalous[k, :length].sigmoid().topk(top).values.mean()
                right = highest if label.anomalous else 1 - highest
                anomalous.append(-right.clamp(min=1e-12).log())  # torch's own refuses to be under autocast
            if label.kinds:
                means = logits.kinds[k, :length].topk(top, 0).values.mean(0)  # (C)
                kinds.append(-means.log_softmax(-1)[list(label.kinds)].mean())
        unit = F.normalize(seen.text, dim=-1)
        none = seen.text.sum() * 0
        return {
            "anomalous": torch.stack(anomalous).mean() if anomalous else none,
            "kinds": torch.stack(kinds).mean() if kinds else none,
            "apart": (unit[1:] @ unit[0]).abs().mean(),
        }

    def _labels(self, answers: Answers) -> list[Label]:
        """Of each clip: only what is known of all of it, never of a frame."""
        known = {kind_key(kind): number for number, kind in enumerate(self.config.kinds)}
        labels, start = [], 0
        for length in answers.lengths:
            of_clip = slice(start, start + length)
            families = {family for family in answers.families[of_clip] if family not in ("", "good")}
            if unknown := [family for family in sorted(families) if kind_key(family) not in known]:
                raise ConfigError(
                    f"a clip of the training set shows {unknown[0]!r}, and kinds are {', '.join(self.config.kinds)}: "
                    "name those of the set as kinds in table detector, normal first"
                )
            values = answers.labels[of_clip].tolist()
            start += length
            if families or 1 in values:
                labels.append(Label(True, tuple(known[kind_key(family)] for family in sorted(families))))
            elif -1 not in values or set(answers.families[of_clip]) == {"good"}:
                labels.append(Label(False, (0,)))
            else:
                labels.append(Label(None, ()))
        return labels


@dataclass(frozen=True)
class Label:
    """Of a clip: whether something happens in it, None if unknown; and which kinds, by number."""

    anomalous: bool | None
    kinds: tuple[int, ...]


VADCLIP_PRESETS: Mapping[str, VadCLIPConfig] = {
    "vadclip": VadCLIPConfig(),
    "vadclip-ucf": VadCLIPConfig(
        UCF, length=256, layers=2, window=8, context=10, lr=2e-5, epochs=10, batch=128, milestones=(48, 96)
    ),
    "vadclip-xd": VadCLIPConfig(
        XD,
        "alignment",
        length=256,
        layers=1,
        window=64,
        context=10,
        lr=1e-5,
        epochs=10,
        batch=96,
        milestones=(123, 246),
        apart=1e-4,
    ),
}
"""For the procedural clips on an embedded backbone, and as published for UCF-Crime and XD-Violence.

Milestones are those of the authors' epochs, of 12 and of 41 steps: 1610 and 3954 clips, one crop of each.
"""
