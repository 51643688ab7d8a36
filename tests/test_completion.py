"""What a notebook completes and explains: the names that a package shows, and arguments with their defaults."""

from __future__ import annotations

import importlib
import inspect
from dataclasses import is_dataclass
from types import ModuleType
from typing import get_origin

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

import headlens
from headlens import training
from tests import tiny

PUBLIC = [name for name in headlens.__all__ if isinstance(getattr(headlens, name), ModuleType)]
PACKAGES = ["headlens", *(f"headlens.{name}" for name in PUBLIC)]
CENTRAL = {
    "data": {"DataSet", "Record", "Pixels", "Loader"},
    "heads": {"Ablation", "Comparison", "MapParts", "Head"},
    "lab": {"HeadView", "Explorer"},
    "plots": {"Figure"},
    "training": {"Run", "Evaluation"},
}


@pytest.fixture(scope="module")
def shell():
    return InteractiveShell.instance()


def is_class(value: object) -> bool:
    """Aliases of types, such as ``Callable[[int], int]``, are classes for Python 3.10 alone."""
    return inspect.isclass(value) and get_origin(value) is None


def test_the_public_packages_are_eleven():
    assert len(PUBLIC) == 11 and "lab" in PUBLIC


@pytest.mark.parametrize("name", PACKAGES)
def test_a_package_lists_what_it_shows_and_no_more(name):
    package = importlib.import_module(name)
    assert dir(package) == sorted(package.__all__) and len({*package.__all__}) == len(package.__all__)
    assert not [shown for shown in dir(package) if shown.startswith("_") and shown != "__version__"]
    for shown in dir(package):
        value = getattr(package, shown)
        if inspect.isfunction(value) or is_class(value):
            assert value.__module__.startswith("headlens"), f"{shown} is of {value.__module__}, which {name} imports"
        assert not isinstance(value, ModuleType) or name == "headlens", f"{name} shows its module {shown}"


@pytest.mark.parametrize("jedi", [True, False])
@pytest.mark.parametrize("name", PACKAGES)
def test_tab_completes_these(name, jedi, shell):
    package = importlib.import_module(name)
    shell.user_ns["package"] = package
    shell.Completer.use_jedi = jedi
    with provisionalcompleter():
        found = {each.text.strip(".") for each in shell.Completer.completions("package.", len("package."))}
    assert {text for text in found if not text.startswith("_")} == set(package.__all__) - {"__version__"}


@pytest.mark.parametrize(
    ("package", "name"), [(package, name) for package, names in CENTRAL.items() for name in sorted(names)]
)
def test_attributes_of_the_central_classes_are_their_own(package, name):
    kind = getattr(getattr(headlens, package), name)
    shown = {attribute for attribute in dir(kind) if not attribute.startswith("_")}
    defined = {attribute for base in kind.__mro__ if base.__module__.startswith("headlens") for attribute in vars(base)}
    fields = set(kind.__dataclass_fields__) if is_dataclass(kind) else set()
    builtin = {"count", "index"}  # of tuples with names
    assert shown <= defined | fields | builtin and not [each for each in shown if inspect.ismodule(getattr(kind, each))]


def test_a_detector_completes_what_it_has_and_not_what_torch_has():
    detector = tiny.headclip()
    shown = dir(detector)
    assert {"prompts", "weights", "config", "reading", "with_config", "text_of", "to", "state_dict"} <= {*shown}
    assert not {"register_forward_hook", "half", "T_destination", "training", "_modules"} & {*shown}
    assert all(hasattr(detector, name) for name in shown) and len(shown) < 50


def test_a_question_mark_shows_arguments_with_their_defaults(shell):
    for name, function in (("load", training.load_run), ("runs", training.load_runs)):
        asked = inspect.signature(function).parameters.values()
        shown = inspect.signature(getattr(headlens, name)).parameters.values()
        assert [(one.kind, one.default) for one in shown] == [(one.kind, one.default) for one in asked]
    shell.user_ns["headlens"] = headlens
    said = shell.object_inspect("headlens.heads.ablate")["definition"]
    assert "kind: 'Kind' = 'zero'" in said and "replicates: 'int' = 200" in said
    said = shell.object_inspect("headlens.load")["definition"]
    assert "weights: 'str | Path | None' = None" in said


@pytest.mark.parametrize("name", PACKAGES)
def test_every_function_and_class_says_what_it_does(name):
    package = importlib.import_module(name)
    values = [getattr(package, shown) for shown in dir(package)]
    shown = [value for value in values if inspect.isfunction(value) or is_class(value)]
    assert not [value.__name__ for value in shown if not (inspect.getdoc(value) or "").strip()]
