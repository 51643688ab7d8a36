"""``attribute``: which pixels of an image a target comes from."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from headlens import html, plots
from headlens.attribution.methods import Method, method_of
from headlens.attribution.pixels import BASELINES, baseline_of
from headlens.attribution.targets import SCORES, Target, target_of
from headlens.data import DataSet, Pixels, Preprocess
from headlens.detectors.detector import detector_of
from headlens.detectors.precision import at_precision
from headlens.detectors.scoring import Unit
from headlens.errors import ConfigError, RunError, ShapeError
from headlens.files import MOST_TEXT, open_regular
from headlens.heads.exactness import check_gradients, held, held_before
from headlens.predict import Image, as_bytes, category_of, set_of
from headlens.printing import reason, spelled
from headlens.progress import Progress, followed
from headlens.provenance import computed, detector_provenance
from headlens.results import Result, ordered, renamed, save_arrays

Region = np.ndarray | Tensor
ARRAYS = ("map", "images", "anomaly_map", "region", "native")
"""Of an ``Attribution``, and of the ``.npz`` that it is saved as."""


@dataclass(frozen=True)
class Attribution(Result):
    """Attribution maps of B images, resized to S x S pixels.

    Args:
        frame: a row for each image: its number ``image``, ``kind`` (the method), ``metric`` (the target), the
            target's ``value``, and ``effect``, the map's sum. Where the method explains the difference to a baseline,
            ``baseline``, the target there, and ``against``, its kind (``blur``, ``mean``, ``black``); and
            ``residual``, value minus baseline minus effect, where it should be 0 by the method's definition.
        map: [B, S, S], the share of each pixel; nothing is rescaled.
        images: [B, S, S, 3] uint8.
        anomaly_map: [B, S, S], the detector's anomaly maps.
        region: [B, S, S] bool, where a map was read; None where no region was given.
        native: [B, 2], original height and width of the images; square when None.
        unit: of the anomaly map and the joint score.
    """

    map: np.ndarray
    images: np.ndarray
    anomaly_map: np.ndarray
    region: np.ndarray | None = None
    native: np.ndarray | None = None
    unit: Unit = "probability"

    @property
    def target_value(self) -> np.ndarray:
        """The target of every image, [B]."""
        return self.frame["value"].to_numpy()

    @property
    def residual(self) -> np.ndarray | None:
        """Value minus baseline minus the map's sum, [B]; None if it need not be 0."""
        return self.frame["residual"].to_numpy() if "residual" in self.frame else None

    def _parts(self) -> list[str]:
        of = self.frame["against"].iloc[0] if "against" in self.frame else None
        about = f"Baseline {of}: {BASELINES[of]}" if of else "Without a baseline"
        return [html.figure(self.plot().figure, "image, anomaly map and attribution"), html.table(self.frame, about)]

    def plot(self, ax: Any = None, image: int = 0, mask: np.ndarray | None = None) -> plots.Figure:
        """One image, its anomaly map and its attribution: red supports the target, blue opposes it.

        A quantity without a sign, such as positive gradients, is shown from 0 up.

        Args:
            ax: three axes to draw on; a new figure when None. ``headlens.plots.attribution.overlaid`` draws a single
                one.
            image: which.
            mask: [S, S], what to outline; the region when None.

        Raises:
            ShapeError: an image that does not exist, or a mask of another size.
            ConfigError: another number of axes.
        """
        axes = plots.axes_for(ax, plots.PANELS)
        if image not in range(count := min(len(self.map), len(self.frame))):
            raise ShapeError(f"image {image} does not exist; there are {count}, counted from 0")
        if mask is None and self.region is not None:
            mask = self.region[image]
        values, row, method = self.map[image], self.frame.iloc[image], method_of(self.frame["kind"].iloc[image])
        if mask is not None and mask.shape != values.shape:
            raise ShapeError(f"the mask has shape {mask.shape}, the map {values.shape}; resize it as the image was")
        floor = rounding(row, values)
        title, label = titled(row, method, nothing=floor > 0, unit=self.unit)
        native = None if self.native is None else (int(self.native[image, 0]), int(self.native[image, 1]))
        return plots.attribution_panels(
            self.images[image],
            self.anomaly_map[image],
            values,
            axes,
            shape=native,
            mask=mask,
            limits=plots.limits_of(self.anomaly_map, self.unit),
            unit=self.unit,
            sign=method.sign,
            floor=floor,
            title=title,
            label=label,
            made_by=self.made_by,
        )

    def save(self, path: str | Path) -> Path:
        """Writes the frame, as every result does; or, with ``.npz``, the ``ARRAYS`` and the provenance as JSON."""
        path = Path(path)
        if path.suffix != ".npz":
            return super().save(path)
        return save_arrays(path, self.provenance, {name: getattr(self, name) for name in ARRAYS})

    @classmethod
    def load(cls, path: str | Path) -> Attribution:
        """Raises ConfigError, which says how to read the frame and the maps: they are in separate files."""
        raise ConfigError(f"{path}: give a frame to Result.load, and an .npz to numpy.load; no file holds both")


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
            raise ValueError("its provenance is not a table")
        return renamed(about)
    except Exception as error:  # whatever a broken or hostile file provokes in a reader
        raise RunError(
            f"{path}: not an attribution saved by headlens, or damaged ({reason(error)}); make it again"
        ) from error


