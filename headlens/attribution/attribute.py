"""``attribute``: which pixels of a picture a target comes from."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from headlens import html, plots
from headlens.attribution.methods import Method, method_of
from headlens.attribution.pixels import BASELINES
from headlens.attribution.targets import target_of
from headlens.data import Pixels, Preprocess
from headlens.detectors.detector import Detector
from headlens.errors import RunError, ShapeError
from headlens.files import MOST_TEXT, open_regular
from headlens.predict import Picture, as_bytes
from headlens.printing import reason
from headlens.provenance import detector_provenance
from headlens.results import Result, ordered, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Region = np.ndarray | Tensor


@dataclass(frozen=True)
class Attribution(Result):
    """Maps of B pictures, as they were seen: S pixels along a side.

    Args:
        frame: a row for each picture: its number ``image``, ``kind`` (the method), ``metric`` (the target), the
            target's ``value``, and ``effect``, the map's sum. Where the method explains the difference to a baseline,
            ``baseline``, the target there, and ``against``, what it looks like (``blur``, ``mean``, ``black``); and
            ``residual``, what the map misses of value minus baseline, where the method promises to miss nothing.
        map: [B, S, S], a pixel's own share; nothing is rescaled.
        images: [B, S, S, 3] uint8.
        anomaly_map: [B, S, S], what the detector shows of them.
        region: [B, S, S] bool, where a map was read; None where no region was given.
        native: [B, 2], height and width of the pictures as they were given; squares when None.
    """

    map: np.ndarray
    images: np.ndarray
    anomaly_map: np.ndarray
    region: np.ndarray | None = None
    native: np.ndarray | None = None

    @property
    def target_value(self) -> np.ndarray:
        """The target of every picture, [B]."""
        return self.frame["value"].to_numpy()

    @property
    def residual(self) -> np.ndarray | None:
        """What every map misses, in the target's units, [B]; None where the method does not promise to miss nothing."""
        return self.frame["residual"].to_numpy() if "residual" in self.frame else None

    def _parts(self) -> list[str]:
        of = self.frame["against"].iloc[0] if "against" in self.frame else None
        about = f"Baseline {of}: {BASELINES[of]}" if of else "Without a baseline"
        return [html.figure(self.plot()[0], "image, anomaly map and attribution"), html.table(self.frame, about)]

    def plot(self, ax: Any = None, picture: int = 0, mask: np.ndarray | None = None) -> tuple[Figure, Any]:
        """One picture, its anomaly map and its attribution, red where it speaks for the target, blue against.

        A quantity without a sign, such as positive gradients, is shown from 0 up.

        Args:
            ax: three axes to draw on; a new figure when None. ``headlens.plots.attribution.overlaid`` draws one alone.
            picture: which.
            mask: [S, S], what to outline; the region when None.

        Raises:
            ShapeError: a picture that there is not, or a mask of another size.
            ConfigError: another number of axes.
        """
        axes = plots.axes_for(ax, plots.PANELS)
        if picture not in range(count := min(len(self.map), len(self.frame))):
            raise ShapeError(f"picture {picture} does not exist; there are {count}, counted from 0")
        if mask is None and self.region is not None:
            mask = self.region[picture]
        own, row, method = self.map[picture], self.frame.iloc[picture], method_of(self.frame["kind"].iloc[picture])
        if mask is not None and mask.shape != own.shape:
            raise ShapeError(f"the mask has shape {mask.shape}, the map {own.shape}; resize it as the picture was")
        floor = rounding(row, own)
        title, label = titled(row, method, nothing=floor > 0)
        native = None if self.native is None else (int(self.native[picture, 0]), int(self.native[picture, 1]))
        return plots.attribution_panels(
            self.images[picture],
            self.anomaly_map[picture],
            own,
            axes,
            shape=native,
            mask=mask,
            sign=method.sign,
            floor=floor,
            title=title,
            label=label,
            made_by=self.made_by,
        )

    def save(self, path: str | Path) -> Path:
        """The frame, as every result; or with ``.npz`` the arrays: map, images, anomaly map, region, native.

        Either holds the provenance: in an ``.npz`` it is JSON.
        """
        path = Path(path)
        if path.suffix != ".npz":
            return super().save(path)
        arrays = {"map": self.map, "images": self.images, "anomaly_map": self.anomaly_map}
        arrays["provenance"] = np.array(json.dumps(self.provenance))
        more = {"region": self.region, "native": self.native}
        sink = io.BytesIO()
        np.savez_compressed(sink, **arrays, **{name: own for name, own in more.items() if own is not None})  # type: ignore[arg-type]
        write(path, sink.getvalue())
        return path


def read_provenance(path: Path) -> dict[str, Any]:
    """Of the ``.npz`` that ``Attribution.save`` wrote.

    Raises:
        RunError: no such file, or another one.
    """
    try:
        with open_regular(path) as file, ZipFile(file) as archive:
            if archive.getinfo("provenance.npy").file_size > MOST_TEXT:
                raise ValueError("its provenance is too long")
            about = json.loads(str(np.load(archive.open("provenance.npy"), allow_pickle=False)))
        if not isinstance(about, dict):
            raise ValueError("its provenance is no table")
        return about
    except Exception as error:  # whatever a broken or hostile file provokes in a reader
        raise RunError(
            f"{path}: not an attribution of headlens, or damaged ({reason(error)}); make it again"
        ) from error


