"""The website: what is on it, and that what is wrong with a page is said. ``make site`` builds all of it."""

from __future__ import annotations

import json
import re

import build_site
import pytest

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")  # of Sphinx


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A repository with one page, an index and a notebook; returns what builds the site."""
    (tmp_path / "docs").mkdir()
    for name in ("conf.py", "site.css"):
        (tmp_path / "docs" / name).write_bytes((build_site.ROOT / "docs" / name).read_bytes())
    cells = [
        {"cell_type": "markdown", "source": ["# First"]},
        {"cell_type": "code", "source": ["1 + ", "1"], "outputs": [{"data": {"text/plain": ["2"]}}]},
        {"cell_type": "code", "source": ["f()"], "outputs": [{"data": {"image/png": "aGk=", "text/plain": ["F()"]}}]},
    ]
    (tmp_path / "first.ipynb").write_text(json.dumps({"cells": cells}))
    index = "# Index\n\n**How?**\n\n- [Page](page.md): a line.\n- [Book](../first.ipynb)\n"
    (tmp_path / "docs" / "README.md").write_text(index)
    monkeypatch.setattr(build_site, "ROOT", tmp_path)

    def build(page="# Page\n\n## A place\n\n[back](README.md), [here](#a-place)\n", **options):
        (tmp_path / "README.md").write_text("# Home\n\n[all](docs/README.md)\n")
        (tmp_path / "docs" / "page.md").write_text(page)
        return build_site.build(tmp_path / "site", (), **options)

    return build


def test_every_page_is_built_without_a_warning(tmp_path):
    """Links, places in pages, images, the menu: of everything that README.md leads to."""
    assert build_site.build(tmp_path / "site", ("headlens.errors",), builder="dummy") == []


def test_a_small_site(small, tmp_path):
    assert small() == []
    site = tmp_path / "site"
    page = (site / "docs" / "page.html").read_text(encoding="utf-8")
    assert 'href="index.html"' in page and 'href="#a-place"' in page
    assert re.findall(r'caption-text">(.*?)<', page) == ["How?", "Reference"]
    book = (site / "first.html").read_text(encoding="utf-8")
    assert "<h1>First" in book and ">2\n" in book and 'alt="F()"' in book
    (image,) = site.glob("_images/*.png")
    assert image.read_bytes() == b"hi"
    assert not re.search(r'(?:src|<link[^>]*href)="(?:https?:)?//', page), "a page that asks a network"


def test_what_is_wrong_with_a_page_is_said(small):
    faults = {
        "[x](nothing.md)": "'nothing.md'",
        "[x](README.md#nowhere)": "'nowhere'",
        "[x](#elsewhere)": "'elsewhere'",
        "![x](unseen.png)": "unseen.png",
        "<img src='raw.png'>": "docs/page.html: raw.png",
        "<img src='https://example.org/x.png'>": "docs/page.html: https://example.org/x.png",
        "#### Too deep": "Non-consecutive header level",
    }
    wrong = small("# Page\n\n" + "\n\n".join(faults))
    assert all(line.startswith("docs/page.") for line in wrong)
    for said in faults.values():
        assert any(said in line for line in wrong), said


def test_the_reference_has_every_public_name():
    import headlens.heads

    page = build_site.reference("headlens.heads")
    names = re.findall(r"^\.\. auto(?:function|class|data):: headlens\.heads\.(?:\w+\.)*(\w+)$", page, re.MULTILINE)
    assert sorted(names) == headlens.heads.__all__ and names.index("weights") < names.index("Ablation")
    page = build_site.reference("headlens.attribution")
    assert ".. autodata:: headlens.attribution.methods.METHODS\n" in page
    assert ".. autoclass:: headlens.attribution.Target\n" in page
    assert ":no-index:" in build_site.reference("headlens.training").split("TrainingConfig")[1]


def test_every_command_has_its_help():
    text = build_site.commands()
    assert "## headlens knowledge show\n" in text and "headlens ablate --layer 18 --category screw" in text
