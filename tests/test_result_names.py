"""Names of results: legal everywhere, bounded, the same in every run, and never one for two images."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from headlens.cli.result_names import LONGEST, as_text, folded, from_text, legal_name, name_slug, result_names
from headlens.cli.results import free_name

PART = st.one_of(
    st.text("aAbB. -_%", min_size=1, max_size=4),
    st.binary(min_size=1, max_size=8).map(os.fsdecode),
    st.text(min_size=1, max_size=90).map(lambda text: text.encode("utf-8", "ignore").decode()),
    st.sampled_from(["con", "NUL.png", "缺陷样本" * 19, "x" * 255, "é", "e\u0301", "ß", "SS", "1.png", "05-01"]),
)
LEGAL = PART.map(lambda part: part.replace("/", "_").replace("\0", "_")).filter(
    lambda part: part not in ("", ".", "..")
)
FILES = st.lists(st.lists(LEGAL, min_size=1, max_size=3).map(lambda parts: Path("/", *parts)), max_size=8, unique=True)
RESERVED = {"con", "prn", "aux", "nul", "com1", "lpt1"}


@settings(max_examples=300, deadline=None)
@given(FILES, st.sampled_from([legal_name, name_slug]))
def test_names_are_distinct_bounded_legal_and_stable(files, spell):
    names = result_names(files, spell=spell)
    assert len({folded(name) for name in names}) == len(files)
    for name in names:
        assert 0 < len(name.encode("utf-8")) <= LONGEST
        assert not set(name) & set('<>:"/\\|?*') and name.isprintable()
        assert name[0] != "." and name[-1] not in ". " and name.split(".")[0].strip().lower() not in RESERVED
    assert result_names(files[::-1], spell=spell)[::-1] == names


def test_a_digest_that_is_taken_is_not_given():
    files = [Path("/ß"), Path("/SS")]
    names = result_names(files)
    again = result_names(files, names)
    assert len({*map(folded, [*names, *again])}) == 4 and result_names(files, names) == again


@settings(max_examples=100, deadline=None)
@given(FILES, st.data())
def test_names_that_are_taken_are_not_given(files, data):
    names = result_names(files)
    taken = data.draw(st.lists(st.sampled_from(names), unique=True)) if names else []
    again = result_names(files, taken)
    assert not {*map(folded, again)} & {*map(folded, taken)} and len({*map(folded, again)}) == len(files)


@settings(deadline=None)
@given(LEGAL)
def test_tables_hold_paths_in_utf8_and_lead_back(part):
    path = Path("/", part)
    assert os.fsencode(from_text(as_text(path).encode("utf-8").decode("utf-8"))) == os.fsencode(path)


def test_plain_names_stay_as_they_are():
    files = [Path(f"/r/{name}") for name in ("a/x.png", "b/x.png", "b/y 1.png", "b/ünicode.png")]
    assert result_names(files) == ["a-x.png", "b-x.png", "y 1.png", "ünicode.png"]
    assert result_names(files, spell=name_slug) == ["a-x-png", "b-x-png", "y-1-png", "ünicode-png"]


def test_another_questions_result_keeps_its_name(tmp_path):
    import pandas as pd

    from headlens.results import Result

    def save(about):
        name = free_name(tmp_path, "heads", {".parquet": about})
        Result(pd.DataFrame({"value": [0.5]}), about).save(tmp_path / f"{name}.parquet")
        return name

    first, second = save({"seed": 0, "versions": "1"}), save({"seed": 1, "versions": "1"})
    assert first == "heads" and second.startswith("heads-")
    assert (save({"seed": 0, "versions": "2"}), save({"seed": 1, "versions": "2"})) == (first, second)
    (tmp_path / "heads.png").write_bytes(b"a user's image")
    assert save({"seed": 0, "versions": "2"}) not in (first, second)
