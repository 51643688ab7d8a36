"""``Result``: a long-form frame with its provenance, returned by all functions about heads."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from torch import Tensor

from headlens import html, plots, tables
from headlens.errors import ConfigError, RunError
from headlens.files import read_regular, write
from headlens.printing import cell, reason

if TYPE_CHECKING:
    from typing_extensions import Self

    from headlens.data import DataSet, Record

COLUMNS = (
    "domain",
    "dataset",
    "category",
    "image",
    "anomalous",
    "stream",
    "layer",
    "head",
    "kind",
    "metric",
    "value",
    "baseline",
    "effect",
)
"""Of frames, in this order; those that apply. Layers and heads count from 0."""
_KEY = b"headlens"
_MOST_CELLS = 2**29
"""Of a frame, whatever its file claims: a small file can unfold to any number of equal values."""


@dataclass(frozen=True)
class Result(html.Shown):
    """A frame and its provenance.

    Args:
        frame: long; see ``COLUMNS``.
        provenance: backbone and its weight hash, hash of what was learned, data set, seed, versions, settings.
        TABLES: fields of a kind of result that are frames, too; each has a file ``NAME.FIELD.SUFFIX``.

    >>> import tempfile
    >>> result = Result(pd.DataFrame({"layer": [18], "value": [0.5]}), {"seed": 0})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     again = Result.load(result.save(Path(folder, "heads.parquet")))
    >>> again.provenance, again.frame.equals(result.frame)
    ({'seed': 0}, True)
    """

    TABLES: ClassVar[tuple[str, ...]] = ()

    frame: pd.DataFrame
    provenance: dict[str, Any]

    @property
    def made_by(self) -> str:
        """One line that names the backbone and the images."""
        return made_by(self.provenance)

    def _repr_html_(self) -> str:
        about = self.provenance
        facts = {
            "made by": self.made_by,
            "runs": ", ".join(run["name"] for runs in about.get("runs", {}).values() for run in runs),
            "learned tensors": about.get("learned_sha256", "")[:12],
            "seed": about.get("seed"),
        }
        return html.card(type(self).__name__, facts, *html.either(self._parts, self.frame))

    def _parts(self) -> list[str]:
        """What stands under the facts, as HTML; every kind of result has its own."""
        return [html.table(self.frame)]

    def plot(self, ax: Any = None) -> plots.Figure:
        """A figure with its axes; each kind of result draws its own figure.

        Args:
            ax: axes to draw on, one per panel; a new figure when None.

        Raises:
            ConfigError: a frame that was loaded as a plain ``Result``.
        """
        raise ConfigError(f"a {type(self).__name__} cannot be drawn; load it with its class, such as Ablation.load")

    def save(self, path: str | Path) -> Path:
        """Writes the frame: ``.parquet`` with its provenance, or ``.csv``, ``.md``, ``.tex``; never a partial file.

        Raises:
            ConfigError: another suffix.
            RunError: the file cannot be written.
        """
        path = save_frame(Path(path), self.frame, self.provenance)
        for name in self.TABLES:
            save_frame(beside(path, name), getattr(self, name), self.provenance)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Loads what ``save`` wrote as Parquet.

        Raises:
            RunError: no such file, a damaged one, or one without provenance.
        """
        path = Path(path)
        tables = {name: read_parquet(beside(path, name))[0] for name in cls.TABLES}
        return cls(*read_parquet(path), **tables)


def made_by(about: Mapping[str, Any]) -> str:
    """One line that says which backbone, or which detector without one, and which images a result is of."""
    backbone, detector, dataset = (dict(about.get(name, {})) for name in ("backbone", "detector", "dataset"))
    line = f"backbone {backbone.get('name', 'unknown')} ({backbone.get('weights', 'unknown weights')})"
    if detector and not backbone:
        line = detector.pop("method", "unknown detector")
        line += f" ({', '.join(f'{name} {value}' for name, value in detector.items())})" if detector else ""
    return f"{line} · {dataset['name']}, {dataset['images']} images" if dataset else line


