"""Clips: batches that do not part them, folders and videos of frames, and those that are painted."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from headlens import data
from headlens.cli.common import data_of
from headlens.clips import Shown, lengths_of, pieces, runs, unparted
from headlens.data import Loader, Preprocess, Record
from headlens.data.procedural import ClipWorld, write_clips
from headlens.data.procedural.belts import KINDS, NORMAL, clip, truth
from headlens.data.procedural.catalogue import CATEGORIES
from headlens.data.procedural.draw import Draw
from headlens.data.samples import DataSet, Pixels
from headlens.data.videos import frame_count, read_frame
from headlens.errors import DataError

SMALL = Preprocess(14)
lengths = st.lists(st.integers(0, 4), max_size=8)  # 0 is an image that is of no clip


def named(counts: list[int]) -> list[str]:
    return [f"clip {place}" if count else "" for place, count in enumerate(counts) for _ in range(count or 1)]


class Plain(DataSet):
    """Grey images; those whose numbers are in ``broken`` cannot be read."""

    broken: frozenset[int] = frozenset()

    def pixels(self, i):
        if i in self.broken:
            raise DataError("cut short")
        return Pixels(torch.full((3, 14, 14), i, dtype=torch.uint8), None)

    def where(self, keep):
        return Plain(self.name, self.domain, filter(keep, self.records))


def plain(counts: list[int]) -> Plain:
    names = named(counts)
    return Plain("plain", "", [Record(str(i), "grey", False, clip=name) for i, name in enumerate(names)])


@given(lengths, st.integers(1, 5))
def test_pieces_are_all_of_it_and_part_no_clip(counts, least):
    clips = named(counts)
    cut = pieces(clips, least)
    assert [i for piece in cut for i in piece] == list(range(len(clips)))
    for piece in cut[:-1]:
        assert len(piece) >= least and (clips[piece[-1]] == "" or clips[piece[-1]] != clips[piece[-1] + 1])
        before = [i for run in runs(clips)[:-1] for i in run if i in piece and run[-1] < piece[-1]]
        assert len(before) < least, "a piece ends with the first clip that fills it"
    assert [list(one) for one in unparted(clips, least, str)] == [[clips[i] for i in piece] for piece in cut]


@given(lengths, st.integers(1, 4), st.sets(st.integers(0, 10), max_size=3))
def test_a_loader_parts_no_clip_and_says_which_images_are_one(counts, batch, broken):
    images = plain(counts)
    images.broken = frozenset(broken & set(range(len(images) - 1)))
    loader = Loader(images, SMALL, batch, workers=0, on_error="skip")
    clips = [record.clip for record in images.records]
    for found in ([*loader], [part for _, part in loader.numbered(range(len(loader)))]) if len(images) else ():
        index = [i for part in found for i in part.index.tolist()]
        assert index == [i for i in range(len(images)) if i not in images.broken]
        for part in found:
            assert sum(part.shown.lengths) == len(part) and list(part.shown) == ["grey"] * len(part)
            ends = np.cumsum(part.shown.lengths)[:-1]
            assert all(
                part.records[end].clip != part.records[end - 1].clip or not part.records[end].clip for end in ends
            )
        for one, other in pairwise(found):
            assert clips[one.index[-1]] != clips[other.index[0]] or not clips[one.index[-1]]


def test_categories_that_say_nothing_of_clips_are_of_images():
    assert lengths_of(["a", "b"], 2) == (1, 1) and lengths_of((), 2) == (1, 1)
    shown = Shown.of([("a", "x"), ("b", "x"), ("c", "")])
    assert lengths_of(shown, 3) == (2, 1) and (shown[1], shown[1:], len(shown)) == ("b", ("b", "c"), 3)


def test_painted_clips_are_the_same_whatever_is_asked_before():
    worlds = [ClipWorld("procedural:clips/aux", 4, 28) for _ in range(2)]
    late = worlds[0].clip(7).frames
    for which in range(7):
        worlds[1].clip(which)
    assert torch.equal(worlds[1].clip(7).frames, late)
    assert not torch.equal(ClipWorld("procedural:clips/aux", 4, 28, seed=1).clip(7).frames[0], late[0])
    places = worlds[0].places
    assert [place.kind for place in places[:4]] == [NORMAL, NORMAL, *KINDS[:2]]
    assert all(bool(place.anomalous.any()) == (place.kind != NORMAL) for place in places)
    assert not {*worlds[0].categories} & {*ClipWorld("procedural:clips").categories}
    for wrong, said in (
        ({"spec": "procedural:clip"}, "did you mean procedural:clips"),
        ({"per_category": 1}, "at least 2"),
    ):
        with pytest.raises(DataError, match=said):
            ClipWorld(**{"spec": "procedural:clips", **wrong})


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_in_which_something_happens_is_its_normal_twin_before(kind):
    def draw(number: int) -> Draw:
        return Draw.of(3, "twins", torch.tensor([number], dtype=torch.int32))

    number = next(number for number in range(99) if truth("missing", draw(number))[2] > 1)  # not among the first parts

    painted, normal = (clip(CATEGORIES["nut"], which, draw(number), 28) for which in (kind, NORMAL))
    travelled, anomalous, part = truth(kind, draw(number))
    assert torch.equal(painted.anomalous, anomalous) and not normal.anomalous.any()
    apart = (painted.frames.float() - normal.frames.float()).abs()
    begin = int(anomalous.nonzero()[0])
    if kind in ("dark", "standstill"):
        untouched = torch.arange(len(anomalous)) < begin
    else:
        untouched = (2 * part - travelled).abs() > 2.1  # what lies there is not in the frame at all
    assert untouched.sum() >= 3 and apart[untouched].mean() < 0.2, "lens and light are those of the twin"
    assert (apart[anomalous][1:] > 20).float().mean() > 0.01
    if kind == "standstill":
        still = painted.frames[anomalous].float()
        moved = (normal.frames[1:].float() - normal.frames[:-1].float()).abs().mean()
        assert (still[1:] - still[:-1]).abs().mean() < 0.7 * moved, "but for noise"


def test_a_folder_of_frames_is_read_as_it_was_painted(tmp_path):
    world = ClipWorld("procedural:clips", 2, 28)
    assert write_clips(world, tmp_path / "belts") == 8
    read, painted = data.open(tmp_path / "belts"), data.open("procedural:clips", per_category=2, size=28)
    assert read.layout == "clips" and read.domain == "industrial" and read.has_clips
    of_name = {record.name: (i, replace(record, image=None)) for i, record in enumerate(read.records)}
    assert len(of_name) == len(painted)
    for i, record in enumerate(painted.records):
        assert of_name[record.name][1] == record
        if i % 41 == 0:
            assert torch.equal(read[of_name[record.name][0]].image, painted[i].image)
    assert {*data.check(read).counts} <= {"duplicate"}, (
        "twins are alike before anything happens, frames of a clip may be"
    )
    screws = data.open(tmp_path / "belts" / "screw")
    assert [record.clip for record in screws.records] == [r.clip for r in read.records if r.category == "screw"]
    fewer = data.open("procedural:clips", per_category=2, size=28, every=5)
    assert [record.name[-3:] for record in fewer.records[:4]] == ["000", "005", "010", "015"]
    assert {record.clip for record in fewer.records} == {place.name for place in world.places}
    with pytest.raises(DataError, match="every is 0"):
        data.open("procedural:clips", every=0)


def test_a_limit_is_of_whole_clips():
    every = data.open("procedural:clips", per_category=4)
    count = {name: sum(r.clip == name for r in every.records) for name in dict.fromkeys(r.clip for r in every.records)}
    few = data_of("procedural:clips", 4, 10**8, None, False, limit=100)
    taken = dict.fromkeys(record.clip for record in few.records)
    assert len(few) == sum(count[name] for name in taken) <= 100 and len(taken) > 1
    assert {any(r.anomalous for r in few.records if r.clip == name) for name in taken} == {True, False}
    assert len(data_of("procedural:clips", 4, 10**8, None, False, limit=1)) == next(iter(count.values()))


@pytest.fixture
def street(tmp_path):
    """A set with one category: a clip of either split, frames in folders."""
    for place in ("train/Fighting/a.b", "train/normal/c", "test/Fighting/d"):
        folder = tmp_path / "street" / place
        folder.mkdir(parents=True)
        for number in range(4):
            Image.fromarray(np.full((8, 10, 3), 10 * number, np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "street"


def test_what_is_known_of_a_clip_alone_is_not_said_of_its_frames(street):
    (street / "intervals.csv").write_text("clip,start,end\ntest/Fighting/d,1,3\n")
    records = {record.name: record for record in data.open(street, split="all").records}
    weak = [records[f"street/train/Fighting/a.b/{i}"] for i in range(4)]
    assert {(r.anomalous, r.family, r.split, r.clip) for r in weak} == {
        (None, "Fighting", "train", "street/train/Fighting/a.b")
    }
    assert {(r.anomalous, r.family) for name, r in records.items() if "normal" in name} == {(False, "good")}
    known = [records[f"street/test/Fighting/d/{i}"] for i in range(4)]
    assert [r.anomalous for r in known] == [False, True, True, False]
    assert [r.family for r in known] == ["good", "Fighting", "Fighting", "good"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clip,start\na,1\n", "has no column 'end'"),
        ("clip,start,end\ntest/Fighting/d,3,1\n", "line 2 says '3' to '1'"),
        ("clip,start,end\ntest/Fighting/d,-1,1\n", "line 2 says '-1' to '1'"),
        ("clip,start,end\ntest/Fighting/e,1,2\n", "'test/Fighting/e' is in intervals.csv, and no clip"),
    ],
)
def test_intervals_that_cannot_be_are_named(street, text, said):
    (street / "intervals.csv").write_text(text)
    with pytest.raises(DataError, match=re.escape(said)):
        data.open(street, split="all")


def test_frames_of_a_video_are_read_in_any_order(tmp_path):
    av = pytest.importorskip("av")
    frames = np.random.default_rng(0).integers(0, 256, (70, 16, 32, 3), dtype=np.uint8)
    folder = tmp_path / "street" / "test" / "normal"
    folder.mkdir(parents=True)
    with av.open(str(folder / "a.mkv"), "w") as file:
        stream = file.add_stream("ffv1", rate=25, width=32, height=16, pix_fmt="bgr0")
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())
    assert frame_count(folder / "a.mkv") == 70
    images = data.open(tmp_path / "street")
    assert len(images) == 70 and images.records[69].frame == 69 and images.records[69].clip == "street/test/normal/a"
    for i in (3, 0, 69, 2, 68):
        assert np.array_equal(images[i].image.permute(1, 2, 0).numpy(), frames[i])
    assert torch.equal(next(iter(Loader(images, Preprocess(16), 70, workers=4))).index, torch.arange(70))
    assert data.check(images).counts == {}
    with pytest.raises(DataError, match="has 70 frames, and none of number 70"):
        read_frame(folder / "a.mkv", 70)
    with pytest.raises(DataError, match="more than 100 pixels"):
        read_frame(folder / "a.mkv", 0, max_pixels=100)
    (folder / "b.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"b\.mp4: no video that can be opened"):
        data.open(tmp_path / "street")


def test_without_the_extra_a_video_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(DataError, match=r'pip install "headlens\[video\]"'):
        frame_count(tmp_path / "a.mp4")
