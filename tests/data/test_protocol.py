"""Protocols: the published pairs, and every way in which a picture could be on both sides."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headlens.data.folders import FileSet
from headlens.data.opening import open as opened
from headlens.data.procedural.catalogue import CATEGORIES, ROLES
from headlens.data.procedural.clips import CLIPS
from headlens.data.procedural.worlds import SPECS, World
from headlens.data.protocol import PROTOCOLS, Protocol, canonical, published, refuse_overlap
from headlens.data.samples import DataSet, Pixels, Record
from headlens.errors import DataError


def files(name: str, folder: Path, content: dict[str, bytes]) -> FileSet:
    """Contents are compared as bytes: nothing here needs to be a picture."""
    records = []
    for stem, data in content.items():
        path = folder / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        records.append(Record(stem, "box", False, image=path))
    return FileSet(name, "industrial", records)


class Made(DataSet):
    def pixels(self, i: int) -> Pixels:
        return Pixels(torch.zeros(3, 8, 8, dtype=torch.uint8), None)

    def where(self, keep):
        return Made(self.name, self.domain, filter(keep, self.records))


def world(spec: str) -> Made:
    it = World(spec, 2)
    names = [it.place(i)[0].name for i in range(len(it))]
    return Made(spec, it.domain, [Record(f"{name}/{i}", name, i % 2 == 1) for i, name in enumerate(names)])


# The table
def test_no_published_protocol_tests_what_it_trains_on():
    assert len({protocol.name for protocol in PROTOCOLS}) == len(PROTOCOLS)
    for protocol in PROTOCOLS:
        assert not set(protocol.train) & set(protocol.test)
        assert len(set(protocol.test)) == len(protocol.test)
        assert {canonical(name) for name in (*protocol.train, *protocol.test)} == {*protocol.train, *protocol.test}


def test_what_the_papers_say():
    pairs = {protocol.name: (set(protocol.train), set(protocol.test)) for protocol in PROTOCOLS}
    assert len(pairs["anomalyclip/mvtec"][1]) == 16, "17 sets, without the one that is trained on"
    assert pairs["anomalyclip/visa"] == ({"visa"}, {"mvtec"})
    assert pairs["aaclip/mvtec"] == ({"mvtec"}, {"visa"})
    assert pairs["aaclip/visa"][0] == {"visa"}
    assert {"mvtec", "cvc300", "retina"} <= pairs["aaclip/visa"][1]
    assert pairs["adaclip/commands-visa"] == ({"visa", "clinicdb"}, {"mvtec", "colondb"})
    assert pairs["adaclip/weights-visa"] == ({"visa", "colondb"}, {"mvtec", "clinicdb"})
    for variant in ("commands", "weights"):
        assert pairs[f"adaclip/{variant}-mvtec"][0] == pairs[f"adaclip/{variant}-visa"][1]
    assert "colondb" not in pairs["medical-finetune"][1]


def test_every_set_of_the_procedural_protocols_exists():
    for protocol in PROTOCOLS:
        for name in (*protocol.train, *protocol.test):
            assert name in (*SPECS, *CLIPS) or not name.startswith("procedural")
    assert len(published("procedural")) == 5


def test_published_by_name_and_by_paper():
    assert [p.name for p in published("aaclip")] == ["aaclip/visa", "aaclip/mvtec"]
    assert [p.name for p in published("aaclip/mvtec")] == ["aaclip/mvtec"]
    assert len(published("adaclip")) == 4
    with pytest.raises(DataError, match=r"'anomlyclip/visa'; .*medical-finetune.*; did you mean anomalyclip/visa\?"):
        published("anomlyclip/visa")


@pytest.mark.parametrize(
    "spelling, name",
    [
        ("mvtec", "mvtec"),
        ("MVTec_AD", "mvtec"),
        ("mvtec_anomaly_detection", "mvtec"),
        ("VisA_20220922", "visa"),
        ("BTech_Dataset_transformed", "btad"),
        ("CVC-ClinicDB", "clinicdb"),
        ("DTD-Synthetic", "dtd"),
        ("EndoTect_2020_Segmentation_Test_Dataset", "endo"),
        ("Retina_RESC_AD", "retina"),
        ("COVID-19_Radiography_Dataset", "covid19"),
        ("my parts", "my parts"),
        ("procedural:medical/aux", "procedural:medical/aux"),
    ],
)
def test_spellings(spelling, name):
    assert canonical(spelling) == name
    assert canonical(canonical(spelling)) == name


def test_a_protocol_of_ones_own_is_checked_too():
    with pytest.raises(DataError, match="'mine' has mvtec in both"):
        Protocol("mine", ("MVTec-AD",), ("visa", "mvtec"))
    for train, test in (((), ("visa",)), (("visa",), ())):
        with pytest.raises(DataError, match="nothing to train on, or nothing to test"):
            Protocol("mine", train, test)


# Overlap
def test_two_sets_that_share_nothing(tmp_path):
    a, b = (
        files("mvtec", tmp_path / "a", {"x": b"1", "y": b"22"}),
        files("btad", tmp_path / "b", {"x": b"2", "y": b"33"}),
    )
    published("anomalyclip/mvtec")[0].verify(a, b)
    published("anomalyclip/mvtec")[0].verify([a], [b, files("visa", tmp_path / "c", {"x": b"3"})])


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.lists(st.binary(max_size=2), min_size=1, max_size=8), st.lists(st.binary(max_size=2), min_size=1, max_size=8))
def test_content_overlaps_exactly_if_bytes_do(tmp_path_factory, left, right):
    folder = tmp_path_factory.mktemp("sets")
    a = files("a", folder / "a", {f"a{i}": data for i, data in enumerate(left)})
    b = files("b", folder / "b", {f"b{i}": data for i, data in enumerate(right)})
    both = [i for i, data in enumerate(right) if data in left]
    if not both:
        refuse_overlap([a], [b])
        return
    with pytest.raises(DataError, match=f"{len(both)} images of b are in a too: b{both[0]} = a") as caught:
        refuse_overlap([a], [b])
    for i in both[:5]:
        assert f"b{i} = a{[k for k, data in enumerate(left) if data == right[i]][-1]}" in str(caught.value)
    assert (f"and {len(both) - 5} more" in str(caught.value)) == (len(both) > 5)


def test_the_same_file_by_another_path(tmp_path, monkeypatch):
    a = files("a", tmp_path / "a", {"x": b"1", "y": b"2"})
    (tmp_path / "b").symlink_to(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "b" / "x.png", Path("a/x.png"), tmp_path / "a" / "x.png"):
        with pytest.raises(DataError, match="1 images of b are in a too: z = x"):
            refuse_overlap([a], [FileSet("b", "", [Record("z", "box", True, image=path)])])


def test_the_same_folder_with_other_files(tmp_path):
    """The training half of a set against its test half: not one picture in common, and no zero-shot."""
    whole = files("parts", tmp_path, {"train/x": b"1", "train/y": b"2", "test/x": b"3", "test/y": b"4"})
    first, second = (whole.where(lambda r, keep=keep: r.name.startswith(keep)) for keep in ("train", "test"))
    assert whole.root == first.root == first.where(lambda r: r.name == "train/x").root == tmp_path
    with pytest.raises(DataError, match=f"parts and parts are in the same folder, {tmp_path}$"):
        refuse_overlap([first], [second])


def tree(root: Path, listing: bool = False) -> Path:
    """Two categories, each in both splits, without a picture that is there twice; in folders or in a listing."""
    rows = ["image,category,split,label"]
    for at, (category, split) in enumerate(product("ab", ("train", "test"))):
        for label, family in enumerate(["good"] if split == "train" else ["good", "bad"]):
            path = root / category / split / family / "0.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"." * (10 * at + label))
            rows.append(f"{path.relative_to(root)},{category},{split},{label}")
    if listing:
        (root / "all.csv").write_text("\n".join(rows))
    return root


PARTS = {
    "all": {"split": "all"},
    "train": {"split": "train"},
    "test": {"split": "test"},
    "a": {"split": "all", "category": "a"},
    "b": {"split": "all", "category": "b"},
    "a's folder": {"split": "all"},
    "training half of b's folder": {"split": "train"},
}


@pytest.mark.parametrize("listing", [False, True])
@pytest.mark.parametrize("train, test", list(product(PARTS, PARTS)))
def test_parts_of_one_folder_are_one_set(tmp_path, train, test, listing):
    """Whatever is left of it: a split, a category, or a folder below that was opened by itself."""
    mine, theirs = tree(tmp_path / "mine", listing), tree(tmp_path / "theirs")
    for path in theirs.rglob("*.png"):
        path.write_bytes(path.read_bytes() + b"theirs" * 20)

    def part(root: Path, which: str, of_listing: bool = False) -> DataSet:
        folder = root / {"a's": "a", "training": "b"}.get(which.split()[0], "")
        return opened(folder / "all.csv" if of_listing and folder == root else folder, **PARTS[which])

    folders = [which.endswith("folder") for which in (train, test)]
    if all(folders) and train != test:
        refuse_overlap([part(mine, train)], [part(mine, test)])  # nothing says that the two belong together
    else:
        with pytest.raises(DataError, match="are in the same folder"):
            refuse_overlap([part(mine, train, listing)], [part(mine, test, listing)])
    refuse_overlap([part(mine, train, listing)], [part(theirs, "test")])  # beside each other is not in each other


def test_sets_listed_in_one_folder_are_apart(tmp_path):
    """What counts for a listing is where its pictures are, not where it is."""
    for name in ("first", "second"):
        tree(tmp_path / name)
        for path in (tmp_path / name).rglob("*.png"):
            path.write_bytes(name.encode() + path.read_bytes())
        rows = [f"{path.relative_to(tmp_path)},0" for path in (tmp_path / name).rglob("*.png")]
        (tmp_path / f"{name}.csv").write_text("\n".join(["image,label", *rows]))
    first, second = (opened(tmp_path / f"{name}.csv", split="all") for name in ("first", "second"))
    refuse_overlap([first], [second])
    with pytest.raises(DataError, match=f"first and .* are in the same folder, {tmp_path / 'first'}"):
        refuse_overlap([first], [opened(tmp_path / "first")])


@pytest.mark.parametrize("above, same", [("mvtec_anomaly_detection", True), ("brain", False), ("parts", False)])
def test_categories_of_a_published_set_that_are_opened_by_themselves(tmp_path, above, same):
    """Known by the folder that they are in, also where its copies lie apart; unless that is an everyday word."""
    bottle, cable = tree(tmp_path / "x" / above / "bottle"), tree(tmp_path / "y" / above / "cable")
    for path in cable.rglob("*.png"):
        path.write_bytes(path.read_bytes() + b"cable" * 20)
    train, test = opened(bottle / "a", split="all"), opened(cable, split="all")
    refuse_overlap([train], [test])
    train = opened(bottle, split="train")
    if same:
        with pytest.raises(DataError, match="cable is the same set as bottle, mvtec"):
            refuse_overlap([train], [test])
        with pytest.raises(DataError, match="'anomalyclip/visa' trains on visa, not bottle, a part of mvtec"):
            published("anomalyclip/visa")[0].verify(train, test)
    else:
        refuse_overlap([train], [test])


def test_a_name_that_no_file_can_have(tmp_path):
    odd = FileSet("odd", "", [Record("x", "box", False, image=tmp_path / "\ud800" / "x.png")])
    refuse_overlap([odd], [files("a", tmp_path / "a", {"x": b"1"})])


# Splits
def test_another_split_to_train_on(tmp_path):
    mine, visa = tree(tmp_path / "mine"), files("visa", tmp_path / "visa", {"x": b"1"})
    protocol = Protocol("own", ("my parts",), ("visa",))
    protocol.verify(opened(mine), visa)
    for split in ("train", "all"):
        with pytest.raises(DataError, match="'own' trains on the split 'test'; mine has records of train: open it wi"):
            protocol.verify(opened(mine, split=split), visa)
    replace(protocol, train_split="train").verify(opened(mine, split="train"), visa)


def test_the_same_set_by_another_name(tmp_path):
    a, b = files("mvtec_ad", tmp_path / "a", {"x": b"1"}), files("MVTec", tmp_path / "b", {"x": b"2"})
    with pytest.raises(DataError, match="MVTec is the same set as mvtec_ad"):
        refuse_overlap([a], [b])
    one, other = replace_name(a, "images"), replace_name(b, "images")
    refuse_overlap([one], [other])  # a name that says nothing is no reason


def replace_name(dataset: FileSet, name: str) -> FileSet:
    return FileSet(name, dataset.domain, [replace(record) for record in dataset.records])


@pytest.mark.parametrize("train", SPECS)
@pytest.mark.parametrize("test", SPECS)
def test_procedural_sets_overlap_exactly_if_their_categories_do(train, test):
    shared = {
        c for c in CATEGORIES if part(c) == train.removesuffix("/novel") and part(c) == test.removesuffix("/novel")
    }
    if shared:
        with pytest.raises(DataError, match="the made categories"):
            refuse_overlap([world(train)], [world(test)])
    else:
        refuse_overlap([world(train)], [world(test)])


def part(category: str) -> str:
    role = ROLES[category]
    return f"procedural:{CATEGORIES[category].domain}" + ("" if role == "unseen" else f"/{role}")


def test_every_overlap_is_told_at_once(tmp_path):
    a = files("visa", tmp_path / "a", {"x": b"1", "y": b"2"})
    b, c = files("b", tmp_path / "b", {"p": b"1"}), files("c", tmp_path / "c", {"q": b"2"})
    with pytest.raises(DataError, match=r"b are in visa too: p = x; .*c are in visa too: q = y"):
        published("anomalyclip/visa")[0].verify(a, [b, c])


def test_sets_that_the_protocol_does_not_pair(tmp_path):
    a, b = files("visa", tmp_path / "a", {"x": b"1"}), files("btad", tmp_path / "b", {"x": b"2"})
    with pytest.raises(DataError, match="'anomalyclip/mvtec' trains on mvtec, not visa"):
        published("anomalyclip/mvtec")[0].verify(a, b)
    with pytest.raises(DataError, match="'anomalyclip/visa' tests mvtec, not btad"):
        published("anomalyclip/visa")[0].verify(a, b)
    published("aaclip/visa")[0].verify(a, b)
    with pytest.raises(DataError, match="'procedural/medical' trains on procedural:medical/aux, not procedural:med"):
        published("procedural/medical")[0].verify(world("procedural:medical/seen"), world("procedural:medical"))
    published("procedural/medical")[0].verify(world("procedural:medical/aux"), world("procedural:medical/novel"))


def test_files_that_are_missing_stop_nothing(tmp_path):
    a = files("a", tmp_path / "a", {"x": b"1", "y": b"2"})
    b = files("b", tmp_path / "b", {"x": b"1"})
    a.records[0].image.unlink()
    refuse_overlap([a], [b])
