"""Several sets as one: every image is that of its set, and nothing of it is read twice or mixed up."""

from __future__ import annotations

import pytest
import torch

from headlens.data import JoinedSet, Loader, Preprocess, open, published, refuse_overlap
from headlens.errors import DataError
from tests.data import trees

SMALL = {"per_category": 2, "size": 28}


def sets():
    return [open("procedural:industrial", category="screw", **SMALL), open("procedural:medical", **SMALL)]


def test_images_are_those_of_their_sets_one_set_after_the_other():
    parts = sets()
    joined = JoinedSet(parts)
    assert len(joined) == len(parts[0]) + len(parts[1]) and joined.domain == "" and joined.has_masks
    assert joined.categories == (*parts[0].categories, *parts[1].categories)
    for i in (0, 1, 2, len(joined) - 1):
        one, number = (parts[0], i) if i < 2 else (parts[1], i - 2)
        assert torch.equal(joined.pixels(i).image, one.pixels(number).image)
        assert joined.records[i].name == f"{one.name}/{one.records[number].name}"
        assert joined.records[i].anomalous == one.records[number].anomalous
    assert len({record.name for record in joined.records}) == len(joined)
    (batch,) = Loader(joined, Preprocess(28), len(joined))
    assert torch.equal(batch.masks[2 + 1], torch.as_tensor(parts[1].pixels(1).mask))


def test_a_set_without_masks_leaves_those_of_the_other(tmp_path):
    trees.picture(tmp_path, "photos/a.png")
    trees.picture(tmp_path, "photos/b.png")
    photos = open(tmp_path / "photos", split="all")
    joined = JoinedSet([photos, open("procedural:industrial", category="screw", **SMALL)])
    (batch,) = Loader(joined, Preprocess(28), len(joined))
    assert batch.labels.tolist()[:2] == [-1, -1] and not batch.has_mask[:2].any() and batch.has_mask[2:].all()


def test_a_part_is_taken_by_the_joined_records():
    joined = JoinedSet(sets())
    flawed = joined.where(lambda record: bool(record.anomalous))
    assert len(flawed) == len(joined) // 2 and all(record.anomalous for record in flawed.records)
    screws = joined.where(lambda record: record.category == "screw")
    assert [one.name for one in screws.parts] == ["procedural:industrial"] and screws.domain == "industrial"
    assert torch.equal(screws.pixels(1).image, joined.pixels(1).image)
    with pytest.raises(DataError, match="sets to join: no set"):
        joined.where(lambda record: False)


def test_its_fingerprint_is_that_of_its_parts():
    parts = sets()
    other = [parts[0], open("procedural:medical", **SMALL, seed=1)]
    prints = {JoinedSet(some).fingerprint for some in (parts, sets(), other, parts[::-1])}
    assert len(prints) == 3


def test_protocols_look_at_the_parts(tmp_path):
    for name in ("mvtec", "colondb", "visa"):
        trees.picture(tmp_path, f"{name}/{name}.png")
    mvtec, colondb, visa = (open(tmp_path / name, split="all") for name in ("mvtec", "colondb", "visa"))
    (protocol,) = published("adaclip/commands-mvtec")
    protocol.verify(JoinedSet([mvtec, colondb]), visa)
    with pytest.raises(DataError, match="trains on mvtec, colondb, not visa"):
        protocol.verify(JoinedSet([mvtec, visa]), visa)
    with pytest.raises(DataError, match="colondb is the same set as colondb"):
        refuse_overlap([JoinedSet([mvtec, colondb])], [visa, colondb])


def test_two_sets_of_one_name_are_refused():
    with pytest.raises(DataError, match="procedural:medical twice"):
        JoinedSet([*sets(), open("procedural:medical", category="head_ct", **SMALL)])
