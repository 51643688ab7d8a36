"""``capture``: what every head does to every image, written down batch by batch; memory does not grow with the images.

    z_norm, z_norm_patches    L2 norm of the head's weighted output, at CLS and averaged over patches
    entropy, entropy_patches  of the attention of CLS, and of patches on average, in nats
    cls_self, cls_peak        what CLS gives to itself, and the most that it gives to one patch
    cls_on_flaw               what CLS gives to patches under the mask, over their share of all patches: 1 is chance
    image_margin, tap_margin  the head's part of the image margin, if that is a sum over heads, and of patches' margins
                              (mean over them and taps)

Of local heads only patches are read, so they have no quantity of CLS; where nothing is read, there is no row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from headlens import html, plots
from headlens.data import Batch, DataSet, Record, as_set
from headlens.data.notes import KINDS, Notes
from headlens.detectors.detector import Detector, HasDetector, detector_of
from headlens.errors import ConfigError, RunError
from headlens.files import write
from headlens.heads.clean import CleanRun, clean_forward
from headlens.heads.direct import image_parts, tap_parts
from headlens.heads.exactness import check_unhooked, held
from headlens.heads.store import Store, alone, part_path
from headlens.heads.sweep import categories, finite, one_patch, sweep
from headlens.parallel import Arrays
from headlens.precision import wide
from headlens.progress import Progress
from headlens.results import made_by, parquet, per_image, read_parquet

_KEYS = ["metric", "stream", "layer", "head"]


@dataclass(frozen=True)
class Capture(html.Shown):
    """A folder of Parquet files, one for each batch of images; ``pandas.read_parquet(folder)`` reads them all.

    Args:
        folder: where they are.
        files: in the order of the images.
        notes: which images were left out or adjusted, and why.
    """

    folder: Path
    files: tuple[Path, ...]
    notes: Notes = field(default_factory=dict)

    def parts(self) -> Iterator[pd.DataFrame]:
        """The frame, batch by batch."""
        for path in self.files:
            yield read_parquet(path)[0]

    @property
    def frame(self) -> pd.DataFrame:
        """The full frame: some thousand rows per image."""
        return pd.concat(self.parts(), ignore_index=True)

    @property
    def provenance(self) -> dict[str, Any]:
        """Which detector, data and software made it."""
        return read_parquet(self.files[0])[1]

    @property
    def summary(self) -> pd.DataFrame:
        """Over images, for every head and quantity: how many, ``mean``, ``std``, means of ``normal`` and ``anomalous``.

        One pass over the files, none of which stays in memory.
        """
        sums: pd.DataFrame | None = None
        for part in self.parts():
            yes = part["anomalous"].fillna(False).astype(bool)
            no = ~part["anomalous"].fillna(True).astype(bool)
            value = part["value"].astype(float)
            terms = part[_KEYS].assign(n=1, s=value, q=value**2, a=yes, b=no, sa=value * yes, sb=value * no)
            terms = terms.groupby(_KEYS, sort=False).sum()
            sums = terms if sums is None else sums.add(terms, fill_value=0)
        assert sums is not None
        mean = sums["s"] / sums["n"]
        spread = np.sqrt((sums["q"] / sums["n"] - mean**2).clip(lower=0))
        normal, anomalous = (sums[s] / sums[count].replace(0, np.nan) for s, count in (("sb", "b"), ("sa", "a")))
        columns = {"images": sums["n"].astype(int), "mean": mean, "std": spread, "normal": normal}
        return pd.DataFrame({**columns, "anomalous": anomalous}).reset_index()

    def _repr_html_(self) -> str:
        facts = {"made by": made_by(self.provenance), "folder": self.folder.name, "files": len(self.files)}
        return html.card("Capture", facts, html.table(read_parquet(self.files[0])[0], "Of the first file"))

    def plot(self, ax: Any = None, metric: str = "entropy", stream: str | None = None) -> plots.Figure:
        """The mean of one quantity as a grid.

        Args:
            metric: which quantity.
            ax: axes to draw on, one for each stream; a new figure when None.
        stream: which stream; all when None.

        Raises:
            ConfigError: a quantity that was not captured.
        """
        summary = self.summary
        rows = summary[summary["metric"] == metric]
        if rows.empty:
            raise ConfigError(f"{metric!r} was not captured; available: {', '.join(summary['metric'].unique())}")
        centre = 0 if metric.endswith("margin") else 1 if metric == "cls_on_flaw" else None
        label = f"mean {plots.named(metric)}"
        return plots.grids(rows, "mean", ax, stream, label=label, centre=centre, made_by=made_by(self.provenance))

    def save(self, path: str | Path) -> Path:
        """All of it as one Parquet file, batch by batch.

        Raises:
            ConfigError: another suffix than ``.parquet``.
            RunError: the file cannot be written.
        """
        import pyarrow.parquet as pq

        path = Path(path)
        if path.suffix != ".parquet":
            raise ConfigError(f"{path}: a capture is saved as .parquet, it is long; for others take .summary or .frame")
        unfinished = path.with_name(path.name + ".unfinished")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with pq.ParquetWriter(unfinished, pq.read_schema(self.files[0])) as writer:
                for file in self.files:
                    writer.write_table(pq.read_table(file))
            unfinished.replace(path)
        except OSError as error:
            raise RunError(f"{path}: cannot be written ({error}); name another place, or make room") from error
        finally:
            unfinished.unlink(missing_ok=True)
        return path


@alone
def capture(
    detector: Detector | HasDetector,
    data: DataSet | str | Path,
    out: str | Path,
    *,
    size: int | None = None,
    batch: int = 8,
    precision: str | None = None,
    progress: Progress | None = None,
) -> Capture:
    """Norms, attention statistics and direct effects of every head of both streams, in one pass over the images.

    Args:
        detector: a detector, or a run.
        data: the images; a data set, or its name for ``headlens.data.open``.
        out: folder for the files; an interrupted call resumes from it.
        size: images are resized to this square; the detector's size when None.
        precision: ``float32``, ``tf32``, ``float16`` or ``bfloat16``; that of the loaded backbone when None.
        progress: called with the number of images after every batch; a bar when None.
        batch: images per batch. Attention matrices are held for one image and layer at a time.

    Raises:
        ConfigError: a hook that would not be called; an unknown precision.
        DataError: no image could be read.
        RunError: ``out`` holds something else, or cannot be written.
    """
    detector, data, out = detector_of(detector), as_set(data), Path(out)
    check_unhooked(detector, "a capture")
    keys = _keys(detector)
    options: dict[str, Any] = {"size": size, "batch": batch, "precision": precision, "progress": progress}
    options |= {"waits": ("value",), "store": lambda about: _Frames(out, about, data, keys)}
    swept = sweep(detector, data, _rows, what="capture", held=held(detector), **options)
    files = tuple(part_path(out, part.number) for part in swept.parts)
    return Capture(out, files, {kind: swept.provenance[kind] for kind in KINDS})


class _Frames(Store):
    """Parts as frames that anything can read; what is in them does not come back. K ``keys`` say what values are of."""

    def __init__(self, folder: Path, about: Mapping[str, Any], data: DataSet, keys: pd.DataFrame) -> None:
        super().__init__(folder, about)
        self._files, self._about, self._data, self._keys = folder, dict(about), data, keys

    def get(self, number: int, records: Sequence[Record]) -> dict[str, np.ndarray] | None:
        """Nothing where part ``number`` has these images, and None where it has to be made."""
        path = part_path(self._files, number)
        if not path.is_file():
            return None
        frame, about = read_parquet(path)
        if about != self._about:
            raise RunError(f"{path}: of another capture; delete it, and it is made again")
        return {} if list(frame["image"].unique()) == [record.name for record in records] else None

    def put(self, number: int, records: Sequence[Record], arrays: Mapping[str, np.ndarray]) -> None:
        """Writes ``value`` [K, B], without what a head does not have."""
        frame = per_image(self._data, records, self._keys, value=torch.from_numpy(arrays["value"]).T)
        write(part_path(self._files, number), parquet(frame[frame["value"].notna()], self._about))


def _keys(detector: Detector) -> pd.DataFrame:
    """Which of the K values of an image is which: the same whatever the images."""
    clean = clean_forward(detector, one_patch(detector), ["object"])
    rows = [
        (stream, layer, head, metric)
        for stream, layer, metric, values in _measured(clean, _anomalous(clean))
        for head in range(values.shape[1])
    ]
    return pd.DataFrame(rows, columns=["stream", "layer", "head", "metric"]).assign(kind="capture")


@torch.no_grad()
def _rows(detector: Detector, part: Batch, images: Tensor) -> Arrays:
    """``value`` [K, B]; NaN where a head has no such quantity."""
    clean = clean_forward(detector, images, categories(part))
    finite({"image_margin": clean.margins.image.cpu().numpy()})
    values = [values for *_, values in _measured(clean, _anomalous(clean, part.masks))]
    return {"value": torch.cat(values, 1).T.cpu().numpy()}


def _measured(clean: CleanRun, anomalous: Tensor) -> Iterator[tuple[str, int, str, Tensor]]:
    """Stream, layer, quantity, and its values [B, H]."""
    for layer, block in enumerate(clean.tower.blocks):
        q, k, v = block.attn.project(block.ln1(clean.x[layer]), hooked=False)
        for stream in clean.plan.streams:
            attention = clean.plan.attention(stream, layer)
            if attention is None:
                continue
            norms = wide(clean.wrote(stream, layer)).norm(dim=-1)  # (B, T, H)
            yield stream, layer, "z_norm_patches", norms[:, clean.patches].mean(1)  # NaN where they are not read
            if stream == "global":
                yield stream, layer, "z_norm", norms[:, 0]
            if not attention:  # what is mixed otherwise has no statistics of attention
                continue
            each = zip(q.split(1), k.split(1), v.split(1), strict=True)
            patterns = (block.attn.pattern(*one, attention, clean.passes) for one in each)
            for metric, values in _attention(patterns, clean.patches, stream, anomalous).items():
                yield stream, layer, metric, values
    summed = not clean.reading.image_contrast.opaque
    for (kind, stream, layer), part in image_parts(clean).terms.items() if summed else ():
        if kind == "head":
            yield stream, layer, "image_margin", part
    patches: dict[tuple[str, int], Tensor] = {}
    for tap in clean.plan.taps:
        for (kind, stream, layer), part in tap_parts(clean, tap).terms.items():
            if kind == "head":
                mean = part.mean(1) / len(clean.plan.taps)  # (B, N, H) -> (B, H)
                patches[stream, layer] = patches.get((stream, layer), 0) + mean
    for (stream, layer), values in patches.items():
        yield stream, layer, "tap_margin", values


def _attention(patterns: Iterable[Tensor], at: slice, stream: str, anomalous: Tensor) -> dict[str, Tensor]:
    """Statistics of attention matrices [1, H, T, T], image by image, [B, H] each; rows are brought to a sum of 1.

    ``at`` says where patches are among the tokens, ``anomalous`` [B, N] which of them show the anomaly.
    """
    rows: dict[str, list[Tensor]] = {}
    for number, pattern in enumerate(patterns):
        attention = wide(pattern[0])
        attention = attention / attention.sum(-1, keepdim=True)
        entropy = torch.special.entr(attention).sum(-1)  # (H, T)
        values = {"entropy_patches": entropy[:, at].mean(1)}
        if stream == "global":
            cls = attention[:, 0]  # (H, T)
            values |= {"entropy": entropy[:, 0], "cls_self": cls[:, 0], "cls_peak": cls[:, at].amax(1)}
            share, on = anomalous[number].float().mean(), cls[:, at][:, anomalous[number]].sum(1)
            values["cls_on_flaw"] = on / cls[:, at].sum(1) / share  # NaN where there are none
        for metric, value in values.items():
            rows.setdefault(metric, []).append(value)
    return {metric: torch.stack(each) for metric, each in rows.items()}


def _anomalous(clean: CleanRun, masks: object = None) -> Tensor:
    """Patches that a mask touches, [B, N] bool; none in a set without masks."""
    if not isinstance(masks, Tensor):
        return torch.zeros(len(clean), clean.grid[0] * clean.grid[1], dtype=torch.bool, device=clean.x[0].device)
    touched = F.max_pool2d(masks.float()[:, None], clean.tower.cfg.patch_size)[:, 0].flatten(1) > 0
    return touched.to(clean.x[0].device)