def titled(row: pd.Series, method: Method, nothing: bool, unit: Unit = "probability") -> tuple[str, str]:
    """The title of the map of that row, on one or two lines, and the label of its colour bar."""
    logits = " logits" if row["metric"] != "joint_score" or unit == "logit" else ""
    target, what = spelled(str(row["metric"])), spelled(method.name)
    value = f"{target} {row['value']:.3g}{logits}"
    label = f"{method.quantity} per pixel" if method.quantity else f"part of the {target},{logits} per pixel"
    if (against := row.get("against")) not in BASELINES:
        return f"{what}: {value}", label
    if nothing:
        return f"{what}: nothing to explain\n{value}, as of {BASELINES[against]}", label
    return f"{what}: {value}\nagainst {row['baseline']:.3g} of {BASELINES[against]}", label


def rounding(row: pd.Series, values: np.ndarray) -> float:
    """The target's rounding error, if the map of its difference to a baseline is not larger; else 0.

    An image that equals its baseline leaves nothing to explain; its map holds only rounding errors.
    """
    if row.get("against") not in BASELINES:
        return 0.0
    size = max(1.0, abs(row["value"]), abs(row["baseline"]))
    grain = 100 * float(np.finfo(values.dtype).eps) * size  # of the whole network
    nothing = abs(row["value"] - row["baseline"]) <= grain and float(np.abs(values).sum(dtype=float)) <= 10 * grain
    return grain if nothing else 0.0


