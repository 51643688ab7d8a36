"""The reader of knowledge bases: what is wrong is named with its line, and nothing else is raised."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headlens.errors import DataError
from headlens.knowledge import Placed, Row, examine, read, write
from headlens.knowledge.reading import clashes, said, tokens
from headlens.knowledge.rows import KEYS, plain

GOOD = {"domain": "industrial", "category": "nut", "state": "normal", "sentence": "It is round.", "source": "me"}


def line(**changes: object) -> str:
    """A line of the file: a sound row with changes; None takes a key away."""
    return json.dumps({key: value for key, value in (GOOD | changes).items() if value is not None})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "is not JSON"),
        ("[" * 20_000, "nested too deeply"),
        ("[1]", "is not an object with the keys domain, category, state, sentence, source"),
        (line(state=None), "has no state"),
        (line(sentense="It is."), "unknown key 'sentense'; did you mean sentence?"),
        (line()[:-1] + ', "state": "anomalous"}', "has the key 'state' more than once"),
        (line(state=""), "the state is empty"),
        (line(state="anomalus"), "the state is 'anomalus'; there are normal and anomalous; did you mean anomalous?"),
        (line(sentence="  "), "the sentence is empty"),
        (line(sentence=7), "the sentence is 7, which is not text"),
        (line(sentence="Two\nlines"), "has the character U+000A; it is one line"),
        (line(sentence="a\ud800b"), "has the character U+D800"),
        (line(sentence="12 %"), "has no letters"),
        (line(sentence="Гайка цела."), "the letter 'Г' (cyrillic capital letter ghe), which is not Latin"),
        (line(sentence="nut " * 76), "has 78 tokens, of which 77 are read"),
        (line(sentence="a" * 1001), "has 1001 characters; at most 1000"),
        (line(source=None), "has no source"),
        (line(image=""), "the image is empty; leave the key out"),
        (line(image="/nut/1.png"), "is not a path inside a data set"),
        (line(image="nut/../../1.png"), "is not a path inside a data set"),
        (line(image="nut\\1.png"), "is not a path inside a data set"),
        (line(image="nut/1.png", category="*"), "is of one category; name it in place of *"),
    ],
)
def test_a_broken_line_is_named(bad, message, tmp_path):
    path = tmp_path / "base.jsonl"
    path.write_text(f"{line()}\n\n{bad}\n{line(sentence='It is flat.')}\n", encoding="utf-8")
    placed, faults = examine(path)
    assert [one.line for one in placed] == [1, 4]
    assert [fault.line for fault in faults] == [3] and message in faults[0].message
    with pytest.raises(DataError, match=r"base\.jsonl: line 3: "):
        read(path)


def test_77_tokens_fit_and_as_many_as_a_tower_reads(tmp_path):
    path = tmp_path / "base.jsonl"
    path.write_text(line(sentence="nut " * 75), encoding="utf-8")
    assert tokens(read(path)[0].sentence) == 77
    assert examine(path, context=76)[1][0].message.startswith("the sentence has 77 tokens, of which 76 are read")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_editors_encodings_and_ends_of_lines(encoding, ending, tmp_path):
    path = tmp_path / "base.jsonl"
    path.write_bytes(ending.join([line(sentence="Größe: même."), line()]).encode(encoding))
    assert [row.sentence for row in read(path)] == ["Größe: même.", "It is round."]


def test_bytes_of_another_encoding_are_named_with_their_line(tmp_path):
    path = tmp_path / "base.jsonl"
    latin = json.dumps(GOOD | {"sentence": "Größe."}, ensure_ascii=False)
    for mark in (b"", b"\xef\xbb\xbf"):
        path.write_bytes(mark + f"{line()}\n{latin}\n".encode("latin-1"))
        placed, faults = examine(path)
        assert [one.line for one in placed] == [1]
        assert str(faults[0]) == "line 2: has the byte 0xF6, which is not UTF-8; save the file as UTF-8"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "has no rows"), (b"\n \n", "has no rows"), (b"\x80PK\0\x03\n", "zero bytes|UTF-8"), (None, "No such file")],
)
def test_what_is_no_file_of_rows(content, message, tmp_path):
    path = tmp_path / "base.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        examine(path)


def test_many_faults_are_counted(tmp_path):
    path = tmp_path / "base.jsonl"
    path.write_text("{\n" * 8, encoding="utf-8")
    with pytest.raises(DataError, match=r"line 5: .*; and 3 more: `headlens knowledge check` names all"):
        read(path)


def test_a_row_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "base.jsonl"
    write(path, [Row(**GOOD)])
    before = path.read_bytes()

    def rows():
        yield Row(**GOOD)
        yield Row(**(GOOD | {"state": "so"}))

    with pytest.raises(DataError, match="the state is 'so'"):
        write(path, rows())
    assert path.read_bytes() == before
    with pytest.raises(DataError, match="cannot be written"):
        write(tmp_path / "nowhere" / "base.jsonl", [Row(**GOOD)])


words = st.sampled_from(["nut", "Nut", "*", "wood", "metal nut"])
rows = st.builds(
    Row,
    domain=st.sampled_from(["industrial", "medical", "state"]),
    category=words,
    state=st.sampled_from(["normal", "anomalous"]),
    sentence=st.sampled_from(["It is cut.", "it is  cut", "It is round.", "Été à l'île"]),
    source=st.just("me"),
)


@given(st.lists(rows, max_size=8))
def test_clashes_are_those_of_every_pair(given_rows):
    placed = [Placed(number, row) for number, row in enumerate(given_rows, 1)]
    expected: dict[int, bool] = {}
    for one in placed:
        for other in placed[: one.line - 1]:
            a, b = one.row, other.row
            same = {plain(a.category), plain(b.category)}
            if said(a) != said(b) or (len(same) == 2 and "*" not in (a.category, b.category)):
                continue
            if a.state != b.state:
                expected.setdefault(one.line, True)
            elif len(same) == 1:
                expected[one.line] = False  # a repetition says it of both
    assert {clash.line: clash.contradicts for clash in clashes(placed)} == expected


@settings(max_examples=30)
@given(given_rows=st.lists(rows, min_size=1, max_size=5))
def test_what_is_written_is_read(given_rows, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "written.jsonl"
    write(path, given_rows)
    placed, faults = examine(path)
    assert [one.row for one in placed] == given_rows
    assert bool(faults) == any(clashes(placed))


values = st.one_of(
    st.text('aé "\\\n\ud800ж*./\u2028', max_size=8), st.none(), st.integers(), st.lists(st.booleans(), max_size=1)
)
objects = st.dictionaries(st.sampled_from([*KEYS, "other"]), values, max_size=6)
lines = st.one_of(
    st.binary(max_size=30),
    objects.map(lambda table: json.dumps(table).encode()),
    objects.map(lambda table: json.dumps(GOOD | table, ensure_ascii=False).encode("utf-8", "surrogatepass")),
)


@settings(max_examples=150)
@given(content=st.lists(lines, max_size=4))
def test_whatever_is_in_a_file_each_line_is_a_row_or_a_fault(content, tmp_path_factory):
    path: Path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_bytes(b"\n".join(content))
    try:
        placed, faults = examine(path)
    except DataError as error:
        assert str(path) in str(error)
        return
    ends = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    filled = {number for number, text in enumerate(ends.split(b"\n"), 1) if text.strip()}
    assert {one.line for one in placed} | {fault.line for fault in faults} == filled or not ends.isascii()
    assert all(1 <= fault.line <= ends.count(b"\n") + 1 for fault in faults)
    assert faults == sorted(faults, key=lambda fault: fault.line)
