"""Rows against data sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from headlens import data
from headlens.data.procedural import World, write
from headlens.knowledge import Placed, Row, against, captions, coverage, image_of

WORLD = World("procedural:industrial/aux", per_category=2, size=28)


@pytest.fixture(scope="module")
def nuts() -> data.DataSet:
    return data.open(WORLD.spec, per_category=2, size=28).where(lambda record: record.category in ("nut", "pcb"))


@pytest.fixture(scope="module")
def every() -> tuple[Row, ...]:
    return captions(WORLD)


@pytest.fixture(scope="module")
def described(every) -> tuple[Row, ...]:
    return tuple(row for row in every if row.category in ("nut", "pcb"))


def messages(rows, *datasets) -> list[str]:
    placed = [Placed(number, row) for number, row in enumerate(rows, 1)]
    return [f"{fault.severity}: {fault}" for fault in against(placed, datasets)]


def test_captions_are_those_of_the_samples(nuts, described):
    samples = [WORLD[i] for i in range(len(WORLD)) if WORLD.place(i)[0].name in ("nut", "pcb")]
    assert [row.sentence for row in described] == [sample.caption for sample in samples]
    assert [row.image for row in described] == [image_of(record) for record in nuts.records]
    assert [row.state == "anomalous" for row in described] == [record.anomalous for record in nuts.records]


def test_captions_fit_the_world_and_the_folder_it_is_written_to(nuts, every, described, tmp_path):
    assert messages(described, nuts) == []
    write(WORLD, tmp_path / "parts")
    folder = data.open(tmp_path / "parts")
    assert messages(every, folder) == []
    assert {row.image for row in every} == {
        record.image.relative_to(tmp_path / "parts").as_posix() for record in folder.records
    }


def row(domain="industrial", category="nut", state="normal", image="", sentence="It is round.") -> Row:
    return Row(domain, category, state, sentence, "me", image)


def test_what_is_not_in_the_data_is_named(nuts, described):
    normal, flawed = described[:2]
    rows = [
        row(),
        row(category="nuts"),
        row(domain="medical"),
        row(category="zebra"),
        row(domain="medical", category="*"),
        row(image="nut/test/good/999.png"),
        row(category="pcb", image=normal.image),
        row(state="normal", image=flawed.image),
        row(category="*"),
        row(category="lion"),
    ]
    assert messages(rows, nuts) == [
        "warning: line 2: no data set given has the category 'nuts'; did you mean nut?",
        "warning: line 3: no data set given has the domain 'medical' (procedural:industrial/aux is industrial) "
        "(the first of 2 such lines)",
        "warning: line 4: no data set given has the categories 'zebra' (line 4), 'lion' (line 10)",
        "error: line 6: no data set given has the image 'nut/test/good/999.png'",
        f"error: line 7: the image {normal.image!r} is of the category 'nut', not 'pcb'",
        f"error: line 8: is normal, but the label of the image {flawed.image!r} is anomalous",
    ]


def test_several_sets_have_what_one_of_them_has(nuts):
    medical = data.open("procedural:medical", per_category=2, size=28)
    rows = [row(), row(domain="medical", category="head-ct"), row(domain="medical", category="*")]
    assert messages(rows, nuts, medical) == []


def test_a_set_without_a_domain_holds_nothing_against_domains(nuts):
    anonymous = data.FileSet("mine", "", [data.Record("nut/1", "nut", None, image=Path("nut/1.jpg"))])
    assert (
        messages([row(domain="any"), row(image="nut/1.jpg"), row(state="anomalous", image="nut/1.jpg")], anonymous)
        == []
    )


def test_coverage_counts_general_sentences_and_images(nuts, described):
    rows = [row(), row(category="Nut", state="anomalous"), row(category="wood"), row(category="*"), *described]
    table = coverage(rows, [nuts]).set_index("category")
    assert list(table.index) == ["*", "nut", "pcb"]
    assert table.loc["nut", ["normal", "anomalous", "of images", "images"]].tolist() == [1, 1, 2, 2]
    assert table.loc["pcb", ["normal", "anomalous", "of images"]].tolist() == [0, 0, 2]
    assert list(coverage(rows)["category"]) == ["nut", "wood", "*", "pcb"]
