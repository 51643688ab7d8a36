"""``headlens docs``: the documentation, which ships as text in the wheel."""

from __future__ import annotations

import pydoc
import re
from typing import Annotated

import typer

from headlens.cli import completion
from headlens.errors import ConfigError
from headlens.files import read_text
from headlens.printing import unknown_name

INDEX = "README"


def docs(
    page: Annotated[
        str | None,
        typer.Argument(help="A page, such as heads.", show_default="a list of all", autocompletion=completion.pages),
    ] = None,
) -> None:
    """Print a page of the documentation, in Markdown; without a name, list all pages by what you want to know."""
    names = completion.pages("")
    if not names:
        raise ConfigError(f"this installation of headlens has no documentation in {completion.pages_folder()}")
    if page is not None and page.removesuffix(".md") not in (*names, INDEX):
        raise ConfigError(unknown_name("page", page, names))
    text = read_text(completion.pages_folder() / f"{(page or INDEX).removesuffix('.md')}.md")
    pydoc.pager(listed(text) if page is None else text)


def listed(index: str) -> str:
    """The index with the names of pages in place of links; what is only in the repository is left out.

    >>> listed("- [Books](../books/README.md): far.") + listed("- [Heads](heads.md): a line.")
    '- heads: a line.'
    """
    near = re.sub(r"^- \[[^]]+\]\(\.\./.*\n?(?:  .*\n)*", "", index, flags=re.MULTILINE)
    filled = re.sub(r"^\*\*.+\*\*\n\s*(?=\*\*|\Z)", "", near, flags=re.MULTILINE)  # questions that have pages
    return re.sub(r"\[[^]]+\]\(([\w-]+)\.md\)", r"\1", filled)
