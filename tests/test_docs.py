"""Python in README and the documents runs as it is written, on small images; files that they name exist.

That of ``docs/export.md`` runs in ``test_export.py``, on a tower of two blocks: it takes longer by the block.

The index has all pages, the gallery all figures, and ``headlens docs`` prints them. Links to places in pages are
tested with the website.
"""

from __future__ import annotations

import re
from pathlib import Path

import gallery_page
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from headlens.cli import app, completion
from headlens.detectors import Detector
from headlens.errors import ConfigError
from headlens.figures import FIGURES

ROOT = Path(__file__).parent.parent
TOP = get_command(app)
TEXTS = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted(ROOT.glob("docs/*.md")))]
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: str) -> list[str]:
    """Python of a page, block by block; what comes later uses what came before."""
    return _BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", [page for page in TEXTS if blocks(page) and page != "docs/export.md"])
def test_python_of_a_page_runs(page, painted_small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Where a page asks for no size, images have 56 pixels along a side, and not 224, which take longer.
    monkeypatch.setattr(Detector, "image_size", 56)
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(page):
        exec(compile(block, page, "exec", dont_inherit=True), names)


def commands(page: str) -> list[list[str]]:
    """What a page shows to be typed: the words behind ``headlens``, up to a comment, a pipe or another command."""
    text = re.sub(r"\\\n\s*", "", (ROOT / page).read_text(encoding="utf-8"))
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    shown = [block for language, block in fenced if language in ("", "sh")]
    lines = re.findall(r"(?:^|[;&] |-- |-m )\s*headlens (.*)", "\n".join(shown), re.MULTILINE)
    lines += re.findall(r"`headlens ([^`\n]+)`", text)
    return [re.split(r" #|[|>;&]|\.\.\.|…", line)[0].split() for line in lines]


@pytest.mark.parametrize("page", [*TEXTS, "figures/README.md", "notebooks/README.md"])
def test_commands_of_a_page_have_these_options(page):
    unknown = []
    for words in commands(page):
        command = TOP
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        options = {option for parameter in command.params for option in parameter.opts} | {"--help", "-h"}
        given = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        if given - options or (command is TOP and not given and words and words[0] not in ("COMMAND", "VERB")):
            unknown.append(words)
    assert not unknown


@pytest.mark.parametrize("page", TEXTS)
def test_files_that_a_page_names_are_there(page):
    text, here = (ROOT / page).read_text(encoding="utf-8"), (ROOT / page).parent
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)\s]*)?\)", text)
    scripts = re.findall(r"\b(?:analyses|tests|headlens|docs)/[\w/-]+\.(?:py|md)\b", text)
    missing = [link for link in links if not (here / link).exists()]
    missing += [script for script in scripts if not (ROOT / script).exists()]
    assert not missing


def test_the_index_lists_every_page():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in ROOT.glob("docs/*.md")} - {"README.md"}
    assert pages == set(re.findall(r"\]\(([\w-]+\.md)\)", index))


def test_the_gallery_is_as_its_script_writes_it():
    """Where this fails: python analyses/gallery_page.py."""
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    assert page == gallery_page.gallery()
    assert re.findall(r"\(\.\./figures/([\w-]+)\.png\)", page) == [spec.name for spec in FIGURES]
    image = re.compile(r"!\[.+?\]\((?:docs/)?([\w-]+\.\w+)\)")
    shown = {name for text in TEXTS for name in image.findall((ROOT / text).read_text(encoding="utf-8"))}
    assert shown and not [name for name in shown if f"]({name})" not in page]


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_pages_are_printed_at_a_shell():
    index, heads = (CliRunner().invoke(app, ["docs", *page], catch_exceptions=False).stdout for page in ([], ["heads"]))
    assert heads.strip() == (ROOT / "docs" / "heads.md").read_text(encoding="utf-8").strip()
    assert CliRunner().invoke(app, ["docs", "heads.md"]).stdout == heads
    assert "\n- at-a-shell: for images" in index and "](" not in index
    assert {*completion.pages("")} <= {*re.findall(r"[\w-]+", index)}
    assert completion.pages("an") == ["anoclip"]
    error = CliRunner().invoke(app, ["docs", "haeds"]).exception
    assert (
        isinstance(error, ConfigError) and "unknown page 'haeds'" in str(error) and "did you mean heads" in str(error)
    )


def test_pages_of_an_installed_package_are_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr(completion, "__file__", str(tmp_path / "headlens" / "cli" / "completion.py"))
    error = CliRunner().invoke(app, ["docs"]).exception
    assert isinstance(error, ConfigError) and f"no documentation in {tmp_path / 'docs'}" in str(error)
    installed = tmp_path / "headlens" / "docs"
    installed.mkdir(parents=True)
    (installed / "README.md").write_text("- [Here](here.md): a line.\n")
    (installed / "here.md").write_text("# Here\n")
    assert CliRunner().invoke(app, ["docs"]).stdout.strip() == "- here: a line."
    assert CliRunner().invoke(app, ["docs", "here"]).stdout.strip() == "# Here"
