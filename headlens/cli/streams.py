"""What a command prints, whatever the terminal can show and however early its reader leaves."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class _PipeWriter(io.FileIO):
    """A descriptor whose reader may leave, as ``| head`` does: what is written after that goes nowhere."""

    def write(self, content: Any) -> int:
        try:
            return super().write(content) or 0
        except BrokenPipeError:
            return memoryview(content).nbytes


@contextlib.contextmanager
def forgiving() -> Iterator[None]:
    """Within it printing stops no command, so that work that has begun is finished and saved.

    A character that the terminal's encoding has not is escaped, and a closed pipe is written to without an error.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_forgiving(stream) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        sys.stdout, sys.stderr = before


def _forgiving(stream: TextIO) -> TextIO:
    try:
        number = stream.fileno()
    except (AttributeError, OSError, ValueError):  # none, or one that a program has put in its place
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_PipeWriter(number, "wb", closefd=False)),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering if isinstance(stream, io.TextIOWrapper) else True,
    )
