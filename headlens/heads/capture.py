"""``capture``: what every head does to every image, written down batch by batch; memory does not grow with the images.

    z_norm, z_norm_patches    L2 norm of the head's weighted output, at CLS and averaged over patches
    entropy, entropy_patches  of the attention of CLS, and of patches on average, in nats
    cls_self, cls_peak        what CLS gives to itself, and the most that it gives to one patch
    cls_on_flaw               what CLS gives to patches under the mask, over their share of all patches: 1 is chance
    image_margin, tap_margin  the head's part of the image margin, and of patches' margins (mean over them and taps)

Of local heads only patches are read, so they have no quantity of CLS; where nothing is read, there is no row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from headlens import html, plots
from headlens.data import Batch, DataSet
from headlens.data.notes import Notes
from headlens.detectors.detector import Detector
from headlens.errors import ConfigError, RunError
from headlens.heads.clean import CleanRun, clean_forward
from headlens.heads.direct import image_parts, tap_parts
from headlens.heads.exactness import check_unhooked, held
from headlens.heads.pictures import Pictures, categories
from headlens.heads.store import Store, alone
from headlens.precision import wide
from headlens.provenance import computed, provenance
from headlens.results import made_by, parquet, per_image, read_parquet, write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KEYS = ["metric", "stream", "layer", "head"]


@dataclass(frozen=True)
class Capture:
    """A folder of Parquet files, one for each batch of images; ``pandas.read_parquet(folder)`` reads them all.

    Args:
        folder: where they are.
        files: in the order of the images.
        notes: which images did not count, or not as they are stored, and why.
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
        """All of it at once: some thousand rows an image."""
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
            flawed = part["anomalous"].fillna(False).astype(bool)
            normal = ~part["anomalous"].fillna(True).astype(bool)
            value = part["value"].astype(float)
            own = part[_KEYS].assign(n=1, s=value, q=value**2, a=flawed, b=normal, sa=value * flawed, sb=value * normal)
            own = own.groupby(_KEYS, sort=False).sum()
            sums = own if sums is None else sums.add(own, fill_value=0)
        assert sums is not None
        mean = sums["s"] / sums["n"]
        spread = np.sqrt((sums["q"] / sums["n"] - mean**2).clip(lower=0))
        normal, flawed = (sums[total] / sums[count].replace(0, np.nan) for total, count in (("sb", "b"), ("sa", "a")))
        found = {"images": sums["n"].astype(int), "mean": mean, "std": spread, "normal": normal, "anomalous": flawed}
        return pd.DataFrame(found).reset_index()

    def _repr_html_(self) -> str:
        facts = {"made by": made_by(self.provenance), "folder": self.folder.name, "files": len(self.files)}
        return html.card("Capture", facts, html.table(read_parquet(self.files[0])[0], "Of the first file"))

    def plot(self, ax: Any = None, metric: str = "entropy", stream: str | None = None) -> tuple[Figure, Any]:
        """The mean of one quantity as a grid.

        Args:
            ax: axes to draw on, one for each stream; a new figure when None.
            metric: which quantity.
            stream: which; all that have it when None.

        Raises:
            ConfigError: a quantity that was not captured.
        """
        found = self.summary
        rows = found[found["metric"] == metric]
        if rows.empty:
            raise ConfigError(f"{metric!r} was not captured; there are {', '.join(found['metric'].unique())}")
        centre = 0 if metric.endswith("margin") else 1 if metric == "cls_on_flaw" else None
        return plots.grids(
            rows,
            "mean",
            ax,
            stream,
            label=f"mean {plots.named(metric)}",
            centre=centre,
            made_by=made_by(self.provenance),
        )

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
    detector: Detector,
    data: DataSet,
    out: Path,
    *,
    size: int | None = None,
    batch: int = 8,
    progress: Callable[[int], object] = lambda n: None,
) -> Capture:
    """Norms, attention statistics and margin parts of every head of both streams, in one pass over the images.

    Args:
        detector: whose heads.
        data: which pictures.
        out: a folder; what was killed goes on from there.
        size: pictures are resized to this square; the detector's own size when None.
        batch: pictures at once. Attention matrices are held for one image and layer at a time.
        progress: called with the number of pictures after every batch.

    Raises:
        ConfigError: a hook that would not be called.
        DataError: no picture could be read.
        RunError: ``out`` holds something else, or cannot be written.
    """
    check_unhooked(detector, "a capture")
    pictures = Pictures(detector, data, size, batch)
    about = provenance(
        detector, data, what="capture", size=pictures.size, batch=batch, held=held(detector), **computed(detector)
    )
    Store(out, about)
    files = []
    for number, (part, images) in enumerate(pictures):
        path = out / f"part-{number:05d}.parquet"
        if not path.is_file() or _names(path, about) != [record.name for record in part.records]:
            clean = clean_forward(detector, images, categories(part))
            write(path, parquet(_frame(clean, data, part), about))
        files.append(path)
        progress(len(part))
    return Capture(out, tuple(files), pictures.notes())


