"""Frames that are kept between drawings: used as they were written, or computed again."""

from __future__ import annotations

import os

import pandas as pd
import pyarrow.parquet as pq
import pytest

from headlens.figures.context import FrameCache
from headlens.results import parquet, read_parquet

FRAMES = {"": pd.DataFrame({"value": [0.5, 0.25]}), "summary": pd.DataFrame({"mean": [0.375]})}


def cached(folder) -> FrameCache:
    made = FrameCache(folder)
    frames = made.of("scores", {"seed": 0}, lambda parts: FRAMES, tuple(FRAMES))
    for name, frame in FRAMES.items():
        pd.testing.assert_frame_equal(frames[name], frame)
    return made


def edited(path):
    frame, about = read_parquet(path)
    path.write_bytes(parquet(frame + 1000, about))


def piped(path):
    path.unlink()
    os.mkfifo(path)


DAMAGE = {
    "edited": edited,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:50]),
    "absent": lambda path: path.unlink(),
    "pipe": piped,
    "notes": lambda path: pq.write_table(
        pq.read_table(path).replace_schema_metadata({b"headlens": b"[" * 100_000}), path
    ),
}


@pytest.mark.parametrize("name", ["scores.parquet", "scores.summary.parquet", "scores.sha256"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_what_was_edited_or_damaged_is_computed_again(name, damage, tmp_path):
    assert cached(tmp_path).reused == []
    assert cached(tmp_path).reused == ["scores"]
    if name.endswith(".sha256") and damage in ("edited", "notes"):
        (tmp_path / name).write_text("[]")
    else:
        DAMAGE[damage](tmp_path / name)
    assert cached(tmp_path).reused == []
    assert cached(tmp_path).reused == ["scores"]
