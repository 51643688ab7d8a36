"""Text files as editors and spreadsheets save them: read or refused with the row, never misread; and never for long."""

from __future__ import annotations

import json
import os
import random
import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headlens.data import open
from headlens.data.readers import tables
from headlens.errors import DataError
from tests.data import annotated, trees

ROWS = [("image", "label", "category"), ("ä.png", "0", "cup"), ("b.png", "1", "cup, large")]
EXPECTED = [("ä", False, "cup"), ("b", True, "cup, large")]


def facts(path: Path) -> list[tuple[str, bool | None, str]]:
    return [(record.name, record.anomalous, record.category) for record in open(path).records]


def refused(path: Path) -> tuple[int, list[str]]:
    """How many records are left, and what is said of the others."""
    told: list[DataError] = []
    return len(open(path, refuse=told.append)), [str(error) for error in told]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_tables_of_any_system(tmp_path, encoding, end, delimiter):
    text = end.join(delimiter.join(f'"{cell}"' if "," in cell else cell for cell in row) for row in ROWS) + end
    mark = {"utf-16-le": "\ufeff", "utf-16-be": "\ufeff"}.get(encoding, "")
    (tmp_path / "a.csv").write_bytes((mark + text).encode(encoding))
    if encoding == "latin-1":
        with pytest.raises(DataError, match=r"a\.csv: byte \d+ is not utf-8; save it as UTF-8"):
            open(tmp_path / "a.csv")
    else:
        assert facts(tmp_path / "a.csv") == EXPECTED


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lines_of_json_of_any_system(tmp_path, encoding, end):
    lines = [json.dumps(dict(zip(ROWS[0], row, strict=True)), ensure_ascii=False) for row in ROWS[1:]]
    (tmp_path / "a.jsonl").write_bytes((end + end.join([*lines, " ", ""])).encode(encoding))
    assert facts(tmp_path / "a.jsonl") == EXPECTED
    assert facts(tmp_path) == EXPECTED


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\nimage;label\na.png;1\n",
        '"sep=,"\r\nimage,label\r\na.png,1\r\n',
        "# made by hand\n\n\nimage,label\n,\n# and this one\na.png,1\n;\n",
        "Image , LABEL,\na.png,1,\n",
        'image,label,,\n"a.png"," 1 ",,\n',
        "image-path;Is Anomaly\na.png;1,0\n",
        'image,label\na.png,"1,0"\n',
        "image\tlabel\na.png\tWAHR\n",
        "image,label\na.png,NG\n",
        "image,label\n.\\a.png,TRUE\n",
        "#,image,label\n1,a.png,1\n",
        "image,label\n\x0b\n \x1c ,\t\na.png,1\n",
    ],
)
def test_tables_as_spreadsheets_fill_them(tmp_path, text):
    trees.text(tmp_path, "a.csv", text)
    assert [(record.name, record.anomalous) for record in open(tmp_path / "a.csv").records] == [("a", True)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("c.png,1,0", "line 3 has 3 cells (c.png, 1, 0) where there are 2 columns"),
        ("c.png", "line 3 has 1 cells (c.png) where there are 2 columns"),
        ("my, file.png,1", "line 3 has 3 cells"),
        ("c.png,0.5", "line 3: the label '0.5' is neither 0 nor 1"),
        ('c.png,"0,5"', "line 3: the label '0,5' is neither 0 nor 1"),
        ("c.png,crack", "line 3: the label 'crack' is neither 0 nor 1"),
        (",1", "line 3: no image (None)"),
    ],
)
def test_a_row_that_cannot_be_right_is_refused_alone(tmp_path, row, message):
    trees.text(tmp_path, "a.csv", f"image,label\na.png,0\n{row}\nb.png,1\n")
    left, told = refused(tmp_path / "a.csv")
    assert left == 2
    assert len(told) == 1
    assert f"{tmp_path / 'a.csv'}: {message}" in told[0]
    with pytest.raises(DataError):
        open(tmp_path / "a.csv")


def test_a_row_that_looks_like_a_comment_is_no_image_lost(tmp_path):
    trees.text(tmp_path, "a.csv", "image\n#1.png\n# not this\n")
    assert [record.name for record in open(tmp_path / "a.csv").records] == ["#1"]


def test_columns_of_one_name(tmp_path):
    trees.text(tmp_path, "a.csv", "image,label,Label \na.png,0,1\n")
    with pytest.raises(DataError, match=r"a\.csv: has several columns called 'label'"):
        open(tmp_path / "a.csv")


