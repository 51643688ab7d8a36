"""The table of ``headlens score``: rows are complete or left out, whatever a killed process or a full disk leaves."""

from __future__ import annotations

import importlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from headlens.cli.result_names import as_text, from_text
from headlens.cli.score_overlays import Scale
from headlens.cli.score_table import Scored, ScoreTable, state_of
from headlens.errors import RunError
from headlens.files import is_result

QUESTION = {"threshold": 0.5, "unit": "probability", "maps": "npy", "run": "mine"}
NAMES = st.binary(min_size=1, max_size=12).map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_"))


def scored(path: Path) -> Scored:
    values = np.zeros((4, 5), np.float32)
    return Scored(path, state_of(path), np.zeros((4, 5, 3), np.uint8), values, 0.25, 0.5, 0.75)


@settings(max_examples=15, deadline=None)
@given(st.lists(NAMES.filter(lambda name: name.strip(b".")), min_size=1, max_size=4, unique=True), st.data())
@example([b'a\n,"b".png', b"pr\xfcf.png", "缺陷.png".encode()], None)
@example([b"a", b"a\r", b"a\r\nb"], None)
def test_a_table_that_was_cut_anywhere_has_the_rows_before_the_cut(names, data):
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "in"), Path(folder, "out")
        source.mkdir()
        files = [source / os.fsdecode(name) for name in names]
        for file in files:
            file.write_bytes(b"0")
        table = ScoreTable(out, QUESTION)
        lengths = [table.path.stat().st_size]
        for file in files:  # rows alone: figures take their time
            row = dict.fromkeys(("image_score", "map_max", "joint_score", "anomalous", "overlay"), "x")
            row |= {"file": as_text(file), "map": f"{len(lengths)}.npy", "bytes": "1", "modified": "0.5"}
            table.append([row])
            lengths.append(table.path.stat().st_size)
        cuts = [data.draw(st.integers(lengths[0], lengths[-1]))] if data else range(lengths[0], lengths[-1] + 1)
        content = table.path.read_bytes()
        for cut in cuts:
            table.path.write_bytes(content[:cut])
            rows = ScoreTable(out, QUESTION).rows.values()
            expected = [file for file, length in zip(files, lengths[1:], strict=True) if length <= cut]
            assert [from_text(row["file"]) for row in rows] == expected
            assert table.path.stat().st_size == max(length for length in lengths if length <= cut)


def test_what_is_done_is_not_done_again_and_no_users_file_is_written_over(tmp_path):
    files = [tmp_path / name for name in ("a.png", "A.png", "b.png")]
    for file in files:
        file.write_bytes(b"0")
    (tmp_path / "b.png.npy").write_bytes(b"a user's")
    table = ScoreTable(tmp_path, QUESTION)
    assert table.missing(files) == files
    table.add(map(scored, files[:2]))
    again = ScoreTable(tmp_path, QUESTION)
    assert again.missing(files) == files[2:]
    again.add(map(scored, files[2:]))
    maps = [row["map"] for row in ScoreTable(tmp_path, QUESTION).rows.values()]
    assert len({name.lower() for name in maps}) == 3 and (tmp_path / "b.png.npy").read_bytes() == b"a user's"
    assert all(is_result(tmp_path / row["overlay"]) for row in again.rows.values())


def test_tables_of_others_are_refused(tmp_path):
    ScoreTable(tmp_path, QUESTION)
    (tmp_path / "scores.csv").write_text("file;score\n")
    with pytest.raises(RunError, match="was changed after headlens wrote it"):
        ScoreTable(tmp_path, QUESTION)
    with pytest.raises(RunError, match="run mine before, yours now"):
        ScoreTable(tmp_path, QUESTION | {"run": "yours"})
    ScoreTable(tmp_path, QUESTION, force=True)


def test_results_of_a_file_that_has_changed_do_not_stay(tmp_path):
    """Nor where it cannot be read any more: no row would name them, and no ``--force`` remove them."""
    file, out = tmp_path / "a.png", tmp_path / "out"
    file.write_bytes(b"0")
    table = ScoreTable(out, QUESTION)
    table.missing([file])
    table.add([scored(file)])
    assert len(list(out.glob("a.png.*"))) == 2
    assert ScoreTable(out, QUESTION).missing([file]) == [] and len(list(out.glob("a.png.*"))) == 2
    file.write_bytes(b"another")
    assert ScoreTable(out, QUESTION).missing([file]) == [file]
    assert list(out.glob("a.png.*")) == [] and ScoreTable(out, QUESTION).rows == {}


