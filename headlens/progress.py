"""Progress of what takes long: a bar in a notebook and on a terminal, and a line now and then in a log.

The variable ``TQDM_DISABLE=1`` switches all of it off, and so does a level of the logger ``headlens`` above INFO; the
other variables of tqdm work as well.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

Progress = Callable[[int], object]
"""Called with numbers of things that are done."""
_SOON = 1.0  # seconds: what takes no longer has no bar
_LINES = 30.0  # seconds from one line of a log to the next


def _off() -> bool:
    """As the logger or the environment says, which tqdm itself does not ask in a notebook."""
    quiet = logging.getLogger("headlens").level > logging.INFO
    return quiet or os.environ.get("TQDM_DISABLE", "0") not in ("", "0")


class _Log:
    """Where a bar is drawn that cannot move: every state of it is a line."""

    def write(self, text: str) -> None:
        if line := text.strip():
            sys.stderr.write(f"{line}\n")

    def flush(self) -> None:
        sys.stderr.flush()


def bar(total: int | None, description: str | None = None, unit: str = "image", delay: float = 0.0) -> tqdm:
    """A bar on a terminal or in a notebook, with or without ipywidgets; elsewhere lines on standard error.

    Of several processes the main one shows it.

    Args:
        total: how many there are; None if that is not known yet.
        description: before it.
        unit: of what.
        delay: seconds before it is shown.
    """
    from headlens import parallel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that ipywidgets is missing: a bar of text does as well
        from tqdm.auto import tqdm

    options: dict[str, Any] = {"disable": _off() or not parallel.current().main}
    if not (in_notebook() or sys.stderr.isatty()):
        options |= {"file": _Log(), "mininterval": _LINES, "maxinterval": _LINES, "ncols": 0}
        delay = _LINES
    return tqdm(total=total, desc=description, unit=unit, delay=delay, **options)


@contextmanager
def followed(progress: Progress | None, total: int, description: str, least: int = 2) -> Iterator[Progress]:
    """``progress`` itself, or that of a bar where it is None and there are ``least`` things or more.

    >>> with followed(None, 1, "one image") as done:
    ...     done(1)
    """
    if progress is not None or total < least:
        yield progress or (lambda number: None)
        return
    with bar(total, description, delay=_SOON) as shown:
        yield shown.update


def in_notebook() -> bool:
    """Whether a notebook's kernel runs this, and not a terminal or a script."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and "IPKernelApp" in shell.config
