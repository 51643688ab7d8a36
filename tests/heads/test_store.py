"""Parts of a sweep: what this sweep wrote comes back to the bit, and nothing else does."""

from __future__ import annotations

import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from headlens.errors import RunError
from headlens.heads.store import Part, Store, discard
from headlens.heads.sweep import Swept
from headlens.locking import locked

ABOUT = {"what": "test", "seed": 0}
RECORDS = [[SimpleNamespace(name=f"{part}/{row}") for row in range(3)] for part in range(2)]


def arrays(part: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(part)
    return {
        "margin": generator.normal(size=(4, 3)).astype(np.float32),
        "patch_map": generator.normal(size=(4, 3, 2, 5)).astype(np.float32),
    }


@pytest.fixture
def store(tmp_path) -> Store:
    store = Store(tmp_path / "parts", ABOUT)
    for part, records in enumerate(RECORDS):
        store.put(part, records, arrays(part))
    return store


def again(store: Store) -> None:
    """What another process reads."""
    other = Store(store.folder, ABOUT)
    for part, records in enumerate(RECORDS):
        assert other.get(part, records) is not None


def test_parts_come_back_to_the_bit(store):
    again(store)
    for part, records in enumerate(RECORDS):
        found, put = store.get(part, records), arrays(part)
        assert list(found) == list(put)
        assert all(found[name].dtype == own.dtype and np.array_equal(found[name], own) for name, own in put.items())
    assert store.get(2, RECORDS[0]) is None and store.get(0, RECORDS[1]) is None


def rewritten(path, change, **notes):
    table = pq.read_table(path)
    about = {**table.schema.metadata, **{key.encode(): value for key, value in notes.items()}}
    pq.write_table(change(table).replace_schema_metadata({k: v for k, v in about.items() if v is not None}), path)


def edited(table):
    return table.set_column(0, "margin", pc.add(table["margin"], pa.scalar(1000.0, pa.float32())))


def same(table):
    return table


DAMAGE = {
    "values + 1000": lambda path: rewritten(path, edited),
    "of another place": lambda path: shutil.copy(path.with_name("part-00001.parquet"), path),
    "without a checksum": lambda path: rewritten(path, same, sha256=None),
    "another checksum": lambda path: rewritten(path, same, sha256=b'"0"'),
    "other names": lambda path: rewritten(path, same, names=b'["1/0", "1/1", "1/2"]'),
    "odd names": lambda path: rewritten(path, same, names=b"[[[{}]]]"),
    "odd shapes": lambda path: rewritten(path, same, shapes=b"[]"),
    "negative shapes": lambda path: rewritten(path, same, shapes=b'{"margin": [-1, 4], "patch_map": [4, 3, 2, 5]}'),
    "nested shapes": lambda path: rewritten(path, same, shapes=b"[" * 100_000),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:500]),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_anything_else_is_refused_with_the_name_of_the_file(name, store):
    DAMAGE[name](store.folder / "part-00000.parquet")
    with pytest.raises(
        RunError, match=r"parts/part-00000\.parquet: damaged.*delete it, and it is computed again"
    ) as error:
        again(store)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_small_file_that_unfolds_to_a_large_one_is_refused(store):
    """Before it takes the memory: 320 MB in 300 kB."""
    path = store.folder / "part-00000.parquet"
    rows = pa.chunked_array([pa.array(np.zeros(10**6, np.float32))] * 80)
    table = pa.table({"margin": rows}).replace_schema_metadata(pq.read_schema(path).metadata)
    pq.write_table(table, path, compression="zstd")
    assert path.stat().st_size < 10**6
    with pytest.raises(RunError, match=r"80,000,000 rows, which [\d,]+ bytes cannot hold"):
        again(store)


