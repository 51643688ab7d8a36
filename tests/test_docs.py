"""Python in README and the documents runs as it is written, on small images; files that they name exist.

The index has all pages.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headlens.detectors import Detector

ROOT = Path(__file__).parent.parent
PAGES = (
    "README.md",
    "docs/first-steps.md",
    "docs/methods.md",
    "docs/datasets.md",
    "docs/headclip.md",
    "docs/april-gan.md",
    "docs/aa-clip.md",
    "docs/crane.md",
    "docs/adaclip.md",
    "docs/anoclip.md",
    "docs/winclip.md",
    "docs/sc-clip.md",
    "docs/c2p-clip.md",
    "docs/kanoclip.md",
    "docs/embedded-backbone.md",
    "docs/agreement.md",
    "docs/attribution.md",
    "docs/report.md",
    "docs/knowledge.md",
)


@pytest.mark.parametrize("page", PAGES)
def test_python_of_a_page_runs(page, painted_small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Where a page asks for no size, images have 56 pixels along a side, and not 224, which take longer.
    monkeypatch.setattr(Detector, "image_size", 56)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, page, "exec", dont_inherit=True), names)


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in sorted(ROOT.glob("docs/*.md")))])
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
