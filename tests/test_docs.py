"""What README and the documents show of Python runs as it is written there, block after block."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = (
    "README.md",
    "docs/methods.md",
    "docs/headclip.md",
    "docs/april-gan.md",
    "docs/aa-clip.md",
    "docs/anoclip.md",
    "docs/embedded-backbone.md",
    "docs/attribution.md",
    "docs/knowledge.md",
)


@pytest.mark.parametrize("page", PAGES)
def test_python_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, page, "exec", dont_inherit=True), names)
