"""Phrases for categories from files, and files that hold none."""

from __future__ import annotations

import pytest

from headlens.detectors import AACLIPConfig
from headlens.detectors.methods.registry import config_of, table_of
from headlens.detectors.parts.descriptions import described, read_descriptions
from headlens.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("phrases.toml", 'bottle = "dark bottle"\n"metal nut" = "nut {with} edges"\n'),
        ("phrases.json", '{"bottle": "dark bottle", "metal nut": "nut {with} edges"}'),
    ],
)
def test_phrases_are_read_and_are_settings_of_a_run(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    phrases = read_descriptions(tmp_path / name)
    assert phrases == (("bottle", "dark bottle"), ("metal nut", "nut {with} edges"))
    assert [described(category, phrases) for category in ("bottle", "wood_board")] == ["dark bottle", "wood board"]
    config = AACLIPConfig(phrases=phrases)
    assert config_of(table_of(config)) == config


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("phrases.txt", "bottle", r"phrases\.txt: phrases are read from a \.json or \.toml file"),
        ("phrases.json", '{"bottle": ', r"phrases\.json: no table of phrases"),
        ("phrases.toml", "bottle = dark", r"phrases\.toml: no table of phrases"),
        ("phrases.json", '["bottle"]', "expected a table of categories"),
        ("phrases.json", "{}", "expected a table of categories"),
        ("phrases.json", '{"bottle": 3}', "the phrase of 'bottle' is 3; it is one line of text"),
        ("phrases.toml", '[bottle]\nname = "x"', "the phrase of 'bottle' is {'name': 'x'}"),
        ("phrases.json", '{"bottle": "\\ud800"}', "one line of text"),
        ("phrases.json", '{"bottle": "two\\nlines"}', "one line of text"),
        ("phrases.json", '{"bottle": "  "}', "one line of text"),
    ],
)
def test_other_files_are_refused_by_name(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_descriptions(tmp_path / name)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml: no table of phrases"):
        read_descriptions(tmp_path / "none.toml")
