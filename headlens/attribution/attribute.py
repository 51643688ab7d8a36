"""``attribute``: which pixels of a picture a target comes from."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from headlens import html
from headlens.attribution.methods import method_of
from headlens.attribution.targets import target_of
from headlens.data import Pixels, Preprocess
from headlens.detectors.headclip import Detector
from headlens.detectors.predict import Picture, as_bytes
from headlens.errors import RunError, ShapeError
from headlens.heads.results import Result, detector_provenance, ordered, write
from headlens.plots.attribution import attribution_panels, overlaid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Region = np.ndarray | Tensor


@dataclass(frozen=True)
class Attribution(Result):
    """Maps of B pictures, as they were seen: S pixels along a side.

    Args:
        frame: a row for each picture: its number ``image``, ``kind`` (the method), ``metric`` (the target), the
            target's ``value``, its ``baseline`` where nothing is there, ``effect``, the map's sum, and ``residual``,
            what the map misses of value minus baseline: given where the method promises that nothing is missed.
        map: [B, S, S], signed, a pixel's own share; nothing is rescaled.
        images: [B, S, S, 3] uint8.
        anomaly_map: [B, S, S], what the detector shows of them.
        region: [B, S, S] bool, where a map was read; None where no region was given.
    """

    map: np.ndarray
    images: np.ndarray
    anomaly_map: np.ndarray
    region: np.ndarray | None = None

    @property
    def target_value(self) -> np.ndarray:
        """The target of every picture, [B]."""
        return self.frame["value"].to_numpy()

    @property
    def residual(self) -> np.ndarray | None:
        """What every map misses, in the target's units, [B]; None where the method does not promise to miss nothing."""
        return self.frame["residual"].to_numpy() if "residual" in self.frame else None

    def _parts(self) -> list[str]:
        return [html.figure(self.plot()[0], "picture, anomaly map and attribution"), html.table(self.frame)]

    def plot(self, ax: Axes | None = None, picture: int = 0, mask: np.ndarray | None = None) -> tuple[Figure, Any]:
        """One picture, its anomaly map and its attribution, red where it speaks for the target, blue against.

        Args:
            ax: where to draw the attribution alone; a new figure with all three when None.
            picture: which.
            mask: [S, S], what to outline; the region when None.

        Raises:
            ShapeError: a picture that there is not, or a mask of another size.
        """
        if picture not in range(len(self.map)):
            raise ShapeError(f"picture {picture} does not exist; there are {len(self.map)}, counted from 0")
        if mask is None and self.region is not None:
            mask = self.region[picture]
        own, image, row = self.map[picture], self.images[picture], self.frame.iloc[picture]
        if mask is not None and mask.shape != own.shape:
            raise ShapeError(f"the mask has shape {mask.shape}, the map {own.shape}; resize it as the picture was")
        unit, name = "" if row["metric"] == "joint_score" else "logits", row["metric"].replace("_", " ")
        label = method_of(row["kind"]).quantity or f"part of the {name}"
        label += f" ({unit} per pixel)" if unit and label.startswith("part") else " per pixel"
        title = f"{row['kind'].replace('_', ' ')}, {name} = {row['value']:.3g} {unit}".strip()
        if ax is not None:
            return overlaid(image, own, ax, mask=mask, title=title, label=label)
        return attribution_panels(
            image, self.anomaly_map[picture], own, mask=mask, title=title, label=label, made_by=self.made_by
        )

    def save(self, path: str | Path) -> Path:
        """The frame, as every result; or with ``.npz`` the arrays, map, images, anomaly map and region.

        Either holds the provenance: in an ``.npz`` it is JSON.
        """
        path = Path(path)
        if path.suffix != ".npz":
            return super().save(path)
        arrays = {"map": self.map, "images": self.images, "anomaly_map": self.anomaly_map}
        arrays["provenance"] = np.array(json.dumps(self.provenance))
        sink = io.BytesIO()
        np.savez_compressed(sink, **(arrays if self.region is None else arrays | {"region": self.region}))  # type: ignore[arg-type]
        write(path, sink.getvalue())
        return path


def read_provenance(path: Path) -> dict[str, Any]:
    """Of the ``.npz`` that ``Attribution.save`` wrote.

    Raises:
        RunError: no such file, or another one.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return json.loads(str(arrays["provenance"]))
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise RunError(f"{path}: not an attribution of headlens, or damaged ({error}); make it again") from error


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
        pictures: one, or a list; see ``headlens.detectors.predict.as_bytes``.
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
    maps, seen, scored = [], [], []
    where: list[Tensor] = []
    for number, (picture, place) in enumerate(zip(several, regions, strict=True)):
        mask = None if place is None else torch.as_tensor(place) > 0
        pixels = preprocess(Pixels(as_bytes(picture), mask))
        image = preprocess.normalise(pixels.image[None].to(detector.device))
        whole = target_of(detector, target, thing, pixels.mask if mask is not None else None)
        found = own(whole, image, **settings)
        with torch.no_grad():
            value, nothing = float(whole(image)), own.baseline(whole, image, **settings)
            scored.append(detector(image, [thing]).anomaly_map[0].cpu())
        effect = float(found.cpu().double().sum())  # not every device has float64
        row = {"image": number, "kind": method, "metric": target, "value": value, "effect": effect}
        if nothing is not None:
            row["baseline"] = float(nothing)
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
    )
