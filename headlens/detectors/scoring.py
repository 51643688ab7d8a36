"""From margins to an anomaly map, an image score and a joint score; no other module computes scores.

    image margin    abnormal minus normal logit of the image, before softmax                         [B]
    anomaly map     computed from the margins of the taps                               [B, h, w]
    joint score     (1 - alpha) image score + alpha pool(anomaly map)                                [B]
    joint margin    the joint score where it cannot saturate: its logit, if it is a probability      [B]

Shapes: ``B`` images, ``R`` images or variants of images, ``N = rows x columns`` patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from headlens import html, plots
from headlens.errors import ConfigError, ShapeError
from headlens.maps import covering, neighbour_mean, upsample, windows
from headlens.precision import full_precision
from headlens.units import Unit, logit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Pool = Literal["max", "top"]


@dataclass(frozen=True)
class Margins:
    """The inputs of scores, for R images or variants of images: ``image`` [R], ``taps`` {tap: [R, N]}."""

    image: Tensor
    taps: dict[int, Tensor]


@dataclass(frozen=True)
class Prediction(html.Shown):
    """Scores of ``B`` images; higher is more anomalous.

    Args:
        anomaly_map: [B, h, w]; empty, [B, 0, 0], of a detector that reads no patch.
        image_score: [B], of the image feature alone.
        joint_score: [B], ``(1 - alpha) image_score + alpha pool(anomaly_map)``.
        image_margin: [B], abnormal minus normal logit of the image, before softmax.
        tap_margins: {tap: [B, rows, columns]}, the same of every patch.
        unit: of map and scores: a ``probability`` lies in 0..1, a ``logit`` is any finite number.
        names: of the images, where they are of a data set.
        kinds: probability of each kind of anomaly, {name: [B]}, of methods that tell kinds apart.
    """

    TENSORS: ClassVar = ("anomaly_map", "image_score", "joint_score", "image_margin")

    anomaly_map: Tensor
    image_score: Tensor
    joint_score: Tensor
    image_margin: Tensor
    tap_margins: dict[int, Tensor]
    unit: Unit = "probability"
    provenance: dict[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    kinds: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.image_score)

    @property
    def has_map(self) -> bool:
        """Whether there are anomaly maps."""
        return self.anomaly_map.shape[-1] > 0

    @property
    def frame(self) -> pd.DataFrame:
        """A row for each image: its scores, its margin and the maximum of its map, where there is one."""
        import pandas as pd

        columns = {
            "joint score": self.joint_score,
            "image score": self.image_score,
            "map maximum": pooled(self.anomaly_map),
            "image margin (logits)": self.image_margin,
        }
        if not self.has_map:
            del columns["map maximum"]
        values = {name: scores.detach().cpu().numpy() for name, scores in columns.items()}
        return pd.DataFrame(values, index=list(self.names) or None).rename_axis("image")

    def plot(self, ax: Axes | None = None, image: int = 0) -> plots.Figure:
        """The anomaly map of image number ``image``; ``headlens.lab.show`` draws it over the image.

        Raises:
            ShapeError: there is no such image.
            ConfigError: there are no maps.
        """
        from headlens.results import made_by

        check_map(self.has_map, "a drawing of the anomaly map")
        if image not in range(len(self)):
            raise ShapeError(f"image {image} does not exist; there are {len(self)}, counted from 0")
        shown = self.anomaly_map[image].detach().cpu().numpy()
        title = f"joint score {float(self.joint_score[image]):.2f}"
        drawn = plots.overlay(None, shown, title, ax, plots.limits_of([shown], self.unit), unit=self.unit)
        return plots.signed(drawn, made_by(self.provenance) if self.provenance else "", ax)

    def save(self, path: str | Path) -> Path:
        """Writes ``frame`` as ``.parquet``, ``.csv``, ``.md`` or ``.tex``; or everything as ``.npz``.

        Raises:
            ConfigError: another suffix.
            RunError: the file cannot be written.
        """
        from headlens.results import save_arrays, save_frame

        if Path(path).suffix != ".npz":
            return save_frame(Path(path), self.frame.reset_index(), self.provenance)
        arrays = {name: getattr(self, name) for name in self.TENSORS}
        arrays |= {f"tap_margin_{tap}": margins for tap, margins in self.tap_margins.items()}
        numbers = {name: values.detach().cpu().numpy() for name, values in arrays.items()}
        return save_arrays(Path(path), {**self.provenance, "unit": self.unit}, numbers)

    def _repr_html_(self) -> str:
        size = " x ".join(map(str, self.anomaly_map.shape[-2:])) + " px" if self.has_map else None
        scores = "0 to 1" if self.unit == "probability" else "logits"
        facts = {"images": len(self), "maps": size, "scores": f"{scores}, higher is more anomalous"}
        return html.card("Prediction", facts, html.table(self.frame.reset_index()))


class Scorer(Protocol):
    """What can be evaluated: a ``Detector``, or anything else that scores images, such as a baseline.

    All its predictions have the same unit: maps, image scores and joint scores are probabilities in 0..1, or
    logits, any finite numbers of any scale. Higher is more anomalous.
    """

    @property
    def device(self) -> torch.device:
        """The device that it expects images on."""

    @property
    def image_size(self) -> int:
        """Pixels along a side that it was made for."""

    def __call__(self, images: Tensor, categories: Sequence[str] = ()) -> Prediction:
        """Normalised images [B, 3, h, w] of these categories [B] to scores and maps [B, h, w]."""


class Affine(NamedTuple):
    """``scale`` times a number, plus ``shift``.

    >>> Affine(0.5, 0.5).between((1.0, 3.0))(5.0)
    1.0
    """

    scale: float = 1.0
    shift: float = 0.0

    def __call__(self, values: Any) -> Any:
        """Of a number, or of a tensor of any shape."""
        return values if self == Affine() else self.scale * values + self.shift

    def between(self, ends: Sequence[float]) -> Affine:
        """The same, and then what brings the two ends to 0 and 1; without ends, the same."""
        if not ends:
            return self
        low, high = ends
        return Affine(self.scale / (high - low), (self.shift - low) / (high - low))


@dataclass(frozen=True)
class Scoring:
    """How margins become scores, independent of the tower.

    Args:
        fuse: ``mean of probabilities`` over taps; scores are probabilities. ``mean margin``: scores are logits.
            ``probability of mean margin``: that margin is enlarged, and then a probability, at ``pixels``.
        fuse_at: taps become one map on the ``grid`` of patches, which is then enlarged; or every tap's margins are
            enlarged, and then fused, at ``pixels``.
        corners: maps are enlarged with corners aligned.
        sigma: standard deviation of the Gaussian on maps, in pixels at 518 px, in proportion at other sizes; 0 is none.
        kernel: odd; the Gaussian is applied on the grid before enlarging, spans this many patches, and sigma is in
            patches. 0: it is applied to pixels, and cut off at 4 sigma.
        side: odd; each patch becomes the mean of the ``side`` x ``side`` patches around it, on the grid, before
            enlarging.
        windows: sides of the windows that taps read in place of patches, in this order. Each patch gets the harmonic
            mean over its windows of one side, and then over sides.
        with_image: the image score counts as one more side in that mean.
        of_normal: harmonic means are taken of the probability of normal, and the map is 1 minus them.
        copies: number of margins that taps have for each patch, one copy after the other; their probabilities are
            averaged.
        of_map, of_image: affine maps of the logits of map and image before they become scores.
        alpha: share of the map in the joint score; 0 is the image score.
        pool: the map's ``max``, or the mean of its ``top`` fraction of pixels.
        top: that fraction.

    >>> margins = Margins(torch.zeros(1), {11: torch.tensor([[-2.0, 0.0, 0.0, 2.0]])})
    >>> Scoring(sigma=0.0)(margins, (2, 2), (4, 4)).joint_score
    tensor([0.6904])
    """

    fuse: Literal["mean of probabilities", "mean margin", "probability of mean margin"] = "mean of probabilities"
    sigma: float = 4.0
    alpha: float = 0.5
    pool: Pool = "max"
    top: float = 0.01
    fuse_at: Literal["grid", "pixels"] = "grid"
    corners: bool = False
    kernel: int = 0
    side: int = 1
    windows: tuple[int, ...] = ()
    with_image: bool = True
    of_normal: bool = False
    copies: int = 1
    of_map: Affine = Affine()  # noqa: RUF009  # a tuple
    of_image: Affine = Affine()  # noqa: RUF009

    def __post_init__(self) -> None:
        limits = {"sigma": 0 <= self.sigma <= 518, "alpha": 0 <= self.alpha <= 1, "top": 0 < self.top <= 1}
        limits["kernel"] = self.kernel == 0 or (self.kernel > 0 and self.kernel % 2 == 1 and self.fuse_at == "grid")
        limits["side"] = self.side == 1 or (self.side > 1 and self.side % 2 == 1 and self.fuse_at == "grid")
        limits["copies"] = self.copies == 1 or (self.copies > 1 and not self.windows and self.fuse_at == "grid")
        limits["windows"] = not self.windows or (
            min(self.windows) >= 1 and self.unit == "probability" and self.fuse_at == "grid"
        )
        limits |= {name: self.unit == "logit" or getattr(self, name) == Affine() for name in ("of_map", "of_image")}
        if wrong := [name for name, fits in limits.items() if not fits]:
            raise ConfigError(
                f"{wrong[0]} is {getattr(self, wrong[0])!r}, which is not a value it can have; see Scoring"
            )
        if self.fuse_at == "pixels" and self.fuse == "mean margin":
            raise ConfigError("a mean margin is the same map wherever taps are fused: leave fuse_at at 'grid'")
        if self.fuse_at == "grid" and self.fuse == "probability of mean margin":
            raise ConfigError("the probability of a mean margin is taken at pixels: fuse_at is 'pixels'")

    @property
    def unit(self) -> Unit:
        """Of maps and scores."""
        return "logit" if self.fuse == "mean margin" else "probability"

    def patch_maps(self, margins: Margins, grid: tuple[int, int]) -> Tensor:
        """Margins of R images and their patches as what is enlarged: one small map, [R, rows, columns].

        Where taps are fused at pixels, the margins themselves, [R, taps, rows, columns], or their mean as of one tap.
        """
        taps = margins.taps
        if not taps:  # no patch is read, and an empty map goes all the way
            return margins.image.new_zeros(margins.image.shape[0], 0, 0)
        if self.fuse_at == "pixels":
            every = torch.stack(list(taps.values()), 1).unflatten(-1, grid)
            return every.mean(1, keepdim=True) if self.fuse == "probability of mean margin" else every
        each = [
            self._of_windows(m, margins.image, grid) if self.windows else self.on_patches(self._fused(m), grid)
            for m in taps.values()
        ]
        maps = self.of_map(torch.stack(each).mean(0)).unflatten(-1, grid)
        maps = neighbour_mean(maps, self.side) if self.side > 1 else maps
        return upsample(maps, grid, self.sigma, reach=self.kernel // 2) if self.kernel else maps

    def on_patches(self, values: Tensor, grid: tuple[int, int]) -> Tensor:
        """Values of what taps read, [..., n], at patches, [..., N]: the mean over windows that cover one, or copies."""
        if not self.windows:
            return values if self.copies == 1 else values.unflatten(-1, (self.copies, -1)).mean(-2)
        return torch.stack(self._covering(values, grid)).mean(0)

    def _covering(self, values: Tensor, grid: tuple[int, int]) -> list[Tensor]:
        """Of windows of every side, the mean over those that cover each patch, [..., N]."""
        parts = values.split([len(windows(grid, side)) for side in self.windows], -1)
        with full_precision(values.device):
            return [
                part @ covering(grid, side, part.dtype, part.device).T
                for part, side in zip(parts, self.windows, strict=True)
            ]

    def _of_windows(self, margins: Tensor, image: Tensor, grid: tuple[int, int]) -> Tensor:
        """Margins of windows [R, W] and of images [R] to maps [R, N]: harmonic means over windows, then over sides."""
        sign = -1.0 if self.of_normal else 1.0
        each = self._covering(_over_probability(sign * margins), grid)
        if self.with_image:
            each.append(_over_probability(sign * image)[:, None].expand_as(each[0]))
        harmonic = 1 / torch.stack(each).mean(0)
        return 1 - harmonic if self.of_normal else harmonic

    def _fused(self, margins: Tensor) -> Tensor:
        return margins.sigmoid() if self.unit == "probability" else margins

    def image_score(self, margins: Tensor) -> Tensor:
        """Image margins to scores, any shape."""
        return self.of_image(self._fused(margins))

    def enlarge(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """What ``patch_maps`` made, of R images, to anomaly maps [R, h, w]."""
        if not maps.shape[-1]:
            return maps
        sigma = 0.0 if self.kernel else self.sigma * max(size) / 518
        if self.fuse_at == "grid":
            return upsample(maps, size, sigma, self.corners)
        each = (self._fused(upsample(tap, size, 0.0, self.corners)) for tap in maps.unbind(1))
        fused = reduce(torch.add, each) / maps.shape[1]  # one tap after the other: maps of all would fill the memory
        return upsample(fused, size, sigma) if sigma else fused

    def bounds(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Between which every pixel of anomaly maps lies, [V] each: of patch maps of V variants, [V, ...]."""
        low, high = maps.flatten(1).aminmax(dim=1)
        return (low, high) if self.fuse_at == "grid" else (self._fused(low), self._fused(high))

    def joint(self, image_margin: Tensor, maps: Tensor) -> Tensor:
        """Image margins [R] and anomaly maps [R, h, w] to joint scores [R]; without maps, the image scores."""
        if not maps.shape[-1]:
            return self.image_score(image_margin)
        peak = pooled(maps, self.top if self.pool == "top" else None)
        return (1 - self.alpha) * self.image_score(image_margin) + self.alpha * peak

    def joint_margin(self, joint: Tensor) -> Tensor:
        """Joint scores as logits, any shape."""
        return logit(joint) if self.unit == "probability" else joint

    def __call__(self, margins: Margins, grid: tuple[int, int], size: tuple[int, int]) -> Prediction:
        """Margins of B images of ``size`` with that grid of patches to their scores."""
        maps = self.enlarge(self.patch_maps(margins, grid), size)
        return Prediction(
            anomaly_map=maps,
            image_score=self.image_score(margins.image),
            joint_score=self.joint(margins.image, maps),
            image_margin=margins.image,
            tap_margins={tap: self.on_patches(flat, grid).unflatten(1, grid) for tap, flat in margins.taps.items()},
            unit=self.unit,
        )


def check_map(has_map: bool, what: str) -> None:
    """Raises ConfigError for what needs an anomaly map where the detector has none."""
    if not has_map:
        raise ConfigError(
            f"{what} needs an anomaly map, and this detector reads none: its score is of the image alone. Take "
            "eval or headlens.predict(run, images).frame for scores, and for heads what reads the image margin: "
            "ablate, importance and name; `headlens methods` says what else works"
        )


def _over_probability(margins: Tensor) -> Tensor:
    """1 / σ(margin), finite in float32, too."""
    return 1 + (-margins).clamp(max=60.0).exp()


def pooled(maps: Tensor, top: float | None = None) -> Tensor:
    """The maximum of each map [B, H, W], or the mean of its highest ``top`` fraction of pixels: [B]; NaN of none."""
    pixels = maps.flatten(1)
    if not pixels.shape[1]:
        return pixels.new_full(pixels.shape[:1], torch.nan)
    if top is None:
        return pixels.amax(1)
    return pixels.topk(max(1, round(top * pixels.shape[1])), 1).values.mean(1)