def titled(row: pd.Series, method: Method, nothing: bool) -> tuple[str, str]:
    """What a map of that row explains, on one or two lines, and what its colour bar counts."""
    target, unit = str(row["metric"]).replace("_", " "), "" if row["metric"] == "joint_score" else " logits"
    what, value = method.name.replace("_", " "), f"{target} {row['value']:.3g}{unit}"
    label = f"{method.quantity} per pixel" if method.quantity else f"part of the {target},{unit} per pixel"
    if (against := row.get("against")) not in BASELINES:
        return f"{what}: {value}", label
    if nothing:
        return f"{what}: nothing to explain\n{value}, as of {BASELINES[against]}", label
    return f"{what}: {value}\nagainst {row['baseline']:.3g} of {BASELINES[against]}", label


def rounding(row: pd.Series, values: np.ndarray) -> float:
    """The target's rounding, where a map of its difference to a baseline holds no more than that; else 0.

    An image that is its own baseline leaves nothing to explain, and what is left is the arithmetic's.
    """
    if row.get("against") not in BASELINES:
        return 0.0
    size = max(1.0, abs(row["value"]), abs(row["baseline"]))
    grain = 100 * float(np.finfo(values.dtype).eps) * size  # of the whole network
    nothing = abs(row["value"] - row["baseline"]) <= grain and float(np.abs(values).sum(dtype=float)) <= 10 * grain
    return grain if nothing else 0.0


def attribute(
    detector: Detector,
    pictures: Picture | Sequence[Picture],
    method: str = "integrated_gradients",
    target: str = "joint_margin",
    *,
    region: Region | Sequence[Region] | None = None,
    size: int | None = None,
    thing: str = "object",
    progress: Callable[[int], object] = lambda n: None,
    **options: Any,
) -> Attribution:
    """Maps of pictures, each by itself: neither order nor the other pictures matter.

    Args:
        detector: whose target.
        pictures: one, or a list; see ``headlens.predict.as_bytes``.
        method: one of ``headlens.attribution.METHODS``.
        target: a score, or a head, such as ``L18H7``; see ``headlens.attribution.targets``.
        region: [H, W] in the picture's own pixels, where a map is read; of a list, one for each picture, or None.
        size: pictures are resized to this square; the detector's own size when None.
        thing: what they show; it only matters to class-aware prompts.
        progress: called with 1 after every picture.
        **options: the method's own, such as ``steps``, ``baseline``, ``heads``, ``seed``.

    Raises:
        ConfigError: a method, target or option that does not exist, or that do not go together.
        DataError, ShapeError: no picture; a region that does not fit.

    >>> import headlens
    >>> found = attribute(headlens.load("mini-industrial").detector, torch.zeros(3, 56, 56), "relevance", size=56)
    >>> found.map.shape
    (1, 56, 56)
    """
    several = list(pictures) if isinstance(pictures, list | tuple) else [pictures]
    regions = list(region) if isinstance(region, list | tuple) else [region] * len(several)
    if not several or len(regions) != len(several):
        raise ShapeError(f"{len(several)} pictures and {len(regions)} regions; give one region for each picture")
    own, preprocess = method_of(method), Preprocess(size or detector.image_size)
    settings = own.settings(**options)
    rows: list[dict[str, Any]] = []
    maps, seen, scored, native = [], [], [], []
    where: list[Tensor] = []
    for number, (picture, place) in enumerate(zip(several, regions, strict=True)):
        mask = None if place is None else torch.as_tensor(place) > 0
        given = as_bytes(picture)
        native.append(given.shape[1:])
        pixels = preprocess(Pixels(given, mask))
        image = preprocess.normalise(pixels.image[None].to(detector.device))
        whole = target_of(detector, target, thing, pixels.mask if mask is not None else None)
        found = own(whole, image, **settings)
        with torch.no_grad():
            value, nothing = float(whole(image)), own.baseline(whole, image, **settings)
            scored.append(detector(image, [thing]).anomaly_map[0].cpu())
        effect = float(found.cpu().double().sum())  # not every device has float64
        row = {"image": number, "kind": method, "metric": target, "value": value, "effect": effect}
        if nothing is not None:
            row |= {"baseline": float(nothing), "against": settings["baseline"]}
            if own.complete:
                row["residual"] = value - float(nothing) - effect
        rows.append(row)
        maps.append(found[0].cpu())
        seen.append(pixels.image.permute(1, 2, 0))
        where.append(torch.ones_like(found[0], dtype=torch.bool).cpu() if pixels.mask is None else pixels.mask)
        progress(1)
    about = detector_provenance(
        detector,
        what="attribution",
        method=method,
        target=target,
        options={
            name: list(map(str, value)) if name == "heads" and value else value for name, value in settings.items()
        },
        baseline=None if "baseline" not in settings else BASELINES[settings["baseline"]],
        size=preprocess.size,
        thing=thing,
    )
    return Attribution(
        ordered(pd.DataFrame(rows)),
        about,
        torch.stack(maps).numpy(),
        torch.stack(seen).numpy(),
        torch.stack(scored).numpy(),
        torch.stack(where).numpy() if any(place is not None for place in regions) else None,
        np.array(native),
    )
