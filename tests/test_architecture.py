"""Who may know whom in the package, read from its syntax trees: hints and imports inside functions count, too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import headlens

PACKAGE = Path(headlens.__file__).parent
ORDER = (
    *("errors", "version", "lazily", "printing", "settings", "units"),
    *("files", "html", "tables", "devices", "launch", "locking", "parallel", "progress", "precision", "maps", "clips"),
    *("data", "knowledge", "plots", "results", "metrics"),
    *("backbone", "detectors"),
    *("baselines", "provenance", "predict", "training"),
    *("heads", "attribution"),
    *("works", "overview"),
    *("lab", "report", "export", "figures", "cli", "__main__"),
)
"""Modules and packages of headlens: none imports one that stands behind it, so that there is no circle either."""
NEVER = {
    "data": {"results", "plots", "metrics"},
    "plots": {"data", "results"},
    "metrics": {"data"},
    "backbone": {"data", "results", "plots", "metrics"},
    "detectors": {"data", "metrics"},
    "heads": {"training"},
    "attribution": {"training"},
}
"""What they do without although it stands before them."""
LENS = ("heads", "attribution", "lab", "plots", "figures")
"""Packages that know no method: what they ask, a detector's plan, reading and scoring answer."""


@cache
def trees() -> dict[str, ast.Module]:
    """Of every module of the package by its name, such as ``headlens.data.loading``."""
    paths = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
    return {name.removesuffix(".__init__"): ast.parse(path.read_text("utf-8")) for name, path in paths.items()}


@cache
def imports(tree: ast.Module) -> list[tuple[str, str]]:
    """Modules of headlens that a module imports, and the name that it takes from each; empty for the module itself."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names if alias.name.split(".")[0] == "headlens"]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            module = node.module or ""
            for alias in node.names if module.split(".")[0] == "headlens" else ():
                inner = f"{module}.{alias.name}"
                found.append((inner, "") if inner in trees() else (module, alias.name))
    return found


def layer(module: str) -> str:
    """The package or module of ``ORDER`` that a module belongs to; ``headlens`` for what all of them are in."""
    return module.split(".")[1] if "." in module else module


def places(kind: type[ast.AST], packages: tuple[str, ...]) -> Iterator[tuple[str, ast.AST]]:
    """Nodes of a kind in these packages, each with where it stands."""
    for name, tree in trees().items():
        if layer(name) in packages:
            yield from ((f"{name}:{node.lineno}", node) for node in ast.walk(tree) if isinstance(node, kind))


def test_every_module_has_its_place():
    assert sorted({layer(name) for name in trees()} - {"headlens"}) == sorted(ORDER)


@pytest.mark.parametrize("place", range(len(ORDER)), ids=ORDER)
def test_nothing_imports_what_stands_behind_it(place):
    known = {ORDER[place], *ORDER[:place]} - NEVER.get(ORDER[place], set())
    if ORDER[place] in ("cli", "__main__"):
        known |= {"headlens"}  # what users see, for those who stand where users do
    wrong = [
        f"{name} imports {module}"
        for name, tree in trees().items()
        for module, _ in imports(tree)
        if layer(name) == ORDER[place] and layer(module) not in known
    ]
    assert not wrong


def test_no_modules_import_each_other():
    """Within packages, too; through any number of others."""
    behind = {name: {module for module, _ in imports(tree)} - {name} for name, tree in trees().items()}
    while free := [name for name, modules in behind.items() if not modules & behind.keys()]:
        for name in free:
            del behind[name]
    while leaves := [name for name in behind if not any(name in modules for modules in behind.values())]:
        for name in leaves:
            del behind[name]
    assert not behind


def test_no_private_name_crosses_a_module():
    wrong = []
    for name, tree in trees().items():
        modules = {}
        for module, taken in imports(tree):
            if taken.startswith("_") and not taken.startswith("__"):
                wrong.append(f"{name} takes {taken} of {module}")
            if not taken:
                modules[module.rsplit(".", 1)[-1]] = module
        wrong += [
            f"{name}:{node.lineno} reads {node.attr} of {modules[node.value.id]}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules
            if node.attr.startswith("_") and not node.attr.startswith("__")
        ]
    assert not wrong


def test_the_lens_reads_no_config():
    assert not [place for place, node in places(ast.Attribute, LENS) if node.attr == "config"]
    strings = [(place, node.value) for place, node in places(ast.Constant, LENS)]
    assert not [place for place, text in strings if text == "config"], "nor by getattr"


def test_the_lens_knows_no_method():
    methods = "headlens.detectors.methods"
    named = {"METHODS", "PRESETS", "HeadCLIP", "HeadCLIPConfig", "build", "preset"}
    wrong = [
        f"{name} imports {taken or module}"
        for name, tree in trees().items()
        for module, taken in imports(tree)
        if layer(name) in LENS and (f"{module}.".startswith(f"{methods}.") or module == "headlens.detectors")
        if module != "headlens.detectors" or taken in named
    ]
    assert not wrong


def test_the_lens_does_not_guess_what_it_was_given():
    called = places(ast.Call, ("heads", "attribution"))
    assert not [place for place, node in called if isinstance(node.func, ast.Name) and node.func.id == "hasattr"]