def save_frame(path: Path, frame: pd.DataFrame, about: Mapping[str, Any]) -> Path:
    """Writes a frame as its suffix says; see ``Result.save``."""
    writers: dict[str, Callable[[], bytes]] = {
        ".parquet": lambda: parquet(frame, about),
        ".csv": lambda: tables.csv_of(frame).encode(),
        ".md": lambda: (tables.markdown(*_cells(frame)) + "\n").encode(),
        ".tex": lambda: (tables.latex(*_cells(frame)) + "\n").encode(),
    }
    if path.suffix not in writers:
        raise ConfigError(f"{path}: frames are saved as {', '.join(writers)}, not as {path.suffix or 'nothing'!r}")
    write(path, writers[path.suffix]())
    return path


def save_arrays(path: Path, about: Mapping[str, Any], arrays: Mapping[str, np.ndarray | None]) -> Path:
    """Writes arrays, but for those that are None, as ``.npz``; ``about`` is in it as JSON, called ``provenance``."""
    known = {name: values for name, values in arrays.items() if values is not None}
    sink = io.BytesIO()
    np.savez_compressed(sink, **known, provenance=np.array(json.dumps(dict(about))))  # type: ignore[arg-type]
    write(path, sink.getvalue())
    return path


def per_image(data: DataSet, records: Sequence[Record], keys: pd.DataFrame, **columns: Tensor) -> pd.DataFrame:
    """A long frame of B images by K quantities measured in each.

    Args:
        data: the images' set.
        records: B of them.
        keys: K rows: stream, layer, head, kind, metric, or some of these.
        **columns: [B, K] each: value, baseline, effect, or some of these.
    """
    images = pd.DataFrame(
        {
            "category": [r.category for r in records],
            "image": [r.name for r in records],
            "anomalous": pd.array([r.anomalous for r in records], dtype="boolean"),
        }
    )
    quantities = keys.astype({name: "Int64" for name in ("layer", "head") if name in keys})
    frame = images.merge(quantities, how="cross").assign(domain=data.domain, dataset=data.name)
    for name, values in columns.items():
        frame[name] = values.detach().cpu().reshape(-1).numpy()
    return ordered(frame)


def ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """The same with its columns in the order of ``COLUMNS``, others last."""
    known = [name for name in COLUMNS if name in frame]
    return frame[known + [name for name in frame if name not in known]]


def parquet(frame: pd.DataFrame, about: Mapping[str, Any]) -> bytes:
    """A frame as the bytes of a Parquet file; ``about`` is kept in its metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), _KEY: json.dumps(about).encode()})
    sink = io.BytesIO()
    pq.write_table(table, sink, write_page_checksum=True)
    return sink.getvalue()


def read_parquet(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """What ``parquet`` made, from a file.

    Raises:
        RunError: no such file, a damaged one, or one without what it is about.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(read_regular(path)), page_checksum_verification=True)
        if (cells := file.metadata.num_rows * file.metadata.num_columns) > _MOST_CELLS:
            raise ValueError(f"it says that it has {cells:,} cells, and results have {_MOST_CELLS:,} at most")
        table = file.read()
        about = json.loads((table.schema.metadata or {})[_KEY])
        if not isinstance(about, dict):
            raise ValueError("its provenance is not a table")
        return table.to_pandas(), renamed(about)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, pa.ArrowException) as error:
        raise RunError(
            f"{path}: not a result saved by headlens, or damaged ({reason(error)}); make it again"
        ) from error


def renamed(about: dict[str, Any]) -> dict[str, Any]:
    """A provenance as it is written today; files of earlier versions say ``picture`` and ``pictures`` for images.

    >>> renamed({"picture": "a.png", "dataset": {"name": "bolts", "pictures": 6}})
    {'image': 'a.png', 'dataset': {'name': 'bolts', 'images': 6}}
    """
    new = {"picture": "image", "pictures": "images"}
    return {new.get(key, key): renamed(value) if isinstance(value, dict) else value for key, value in about.items()}


def beside(path: Path, what: str) -> Path:
    """Where a second table goes: ``NAME.what.SUFFIX``."""
    return path.with_name(f"{path.stem}.{what}{path.suffix}")


def _cells(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    return list(map(str, frame.columns)), [list(map(cell, row)) for row in frame.itertuples(index=False)]
