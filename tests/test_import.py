"""A start costs no more than what it needs: which packages are imported by what, and that lazy names are all there."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from types import ModuleType

import pytest

from headlens.cli import app

HEAVY = {
    *("torch", "torchvision", "torchmetrics", "transformer_lens", "transformers", "datasets", "open_clip", "captum"),
    *("accelerate", "pandas", "numpy", "scipy", "numba", "matplotlib", "seaborn", "sympy", "PIL", "pyarrow"),
    *("huggingface_hub", "IPython", "ipywidgets", "anywidget", "rich", "pydantic"),
}
NEEDED = {"torch", "numpy", "pandas", "transformer_lens"}
WITH_TRANSFORMER_LENS = {"transformers", "datasets", "huggingface_hub", "PIL", "pyarrow", "rich"}
"""What transformer_lens itself imports, whether it uses it or not."""
if sys.version_info < (3, 11):
    WITH_TRANSFORMER_LENS |= {"accelerate", "sympy"}  # by the last transformers for Python 3.10
PACKAGES = ("heads", "knowledge", "metrics", "attribution", "plots", "detectors", "training")


def imported(statements: str) -> set[str]:
    """Of a process of its own: packages that were imported."""
    program = f"import json, sys\n{statements}\nprint(json.dumps(sorted({{n.split('.')[0] for n in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_of_every_verb_imports_nothing_heavy():
    groups = {group.name: group.typer_instance for group in app.registered_groups}
    verbs = [[own.name or own.callback.__name__] for own in app.registered_commands]
    verbs += [
        [name, own.name or own.callback.__name__] for name, group in groups.items() for own in group.registered_commands
    ]
    assert len(verbs) > 15
    program = f"""
from typer.testing import CliRunner
from headlens.cli import app
for verb in {[[], *verbs]!r}:
    result = CliRunner().invoke(app, [*verb, "--help"])
    assert result.exit_code == 0 and "Usage:" in result.stdout, (verb, result.output)
"""
    assert not imported(program) & HEAVY


@pytest.mark.parametrize("package", ["headlens", *(f"headlens.{name}" for name in PACKAGES)])
def test_packages_themselves_import_nothing_heavy(package):
    assert not imported(f"import {package}") & HEAVY


def test_all_names_of_the_lens_together_import_what_they_need_and_no_more():
    found = imported("from headlens.heads import *\nfrom headlens.attribution import *")
    assert found >= NEEDED
    unasked = HEAVY - NEEDED - WITH_TRANSFORMER_LENS - {"scipy"}  # which imports its parts when they are used
    assert not found & unasked


@pytest.mark.parametrize("package", ["headlens", *(f"headlens.{name}" for name in PACKAGES)])
def test_every_name_of_a_lazy_package_is_there(package):
    here = importlib.import_module(package)
    own = {"load", "runs"} if package == "headlens" else set()
    assert {*here.__all__} == {*here._lazily} | own <= {*dir(here)} and len(here._lazily) > 5
    for name, module in here._lazily.items():
        value = getattr(here, name)
        inner = module == package
        assert value is (importlib.import_module(f"{package}.{name}") if inner else getattr(sys.modules[module], name))
        assert isinstance(value, ModuleType) == inner  # though modules have the names of some functions
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        here.nothing  # noqa: B018


def test_the_verbs_of_the_package_are_functions_whatever_was_imported_before():
    import headlens.predict
    from headlens.predict import as_bytes

    assert callable(headlens.predict) and callable(as_bytes)
    assert headlens.evaluate is headlens.training.evaluate and headlens.train is headlens.training.train