@pytest.mark.parametrize("name", ["a.jsonl", "meta.json", "realiad_jsons/pcb.json"])
@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        '{"test":' * 50_000,
        '{"test": ' + "9" * 5000 + "}",
        '{"test": {"a": [{"img_path": ' + "[" * 900 + "]" * 900 + "}]}}",
        '{"image": ' + "[" * 900 + "]" * 900 + "}",
        '{"test": {"a": [{"img_path": "a.png", "anomaly": 1e999}]}}',
        '{"test": {"a": [{"img_path": "a.png", "anomaly": -Infinity}]}}',
        '{"image": "a.png", "label": {"a": 1}}',
        '{"test": {"a": [null, 5, "x", []]}}',
        '{"test": null, "train": NaN}',
        "{}",
        "",
    ],
)
def test_json_that_is_no_listing(tmp_path, name, content):
    trees.text(tmp_path, name, content)
    with pytest.raises(DataError) as caught:
        open(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_endless_listings(tmp_path, monkeypatch):
    monkeypatch.setattr("headlens.data.readers.listings._MOST_ROWS", 3)
    trees.text(tmp_path, "a.csv", "image\n" + "a.png\n" * 4)
    with pytest.raises(DataError, match=r"a\.csv: has more than 3 rows"):
        open(tmp_path / "a.csv")
    monkeypatch.setattr(tables, "_MOST_JSON", 10)
    trees.text(tmp_path, "meta.json", '{"test": {}, "train": {}}')
    with pytest.raises(DataError, match=r"meta\.json: cannot be read \(has .* MiB, more than"):
        open(tmp_path / "meta.json")


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "meta.json", "labels.csv"])
def test_pipes_sockets_and_devices_are_no_listings(tmp_path, name):
    trees.picture(tmp_path, "a.png")
    path = tmp_path / name
    os.mkfifo(path)
    with pytest.raises(DataError, match=rf"{name}: cannot be read \(is a pipe, not a regular file\)"):
        open(tmp_path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(DataError, match=rf"{name}: cannot be read \(is a device, not a regular file\)"):
        open(tmp_path, follow_links=True)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(tmp_path)  # names of sockets are short
        try:
            server.bind(name)
        finally:
            os.chdir(here)
        with pytest.raises(DataError, match=rf"{name}: cannot be read \(is a socket, not a regular file\)"):
            open(tmp_path)


pieces = st.sampled_from(
    [
        *[
            "image",
            "label",
            "mask",
            "a.png",
            "b.png",
            "0",
            "1",
            "1,0",
            "good",
            "NG",
            "#",
            "sep=;",
            "..",
            "=cmd()",
            "1e999",
            "nan",
            "é",
            "/",
            "\\",
        ],
        *'",;\t\n\r\ufeff\0 \u2028',
    ]
)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.lists(pieces, max_size=30).map("".join), st.sampled_from(["utf-8", "utf-16", "latin-1"]), st.booleans())
def test_any_table_is_read_or_refused(tmp_path_factory, content, encoding, headed):
    path = tmp_path_factory.mktemp("tables") / "a.csv"
    path.write_bytes((("image,label\n" if headed else "") + content).encode(encoding, "replace"))
    try:
        data = open(path, split="all")
    except DataError as error:
        assert str(path) in str(error)
        assert "Traceback" not in str(error)
        return
    told = {cell.strip() for cell in content.replace(";", ",").replace("\t", ",").split(",")}
    assert len(data) > 0
    assert all(record.anomalous in (None, True, False) for record in data.records), told


@pytest.mark.parametrize("name", ["meta.json", "a.jsonl", "set.csv", "labels.csv", "split_csv/1cls.csv", "Labels.txt"])
def test_damaged_listings(tmp_path, name):
    """Bytes changed, lost and cut off: records or one error that names the file."""
    makers = {
        "meta.json": annotated.meta,
        "a.jsonl": annotated.jsonl,
        "set.csv": annotated.listed,
        "labels.csv": annotated.headct,
        "split_csv/1cls.csv": annotated.visa,
        "Labels.txt": annotated.dagm,
    }
    makers[name](tmp_path)
    path = next(
        path
        for path in sorted(tmp_path.rglob(f"*{Path(name).suffix}"))
        if path.name == Path(name).name or name == "a.jsonl"
    )
    sound, chance = path.read_bytes(), random.Random(0)
    for _ in range(60):
        damaged = bytearray(sound)
        for _ in range(chance.randint(1, 5)):
            damaged[chance.randrange(len(damaged))] = chance.choice([*b'",;{}[]\r\n\0\\/9', chance.randrange(256)])
        path.write_bytes(damaged[: chance.randrange(len(damaged))] if chance.random() < 0.3 else damaged)
        told: list[DataError] = []
        try:
            assert len(open(tmp_path, split="all", refuse=told.append)) > 0
        except DataError as error:
            told.append(error)
        assert all(str(tmp_path) in str(error) for error in told)
