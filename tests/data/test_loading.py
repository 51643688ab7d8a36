"""The loader: everything once and in order, whatever the threads do, and nothing decoded twice where a cache is."""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headlens.data.cache import FolderCache, MemoryCache, key_of
from headlens.data.loading import Loader
from headlens.data.preprocess import Prepared, Preprocess
from headlens.data.samples import DataSet, Pixels, Record
from headlens.errors import DataError

SMALL = Preprocess(14)
quick = settings(deadline=None, max_examples=25, derandomize=True)


class Shelf(DataSet):
    """Pictures made of their number; every third is anomalous; ``broken`` ones cannot be read. Counts what it reads."""

    def __init__(self, records, broken=(), masks=True, wait=0.0):
        super().__init__("shelf", "industrial", records)
        self.broken, self.masks, self.wait = set(broken), masks, wait
        self.reads: list[str] = []

    @property
    def has_masks(self) -> bool:
        return self.masks

    def pixels(self, i: int) -> Pixels:
        record = self.records[i]
        self.reads.append(record.name)
        number = int(record.name)
        time.sleep(self.wait * (number % 3))
        if number in self.broken:
            raise DataError(f"{number}.png is no picture")
        size = (20 + number % 7, 30 - number % 5)
        image = torch.full((3, *size), number % 256, dtype=torch.uint8)
        drawn = record.anomalous is False or (self.masks and number % 2 == 0)
        return Pixels(image, torch.full(size, bool(record.anomalous)) if drawn else None)

    def where(self, keep) -> Shelf:
        return Shelf(filter(keep, self.records), self.broken, self.masks, self.wait)


def shelf(count: int, folder: Path | None = None, **options) -> Shelf:
    """With ``folder``, records have files there, which a cache tells apart by size and time."""
    records = []
    for i in range(count):
        file = folder / f"{i}.png" if folder else None
        if file:
            file.write_bytes(b"picture")
        records.append(
            Record(str(i), "box", {0: True, 1: False, 2: None}[i % 3] if i % 9 == 8 else i % 3 == 0, image=file)
        )
    return Shelf(records, **options)


def numbers(loader: Loader, order=None) -> list[int]:
    return [i for batch in (loader if order is None else loader.batches(order)) for i in batch.index.tolist()]


def equal(a, b) -> bool:
    return all(
        torch.equal(x.images, y.images) and torch.equal(x.masks, y.masks) and torch.equal(x.index, y.index)
        for x, y in zip(a, b, strict=True)
    )


@quick
@given(st.integers(0, 23), st.integers(1, 9), st.sampled_from([0, 1, 3]), st.sets(st.integers(0, 22)))
def test_every_picture_once_in_order_in_full_batches(count, batch, workers, broken):
    broken = {i for i in broken if i < count}
    loader = Loader(shelf(count, broken=broken), SMALL, batch, workers, on_error="skip", normalise=False)
    good = [i for i in range(count) if i not in broken]
    if count and not good:
        with pytest.raises(DataError, match=f"none of {count} images"):
            numbers(loader)
        return
    batches = list(loader)
    assert [b.index.tolist() for b in batches] == [good[i : i + batch] for i in range(0, len(good), batch)]
    for b in batches:
        assert b.images[:, 0, 0, 0].tolist() == [i % 256 for i in b.index.tolist()], "each picture under its number"
        assert [int(record.name) for record in b.records] == b.index.tolist()
    assert [int(s.record.name) for s in loader.skipped] == sorted(broken)
    assert len(loader) == -(-count // batch)


def test_threads_that_finish_out_of_order_change_nothing():
    slow = Loader(shelf(30, wait=0.003), SMALL, 4, workers=5)
    assert equal(slow, Loader(shelf(30), SMALL, 4, workers=0))


def test_an_order_of_ones_own():
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3)).tolist()
    loader = Loader(shelf(20), SMALL, 6)
    assert numbers(loader, order) == order
    assert numbers(loader, [7, 7, 2]) == [7, 7, 2]
    with pytest.raises(IndexError):
        numbers(loader, [20])


# What is in a batch
@pytest.mark.parametrize("masks", ["resized", "native"])
def test_masks_labels_and_who_has_a_mask(masks):
    (batch,) = Loader(shelf(18), Preprocess(14, masks=masks), 18)
    for i, (record, mask) in enumerate(zip(batch.records, batch.masks, strict=True)):
        drawn = i % 2 == 0 and record.anomalous is not False
        assert bool(batch.has_mask[i]) == (drawn or record.anomalous is False)
        assert mask.dtype == torch.bool
        assert tuple(mask.shape) == (batch.native[i] if masks == "native" else (14, 14))
        assert bool(mask.all() if drawn and record.anomalous else not mask.any())
        assert int(batch.labels[i]) == {True: 1, False: 0, None: -1}[record.anomalous]
    assert set(batch.labels.tolist()) == {-1, 0, 1}
    assert not batch.has_mask[3], "anomalous without an outline"


