"""``explore``: controls around a ``HeadView``, which draws everything."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headlens.errors import ConfigError, HeadlensError
from headlens.heads.variants import Head
from headlens.lab.view import HeadView
from headlens.printing import printable

if TYPE_CHECKING:
    from headlens.data import DataSet
    from headlens.lab.view import Runs
    from headlens.predict import Image


class Explorer:
    """Controls for image, stream, layer, head and query patch, above the figure of the view.

    Without a live kernel, a page shows the last figure only.

    Raises:
        ConfigError: ipywidgets is not installed.
    """

    def __init__(self, view: HeadView) -> None:
        try:
            import ipywidgets as widgets
        except ImportError as error:
            raise ConfigError(
                "the interactive view needs ipywidgets: pip install 'headlens[lab]'; HeadView.plot draws without it"
            ) from error
        self.view = view
        stream = view.streams[-1]
        layers, rows, columns = view.layers(stream), *map(range, view.grid)
        patches: list[tuple[str, tuple[int, int] | None]] = [("as it is read", None)]
        patches += [(f"patch in row {r}, column {c}", (r, c)) for r in rows for c in columns]
        self.image = widgets.Dropdown(
            options=[(printable(name), i) for i, name in enumerate(view.names)], description="image"
        )
        self.stream = widgets.ToggleButtons(options=view.streams, value=stream, description="stream")
        self.layer = _slider(widgets, "layer", layers)
        self.head = _slider(widgets, "head", view.heads)
        self.patch = widgets.Dropdown(options=patches, description="looks from")
        self.figure = widgets.Image(format="png")
        self.message = widgets.HTML()
        left, right = widgets.VBox([self.image, self.patch]), widgets.VBox([self.layer, self.head])
        self.box = widgets.VBox([self.stream, widgets.HBox([left, right]), self.message, self.figure])
        self._drawn: tuple[Any, ...] = ()
        self.stream.observe(self._restrict, "value")
        for control in (self.image, self.stream, self.layer, self.head, self.patch):
            control.observe(self._redraw, "value")
        self._redraw()

    @property
    def shown(self) -> Head:
        """The selected head."""
        return Head(self.stream.value, self.layer.value, self.head.value)

    def _restrict(self, change: object = None) -> None:
        """Layers of the stream; a layer that it has not becomes the nearest."""
        layers = self.view.layers(self.stream.value)
        self.layer.min, self.layer.max = 0, layers[-1]
        self.layer.min = layers[0]

    def _redraw(self, change: object = None) -> None:
        """Draws what the controls are at, once; what goes wrong is said above the figure, which stays as it was."""
        now = (self.image.value, self.shown, self.patch.value)
        if now == self._drawn:
            return
        self._drawn = now
        try:
            fig, _ = self.view.plot(*now)
        except HeadlensError as error:
            from headlens.html import paragraph

            self.message.value = paragraph(str(error))
            return
        sink = io.BytesIO()
        fig.savefig(sink, format="png", dpi=80)
        self.message.value, self.figure.value = "", sink.getvalue()

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The widgets, and the figure for pages that cannot show them."""
        bundle = self.box._repr_mimebundle_(**kwargs)
        seen = {"image/png": base64.b64encode(self.figure.value).decode(), "text/plain": repr(self)}
        return {**bundle, **seen}

    def __repr__(self) -> str:
        return f"Explorer({self.shown} at {self.view.names[self.image.value]!r})"


def explore(
    runs: Runs | Mapping[str, Runs], images: DataSet | Image | Sequence[Image], *, size: int | None = None
) -> Explorer:
    """Explore images, layers and heads interactively: ``explore({"industrial": run, "medical": other}, images)``.

    Raises:
        ConfigError: ipywidgets is not installed; see also ``headlens.lab.HeadView``, which has the same arguments.
    """
    return Explorer(HeadView(runs, images, size=size))


def _slider(widgets: Any, name: str, numbers: range) -> Any:
    """It redraws when it is let go, not on the way."""
    return widgets.IntSlider(
        value=numbers[-1], min=numbers[0], max=numbers[-1], description=name, continuous_update=False
    )
