"""Files of results: what was saved comes back, and a damaged or endless file is refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headlens import results
from headlens.errors import RunError
from headlens.results import parquet, read_parquet

FRAME = pd.DataFrame(
    {
        "dataset": ["bolts"] * 60,
        "head": np.arange(60),
        "anomalous": [True, None, False] * 20,
        "value": np.random.default_rng(0).normal(size=60),
    }
)
ABOUT = {"what": "test"}


@settings(max_examples=80, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_changes_no_number(tmp_path_factory, at, bit):
    path = tmp_path_factory.getbasetemp() / "flipped.parquet"
    content = bytearray(parquet(FRAME, ABOUT))
    content[int(at * len(content))] ^= 1 << bit
    path.write_bytes(content)
    try:
        frame, _ = read_parquet(path)
    except RunError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return
    assert len(frame) == len(FRAME) and list(frame.iloc[:, 3]) == list(FRAME["value"])


def test_a_small_file_of_endless_rows_is_refused_before_it_is_read(tmp_path, monkeypatch):
    zeros = pa.table({name: pa.array(np.zeros(10_000)) for name in "ab"})
    zeros = zeros.replace_schema_metadata({b"headlens": json.dumps(ABOUT).encode()})
    pq.write_table(zeros, tmp_path / "x.parquet", compression="zstd")
    assert len(read_parquet(tmp_path / "x.parquet")[0]) == 10_000
    monkeypatch.setattr(results, "_MOST_CELLS", 19_999)
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *_, **__: pytest.fail("read it"))
    with pytest.raises(RunError, match="it says that it has 20,000 cells"):
        read_parquet(tmp_path / "x.parquet")
