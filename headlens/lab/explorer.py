"""``explore``: a ``HeadView`` to walk through with mouse and keyboard."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headlens import plots
from headlens.errors import ConfigError, HeadlensError
from headlens.heads.variants import Head
from headlens.lab.scene import Selection, fixed, most_important, picture, scene
from headlens.lab.view import HeadView

if TYPE_CHECKING:
    from headlens.data import DataSet
    from headlens.lab.view import Runs
    from headlens.predict import Image


class Explorer:
    """One image, one head and one query patch at a time, chosen in the page or from code.

    ``image``, ``head`` and ``patch`` say what is shown, and can be set. It begins at the first anomalous image, and at
    the head whose weight is the furthest from 1, or which has the largest direct effect on that image where no weight
    is learned. Without a live kernel, a page shows the figure that was there when the cell ran.

    Raises:
        ConfigError: anywidget is not installed.
    """

    def __init__(self, view: HeadView) -> None:
        try:
            import anywidget  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                "the interactive view needs anywidget: pip install 'headlens[lab]'; HeadView.plot draws without it"
            ) from error
        from headlens.lab.widget import Widget

        self.view = view
        self.widget = Widget(fixed=fixed(view))
        image = view.first_anomalous
        head, why = most_important(view, image)
        self._shown = Selection(-1, head)
        self._show(Selection(image, head), why)
        self.widget.observe(self._asked, "asked")

    @property
    def image(self) -> int:
        """The number of the image; another one is read without a query patch."""
        return self._shown.image

    @image.setter
    def image(self, number: int) -> None:
        self._show(Selection(number, self.head))

    @property
    def head(self) -> Head:
        """The head; a name such as ``L18H7/local`` opens it."""
        return self._shown.head

    @head.setter
    def head(self, head: Head | str) -> None:
        self._show(self._shown._replace(head=Head.of(head) if isinstance(head, str) else head))

    @property
    def patch(self) -> tuple[int, int] | None:
        """Row and column of the query patch; None where the head is shown as it is read."""
        return self._shown.patch

    @patch.setter
    def patch(self, patch: tuple[int, int] | None) -> None:
        self._show(self._shown._replace(patch=patch))

    def plot(self) -> plots.Figure:
        """What is shown as a figure, as ``HeadView.plot`` draws it."""
        return self.view.plot(*self._shown)

    def _asked(self, change: Mapping[str, Any]) -> None:
        """Answers the page. What goes wrong is said there, and it goes back to what was shown."""
        asked = change["new"]
        if asked["turn"] == self.widget.answered:
            return
        try:
            patch = asked["patch"] and (asked["patch"][0], asked["patch"][1])
            self._show(Selection(asked["image"], Head.of(asked["head"]), patch), turn=asked["turn"])
        except Exception as error:
            known = isinstance(error, HeadlensError)
            self._sync(asked["turn"], error=str(error) if known else f"{type(error).__name__}: {error}")
            if not known:
                raise  # into the notebook's log, with its traceback

    def _show(self, selection: Selection, why: str = "", turn: int | None = None) -> None:
        """Computes all that is new, and only then changes what is shown."""
        new: dict[str, Any] = {"scene": scene(self.view, selection, why)}
        if selection.image != self._shown.image:
            new["picture"] = picture(self.view, selection.image)
        self._shown = selection
        self._sync(self.widget.answered + 1 if turn is None else turn, **new)

    def _sync(self, turn: int, error: str = "", **new: Any) -> None:
        """One message to every view of the page."""
        image, head, patch = self._shown
        asked = {"turn": turn, "image": image, "head": str(head), "patch": patch}
        with self.widget.hold_sync():
            for name, value in {**new, "error": error, "answered": turn, "asked": asked}.items():
                setattr(self.widget, name, value)

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """The widget, and the figure for pages that cannot show it."""
        data, about = self.widget._repr_mimebundle_(**kwargs)
        sink = io.BytesIO()
        self.plot().figure.savefig(sink, format="png", dpi=80)
        return {**data, "image/png": base64.b64encode(sink.getvalue()).decode(), "text/plain": repr(self)}, about

    def __repr__(self) -> str:
        return f"Explorer({self.head} at {self.view.names[self.image]!r})"


def explore(
    runs: Runs | Mapping[str, Runs], images: DataSet | Image | Sequence[Image], *, size: int | None = None
) -> Explorer:
    """Explore images, layers and heads with mouse and keyboard.

    Click the image to choose the patch that looks, and the grid of heads to open one. Domains or methods stand in
    columns; what one of them does not have, its column says.

    Args:
        runs, images, size: as ``headlens.lab.HeadView`` takes them.

    Raises:
        ConfigError: anywidget is not installed; see also ``HeadView``.

    >>> import headlens, numpy as np
    >>> flat = np.zeros((56, 56, 3), np.uint8)
    >>> explorer = explore({"industrial": headlens.load("mini-captions-industrial")}, flat, size=56)
    >>> explorer.head = "L18H7/local"
    >>> explorer
    Explorer(L18H7/local at 'image 0')
    """
    return Explorer(HeadView(runs, images, size=size))
