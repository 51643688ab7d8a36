"""Settings of the website, for Sphinx, which ``analyses/build_site.py`` calls: ``make site``."""

import re
from typing import Any

from headlens.version import __version__

project = html_title = "headlens"
release = __version__
root_doc = "index"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_static_path = html_css_files = ["site.css"]
html_show_sphinx = html_show_copyright = html_copy_source = False
myst_heading_anchors = 4
autodoc_member_order = "bysource"
maximum_signature_line_length = 100
python_use_unqualified_type_names = True


def setup(app: Any) -> None:
    """What Sphinx calls with itself."""
    app.connect("autodoc-process-docstring", as_written, priority=400)  # before napoleon, which reads sections
    app.connect("autodoc-process-signature", without_factories)


def as_written(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Indented lines in docstrings of packages are code; the first words of a property's are no type, but prose."""
    if what == "module":
        lines[:] = re.sub(r"\n\n(?=    \S)", "\n\n::\n\n", "\n".join(lines)).splitlines()
    elif what in ("property", "attribute", "data"):
        lines.insert(0, "")


def without_factories(app: Any, what: str, name: str, obj: Any, options: Any, signature: Any, returned: Any) -> Any:
    """Defaults that a dataclass makes anew are written as Python, which ``<factory>`` is not."""
    return signature and signature.replace("<factory>", "..."), returned
