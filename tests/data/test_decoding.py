"""The gate: however many threads read, no more is decoded at a time than is allowed."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from headlens.data import Loader, Preprocess, Record
from headlens.data.decoding import Gate
from headlens.data.folders import FileSet


def test_no_more_is_inside_than_fits_and_a_large_one_is_alone():
    gate, lock, inside, seen = Gate(10), threading.Lock(), {}, []

    def read(i: int) -> int:
        pixels = random.Random(i).choice([1, 3, 5, 10, 25])
        with gate:
            with gate:  # reading, inside of reading and resizing
                gate.enter(pixels)
            gate.enter(99)  # its mask
            with lock:
                inside[i] = pixels
                seen.append(sorted(inside.values()))
            time.sleep(0.001)
            with lock:
                del inside[i]
            if i % 7 == 0:
                raise ValueError(i)
        return i

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(read, i) for i in range(200)]
    assert [future.exception() is None for future in futures] == [i % 7 != 0 for i in range(200)]
    assert all(sum(pixels) <= 10 or len(pixels) == 1 for pixels in seen)
    assert max(map(len, seen)) > 1, "some were inside together"
    assert [25] in seen
    with gate:
        gate.enter(10**9)  # all have left


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_a_loader_of_images_that_fit_one_at_a_time(tmp_path, monkeypatch, workers):
    monkeypatch.setattr("headlens.data.decoding.GATE.most", 100)
    Image.new("L", (30, 30), 9).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:-30])
    records = [Record(str(i), "c", True, image=tmp_path / f"{'ab'[i % 5 == 4]}.png") for i in range(20)]
    loader = Loader(FileSet("set", "", records), Preprocess(14), 3, workers=workers, on_error="skip")
    for _ in range(2):
        assert sum(map(len, loader)) == 16
    assert len(loader.skipped) == 4
