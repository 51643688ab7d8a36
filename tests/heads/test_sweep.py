"""Every question about many images is one sweep: killed it goes on, to the same bits; precision, images and runs."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from headlens import data, heads
from headlens.errors import ConfigError, DataError, RunError
from headlens.heads import sweep as sweep_file
from headlens.heads.sweep import sweep

POOL = ["wood", "metal", "red object", "a scratch", "healthy tissue", "broken glass", "round hole", "blue sky"]
ONE = heads.single_heads([heads.Head("global", 3, 1), heads.Head("local", 2, 0)])

VERBS: dict[str, Callable] = {
    "ablate": lambda *given, **options: heads.ablate(*given, ONE, replicates=5, **options),
    "importance": heads.importance,
    "contributions": heads.contributions,
    "name": lambda *given, **options: heads.name_heads(*given, pool=POOL, **options),
    "capture": heads.capture,
}


@pytest.fixture
def parts(monkeypatch) -> list[int]:
    """How many images each part that is computed has."""
    counts: list[int] = []
    plain = sweep_file.sweep

    def counted(detector, data, compute, **options):
        def computed(lowered, part, images):
            counts.append(len(part))
            return compute(lowered, part, images)

        return plain(detector, data, computed, **options)

    for module in ("scored", "importance", "contributions", "naming", "capture"):
        monkeypatch.setattr(import_module(f"headlens.heads.{module}"), "sweep", counted)
    return counts


def killed(count: int) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("verb", VERBS)
def test_what_was_killed_goes_on_to_the_same_bits(verb, make, pictures, tmp_path, parts):
    ask, detector, bar = VERBS[verb], make(torch.float32), []
    whole = ask(detector, pictures, batch=5, out=tmp_path / "whole", progress=bar.append)
    assert parts == [5, 5, 2] == bar
    with pytest.raises(KeyboardInterrupt):
        ask(detector, pictures, batch=5, out=tmp_path / "killed", progress=killed)
    assert [path.name for path in (tmp_path / "killed").glob("part*")] == ["part-00000.parquet"]
    parts.clear()
    again = ask(detector, pictures, batch=5, out=tmp_path / "killed")
    assert parts == [5, 2]
    pd.testing.assert_frame_equal(again.frame, whole.frame, check_exact=True)
    if verb != "capture":
        held_in_memory = ask(detector, pictures, batch=5)
        pd.testing.assert_frame_equal(held_in_memory.frame, whole.frame, check_exact=True)
        assert held_in_memory.provenance == again.provenance == whole.provenance
    with pytest.raises(RunError, match="holds a sweep with batch = 5, not 4"):
        ask(detector, pictures, batch=4, out=tmp_path / "killed")


@pytest.mark.parametrize("verb", VERBS)
def test_precision_is_taken_and_recorded(verb, make, pictures, tmp_path):
    ask, detector = VERBS[verb], make(torch.float32)
    few = pictures.where(lambda record: record.category == "nut")
    coarse = ask(detector, few, out=tmp_path / "coarse", precision="bfloat16")
    fine = ask(detector, few, out=tmp_path / "fine")
    assert (coarse.provenance["precision"], fine.provenance["precision"]) == ("bfloat16", "torch.float32")
    assert coarse.provenance["device"] == "cpu" and coarse.provenance["batch"] == 8
    assert detector.backbone.vision.proj.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    column = "variance" if verb == "name" else "value"
    keys = [
        name for name in ("image", "variant", "stream", "layer", "head", "kind", "metric", "rank") if name in fine.frame
    ]
    both = fine.frame.merge(coarse.frame, on=list(keys), suffixes=("", " coarse"))
    assert len(both) == len(fine.frame)
    off, size = (both[column] - both[f"{column} coarse"]).abs().mean(), both[column].abs().mean()
    assert 0 < off < 0.05 * size
    with pytest.raises(ConfigError, match="unknown precision 'float8'"):
        ask(detector, few, out=tmp_path / "never", precision="float8")


@pytest.mark.parametrize("verb", VERBS)
def test_a_run_is_taken_and_images_left_out_are_named(verb, make, tmp_path):
    folder = tmp_path / "bolts"
    folder.mkdir()
    for number in range(4):
        Image.effect_noise((32, 32), 20 + 20 * number).convert("RGB").save(folder / f"{number}.png")
    (folder / "2.png").write_bytes(b"no image")
    run = SimpleNamespace(detector=make(torch.float32))
    result = VERBS[verb](run, data.open(folder), batch=2, out=tmp_path / "parts")
    notes = result.notes if verb == "capture" else result.provenance
    assert list(notes["skipped"]) == ["2"]
    if "image" in result.frame:
        assert list(dict.fromkeys(result.frame["image"])) == ["0", "1", "3"]
    for number in range(4):
        (folder / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="bolts"):
        VERBS[verb](run, data.open(folder), batch=2, out=tmp_path / "none")
    with pytest.raises(ConfigError, match="str is neither a detector nor a run"):
        VERBS[verb]("mini-industrial", data.open(folder), out=tmp_path / "none")


@pytest.mark.parametrize("verb", VERBS)
def test_what_overflows_is_refused(verb, make, pictures, tmp_path):
    detector = make(torch.float32)
    detector.backbone.vision.proj[0, 0] = torch.nan
    with pytest.raises(ConfigError, match="not a number, or infinite; where the backbone overflows in float16"):
        VERBS[verb](detector, pictures, out=tmp_path / "parts")
    assert not list((tmp_path / "parts").glob("part*"))


def test_parts_come_one_by_one_where_they_are_taken(make, pictures):
    """One process holds no more than one of them."""
    detector, taken, alive = make(torch.float32), [], []

    def compute(lowered, part, images):
        alive.append(len(taken))
        return {"mean": images.mean((1, 2, 3))[None].numpy()}

    swept = sweep(detector, pictures, compute, what="means", batch=5, take=taken.append)
    assert alive == [0, 1, 2] and not swept.parts
    assert [part.number for part in taken] == [0, 1, 2]
    assert [record.name for part in taken for record in part.records] == [record.name for record in pictures.records]
    joined = sweep(detector, pictures, compute, what="means", batch=12)
    assert np.array_equal(joined.joined("mean")[0], np.concatenate([part.arrays["mean"][0] for part in taken]))
    assert joined.provenance["what"] == "means" and joined.records == list(pictures.records)