def _names(path: Path, about: dict[str, Any]) -> list[str]:
    """Of the pictures that a file of this capture has; raises RunError for one of another."""
    frame, made = read_parquet(path)
    if made != about:
        raise RunError(f"{path}: of another capture; delete it, and it is made again")
    return list(frame["image"].unique())


@torch.no_grad()
def _frame(clean: CleanRun, data: DataSet, part: Batch) -> pd.DataFrame:
    """Rows of a batch, without those of quantities that a head has not."""
    rows = list(_measured(clean, _flaws(clean, part)))
    keys = [(stream, layer, head, metric) for stream, layer, metric, own in rows for head in range(own.shape[1])]
    frame = pd.DataFrame(keys, columns=["stream", "layer", "head", "metric"]).assign(kind="capture")
    found = per_image(data, part.records, frame, value=torch.cat([own for *_, own in rows], 1))
    return found[found["value"].notna()]


def _measured(clean: CleanRun, flaws: Tensor | None) -> Iterator[tuple[str, int, str, Tensor]]:
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
            patterns = (
                block.attn.pattern(*own, attention) for own in zip(q.split(1), k.split(1), v.split(1), strict=True)
            )
            for metric, values in _attention(patterns, clean.patches, stream, flaws).items():
                yield stream, layer, metric, values
    for (kind, stream, layer), part in image_parts(clean).terms.items():
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


def _attention(patterns: Iterable[Tensor], at: slice, stream: str, flaws: Tensor | None) -> dict[str, Tensor]:
    """Statistics of attention matrices [1, H, T, T] of B images, [B, H] each; rows are brought to a sum of 1.

    Args:
        patterns: image by image.
        at: where patches are among the tokens.
        stream: which; of the local one CLS is not read.
        flaws: [B, N], which patches show the anomaly.
    """
    rows: dict[str, list[Tensor]] = {}
    for number, pattern in enumerate(patterns):
        own = wide(pattern[0])
        own = own / own.sum(-1, keepdim=True)
        entropy = torch.special.entr(own).sum(-1)  # (H, T)
        found = {"entropy_patches": entropy[:, at].mean(1)}
        if stream == "global":
            cls = own[:, 0]  # (H, T)
            found |= {"entropy": entropy[:, 0], "cls_self": cls[:, 0], "cls_peak": cls[:, at].amax(1)}
            if flaws is not None:
                share = flaws[number].float().mean()
                found["cls_on_flaw"] = cls[:, at][:, flaws[number]].sum(1) / cls[:, at].sum(1) / share  # NaN without
        for metric, values in found.items():
            rows.setdefault(metric, []).append(values)
    return {metric: torch.stack(values) for metric, values in rows.items()}


def _flaws(clean: CleanRun, part: Batch) -> Tensor | None:
    """Patches that a mask touches, [B, N] bool; None in a set without masks."""
    if not isinstance(part.masks, Tensor):
        return None
    patch = clean.tower.cfg.patch_size
    touched = F.max_pool2d(part.masks.float()[:, None], patch)[:, 0].flatten(1) > 0
    return touched.to(clean.x[0].device)
