"""``map_parts``: which heads add to the anomaly map of one image, and which take from it."""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import PIL.Image
import torch
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from headlens import html, plots
from headlens.data import Pixels, Preprocess, read_image
from headlens.detectors.detector import Detector, HasDetector, detector_of
from headlens.detectors.scoring import check_map
from headlens.errors import ShapeError
from headlens.files import SOFTWARE, write
from headlens.heads.clean import CleanRun, clean_forward
from headlens.heads.direct import Part, Parts, check, check_streams, tap_parts
from headlens.heads.exactness import check_unhooked, held
from headlens.heads.variants import Head, names_of
from headlens.predict import Image, as_bytes, category_of, name_of
from headlens.provenance import detector_provenance
from headlens.results import Result, beside, read_parquet

_PEAK = 0.05  # of the patches are the peak: those where the margin is highest


@dataclass(frozen=True)
class MapParts(Result):
    """The margin map of one image, part by part.

    Args:
        frame: a row for each head and patch: stream, layer, head, row, column, ``value``; and everything else (MLPs,
            biases, adapters, embedding, read-out) as kind ``rest``. Their sum at a patch is the margin there.
        shares: a row for each head: ``peak``, its mean over the 5 % of patches where the margin is highest, minus its
            mean over all. Summed over all parts it is the height of the peak above the mean margin.
        image: the image as it was seen, [S, S, 3] uint8.
    """

    TABLES: ClassVar = ("shares",)
    shares: pd.DataFrame
    image: np.ndarray

    @property
    def margin(self) -> np.ndarray:
        """The sum of all parts, [rows, columns]."""
        return self.frame.groupby(["row", "column"])["value"].sum().unstack().to_numpy()

    def _parts(self) -> list[str]:
        rows = self.shares.sort_values("peak", ascending=False).assign(head=names_of)[["head", "peak"]]
        table = html.table(rows, "What heads add to the peak (logits)")
        return [html.figure(self.plot().figure, "maps of single heads"), table]

    def save(self, path: str | Path) -> Path:
        """Writes the frame, and next to it shares and image as ``NAME.shares.SUFFIX`` and ``NAME.image.png``."""
        path = super().save(path)
        sink, about = io.BytesIO(), PngInfo()
        about.add_text("Software", SOFTWARE)
        PIL.Image.fromarray(self.image).save(sink, "png", pnginfo=about)
        write(path.with_name(f"{path.stem}.image.png"), sink.getvalue())
        return path

    @classmethod
    def load(cls, path: str | Path) -> MapParts:
        """What ``save`` wrote as Parquet."""
        path = Path(path)
        file = path.with_name(f"{path.stem}.image.png")
        if not file.exists():
            file = path.with_name(f"{path.stem}.picture.png")  # as earlier versions called it
        image = read_image(file).permute(1, 2, 0).numpy()
        return cls(*read_parquet(path), read_parquet(beside(path, "shares"))[0], image)

    def plot(self, ax: Any = None, top: int = 4) -> plots.Figure:
        """The image, its margin map, and the ``top`` heads of each sign, over their own means; the peak is outlined.

        Args:
            ax: as many axes as panels, 2 (1 + top): two rows, the second below the first; a new figure when None.
            top: how many heads that add most to the peak, in the first row, and that take most from it, in the second.

        Raises:
            ConfigError: another number of axes.
            ShapeError: no head.
        """
        if self.frame.empty or self.shares.empty:
            raise ShapeError("no head to draw: the frame has no rows")
        shown, margin = self.strongest(top), self.margin
        names, across = list(shown), len(shown) // 2
        axes = plots.axes_for(ax, ["image", *names[:across], "margin", *names[across:]])
        peak = peak_of(margin)
        return plots.head_maps(self.image, margin, shown, self.made_by, axes=axes, peak=peak, shape=self.native)

    @property
    def native(self) -> tuple[int, int]:
        """Height and width of the image as it was given; those of ``image`` if they were not saved."""
        height, width = self.provenance.get("native") or self.image.shape[:2]
        return height, width

    def strongest(self, top: int = 4) -> dict[str, np.ndarray]:
        """Maps [rows, columns] of the ``top`` heads that add most to the peak, then of those that take most from it."""
        ranked = self.shares.sort_values("peak", ascending=False)
        top = min(top, len(ranked) // 2)
        shown = pd.concat([ranked.head(top), ranked.tail(top)[::-1]])
        maps = dict(list(self.frame.groupby(keys := ["stream", "layer", "head"])))
        return {
            str(Head(*key)): maps[key].pivot(index="row", columns="column", values="value").to_numpy()
            for key in shown[keys].itertuples(index=False, name=None)
        }


def peak_of(margin: np.ndarray) -> np.ndarray:
    """Where a margin map is highest: 5 % of its patches, bool, [rows, columns].

    >>> int(peak_of(np.arange(100.0).reshape(10, 10)).sum())
    5
    """
    highest = np.zeros(margin.size, dtype=bool)
    highest[np.argsort(-margin, axis=None, kind="stable")[: max(1, round(_PEAK * margin.size))]] = True
    return highest.reshape(margin.shape)


def margin_map(clean: CleanRun, taps: Collection[int]) -> Tensor:
    """The mean margin map over these taps, on the CPU: [B, N]."""
    total = torch.zeros(())
    for tap in taps:
        total = total + clean.scoring.on_patches(clean.margins.taps[tap], clean.grid).cpu() / len(taps)
    return total


def mean_maps(clean: CleanRun, parts: Mapping[int, Parts]) -> tuple[list[Head], Tensor]:
    """What every head draws into that map, by the parts of each tap: K heads, and [B, K, N] on the CPU."""
    maps: dict[Part, Tensor] = {}
    for of_tap in parts.values():
        for part, value in of_tap.terms.items():
            if part.kind == "head":
                drawn = clean.scoring.on_patches(value.mT, clean.grid).cpu() / len(parts)  # (B, H, N)
                maps[part] = maps[part] + drawn if part in maps else drawn
    heads = [Head(part.stream, part.layer, number) for part, drawn in maps.items() for number in range(drawn.shape[1])]
    patches = margin_map(clean, parts)
    return heads, torch.cat([patches.new_zeros(len(patches), 0, patches.shape[1]), *maps.values()], 1)


@torch.no_grad()
def map_parts(
    detector: Detector | HasDetector,
    image: Image,
    *,
    tap: int | None = None,
    size: int | None = None,
    category: str | None = None,
    check_sums: bool = False,
) -> MapParts:
    """The margin of every patch as an exact sum over heads and other parts; the mean over taps, or at one tap.

    Args:
        detector: a detector, or a run.
        image: a path, a PIL image, an array, a tensor; see ``headlens.predict``.
        tap: which tap; the mean over all when None.
        size: the image is resized to this square; the detector's size when None.
        category: what the image shows, as in ``headlens.predict``.
        check_sums: verify that the parts add up, as ``contributions`` does.

    Raises:
        DataError, ShapeError: no image; a tap that the detector does not read.
        ConfigError: a hook that would be ignored.
        IdentityError: parts that do not add up.

    >>> import headlens
    >>> parts = map_parts(headlens.load("mini-captions-industrial"), torch.zeros(3, 56, 56), size=56)
    >>> parts.margin.shape, len(parts.shares)
    ((4, 4), 384)
    """
    detector = detector_of(detector)
    check_map(detector.reads_map, "the sum over heads of a map")
    check_unhooked(detector, "the parts of a map")
    category = category_of(image, category)
    preprocess = Preprocess(size or detector.image_size)
    given = as_bytes(image)
    seen = preprocess(Pixels(given, None)).image
    clean = clean_forward(detector, preprocess.normalise(seen[None].to(detector.device)), [category])
    dtype = detector.backbone.vision.proj.dtype
    if check_sums:
        check_streams(clean, dtype)
    taps = clean.plan.taps if tap is None else (tap,)
    parts = {one: tap_parts(clean, one) for one in taps}
    if check_sums:
        for one in taps:
            check(parts[one], clean.margins.taps[one], f"tap_margin_{one}", dtype)
    heads, maps = mean_maps(clean, parts)
    values, total = maps[0], margin_map(clean, taps)[0]
    peak = torch.from_numpy(peak_of(total.numpy()[None])[0])
    shares = pd.DataFrame(heads, columns=["stream", "layer", "head"])
    shares = shares.assign(peak=(values[:, peak].mean(1) - values.mean(1)).numpy())
    rows, columns = np.divmod(np.arange(values.shape[1]), clean.grid[1])
    every = [*((*head, "head") for head in heads), (None, None, None, "rest")]
    keys = pd.DataFrame(every, columns=["stream", "layer", "head", "kind"]).astype({"layer": "Int64", "head": "Int64"})
    frame = keys.loc[keys.index.repeat(len(rows))].assign(
        metric="tap_margin" if tap is None else f"tap_margin_{tap}",
        row=np.tile(rows, len(every)),
        column=np.tile(columns, len(every)),
        value=torch.cat([values, (total - values.sum(0))[None]]).flatten().numpy(),
    )
    native = list(given.shape[1:])
    about: dict[str, Any] = {
        "what": "map parts",
        "image": name_of(image),
        "native": native,
        "tap": tap,
        "size": preprocess.size,
    }
    about |= {"category": category, "held": held(detector, category, ["patches"])}
    about = detector_provenance(detector, **about)
    return MapParts(frame.reset_index(drop=True), about, shares, seen.permute(1, 2, 0).numpy())
