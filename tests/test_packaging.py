"""What an installation needs and has: declared packages, Python versions, the papers to cite."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

import yaml
from packaging.requirements import Requirement

from headlens.version import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WITH_EXTRA = {
    "transformers": "knowledge",
    "anywidget": "lab",
    "traitlets": "lab",
    "IPython": "lab",
    "av": "video",
    "onnxruntime": "export",
}
"""What is imported by functions that say which extra they need, by the extra."""
TRIED = {"triton"}
"""What comes with torch where it is of use, and is done without elsewhere."""


def declared(extra: str | None = None) -> set[str]:
    """Names of distributions that pyproject.toml asks for."""
    texts = PROJECT["optional-dependencies"][extra] if extra else PROJECT["dependencies"]
    return {Requirement(text).name for text in texts}


@cache
def provided(distribution: str) -> frozenset[str]:
    """Packages that come with a distribution; what is not installed is taken to have one of its name."""
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        return frozenset({distribution.replace("-", "_")})
    return frozenset(path.parts[0].removesuffix(".py") for path in files if path.suffix == ".py")


def provided_by(names: Iterable[str]) -> set[str]:
    """Packages that come with any of these distributions."""
    return set().union(*map(provided, names))


@cache
def imported(folder: str) -> dict[str, set[str]]:
    """Packages that files import, in functions too, without Python's and those for types alone; each with the files."""
    places: dict[str, set[str]] = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for module in modules(ast.parse(path.read_text(encoding="utf-8"))):
            places.setdefault(module.split(".")[0], set()).add(path.relative_to(ROOT).as_posix())
    return {
        name: files for name, files in places.items() if name not in {"headlens", "tomllib", *sys.stdlib_module_names}
    }


def modules(node: ast.AST) -> Iterator[str]:
    """What is imported below a node of a syntax tree."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
        yield node.module
    for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    for child in node.orelse if for_types else ast.iter_child_nodes(node):
        yield from modules(child)


def test_what_the_package_imports_is_declared():
    """That it is there because another package needs it holds until that one changes its mind."""
    always, with_extra = provided_by(declared()), {extra: provided_by(declared(extra)) for extra in WITH_EXTRA.values()}
    missing = {
        module: files
        for module, files in imported("headlens").items()
        if module not in TRIED | always and module not in with_extra.get(WITH_EXTRA.get(module, ""), ())
    }
    assert not missing


def test_what_is_declared_is_imported():
    assert not [name for name in declared() if not provided(name) & imported("headlens").keys()]


def test_what_the_tests_import_is_declared():
    have = provided_by(declared().union(*map(declared, ("dev", "docs", "knowledge"))))
    ours = {"tests", "notebooks", *(path.stem for path in (ROOT / "analyses").glob("*.py"))}
    assert not imported("tests").keys() - have - ours


def test_versions_of_python_are_those_that_are_tried():
    """README and pyproject.toml name the same first one."""
    versions = [name.rsplit(" ", 1)[1] for name in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", name)]
    assert versions == ["3.10", "3.11", "3.12", "3.13"]
    assert PROJECT["requires-python"] == f">={versions[0]}" and f"Python {versions[0]} or newer" in page("README.md")


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_what_is_cited_is_the_same_everywhere():
    cited = yaml.safe_load(page("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= cited.keys(), "what the format requires"
    assert cited["cff-version"] == "1.2.0" and cited["type"] == "software"
    assert (cited["version"], cited["license"]) == (__version__, PROJECT["license"])
    assert {person.get("name") for person in cited["authors"]} == {author["name"] for author in PROJECT["authors"]}
    bibtex = page("docs/for-a-paper.md")
    assert f"version = {{{__version__}}}" in bibtex and f"title = {{{cited['title']}}}" in bibtex
    (paper,) = cited["references"]
    authors = " and ".join(f"{person['family-names']}, {person['given-names']}" for person in paper["authors"])
    assert f"title = {{{paper['title']}}}" in bibtex and f"author = {{{authors}}}" in bibtex
    (number,) = (entry["value"].removeprefix("arXiv:") for entry in paper["identifiers"])
    assert f"eprint = {{{number}}}" in bibtex and f"arXiv {number}" in page("README.md")


def test_the_changes_begin_with_this_version():
    assert re.search(r"^## \[?(\S+?)\]? ", page("CHANGELOG.md"), re.MULTILINE)[1] == __version__