def attribute(
    detector: Any,
    images: Image | DataSet | Sequence[Image],
    method: str = "integrated_gradients",
    target: str = "joint_margin",
    *,
    region: Region | Sequence[Region | None] | None = None,
    size: int | None = None,
    category: str | None = None,
    precision: str | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Attribution:
    """Attribution maps of images, each computed alone: order and other images do not matter.

    Args:
        detector: a detector, or a run.
        images: one image, a list, a data set, or the folder of one; see ``headlens.predict.as_bytes``.
        method: one of ``headlens.attribution.METHODS``.
        target: a score, or a head, such as ``L18H7``; see ``headlens.attribution.targets``.
        region: [H, W] in pixels of the original image, where the map is read; one per image for a list; or None.
        size: images are resized to this square; the detector's size when None.
        category: what the images show, as in ``headlens.predict``.
        precision: ``float32``, ``tf32``, ``float16`` or ``bfloat16``; that of the loaded backbone when None.
        progress: called with 1 after every image; a bar when None.
        **options: options of the method, such as ``steps``, ``baseline``, ``heads``, ``seed``.

    Raises:
        ConfigError: an unknown method, target, option or precision, or an invalid combination.
        DataError, ShapeError: no image; a region that does not fit.

    >>> import headlens
    >>> result = attribute(headlens.load("mini-captions-industrial"), torch.zeros(3, 56, 56), "relevance", size=56)
    >>> result.map.shape
    (1, 56, 56)
    """
    images = images if (found := set_of(images)) is None else found
    several = list(images) if isinstance(images, list | tuple | DataSet) else [images]
    regions = list(region) if isinstance(region, list | tuple) else [region] * len(several)
    if not several or len(regions) != len(several):
        raise ShapeError(f"{len(several)} images and {len(regions)} regions; give one region for each image")
    categories = [category_of(image, category) for image in several]
    detector, how = detector_of(detector), method_of(method)
    settings, preprocess = how.settings(**options), Preprocess(size or detector.image_size)
    if how.gradients:
        check_gradients(detector, precision)
    rows: list[dict[str, Any]] = []
    arrays: dict[str, list[Tensor]] = defaultdict(list)
    with at_precision(detector, precision) as lowered, followed(progress, len(several), how.name) as done:
        for number, (image, place) in enumerate(zip(several, regions, strict=True)):
            given = as_bytes(image)
            pixels = preprocess(Pixels(given, None if place is None else torch.as_tensor(place) > 0))
            of_image = target_of(lowered, target, categories[number], pixels.mask)
            normalised = preprocess.normalise(pixels.image[None].to(detector.device))
            row, attribution, anomaly_map = _attributed(how, of_image, normalised, settings)
            rows.append({"image": number, **row})
            read = torch.ones(attribution.shape, dtype=torch.bool) if pixels.mask is None else pixels.mask
            made = (attribution, pixels.image.permute(1, 2, 0), anomaly_map, read, torch.tensor(given.shape[1:]))
            for name, array in zip(ARRAYS, made, strict=True):
                arrays[name].append(array)
            done(1)
    if all(place is None for place in regions):
        del arrays["region"]
    named = settings | ({"heads": list(map(str, settings["heads"]))} if settings.get("heads") else {})
    of_heads = method == "contributions" or target not in SCORES
    about: dict[str, Any] = {"what": "attribution", "method": method, "target": target, "options": named}
    about |= {"baseline": BASELINES.get(settings.get("baseline", "")), "size": preprocess.size}
    about["category"] = ", ".join(dict.fromkeys(categories))
    margin = "patches" if target == "map_margin" or target.endswith("/local") else "image"
    fixed = held(detector, categories[0], [margin]) if of_heads else held_before(detector, categories[0])
    about |= {"held": fixed, **computed(detector, precision)}
    about = detector_provenance(detector, **about)
    stacked = {name: torch.stack(parts).numpy() for name, parts in arrays.items()}
    return Attribution(ordered(pd.DataFrame(rows)), about, **stacked, unit=detector.scoring.unit)


def _attributed(
    method: Method, target: Target, image: Tensor, settings: dict[str, Any]
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """Of an image [1, 3, S, S]: its row of the frame, its attribution and its anomaly map, [S, S] each."""
    target = target.holding(image)
    attribution = method(target, image, **settings)[0].cpu()
    absent = [baseline_of(target, image, settings["baseline"])] if "baseline" in settings else []
    with torch.no_grad():
        forward = target.forward(torch.cat([image, *absent]))
        value, *without = target.read(forward).tolist()
        anomaly_map = target.anomaly_map(forward)[0].cpu()
    row = {"kind": method.name, "metric": target.name, "value": value, "effect": float(attribution.double().sum())}
    if absent:
        row |= {"baseline": without[0], "against": settings["baseline"]}
        if method.complete:
            row["residual"] = value - without[0] - row["effect"]
    return row, attribution, anomaly_map
