"""Writes docs/gallery.md, all figures on one page: those of the paper, then those of the other pages.

python analyses/gallery_page.py
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "gallery.md"
_HEAD = """# Gallery

<!-- written by analyses/gallery_page.py -->

The figures of a paper, each made by one command from runs that ship, or [from yours](../figures/README.md); then those
of the other pages. In Python most of them are the `.plot()` of a result. All are of the embedded backbones, which have
never seen a photograph.
"""
_IMAGE = re.compile(r"!\[(.+?)\]\(([\w.-]+)\)")


def gallery() -> str:
    """The page, from figures/README.md, the captions of figures, and what the other pages show."""
    parts = [_HEAD, "## Of the paper"]
    index = (ROOT / "figures" / "README.md").read_text(encoding="utf-8")
    for name, number, shows in re.findall(r"^\| `([\w-]+)` \| \((\d+)\) (.+) \|$", index, re.MULTILINE):
        title = _title(ROOT / "figures" / f"{name}.md")
        parts += [
            f"### {number}. {title}",
            f"![{title}](../figures/{name}.png)",
            f"{shows[0].upper()}{shows[1:]}",
            f"`headlens figures {name}` · [caption and numbers](../figures/{name}.md) · [PDF](../figures/{name}.pdf)",
        ]
    parts.append("## Of other pages")
    shown = set()
    for page in sorted((ROOT / "docs").glob("*.md")):
        for alt, image in () if page == PAGE else _IMAGE.findall(page.read_text(encoding="utf-8")):
            if image not in shown:
                parts += [f"![{alt}]({image})", f"{alt} ([{_title(page)}]({page.name}))"]
            shown.add(image)
    return "\n\n".join(parts).replace("\n\n\n", "\n\n") + "\n"


def _title(page: Path) -> str:
    return page.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("# ")


if __name__ == "__main__":
    PAGE.write_text(gallery(), encoding="utf-8")
