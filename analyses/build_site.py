"""Builds the documentation as a website that opens from the disk and asks no network: ``make site``.

    python analyses/build_site.py --out site

The site has what README.md leads to, each file where it lies in the repository: a link that works in a view of files
works there. Its menu is the index of docs/README.md. Added are notebooks as pages, every public name with its
docstring, and every command with its help. Sphinx makes it, with the settings of docs/conf.py; a warning is an error.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import re
import shutil
import sys
import tempfile
from base64 import b64decode
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path, PurePosixPath
from posixpath import normpath
from types import ModuleType
from typing import Any, get_origin
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parent.parent
PACKAGES = (
    *("headlens", "headlens.data", "headlens.detectors", "headlens.training", "headlens.metrics", "headlens.heads"),
    *("headlens.attribution", "headlens.figures", "headlens.report", "headlens.lab", "headlens.knowledge"),
    *("headlens.backbone", "headlens.plots"),
)
MODULES = ("headlens.results", "headlens.works", "headlens.errors")
"""What the reference has, in its order; modules besides, for the names that are in no package."""
_CODE = re.compile(r"^( *)```.*?^\1```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)\s]*)?\)")


def links(path: str) -> list[str]:
    """Files that a page links to, by their paths in the repository; what stands in code is no link."""
    text = _CODE.sub("", (ROOT / path).read_text(encoding="utf-8"))
    return [normpath(PurePosixPath(path).parent / link) for link in _LINK.findall(text)]


def reached(start: str = "README.md") -> dict[str, str]:
    """Files that links lead to from a page, over any number of pages; each with the page that first links to it."""
    first, pages = {start: ""}, [start]
    for page in pages:
        new = [link for link in dict.fromkeys(links(page)) if link not in first and (ROOT / link).is_file()]
        first |= dict.fromkeys(new, page)
        pages += [link for link in new if link.endswith(".md")]
    return first


def menu() -> dict[str, dict[str, str]]:
    """The index of docs/README.md: of each of its questions, the pages by their titles."""
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    _, *parts = re.split(r"^\*\*(.+?)\*\*$", text, flags=re.MULTILINE)
    entry = re.compile(r"^- \[`?(.+?)`?\]\((\S+?)\)", re.MULTILINE)
    return {
        question: {title: normpath(f"docs/{page}") for title, page in entry.findall(listed)}
        for question, listed in zip(parts[::2], parts[1::2], strict=True)
    }


def files(modules: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Everything that Sphinx reads, with a reference of these modules: paths, and what is in them."""
    first = reached()
    contents = menu()
    contents["Reference"] = {name: f"reference/{name}.rst" for name in modules}
    contents["Reference"]["Commands"] = "reference/commands.md"
    listed = {page for pages in contents.values() for page in pages.values()}
    for path in first:
        if path.endswith(".ipynb"):
            yield from notebook(path)
        elif path.endswith(".md"):
            below = [page for page, of in first.items() if of == path and page not in listed]
            inside = [("", page) for page in below if page.endswith((".md", ".ipynb"))]
            text = (ROOT / path).read_text(encoding="utf-8") + tree("", inside)
            if path == "README.md":
                text += "".join(tree(caption, [*pages.items()]) for caption, pages in contents.items())
            yield named(path), re.sub(_LINK, lambda link: named(link[0]), text).encode()
        else:
            yield path, (ROOT / path).read_bytes()
    for name in modules:
        yield f"reference/{name}.rst", reference(name).encode()
    yield "reference/commands.md", commands().encode()


def named(path: str) -> str:
    """What a page is called on the site: a README is the first page of its folder, a notebook a page like any other."""
    return path.replace("README.md", "index.md").replace(".ipynb", ".md")


def tree(caption: str, entries: Sequence[tuple[str, str]]) -> str:
    """Entries of the menu, titles and pages; a page without a title here has its own."""
    if not entries:
        return ""
    options = [":hidden:", *([f":caption: {caption}"] if caption else ())]
    pages = [(title, "/" + named(page).rsplit(".", 1)[0]) for title, page in entries]
    lines = [*options, "", *(f"{title} <{page}>" if title else page for title, page in pages)]
    return "\n".join(["\n", "```{toctree}", *lines, "```", ""])