def test_every_flipped_byte_is_noticed_or_changes_nothing(store):
    path = store.folder / "part-00000.parquet"
    content = path.read_bytes()
    refused = 0
    for at in range(0, len(content), 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :])
        try:
            found = Store(store.folder, ABOUT).get(0, RECORDS[0])
        except RunError:
            refused += 1
        else:
            assert all(np.array_equal(found[name], own) for name, own in arrays(0).items())
    assert refused > len(content) / 7 / 2


def test_parts_of_another_sweep_are_refused_even_without_the_file_that_says_which(store, tmp_path):
    with pytest.raises(RunError, match="holds a sweep with seed = 0, not 1"):
        Store(store.folder, {**ABOUT, "seed": 1})
    other = Store(tmp_path / "other", {**ABOUT, "seed": 1})
    other.put(0, RECORDS[0], arrays(0))
    shutil.copy(other.folder / "part-00000.parquet", store.folder)
    with pytest.raises(RunError, match=r"part-00000\.parquet: damaged, edited, or of another sweep"):
        again(store)
    (store.folder / "_sweep.json").unlink()
    with pytest.raises(RunError, match="of another sweep"):
        again(store)


@pytest.mark.parametrize("content", ["[]", "null", '"x"', "{", "[" * 100_000, "\0"])
def test_a_damaged_description_is_named(content, store):
    (store.folder / "_sweep.json").write_text(content)
    with pytest.raises(RunError, match=r"_sweep\.json: damaged .*delete .*parts to begin again"):
        again(store)


def test_a_description_as_an_editor_saves_it_is_read(store):
    path = store.folder / "_sweep.json"
    path.write_bytes(json.dumps(json.loads(path.read_text())).encode("utf-16"))
    again(store)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_pipes_are_replaced_and_not_read(store):
    for name in ("part-00000.parquet", "_sweep.json"):
        (store.folder / name).unlink()
        os.mkfifo(store.folder / name)
    other = Store(store.folder, ABOUT)
    assert other.get(0, RECORDS[0]) is None
    other.put(0, RECORDS[0], arrays(0))
    again(store)


def test_maps_that_were_edited_while_they_waited_are_refused(store):
    swept = Swept([Part(number, records, {}) for number, records in enumerate(RECORDS)], store, {})
    expected = np.concatenate([arrays(0)["patch_map"][:, [2]], arrays(1)["patch_map"][:, [0]]], 1)
    assert torch.equal(swept.of_images("patch_map", [2, 3]), torch.from_numpy(expected))
    rewritten(store.folder / "part-00001.parquet", edited)
    with pytest.raises(RunError, match=r"part-00001\.parquet"):
        swept.of_images("patch_map", [2, 3])


def test_a_folder_of_parts_in_use_is_refused(store, make, pictures):
    from headlens import heads

    with locked(store.folder), pytest.raises(RunError, match="parts is in use by another headlens"):
        heads.ablate(make(torch.float32), pictures, out=store.folder)


def test_parts_are_discarded_unless_another_process_works_with_them(tmp_path):
    used, unused = tmp_path / "used", tmp_path / "unused"
    for folder in (used, unused):
        Store(folder, ABOUT).put(0, RECORDS[0], arrays(0))
    with locked(used):
        discard(used, unused, tmp_path / "missing")
        assert (used / "part-00000.parquet").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["used"]
    discard(used)
    assert not used.exists()


@pytest.mark.parametrize("kind", [pa.bool_(), pa.null()])
def test_values_of_no_whole_byte_are_counted_too(kind, store, tmp_path, monkeypatch):
    path = tmp_path / "parts" / "part-00000.parquet"
    column = pa.nulls(10**6, kind)
    pq.write_table(pa.table({"margin": column}).replace_schema_metadata(pq.read_schema(path).metadata), path)
    assert path.stat().st_size < 10**5
    monkeypatch.setattr(pq.ParquetFile, "read", lambda *_, **__: pytest.fail("read it"))
    with pytest.raises(RunError, match=r"1,000,000 rows, which|no fixed size|Non-fixed"):
        store.get(0, RECORDS[0])