def test_a_set_without_masks():
    (batch,) = Loader(shelf(6, masks=False), SMALL)
    assert batch.masks is None
    assert not batch.has_mask.any()


def test_normalised_or_not_and_padding():
    pad = Preprocess(14, fit="pad")
    (raw,) = Loader(shelf(6), pad, normalise=False)
    (ready,) = Loader(shelf(6), pad)
    assert raw.images.dtype == torch.uint8
    assert torch.equal(pad.normalise(raw.images), ready.images)
    assert torch.equal(ready.inside, torch.stack([pad.inside(size) for size in ready.native]))
    assert next(iter(Loader(shelf(6), SMALL))).inside is None


def test_to_moves_every_tensor():
    (batch,) = Loader(shelf(3), Preprocess(14, "pad", "native"))
    moved = batch.to("meta")
    assert {t.device.type for t in (moved.images, moved.has_mask, moved.inside, moved.labels, moved.index)} == {"meta"}
    assert {mask.device.type for mask in moved.masks} == {"meta"}
    assert moved.records == batch.records


# Cache
@pytest.mark.parametrize("where", ["memory", "folder"])
@pytest.mark.parametrize("masks", ["resized", "native"])
def test_nothing_is_decoded_twice(tmp_path, where, masks):
    (tmp_path / "set").mkdir()
    data = shelf(20, tmp_path / "set")
    loader = Loader(data, Preprocess(14, masks=masks), 6, cache="memory" if where == "memory" else tmp_path / "cache")
    plain = Loader(shelf(20), Preprocess(14, masks=masks), 6)
    first, second, again = list(loader), list(loader), list(plain)
    assert sorted(data.reads, key=int) == [str(i) for i in range(20)]
    for a, b, c in zip(first, second, again, strict=True):
        assert torch.equal(a.images, c.images)
        assert torch.equal(b.images, c.images)
        assert all(torch.equal(x, y) and torch.equal(x, z) for x, y, z in zip(a.masks, b.masks, c.masks, strict=True))
        assert torch.equal(b.has_mask, c.has_mask)
        assert b.native == c.native


def test_a_folder_serves_the_next_run_and_other_preprocessing_does_not_get_it(tmp_path):
    (tmp_path / "set").mkdir()
    first, second, third = (shelf(9, tmp_path / "set") for _ in range(3))
    os.utime(tmp_path / "set" / "4.png", ns=(1, 1))
    before = list(Loader(first, SMALL, cache=tmp_path / "cache"))
    assert equal(Loader(second, SMALL, cache=tmp_path / "cache"), before)
    assert second.reads == []
    list(Loader(third, Preprocess(28), cache=tmp_path / "cache"))
    assert len(third.reads) == 9


def test_a_file_that_changed_is_read_again(tmp_path):
    (tmp_path / "set").mkdir()
    data = shelf(9, tmp_path / "set")
    loader = Loader(data, SMALL, cache=tmp_path / "cache")
    list(loader)
    data.reads.clear()
    os.utime(tmp_path / "set" / "4.png", ns=(1, 1))
    (tmp_path / "set" / "5.png").write_bytes(b"another")
    os.utime(tmp_path / "set" / "5.png", ns=(2, 2))
    list(loader)
    assert sorted(data.reads) == ["4", "5"]


def test_other_rules_of_reading_make_other_entries_and_another_set(tmp_path, monkeypatch):
    (tmp_path / "0.png").touch()
    record = Record("0", "box", True, image=tmp_path / "0.png")
    before = key_of(record, SMALL), Shelf([record]).fingerprint
    for place in ("cache", "samples"):
        monkeypatch.setattr(f"headlens.data.{place}.RULES", b"others")
    assert not {*before} & {key_of(record, SMALL), Shelf([record]).fingerprint}


def test_parts_of_one_file_have_entries_of_their_own(tmp_path):
    (tmp_path / "0.png").touch()
    parts = [Record("0", "box", True, image=tmp_path / "0.png", crop=(0, 0, 4, side)) for side in (4, 8)]
    keys = [key_of(record, preprocess) for record in parts for preprocess in (SMALL, Preprocess(14, "pad"))]
    assert len(set(keys)) == 4


