"""The widget of ``explore``: the state that it shares with its page. Importing this needs anywidget."""

from __future__ import annotations

from pathlib import Path

import anywidget
import traitlets


class Widget(anywidget.AnyWidget):
    """State that Python and every view of the page share.

    The page asks by setting ``asked``, with the next number as its ``turn``; it is answered, or refused with an
    ``error``, when ``answered`` is that number.
    """

    _esm = Path(__file__).with_name("explorer.js")
    _css = Path(__file__).with_name("explorer.css")
    fixed = traitlets.Dict().tag(sync=True)
    picture = traitlets.Dict().tag(sync=True)
    scene = traitlets.Dict().tag(sync=True)
    asked = traitlets.Dict().tag(sync=True)
    answered = traitlets.Int().tag(sync=True)
    error = traitlets.Unicode().tag(sync=True)