def notebook(path: str) -> Iterator[tuple[str, bytes]]:
    """A notebook as a page of text, code and what it printed, and its figures."""
    page, parts = named(path), []
    for cell in json.loads((ROOT / path).read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            data = output.get("data", output)
            text = "".join(data.get("text/plain", data.get("text", ""))).rstrip()
            if "image/png" in data:
                figure = PurePosixPath(page).with_name(f"{PurePosixPath(page).stem}-{len(parts)}.png")
                yield str(figure), b64decode(data["image/png"])
                parts.append(f"![{text}]({figure.name})")
            else:
                parts.append(f"```text\n{text}\n```")
    yield page, "\n\n".join(parts).encode()


def reference(name: str) -> str:
    """The page of a package, with every name that it shows, or of a module: functions, then classes, constants."""
    package = importlib.import_module(name)
    of_module = "members" if name in MODULES else "no-members"
    parts = [f"{name}\n{'=' * len(name)}", f".. automodule:: {name}\n   :{of_module}:\n   :no-index:"]
    functions, classes, constants = [], [], []
    for shown in () if name in MODULES else package.__all__:
        value = getattr(package, shown)
        if inspect.isclass(value) and not get_origin(value):  # aliases are classes for Python 3.10 alone
            first = next(each for each in PACKAGES if getattr(importlib.import_module(each), shown, None) is value)
            again = "" if first == name else "\n   :no-index:"
            classes.append(f".. autoclass:: {name}.{shown}\n   :members:\n   :show-inheritance:{again}")
        elif inspect.isroutine(value):
            functions.append(f".. autofunction:: {name}.{shown}")
        elif not inspect.ismodule(value):
            constants.append(f".. autodata:: {home(package, shown)}.{shown}\n   :no-value:")
    return "\n\n".join([*parts, *functions, *classes, *constants])


def home(package: ModuleType, name: str) -> str:
    """The module that a package has a constant from: what it says of it stands there."""
    source = inspect.getsource(package)
    taken = re.search(rf"^ *from (\S+) import .*\b{name}\b", source, re.MULTILINE)
    return taken[1] if taken else package.__name__


def commands() -> str:
    """What ``--help`` says of every command."""
    from typer.main import get_command
    from typer.testing import CliRunner

    from headlens.cli import app

    parts = ["# Commands", "What `headlens COMMAND --help` prints."]

    def add(command: Any, *words: str) -> None:
        help_ = CliRunner().invoke(app, [*words, "--help"], prog_name="headlens", env={"COLUMNS": "100"}).stdout
        parts.append(f"## {' '.join(['headlens', *words])}\n\n```text\n{help_}```")
        for verb, inner in getattr(command, "commands", {}).items():
            add(inner, *words, verb)

    add(get_command(app))
    return "\n\n".join(parts)


def build(out: Path, modules: Sequence[str] = (*PACKAGES, *MODULES), builder: str = "html") -> list[str]:
    """Writes the site in place of what is in a folder, and says what is wrong with it.

    Args:
        modules: what the reference has.
        builder: of Sphinx; ``dummy`` reads and checks all pages, and writes none.
    """
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    warnings = StringIO()
    with tempfile.TemporaryDirectory() as work, docutils_namespace():
        source, settings = Path(work, "source"), ROOT / "docs"
        for path, content in files(modules):
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            (source / path).write_bytes(content)
        shutil.rmtree(out, ignore_errors=True)
        with patch_docutils(settings):
            Sphinx(source, settings, out, Path(work, "trees"), builder, status=None, warning=warnings).build()
        said = re.sub(r"\x1b\[[\d;]*m", "", warnings.getvalue()).replace(f"{source}/", "")  # without colours
        return [*said.splitlines(), *broken(out)]


def broken(site: Path) -> list[str]:
    """What pages of a site refer to and is not in it: files, places in pages, what a page loads from a network."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    wrong = []
    for path, page in pages.items():
        for link, loaded in page.links:
            parts = urlsplit(link)
            target = Path(normpath(path.parent / unquote(parts.path))) if parts.path else path
            if parts.scheme or parts.netloc:
                missing = loaded and parts.scheme != "data"
            else:
                places = pages[target].places if target in pages else {parts.fragment}
                missing = not target.is_file() or parts.fragment not in {"", *places}
            wrong += [f"{path.relative_to(site)}: {link}"] if missing else []
    return wrong


class Page(HTMLParser):
    """Where a page leads to, with whether it loads what is there, and its places that links can name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[tuple[str, bool]] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """What HTMLParser calls at every tag."""
        for name, value in attrs:
            if name == "id" and value:
                self.places.add(value)
            elif name in ("href", "src") and value:
                self.links.append((value, tag != "a"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "site", help="a folder; what is in it is replaced")
    args = parser.parse_args()
    wrong = build(args.out)
    print(*wrong, f"{len(wrong) or 'nothing'} to mend: {args.out / 'index.html'}", sep="\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