@pytest.mark.parametrize("harm", ["cut short", "one bit", "not ours", "empty", "another size", "another's"])
def test_damaged_entries_are_made_again(tmp_path, harm):
    (tmp_path / "set").mkdir()
    data = shelf(6, tmp_path / "set")
    loader = Loader(data, SMALL, cache=tmp_path / "cache")
    before = list(loader)
    entry, other, *_ = sorted((tmp_path / "cache").rglob("*.safetensors"))
    content = entry.read_bytes()
    entry.write_bytes(
        {
            "cut short": content[:-9],
            "one bit": content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
            "not ours": b"a text about something else",
            "empty": b"",
            "another size": re.sub(rb"native(\W+)2", rb"native\g<1>9", content),
            "another's": other.read_bytes(),
        }[harm]
    )
    data.reads.clear()
    assert equal(loader, before)
    assert len(data.reads) == 1
    assert entry.read_bytes() == content


def test_a_folder_in_the_place_of_an_entry_is_that_entry_s_trouble_alone(tmp_path):
    (tmp_path / "set").mkdir()
    data = shelf(6, tmp_path / "set")
    (tmp_path / "cache" / (key := key_of(data.records[0], SMALL))[:2] / f"{key}.safetensors").mkdir(parents=True)
    loader = Loader(data, SMALL, cache=tmp_path / "cache", workers=0)
    before = list(loader)
    data.reads.clear()
    assert equal(loader, before)
    assert data.reads == ["0"]


def test_what_killed_writers_left_is_cleaned_up(tmp_path, monkeypatch):
    """But not what somebody may still be writing."""
    cache, prepared = FolderCache(tmp_path), Prepared(torch.zeros(3, 2, 2, dtype=torch.uint8), None, (2, 2))
    with monkeypatch.context() as killed:
        killed.setattr(Path, "replace", lambda *_: None)
        for key in ("ab0", "ab1"):
            cache.put(key, prepared)
    old, new = (next(tmp_path.glob(f"ab/.*{key}*")) for key in ("ab0", "ab1"))
    cache.put("ab2", prepared)
    hours_ago = time.time() - 2 * 3600
    for path in (old, tmp_path / "ab" / "ab2.safetensors"):
        os.utime(path, (hours_ago, hours_ago))
    FolderCache(tmp_path)
    assert sorted(tmp_path.glob("ab/*")) == sorted([new, tmp_path / "ab" / "ab2.safetensors"])


def test_entries_appear_whole_or_not_at_all(tmp_path, monkeypatch):
    """A writer that is stopped before the last step leaves nothing behind that a reader would take."""
    cache, prepared = FolderCache(tmp_path), Prepared(torch.zeros(3, 2, 2, dtype=torch.uint8), None, (2, 2))

    def stopped(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "replace", stopped)
    with pytest.warns(UserWarning, match=f"{tmp_path} cannot store more images .*No space left"):
        cache.put("ab", prepared)
    monkeypatch.undo()
    assert cache.get("ab") is None
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    cache.put("ab", prepared)
    assert cache.get("ab") is None, "it was told once, and is not tried for every picture"