@pytest.fixture
def drawn(monkeypatch):
    """Title, ends of the colours, and label of the colour bar of every overlay."""
    overlays, seen = importlib.import_module("headlens.plots.overlay"), []
    real = overlays.overlay

    def watched(*arguments, **options):
        figure, ax = real(*arguments, **options)
        seen.append((ax.get_title(), ax.images[1].get_clim(), figure.axes[1].get_ylabel()))
        return figure, ax

    monkeypatch.setattr(overlays, "overlay", watched)
    return seen


def test_scores_in_logits_say_so_and_have_a_scale_of_their_own(tmp_path, drawn):
    path = tmp_path / "part.png"
    path.write_bytes(b"content")
    values = np.linspace(-9, 4, 20, dtype=np.float32).reshape(4, 5)
    for unit in ("probability", "logit"):
        table = ScoreTable(tmp_path / unit, QUESTION | {"unit": unit})
        table.missing([path])
        table.add([Scored(path, state_of(path), np.zeros((4, 5, 3), np.uint8), values, -2.0, 4.0, -1.5)])
    assert drawn[0][1:] == ((0, 1), "anomaly map")
    assert drawn[1][1:] == ((-9, 4), "anomaly map (logits), scale of this image")
    assert drawn[1][0].startswith("joint score -1.500 logits, normal")
    with pytest.raises(RunError, match="unit logit before, probability now"):
        ScoreTable(tmp_path / "logit", QUESTION)


@pytest.mark.parametrize("maps", ["npy", "tiff"])
def test_another_scale_draws_overlays_again_and_computes_nothing(tmp_path, drawn, maps):
    files, out, done = [tmp_path / f"{number}.png" for number in range(3)], tmp_path / "out", []
    maxima = dict(zip(files, (0.1, 0.2, 0.4), strict=True))
    for file in files:
        Image.new("RGB", (5, 4)).save(file)

    def add(table: ScoreTable, new: list[Path]) -> None:
        assert table.missing(files[: files.index(new[-1]) + 1]) == new
        again = table.expects(len(new))
        values = {file: np.full((4, 5), maxima[file], np.float32) * (np.arange(5) > 2) for file in new}
        image = np.zeros((4, 5, 3), np.uint8)
        table.add(Scored(file, state_of(file), image, values[file], 0.2, maxima[file], 0.9) for file in new)
        if again:
            assert json.loads(table.about.read_text())["overlays"] == "unfinished"
            table.redraw(100, done.append)
        assert json.loads(table.about.read_text())["overlays"] == table.scale.value

    question = QUESTION | {"maps": maps}
    add(ScoreTable(out, question), files[:2])
    before = (out / "scores.csv").read_bytes(), (out / f"0.png.{maps}").read_bytes()
    del drawn[:]
    for scale, ends, label in (
        (Scale.IMAGE, [(0, 0.1), (0, 0.2)], "anomaly map, scale of this image"),
        (Scale.SET, [(0, 0.2)] * 2, "anomaly map, scale of 2 images"),
        (Scale.ABSOLUTE, [(0, 1)] * 2, "anomaly map"),
    ):
        table = ScoreTable(out, question, scale=scale)
        assert table.missing(files[:2]) == [] and table.expects(0)
        table.redraw(100, done.append)
        assert [each[2] for each in drawn] == [label] * 2
        assert np.allclose([each[1] for each in drawn], ends)
        assert drawn[0][0] == "joint score 0.900, anomalous: 0.png"
        assert not ScoreTable(out, question, scale=scale).expects(0)
        del drawn[:]
    assert before == ((out / "scores.csv").read_bytes(), (out / f"0.png.{maps}").read_bytes())
    files[0].unlink()  # an image that is gone keeps its overlay
    old = (out / "0.png.overlay.png").read_bytes()
    files[0] = files[1]
    add(ScoreTable(out, question, scale=Scale.SET), files[2:])
    assert drawn[-1][1:] == (pytest.approx((0, 0.4)), "anomaly map, scale of 3 images")
    assert (out / "0.png.overlay.png").read_bytes() == old and len(done) == 9
