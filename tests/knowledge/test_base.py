"""The base that ships, and what a base says of things."""

from __future__ import annotations

import pytest

from headlens.data.procedural.catalogue import CATEGORIES
from headlens.data.readers.known import domain_of
from headlens.errors import DataError
from headlens.knowledge import ANY, Knowledge, Row, shipped
from headlens.knowledge.base import SHIPPED
from headlens.knowledge.reading import tokens

MVTEC = "bottle cable capsule carpet grid hazelnut leather metal_nut pill screw tile toothbrush transistor wood zipper"
VISA = "candle capsules cashew chewinggum fryum macaroni1 macaroni2 pcb1 pcb2 pcb3 pcb4 pipe_fryum"
ORGANS = "brain liver retina chest colon skin tissue thyroid breast"


@pytest.mark.parametrize("domain", ["industrial", "medical"])
def test_every_category_has_sentences_of_both_states(domain):
    names = {name for name, category in CATEGORIES.items() if category.domain == domain} | {ANY}
    names |= {*f"{MVTEC} {VISA}".split()} if domain == "industrial" else {*ORGANS.split()}
    for state in ("normal", "anomalous"):
        there = {row.category for row in shipped().rows if (row.domain, row.state) == (domain, state)}
        assert names <= there
        assert {domain_of([name]) for name in there - {ANY}} <= {domain, ""}


def test_what_ships_is_small_and_short():
    assert sum(path.stat().st_size for path in SHIPPED) < 100_000
    assert max(tokens(row.sentence) for row in shipped().rows) <= 30, "room for what a method puts before them"
    assert all(row.sentence.endswith(".") and row.sentence[0].isupper() and not row.image for row in shipped().rows)


def base() -> Knowledge:
    def row(category: str, sentence: str, image: str = "", domain: str = "industrial") -> Row:
        return Row(domain, category, "anomalous", sentence, "me", image)

    return Knowledge(
        (
            row("*", "It is cut."),
            row("metal_nut", "It is rusty."),
            row("metal_nut", "It is cut."),
            row("wood", "It is burnt."),
            row("metal_nut", "A corner is off.", "metal_nut/test/bad/1.png"),
            row("*", "It bleeds.", domain="Medical"),
        )
    )


def test_what_is_known_of_a_category_and_of_an_image():
    known = base().sentences
    assert known("anomalous", "industrial") == ("It is cut.", "It is rusty.", "It is burnt.")
    assert known("anomalous", "industrial", "Metal-Nut") == ("It is cut.", "It is rusty.")
    assert known("anomalous", "industrial", "never seen") == ("It is cut.",)
    assert known("anomalous", "medical") == ("It bleeds.",)
    image = "metal_nut/test/bad/1.png"
    assert known("anomalous", "industrial", "metal_nut", image) == ("It is cut.", "It is rusty.", "A corner is off.")


@pytest.mark.parametrize(("state", "domain"), [("normal", "industrial"), ("anomalous", "industrail")])
def test_nothing_known_is_an_error_that_names_what_was_asked(state, domain):
    with pytest.raises(DataError, match=f"no {state} sentence of domain '{domain}'"):
        base().sentences(state, domain)


def test_a_fingerprint_is_that_of_the_rows():
    assert base().fingerprint == base().fingerprint != Knowledge(base().rows[1:]).fingerprint
    assert list(base().frame["sentence"]) == [row.sentence for row in base().rows]
