"""Names of files that are no text."""

from __future__ import annotations

import json
import os

import pytest
from PIL import Image

from headlens import data
from headlens.results import parquet


def test_a_name_that_is_not_utf8_is_escaped_and_its_image_is_read(tmp_path):
    for name in (b"pr\xfcf.png", b"pr\xe9f.png", b"plain.png"):
        try:
            with (tmp_path / os.fsdecode(name)).open("wb") as file:
                Image.new("RGB", (8, 6), (200, 0, 0)).save(file, "png")
        except OSError:
            pytest.skip("this file system takes names in UTF-8 alone")
    found = data.open(tmp_path)
    names = sorted(record.name for record in found.records)
    assert len(names) == 3 and any("\\udcfc" in name for name in names) and any("\\udce9" in name for name in names)
    assert parquet(found.frame, {"names": names}) and json.dumps(names, ensure_ascii=False).encode()
    assert all(found.pixels(i).image.shape == (3, 6, 8) for i in range(3))
    assert found.fingerprint