def test_a_folder_that_cannot_be_written_does_not_stop_the_run(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.warns(UserWarning, match="continues without"):
        assert sum(map(len, Loader(shelf(9, tmp_path / "set"), SMALL, cache=tmp_path / "cache"))) == 9


def test_a_folder_that_may_not_be_looked_into_does_not_stop_the_run(tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    (tmp_path / "cache").mkdir()
    loader = Loader(shelf(4, tmp_path / "set"), SMALL, cache=tmp_path / "cache", on_error="skip")
    list(loader)

    def denied(path, *_, of=Path.stat, **options):
        if (tmp_path / "cache") in path.parents:
            raise PermissionError(13, "Permission denied", str(path))
        return of(path, *_, **options)

    monkeypatch.setattr(Path, "stat", denied)
    assert numbers(loader) == [0, 1, 2, 3]


def test_memory_has_a_budget():
    """Of 3 x 14 x 14 + 14 x 14 bytes each: room for 5, which are the first 5, and stay."""
    data = shelf(12)
    for i, record in enumerate(data.records):  # all with masks, so that all have the same size
        object.__setattr__(record, "anomalous", i % 2 == 0)
    loader = Loader(data, SMALL, 4, workers=0, cache="memory", cache_bytes=5 * 4 * 14 * 14 + 100)
    list(loader)
    data.reads.clear()
    list(loader)
    assert data.reads == [str(i) for i in range(5, 12)]


def test_the_budget_holds_under_threads():
    cache, prepared = MemoryCache(5000), Prepared(torch.zeros(3, 10, 10, dtype=torch.uint8), None, (10, 10))
    threads = [threading.Thread(target=cache.put, args=(str(i % 25), prepared)) for i in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.used == 300 * sum(cache.get(str(i)) is not None for i in range(25)) == 4800


def test_callers_cannot_reach_into_the_cache():
    for masks in ("resized", "native"):
        loader = Loader(shelf(6), Preprocess(14, masks=masks), cache="memory", normalise=False)
        (before,) = loader
        copies = [mask.clone() for mask in before.masks]
        before.images.fill_(7)
        for mask in before.masks:
            mask.fill_(True)
        (after,) = loader
        assert all(torch.equal(a, b) for a, b in zip(after.masks, copies, strict=True))
        assert after.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_what_has_no_file_has_no_key(tmp_path):
    assert key_of(Record("made", "box", False), SMALL) is None
    assert key_of(Record("gone", "box", False, image=tmp_path / "gone.png"), SMALL) is None
    assert key_of(Record("odd", "box", False, image=tmp_path / "\ud800.png"), SMALL) is None
    made = shelf(5)
    loader = Loader(made, SMALL, cache=tmp_path / "cache")
    list(loader), list(loader)
    assert len(made.reads) == 5, "kept in memory"


# Errors
def test_raise_names_the_record_and_stops_the_threads():
    before = threading.active_count()
    loader = Loader(shelf(30, broken=[11]), SMALL, 4, workers=3)
    seen = []
    with pytest.raises(DataError, match=r"^11: 11\.png is no picture$"):
        for batch in loader:
            seen += batch.index.tolist()
    assert seen == list(range(8)), "what came before is given"
    assert threading.active_count() == before


def test_skipped_ones_are_reported_once_and_not_tried_again():
    data = shelf(12, broken=[2, 9])
    loader = Loader(data, SMALL, 5, on_error="skip")
    assert loader.report() == ""
    assert numbers(loader) == numbers(loader) == [0, 1, 3, 4, 5, 6, 7, 8, 10, 11]
    assert loader.report().splitlines() == [
        "2 of 12 images of shelf were left out:",
        "  2: 2.png is no picture",
        "  9: 9.png is no picture",
    ]
    assert data.reads.count("2") == 1
    assert [s.record.name for s in loader.skipped] == ["2", "9"]


def test_a_batch_of_bad_pictures_does_not_end_a_run():
    loader = Loader(shelf(6, broken=[2, 4]), SMALL, on_error="skip")
    with pytest.raises(DataError, match=r"none of 1 images of shelf could be read; 2: 2\.png is no picture"):
        numbers(loader, [2])
    with pytest.raises(DataError, match=r"none of 2 images of shelf could be read; 4: 4\.png is no picture"):
        numbers(loader, [4, 2])
    assert numbers(loader, [1, 2]) == [1]
    assert numbers(loader, [2]) == numbers(loader, [4, 2]) == []
    assert [s.record.name for s in loader.skipped] == ["2", "4"]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_numbered_batches_are_the_same_for_any_number_of_readers(ranks):
    broken, found = [1, 6, 7, 8], {}
    for rank in range(ranks):
        data = shelf(11, broken=broken)
        loader = Loader(data, SMALL, 3, workers=2, on_error="skip")
        mine = range(rank, 4, ranks)
        found |= {number: batch.index.tolist() for number, batch in loader.numbered(mine)}
        assert {int(name) // 3 for name in data.reads} == set(mine)  # nothing of the others'
        assert [int(s.record.name) for s in loader.skipped] == [i for i in broken if i // 3 in mine]
    assert found == {0: [0, 2], 1: [3, 4, 5], 3: [9, 10]}


def test_other_errors_are_never_skipped(monkeypatch):
    """A programming mistake is no bad file."""
    monkeypatch.setattr(Shelf, "pixels", lambda self, i: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        list(Loader(shelf(5), SMALL, on_error="skip"))


def test_leaving_early_reads_little_and_leaves_no_thread():
    before, data = threading.active_count(), shelf(500)
    for _ in Loader(data, SMALL, 4, workers=2):
        time.sleep(0.2)  # long enough to read them all
        break
    assert threading.active_count() == before
    assert len(data.reads) <= 4 + 4 + 2 * 2 + 2, "read ahead is bounded"

    def fails():
        for _ in Loader(data, SMALL, 4, workers=2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert threading.active_count() == before


def test_threads_work_at_the_same_time():
    """Each of 12 waits for another: one at a time would take for ever, and fails after a second."""
    meeting = threading.Barrier(2)

    class Meeting(Shelf):
        def pixels(self, i: int) -> Pixels:
            meeting.wait(1)
            return super().pixels(i)

    assert sum(map(len, Loader(Meeting(shelf(12).records), SMALL, 4, workers=2))) == 12


@pytest.mark.parametrize(
    "options", [{"batch": 0}, {"workers": -1}, {"on_error": "ignore"}, {"cache": "disk"}, {"cache": "/tmp"}]
)
def test_options_that_do_not_exist(options):
    with pytest.raises(DataError, match=str(next(iter(options.values())))):
        Loader(shelf(1), SMALL, **options)
